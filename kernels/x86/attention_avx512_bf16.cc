// The loops of latent attention for AVX-512 with BF16.
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

KOMPAKT_X86_REGION("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")
namespace kompakt::x86 {
namespace {

// Each needs those above it.
// clang-format off
#include "kernels/x86/lanes_avx512.h"
#include "kernels/x86/units_bf16.h"
#include "kernels/x86/attention_body.h"
#include "kernels/x86/absorb_body.h"
#include "kernels/x86/attention_loops.h"
// clang-format on

}  // namespace
}  // namespace kompakt::x86
KOMPAKT_X86_END

namespace kompakt::x86 {

const AttentionIsa kAvx512Bf16Attention = {kLoops, "avx512_bf16", HasAvx512Bf16};

}  // namespace kompakt::x86

#endif
