// The encoders for AVX2.
#if defined(__x86_64__)

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "quant/encoder_set.h"
#include "quant/row_work.h"
#include "quant/target_region.h"

KOMPAKT_BEGIN_AVX2
namespace kompakt {
namespace {
constexpr int kLaneBytes = 32;
// clang-format off
#include "quant/lanes.h"
#include "quant/register_avx2.h"
#include "quant/quads_sse.h"
#include "quant/lookup_avx2.h"
#include "quant/row_pass.h"
#include "quant/table_search.h"
#include "quant/linear_search.h"
#include "quant/feedback_sweep.h"
// clang-format on
}  // namespace
}  // namespace kompakt
KOMPAKT_END_REGION

namespace kompakt {

extern const EncoderSet kAvx2Encoders;
const EncoderSet kAvx2Encoders = {"avx2",
                                  [] { return __builtin_cpu_supports("avx2") != 0; },
                                  EncodeTable,
                                  EncodeLinear,
                                  EncodeTableWithFeedback,
                                  FactorMoments};

}  // namespace kompakt

#endif
