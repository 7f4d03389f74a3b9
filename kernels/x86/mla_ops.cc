// Which loops attention runs on: F32 products for a cache in F32, bf16 products for a cache that is rounded already,
// where the machine has them.
#include "kernels/x86/mla_ops.h"

#include <array>

#include "format/status.h"
#include "kernels/x86/attention_sets.h"

namespace kompakt::x86 {

#if defined(__x86_64__)

absl::Span<const AttentionIsa* const> AllAttentionIsas() {
  static constexpr std::array<const AttentionIsa*, 3> kTable = {&kAvx2Attention, &kAvx512Attention,
                                                                &kAvx512Bf16Attention};
  return kTable;
}

bool Suits(const AttentionIsa& isa, const MlaParams& p) {
  if (isa.unit_values == 1) return true;
  return p.cache.format != CacheFormat::kF32 && p.cache.rank % 2 == 0 && p.nope_dim % 2 == 0 && p.rope_dim % 2 == 0;
}

namespace {

const AttentionIsa& Avx512For(const MlaParams& p) {
  static const bool has_bf16 = kAvx512Bf16Attention.available();
  return has_bf16 && Suits(kAvx512Bf16Attention, p) ? kAvx512Bf16Attention : kAvx512Attention;
}

}  // namespace

absl::Status Avx512MlaDecode(const MlaParams& p, KernelContext& context) {
  return MlaDecodeWith(Avx512For(p), p, context);
}
absl::Status Avx512MlaPrefill(const MlaParams& p, KernelContext& context) {
  return MlaPrefillWith(Avx512For(p), p, context);
}
absl::Status Avx512MlaSparse(const MlaSparseParams& p, KernelContext& context) {
  return MlaSparseWith(Avx512For(p.mla), p, context);
}
absl::Status Avx2MlaDecode(const MlaParams& p, KernelContext& context) {
  return MlaDecodeWith(kAvx2Attention, p, context);
}
absl::Status Avx2MlaPrefill(const MlaParams& p, KernelContext& context) {
  return MlaPrefillWith(kAvx2Attention, p, context);
}
absl::Status Avx2MlaSparse(const MlaSparseParams& p, KernelContext& context) {
  return MlaSparseWith(kAvx2Attention, p, context);
}

#else

absl::Span<const AttentionIsa* const> AllAttentionIsas() { return {}; }

#endif

}  // namespace kompakt::x86
