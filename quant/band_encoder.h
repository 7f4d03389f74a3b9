// BandEncoder: a band of rows of one tensor, from its source to the bytes of its format. Bands are what threads share
// out and what bounds the memory of a conversion; a tensor is the concatenation of its bands, however many threads made
// them.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "format/tensor_source.h"
#include "quant/encoder.h"
#include "quant/feedback_plan.h"
#include "quant/importance.h"

namespace kompakt {

// A band is one piece of the source checksum, and a multiple of the 128 rows that share a scale in fp8_b128.
inline constexpr int64_t kBandRows = kSourcePieceRows;

struct Band {
  std::vector<uint8_t> tiles;  // row tiles in order; of a vector its elements
  std::vector<float> side;     // row scales of these row tiles, or block scales of these rows
  ErrorStats error;            // default where the form is kept exactly
  uint64_t source_xxh3 = 0;    // of the source bytes that these rows were made from
};

inline int64_t BandCount(const TensorInfo& tensor) { return (tensor.rows + kBandRows - 1) / kBandRows; }

class BandEncoder {
 public:
  // `importance`: of the columns of the source's matrices; null: all alike. `feedback`: null: none.
  BandEncoder(const TensorSource& source, SearchEffort effort, const Importance* importance = nullptr,
              const FeedbackPlan* feedback = nullptr)
      : source_(source), effort_(effort), importance_(importance), feedback_(feedback) {}

  // Rows [band * kBandRows, ...) of `tensor`, as they are stored. exact: the source's stored form is `format` and is
  // kept bit for bit; otherwise its F32 values are encoded. Errors are the source's, kDataLoss naming the tensor, or
  // kCancelled.
  absl::Status Encode(const TensorInfo& tensor, FormatId format, bool exact, int64_t band, Band* out);

  // Upper bound of the memory that one encoder and one band take for such a tensor, the source's buffers included; what
  // error feedback takes besides is FeedbackPlan's.
  static uint64_t MemoryBytes(const TensorInfo& tensor, FormatId format);
  // Of that, the band alone.
  static uint64_t BandBytes(const TensorInfo& tensor, FormatId format);

 private:
  absl::Status EncodeExact(const TensorInfo& tensor, FormatId format, int64_t row_begin, int64_t row_end, Band* out);
  absl::Status EncodeValues(const TensorInfo& tensor, FormatId format, int64_t row_begin, int64_t row_end, Band* out);
  // Their F32 values, in the order in which they are stored.
  absl::Status ReadValues(const TensorInfo& tensor, int64_t row_begin, int64_t row_end, Band* out);
  absl::Status ReadOrderedRows(const TensorInfo& tensor, int64_t row_begin, int64_t row_end);
  // What the encoder needs to know of the tensor's columns, kept from band to band.
  absl::Status PrepareColumns(const TensorInfo& tensor);

  const TensorSource& source_;
  const SearchEffort effort_;
  const Importance* const importance_;
  const FeedbackPlan* const feedback_;
  std::vector<float> values_;
  const TensorInfo* prepared_ = nullptr;  // what the following belong to
  std::vector<float> column_importance_;  // empty: all alike
  FactorCache::Shared factor_;            // null: no feedback
  std::vector<int32_t> order_;            // of rows or columns; empty: as they are
  EncoderScratch scratch_;
};

}  // namespace kompakt
