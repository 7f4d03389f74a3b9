// The ops with large matrices, on an instruction set that multiplies integers. What has no integer product, or asks for
// activations in F32, is computed as the portable set does it, to the bit; but for weights that are floats, where the
// instruction set has products for them (float_isa.h).
#pragma once

#include "kernels/kernel_set.h"
#include "kernels/quantized/integer_isa.h"
#include "kernels/quantized/operand.h"

namespace kompakt::quantized {

absl::Status Linear(const IntegerIsa& isa, const LinearParams& p, KernelContext& context);
absl::Status Ffn(const IntegerIsa& isa, const FfnParams& p, KernelContext& context);
absl::Status ExpertFfn(const IntegerIsa& isa, const ExpertFfnParams& p, KernelContext& context);

// A set of the kernel table: these ops on `kIsa`, all others as in the portable set. `product`: the instruction that
// its many tokens are multiplied by.
template <const IntegerIsa& kIsa>
KernelSet IntegerSet(const KernelSet& portable, ProductKind product, absl::string_view description) {
  KernelSet set = portable;
  set.name = kIsa.name;
  set.description = description;
  set.available = kIsa.available;
  set.native = [](FormatId format) {
    return HasIntegerProduct(kIsa, FormatOf(format), ActPrecision::kInt8) || HasFloatProduct(kIsa, FormatOf(format));
  };
  set.rounds = [](FormatId format) { return HasIntegerProduct(kIsa, FormatOf(format), ActPrecision::kInt8); };
  set.product = product;
  set.linear = [](const LinearParams& p, KernelContext& context) { return Linear(kIsa, p, context); };
  set.ffn = [](const FfnParams& p, KernelContext& context) { return Ffn(kIsa, p, context); };
  set.expert_ffn = [](const ExpertFfnParams& p, KernelContext& context) { return ExpertFfn(kIsa, p, context); };
  return set;
}

}  // namespace kompakt::quantized
