// The encoders for AVX-512 with BW, DQ, VL, VBMI and VNNI: Ice Lake, Zen 4 and later.
#if defined(__x86_64__)

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "quant/encoder_set.h"
#include "quant/row_work.h"
#include "quant/target_region.h"

KOMPAKT_BEGIN_AVX512
namespace kompakt {
namespace {
constexpr int kLaneBytes = 64;
// clang-format off
#include "quant/lanes.h"
#include "quant/quads_avx512.h"
#include "quant/row_pass.h"
#include "quant/table_search.h"
#include "quant/linear_search.h"
#include "quant/feedback_sweep.h"
// clang-format on
}  // namespace
}  // namespace kompakt
KOMPAKT_END_REGION

namespace kompakt {

extern const EncoderSet kAvx512Encoders;
const EncoderSet kAvx512Encoders = {"avx512",
                                    [] {
                                      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                                             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                                             __builtin_cpu_supports("avx512vbmi") &&
                                             __builtin_cpu_supports("avx512vnni");
                                    },
                                    EncodeTable,
                                    EncodeLinear,
                                    EncodeTableWithFeedback,
                                    FactorMoments};

}  // namespace kompakt

#endif
