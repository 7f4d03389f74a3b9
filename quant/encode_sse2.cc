// The encoders for every x86-64 machine.
#if defined(__x86_64__)

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "quant/encoder_set.h"
#include "quant/row_work.h"
#include "quant/target_region.h"

namespace kompakt {
namespace {
constexpr int kLaneBytes = 16;
// clang-format off
#include "quant/lanes.h"
#include "quant/register_sse2.h"
#include "quant/quads_sse.h"
#include "quant/lookup_sse2.h"
#include "quant/row_pass.h"
#include "quant/table_search.h"
#include "quant/linear_search.h"
#include "quant/feedback_sweep.h"
// clang-format on
}  // namespace
}  // namespace kompakt

namespace kompakt {

extern const EncoderSet kSse2Encoders;
const EncoderSet kSse2Encoders = {"sse2",       [] { return true; },     EncodeTable,
                                  EncodeLinear, EncodeTableWithFeedback, FactorMoments};

}  // namespace kompakt

#endif
