#include "kernels/sparse_mla.h"

namespace kompakt {
namespace {

constexpr int64_t kRowsPerTask = 256;

}  // namespace

void GatherSelected(const MlaSparseParams& p, int64_t token, int64_t tokens, uint8_t* memory, LatentCache* caches,
                    KernelContext& context) {
  const LatentCache& cache = p.mla.cache;
  const uint64_t cache_bytes = static_cast<uint64_t>(p.selected) * cache.row_bytes();
  for (int64_t t = 0; t < tokens; ++t) {
    caches[t] = cache;
    caches[t].capacity = p.selected;
    caches[t].data = memory + static_cast<uint64_t>(t) * cache_bytes;
  }
  const int64_t tasks_per_token = (p.selected + kRowsPerTask - 1) / kRowsPerTask;
  context.Run(tokens * tasks_per_token, [&](int64_t task, int) {
    const int64_t t = task / tasks_per_token;
    const int64_t begin = task % tasks_per_token * kRowsPerTask;
    const int32_t* const ids = p.ids + (token + t) * p.selected;
    for (int64_t j = begin; j < std::min(p.selected, begin + kRowsPerTask); ++j) {
      CopyLatentRow(cache, ids[j], caches[t], j);
    }
  });
}

}  // namespace kompakt
