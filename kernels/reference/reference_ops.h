// The reference ops: scalar, straightforward, the oracle of every other set. Weights are decoded by their format's
// decode_tile; dot products and softmax sums are accumulated in F64, everything that leaves an op is F32.
//
// The element-wise ops are here for every set: memory bound, they gain little from anything cleverer.
#pragma once

#include "kernels/kernel_set.h"

namespace kompakt::reference {

absl::Status Embed(const EmbedParams& p, KernelContext& context);
absl::Status RmsNorm(const RmsNormParams& p, KernelContext& context);
absl::Status Linear(const LinearParams& p, KernelContext& context);
absl::Status Rope(const RopeParams& p, KernelContext& context);
absl::Status LatentAppend(const LatentAppendParams& p, KernelContext& context);
absl::Status MlaPrefill(const MlaParams& p, KernelContext& context);
absl::Status MlaDecode(const MlaParams& p, KernelContext& context);
absl::Status IndexAppend(const IndexAppendParams& p, KernelContext& context);
absl::Status IndexSelect(const IndexSelectParams& p, KernelContext& context);
absl::Status MlaSparse(const MlaSparseParams& p, KernelContext& context);
absl::Status Route(const RouteParams& p, KernelContext& context);
absl::Status Ffn(const FfnParams& p, KernelContext& context);
absl::Status ExpertFfn(const ExpertFfnParams& p, KernelContext& context);
absl::Status Add(const AddParams& p, KernelContext& context);
absl::Status AllFinite(const FiniteParams& p, KernelContext& context);

// Ffn and ExpertFfn in terms of one gated FFN: y = ffn(x). x: [tokens, hidden]  y: [tokens, hidden].
using GatedFfnOp = absl::Status (*)(const FfnWeights& w, const float* x, int64_t tokens, float* y,
                                    KernelContext& context);
absl::Status FfnBy(GatedFfnOp ffn, const FfnParams& p, KernelContext& context);
absl::Status ExpertFfnBy(GatedFfnOp ffn, const ExpertFfnParams& p, KernelContext& context);

extern const KernelSet kReferenceSet;

}  // namespace kompakt::reference
