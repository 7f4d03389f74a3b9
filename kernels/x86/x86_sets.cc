#include "kernels/x86/x86_sets.h"

#include <array>

#include "kernels/portable/portable_ops.h"
#include "kernels/quantized/quantized_ops.h"
#include "kernels/x86/x86_isas.h"

namespace kompakt::x86 {

absl::Span<const KernelSet* const> Sets() {
#if defined(__x86_64__)
  static const KernelSet kAvx2 =
      quantized::IntegerSet<kAvx2Isa>(portable::kPortableSet, "products of integers by AVX2");
  static const KernelSet kAvxVnni =
      quantized::IntegerSet<kAvxVnniIsa>(portable::kPortableSet, "products of integers by AVX-VNNI");
  static const KernelSet kAvx512 =
      quantized::IntegerSet<kAvx512Isa>(portable::kPortableSet, "products of integers by AVX-512 VNNI");
  static const KernelSet kAvx512Vbmi = quantized::IntegerSet<kAvx512VbmiIsa>(
      portable::kPortableSet, "products of integers by AVX-512 VNNI, tables by VBMI");
  static const std::array<const KernelSet*, 4> kSets = {&kAvx2, &kAvxVnni, &kAvx512, &kAvx512Vbmi};
  return kSets;
#else
  return {};
#endif
}

}  // namespace kompakt::x86
