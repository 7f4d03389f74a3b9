// Latent attention with the loops of one AttentionIsa.
#pragma once

#include "absl/status/status.h"
#include "kernels/kernel_set.h"
#include "kernels/x86/attention_isa.h"

namespace kompakt::x86 {

// Attention in the absorbed form over every row that a token sees, or over those selected for it.
absl::Status MlaDecodeWith(const AttentionIsa& isa, const MlaParams& p, KernelContext& context);
absl::Status MlaSparseWith(const AttentionIsa& isa, const MlaSparseParams& p, KernelContext& context);
// The plain form.
absl::Status MlaPrefillWith(const AttentionIsa& isa, const MlaParams& p, KernelContext& context);

// Can it compute attention of these shapes over a cache of that format? bf16 products are for caches that are rounded
// already, and need pairs: an even rank and key.
bool Suits(const AttentionIsa& isa, const MlaParams& p);

// The ops of a kernel set: of the isas that this machine runs, the one that suits. Avx2...: never AVX-512.
absl::Status Avx512MlaDecode(const MlaParams& p, KernelContext& context);
absl::Status Avx512MlaPrefill(const MlaParams& p, KernelContext& context);
absl::Status Avx512MlaSparse(const MlaSparseParams& p, KernelContext& context);
absl::Status Avx2MlaDecode(const MlaParams& p, KernelContext& context);
absl::Status Avx2MlaPrefill(const MlaParams& p, KernelContext& context);
absl::Status Avx2MlaSparse(const MlaSparseParams& p, KernelContext& context);

}  // namespace kompakt::x86
