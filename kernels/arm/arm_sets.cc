#include "kernels/arm/arm_sets.h"

#include <array>

#include "kernels/arm/arm_isas.h"
#include "kernels/portable/portable_ops.h"
#include "kernels/quantized/quantized_ops.h"

namespace kompakt::arm {

absl::Span<const KernelSet* const> Sets() {
#if defined(__aarch64__)
  static const KernelSet kNeon =
      quantized::IntegerSet<kNeonIsa>(portable::kPortableSet, ProductKind::kNeon, "products of integers by NEON");
  static const KernelSet kDotprod = quantized::IntegerSet<kDotprodIsa>(portable::kPortableSet, ProductKind::kDotprod,
                                                                       "products of integers by NEON's sdot");
  static const KernelSet kI8mm = quantized::IntegerSet<kI8mmIsa>(
      portable::kPortableSet, ProductKind::kI8mm, "products of integers by NEON's sdot, of many tokens by smmla");
  static const std::array<const KernelSet*, 3> kSets = {&kNeon, &kDotprod, &kI8mm};
  return kSets;
#else
  return {};
#endif
}

}  // namespace kompakt::arm
