// EncoderSet: the encoders as compiled for one instruction set. All sets give the same bytes: what an encoder computes
// is defined in integers and single F32 operations, not by the registers that do it.
//
// One source file per set (encode_avx512.cc and so on) includes the bodies in a region where the compiler may use that
// set (target_region.h): lanes.h, a quads_*.h, row_pass.h, then one search per format family (table_search.h,
// linear_search.h), then feedback_sweep.h. Nothing of the standard library is instantiated in such a region, so no code
// of a set can leak into a function that others call.
#pragma once

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "quant/code_table.h"
#include "quant/encoder.h"
#include "quant/feedback_view.h"

namespace kompakt {

struct EncoderSet {
  absl::string_view name;
  bool (*available)();  // on this machine
  // The other arguments and the result as Encoder::encode.
  bool (*table)(const TableFormat& format, SearchEffort effort, const RowTile& in, EncoderScratch& scratch,
                uint8_t* tiles, float* row_scales, TileError* error);
  bool (*linear)(const LinearFormat& format, SearchEffort effort, const RowTile& in, EncoderScratch& scratch,
                 uint8_t* tiles, float* row_scales, TileError* error);
  // As `table`, with error feedback (error_feedback.h).
  bool (*table_with_feedback)(const TableFormat& format, SearchEffort effort, const RowTile& in,
                              const FeedbackView& view, EncoderScratch& scratch, uint8_t* tiles, float* row_scales,
                              TileError* error);
  // False when a column has no positive d: work.failed_at.
  bool (*factor)(FactorWork& work);
};

// Those that this machine can run, the fastest last.
absl::Span<const EncoderSet* const> AvailableEncoderSets();
const EncoderSet& BestEncoderSet();

}  // namespace kompakt
