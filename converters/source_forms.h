// How one tensor of the schema lies in the files of a checkpoint, and how its rows are read.
//
//     plain        BF16, F16 or F32 elements
//     FP8 block    X.weight F8_E4M3 [rows, cols] and X.weight_scale_inv F32 [cdiv(rows, br), cdiv(cols, bc)], which is
//                  a multiplier: w[r, c] = fp8(r, c) * s[r / br, c / bc]
//     packed INT4  X.weight_packed I32 [rows, cdiv(cols, 8)], nibble j of word w = column 8 w + j, value + 8;
//                  X.weight_scale [rows, cdiv(cols, group)]; X.weight_shape = (rows, cols)
//
// Any of the first two may also be a slice of a fused tensor that holds one matrix per expert.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "converters/shard_set.h"
#include "format/tensor_source.h"

namespace kompakt {

enum class SourceKind : uint8_t { kPlain, kFp8Block, kInt4Packed };

struct TensorBinding {
  SourceKind kind = SourceKind::kPlain;
  FoundTensor weight;  // elements or codes
  FoundTensor scale;   // not for kPlain
  FoundTensor shape;   // kInt4Packed only
  int64_t rows = 0;
  int64_t cols = 0;
  // Where row 0 lies in `weight`, counted in rows of `cols`: not 0 for a slice of a fused tensor.
  int64_t weight_row = 0;
  // FP8: row r has scale row scale_row + (matrix_row + r) / block_rows.
  int64_t scale_row = 0;
  int64_t matrix_row = 0;
  int64_t scale_cols = 0;
  int64_t block_rows = 0;  // FP8: rows and columns per scale; INT4: block_cols is the group size
  int64_t block_cols = 0;
  bool power_of_two_scales = false;
};

// What the headers alone say. For INT4 with F16 or F32 scales it takes `scales_fit_bf16`, see ScalesFitBf16.
StoredForm FormOf(const TensorBinding& binding, bool scales_fit_bf16);

// True when the exactness of a binding depends on the values of its scales: INT4 whose scales are not BF16.
bool ExactnessNeedsScales(const TensorBinding& binding);
// Reads all scales of such a binding: true when each is a BF16 value.
absl::StatusOr<bool> ScalesFitBf16(const TensorBinding& binding);

// The two reads of TensorSource; the caller has checked 0 <= row_begin < row_end <= rows.
// kDataLoss for NaN codes, non-finite values, and scales that are not finite and positive. `source_bytes` (may be null)
// gets the bytes of `weight` for these rows, then those of `scale` that they need.
absl::StatusOr<StoredRows> ReadStoredRows(const TensorBinding& binding, const StoredForm& form, int64_t row_begin,
                                          int64_t row_end, Xxh3Stream* source_bytes);
absl::Status ReadF32Rows(const TensorBinding& binding, int64_t row_begin, int64_t row_end, absl::Span<float> out,
                         Xxh3Stream* source_bytes);

// Where the bytes of these rows lie, companions included; the files by their path.
std::vector<SourceRange> RangesOf(const TensorBinding& binding, int64_t row_begin, int64_t row_end);

}  // namespace kompakt
