#include "kernels/sparse_mla.h"

#include "format/status.h"

namespace kompakt {
namespace {

constexpr int64_t kRowsPerTask = 256;

}  // namespace

absl::Status GatherAndAttend(const MlaSparseParams& p, absl::Status (*mla_decode)(const MlaParams&, KernelContext&),
                             KernelContext& context) {
  const LatentCache& cache = p.mla.cache;
  Workspace::Scope scope(*context.workspace);
  const auto row_floats = static_cast<int64_t>(cache.row_bytes() / sizeof(float));
  KOMPAKT_ASSIGN_OR_RETURN(float* const gathered, context.workspace->Floats(p.selected * row_floats));
  LatentCache small = cache;
  small.capacity = p.selected;
  small.data = reinterpret_cast<uint8_t*>(gathered);
  MlaParams one = p.mla;
  one.tokens = 1;
  one.position = p.selected - 1;
  one.cache = small;
  for (int64_t t = 0; t < p.mla.tokens; ++t) {
    const int32_t* const ids = p.ids + t * p.selected;
    context.RunPieces(p.selected, kRowsPerTask, [&](int64_t begin, int64_t end, int) {
      for (int64_t j = begin; j < end; ++j) CopyLatentRow(cache, ids[j], small, j);
    });
    one.q = p.mla.q + t * p.mla.heads * (p.mla.nope_dim + p.mla.rope_dim);
    one.y = p.mla.y + t * p.mla.heads * p.mla.value_dim;
    KOMPAKT_RETURN_IF_ERROR(mla_decode(one, context));
  }
  return absl::OkStatus();
}

}  // namespace kompakt
