#include "kernels/portable/portable_ops.h"
#include "kernels/reference/reference_ops.h"

namespace kompakt::portable {

const KernelSet kPortableSet = {
    .name = "portable",
    .description = "F32 panels in the vectors of this machine (SSE2, AVX2, AVX-512), the same bits on all of them",
    .available = [] { return true; },
    .embed = reference::Embed,
    .rms_norm = reference::RmsNorm,
    .linear = Linear,
    .rope = reference::Rope,
    .latent_append = reference::LatentAppend,
    .mla_prefill = MlaPrefill,
    .mla_decode = MlaDecode,
    .index_append = reference::IndexAppend,
    .index_select = IndexSelect,
    .mla_sparse = MlaSparse,
    .route = Route,
    .ffn = Ffn,
    .expert_ffn = ExpertFfn,
    .add = reference::Add,
    .all_finite = reference::AllFinite,
};

}  // namespace kompakt::portable
