// The instruction sets of ARM that multiply integers (kernels/quantized/integer_isa.h).
#pragma once

#if defined(__aarch64__)

#include "kernels/quantized/integer_isa.h"

namespace kompakt::arm {

extern const quantized::IntegerIsa kNeonIsa;     // products of bytes by smull
extern const quantized::IntegerIsa kDotprodIsa;  // by sdot
extern const quantized::IntegerIsa kI8mmIsa;     // of few tokens by sdot, of many by smmla

}  // namespace kompakt::arm

#endif
