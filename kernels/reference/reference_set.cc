#include "kernels/reference/reference_ops.h"

namespace kompakt::reference {

const KernelSet kReferenceSet = {
    .name = "reference",
    .description = "scalar, F64 sums: the oracle",
    .available = [] { return true; },
    .embed = Embed,
    .rms_norm = RmsNorm,
    .linear = Linear,
    .rope = Rope,
    .latent_append = LatentAppend,
    .mla_prefill = MlaPrefill,
    .mla_decode = MlaDecode,
    .index_append = IndexAppend,
    .index_select = IndexSelect,
    .mla_sparse = MlaSparse,
    .route = Route,
    .ffn = Ffn,
    .expert_ffn = ExpertFfn,
    .add = Add,
    .all_finite = AllFinite,
};

}  // namespace kompakt::reference
