// The loops of latent attention for AVX2 and FMA.
#if defined(__x86_64__)

#include <immintrin.h>

#include <cstddef>
#include <cstring>

#include "format/block_bf16.h"
#include "format/block_fp8_b128.h"
#include "format/block_q8_g32.h"
#include "format/float_formats.h"
#include "kernels/portable/panel.h"
#include "kernels/x86/attention_isa.h"
#include "kernels/x86/attention_sets.h"
#include "kernels/x86/cpu.h"
#include "kernels/x86/region.h"

KOMPAKT_X86_REGION("avx2,fma")
namespace kompakt::x86 {
namespace {

// Each needs those above it.
// clang-format off
#include "kernels/x86/lanes_avx2.h"
#include "kernels/x86/units_f32.h"
#include "kernels/x86/attention_body.h"
#include "kernels/x86/absorb_body.h"
#include "kernels/x86/attention_loops.h"
// clang-format on

}  // namespace
}  // namespace kompakt::x86
KOMPAKT_X86_END

namespace kompakt::x86 {

const AttentionIsa kAvx2Attention = {kLoops, "avx2", HasAvx2};

}  // namespace kompakt::x86

#endif
