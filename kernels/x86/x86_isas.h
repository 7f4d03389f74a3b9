// The instruction sets of x86 that multiply integers (kernels/quantized/integer_isa.h).
#pragma once

#if defined(__x86_64__)

#include "kernels/quantized/integer_isa.h"

namespace kompakt::x86 {

extern const quantized::FloatIsa kAvx2Floats;  // with FMA
extern const quantized::FloatIsa kAvx512Floats;

extern const quantized::IntegerIsa kAvx2Isa;        // with FMA and F16C: Haswell, Zen
extern const quantized::IntegerIsa kAvxVnniIsa;     // and VNNI of 256 bits: Alder Lake, Sierra Forest
extern const quantized::IntegerIsa kAvx512Isa;      // AVX-512 with VNNI: Cascade Lake
extern const quantized::IntegerIsa kAvx512VbmiIsa;  // and VBMI: Ice Lake, Zen 4 and later

}  // namespace kompakt::x86

#endif
