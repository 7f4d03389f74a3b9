// Products of F32 activations with weights that are floats, for AVX2 and FMA.
#if defined(__x86_64__)

#include <immintrin.h>

#include "format/block_fp8_b128.h"
#include "kernels/quantized/float_isa.h"
#include "kernels/x86/prefetch.h"
#include "kernels/x86/region.h"
#include "kernels/x86/x86_isas.h"

KOMPAKT_X86_REGION("avx2,fma")
namespace kompakt::x86 {
namespace {

using quantized::FloatIsa;
using quantized::FloatProduct;

// Each needs those above it.
// clang-format off
#include "kernels/x86/lanes_avx2.h"
constexpr int kAtOnce = 4;
constexpr int kMadeAtOnce = 6;
#include "kernels/x86/float_body.h"
// clang-format on

}  // namespace
}  // namespace kompakt::x86
KOMPAKT_X86_END

namespace kompakt::x86 {

constinit const quantized::FloatIsa kAvx2Floats = kFloatLoops;

}  // namespace kompakt::x86

#endif
