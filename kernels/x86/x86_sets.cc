#include "kernels/x86/x86_sets.h"

#include <array>

#include "kernels/portable/portable_ops.h"
#include "kernels/quantized/quantized_ops.h"
#include "kernels/x86/mla_ops.h"
#include "kernels/x86/x86_isas.h"

namespace kompakt::x86 {

#if defined(__x86_64__)
namespace {

KernelSet WithAvx2Attention(KernelSet set) {
  set.mla_prefill = Avx2MlaPrefill;
  set.mla_decode = Avx2MlaDecode;
  set.mla_sparse = Avx2MlaSparse;
  return set;
}

KernelSet WithAvx512Attention(KernelSet set) {
  set.mla_prefill = Avx512MlaPrefill;
  set.mla_decode = Avx512MlaDecode;
  set.mla_sparse = Avx512MlaSparse;
  return set;
}

}  // namespace
#endif

absl::Span<const KernelSet* const> Sets() {
#if defined(__x86_64__)
  static const KernelSet kAvx2 = WithAvx2Attention(quantized::IntegerSet<kAvx2Isa>(
      portable::kPortableSet, ProductKind::kMaddubs256, "products of integers by AVX2"));
  static const KernelSet kAvxVnni = WithAvx2Attention(quantized::IntegerSet<kAvxVnniIsa>(
      portable::kPortableSet, ProductKind::kVnni256, "products of integers by AVX-VNNI"));
  static const KernelSet kAvx512 = WithAvx512Attention(quantized::IntegerSet<kAvx512Isa>(
      portable::kPortableSet, ProductKind::kVnni512, "products of integers by AVX-512 VNNI"));
  static const KernelSet kAvx512Vbmi = WithAvx512Attention(quantized::IntegerSet<kAvx512VbmiIsa>(
      portable::kPortableSet, ProductKind::kVnni512, "products of integers by AVX-512 VNNI, tables by VBMI"));
  static const std::array<const KernelSet*, 4> kSets = {&kAvx2, &kAvxVnni, &kAvx512, &kAvx512Vbmi};
  return kSets;
#else
  return {};
#endif
}

}  // namespace kompakt::x86
