// Encoder: F32 rows -> the tiles of one number format, with the scales searched against squared error
// (docs/quantization.md, "How a tile is encoded"). One row per format in encoder_table.cc.
//
// Encoding is a pure function of the values: the bytes do not depend on threads, instruction set or compiler. Every
// choice between equals follows a written rule: the candidate that comes first in the documented order wins.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/types/span.h"
#include "format/block_format.h"
#include "format/manifest.pb.h"
#include "quant/search_effort.h"

namespace kompakt {

// The rows of one row tile, as F32.
struct RowTile {
  const float* values = nullptr;  // [n_rows, cols], row-major
  int64_t n_rows = 0;             // 1..16; the last row tile of a matrix may be short
  int64_t cols = 0;
  // What squared errors in each column count: [cols], finite, >= 0, any scale; mean x^2 of the inputs. The error of a
  // weight w is weighted by importance x sqrt(mean square of its row + w^2). Empty, or all alike: every error counts
  // the same. Values below 2^-20 of the largest count as that.
  absl::Span<const float> importance;
};

// Memory that grows and is aligned for the widest registers; what it held is lost when it grows.
class ScratchBuffer {
 public:
  template <typename T>
  T* Get(size_t n) {
    const size_t lines = (n * sizeof(T) + sizeof(Line) - 1) / sizeof(Line);
    if (lines > lines_.size()) lines_ = std::vector<Line>(lines);
    return reinterpret_cast<T*>(lines_.data());
  }

 private:
  struct alignas(64) Line {
    uint8_t bytes[64];
  };
  std::vector<Line> lines_;
};

// Working memory, kept from tile to tile. Belongs to one thread.
struct EncoderScratch {
  ScratchBuffer lanes, importance, quads, groups, codes, values, kept, feedback, moments;
};

// Error of encoded rows against the source, from the decoded values. Sums are F32 within 128 columns of a row, then
// double, by ascending column, then by ascending row.
struct TileError {
  double sum_squared_error = 0;
  double sum_squared_weight = 0;
  float max_abs_error = 0;
  uint64_t count = 0;
};
// Adds one tile to a sum; the order of calls is part of the result, so it must not depend on threads.
void Accumulate(const TileError& tile, ErrorStats* sum);
// 10 log10(error / weight): -inf for no error at all, 0 for no weight.
double NmseDb(const ErrorStats& stats);

// Adds the statistics of other weights.
void Add(const ErrorStats& more, ErrorStats* sum);

struct EncoderSet;

struct Encoder {
  FormatId format;
  // `tiles` receives cdiv(cols, 32) tiles, padding zeroed; `row_scales` 16 values (zeros for padding rows and for
  // formats without SideKind::kRowScale). False, and nothing of use in them, when a value is not finite. The bytes do
  // not depend on the set.
  bool (*encode)(const EncoderSet& set, SearchEffort effort, const RowTile& in, EncoderScratch& scratch, uint8_t* tiles,
                 float* row_scales, TileError* error);
};

absl::Span<const Encoder> AllEncoders();
// Null for the formats that no encoder makes: the upstream forms fp8_b128, int4_g32, mxfp4 and nvfp4.
const Encoder* FindEncoder(FormatId format);

// What EncodeRowTile checks around an encoder; `encode` as Encoder::encode.
absl::Status EncodeRowTileBy(absl::FunctionRef<bool(TileError*)> encode, FormatId format, const RowTile& in,
                             absl::Span<uint8_t> tiles, absl::Span<float> row_scales, TileError* error);

// The checked way in. kInvalidArgument for sizes that do not fit together or a format without encoder; kDataLoss naming
// row and column of a value (or the column of an importance) that is not finite, or negative.
// row_scales: 16 values. `error` may be null.
absl::Status EncodeRowTile(FormatId format, SearchEffort effort, const RowTile& in, EncoderScratch& scratch,
                           absl::Span<uint8_t> tiles, absl::Span<float> row_scales, TileError* error);

}  // namespace kompakt
