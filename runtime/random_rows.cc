#include "runtime/random_rows.h"

#include <algorithm>

#include "kernels/random_tiles.h"

namespace kompakt {

std::vector<float> RandomRows(int64_t width) {
  std::vector<float> rows(static_cast<size_t>(kRandomRows * width));
  FillNormal(1, 1, absl::MakeSpan(rows));
  return rows;
}

void StoreRandomRows(const LayerCache& cache, int64_t position, int64_t tokens, KernelContext& context) {
  const int64_t width = cache.latent.width();
  const int64_t dim = cache.index.dim;
  const std::vector<float> rows = RandomRows(std::max(width, dim));
  context.RunPieces(tokens, 64, [&](int64_t begin, int64_t end, int /*thread*/) {
    for (int64_t t = begin; t < end; ++t) {
      StoreLatentRow(cache.latent, position + t, rows.data() + t % kRandomRows * width);
      if (cache.index.data != nullptr) StoreIndexKey(cache.index, position + t, rows.data() + t % kRandomRows * dim);
    }
  });
}

}  // namespace kompakt
