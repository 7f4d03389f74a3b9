// The encoders for any machine.
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
#include "quant/quads_portable.h"
#include "quant/row_pass.h"
#include "quant/table_search.h"
#include "quant/linear_search.h"
#include "quant/feedback_sweep.h"
// clang-format on
}  // namespace
}  // namespace kompakt

namespace kompakt {

extern const EncoderSet kPortableEncoders;
const EncoderSet kPortableEncoders = {"portable",   [] { return true; },     EncodeTable,
                                      EncodeLinear, EncodeTableWithFeedback, FactorMoments};

}  // namespace kompakt
