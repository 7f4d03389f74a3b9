#include "quant/band_encoder.h"

#include <algorithm>
#include <cstring>

#include "format/status.h"

namespace kompakt {
namespace {

constexpr int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

uint64_t TileBytes(FormatId format, int64_t rows, int64_t cols) {
  return static_cast<uint64_t>(CeilDiv(rows, kTileRows) * CeilDiv(cols, kTileCols)) * FormatOf(format).tile_bytes;
}

}  // namespace

absl::Status BandEncoder::Encode(const TensorInfo& tensor, FormatId format, bool exact, int64_t band, Band* out) {
  const int64_t row_begin = band * kBandRows;
  const int64_t row_end = std::min(tensor.rows, row_begin + kBandRows);
  out->side.clear();
  out->error.Clear();
  return exact ? EncodeExact(tensor, format, row_begin, row_end, out)
               : EncodeValues(tensor, format, row_begin, row_end, out);
}

absl::Status BandEncoder::EncodeExact(const TensorInfo& tensor, FormatId format, int64_t row_begin, int64_t row_end,
                                      Band* out) {
  Xxh3Stream source_bytes;
  KOMPAKT_ASSIGN_OR_RETURN(StoredRows rows, source_.ReadStored(tensor, row_begin, row_end, &source_bytes));
  out->source_xxh3 = source_bytes.Digest();
  if (rows.format != format || rows.rows != row_end - row_begin || rows.cols != tensor.cols) {
    return absl::InternalError(absl::StrCat(tensor.Name(), ": the source gave ", FormatOf(rows.format).name, " [",
                                            rows.rows, ", ", rows.cols, "], expected ", FormatOf(format).name, " [",
                                            row_end - row_begin, ", ", tensor.cols, "]"));
  }
  if (tensor.is_vector()) {
    out->tiles = std::move(rows.elements);
    return absl::OkStatus();
  }
  out->tiles.resize(TileBytes(format, rows.rows, rows.cols));
  PackTiles(rows, out->tiles.data());
  const absl::Span<const float> side = rows.SideOfBand(row_begin);
  out->side.assign(side.begin(), side.end());
  return absl::OkStatus();
}

absl::Status BandEncoder::EncodeValues(const TensorInfo& tensor, FormatId format, int64_t row_begin, int64_t row_end,
                                       Band* out) {
  const int64_t rows = row_end - row_begin;
  if (!tensor.is_vector()) KOMPAKT_RETURN_IF_ERROR(PrepareColumns(tensor));
  KOMPAKT_RETURN_IF_ERROR(ReadValues(tensor, row_begin, row_end, out));
  if (tensor.is_vector()) {
    if (format != FormatId::kF32) {
      return absl::InternalError(absl::StrCat(tensor.Name(), ": a vector is kept or widened to f32, never encoded as ",
                                              FormatOf(format).name));
    }
    out->tiles.resize(values_.size() * sizeof(float));
    std::memcpy(out->tiles.data(), values_.data(), out->tiles.size());
    TileError error;
    for (const float v : values_) error.sum_squared_weight += static_cast<double>(v) * static_cast<double>(v);
    error.count = values_.size();
    Accumulate(error, &out->error);
    return absl::OkStatus();
  }
  const bool row_scales = FormatOf(format).side == SideKind::kRowScale;
  const uint64_t tile_row_bytes = TileBytes(format, kTileRows, tensor.cols);
  const int64_t tile_rows = CeilDiv(rows, kTileRows);
  out->tiles.resize(static_cast<size_t>(tile_rows) * tile_row_bytes);
  for (int64_t t = 0; t < tile_rows; ++t) {
    // A band of a wide matrix takes seconds.
    if (feedback_ != nullptr && feedback_->Interrupted()) return absl::CancelledError("interrupted");
    RowTile in;
    in.values = values_.data() + t * kTileRows * tensor.cols;
    in.n_rows = std::min(kTileRows, rows - t * kTileRows);
    in.cols = tensor.cols;
    in.importance = column_importance_;
    float scales[kTileRows] = {};
    TileError error;
    const absl::Span<uint8_t> tiles =
        absl::MakeSpan(out->tiles).subspan(static_cast<size_t>(t) * tile_row_bytes, tile_row_bytes);
    const absl::Status encoded =
        factor_ == nullptr
            ? EncodeRowTile(format, effort_, in, scratch_, tiles, absl::MakeSpan(scales), &error)
            : EncodeRowTileWithFeedback(format, effort_, in, *factor_, scratch_, tiles, absl::MakeSpan(scales), &error);
    if (!encoded.ok()) {
      return WithContext(encoded, absl::StrCat(tensor.Name(), ", rows from ", row_begin + t * kTileRows));
    }
    if (row_scales) out->side.insert(out->side.end(), std::begin(scales), std::end(scales));
    Accumulate(error, &out->error);
  }
  return absl::OkStatus();
}

absl::Status BandEncoder::ReadValues(const TensorInfo& tensor, int64_t row_begin, int64_t row_end, Band* out) {
  const int64_t cols = tensor.cols;
  values_.resize(static_cast<size_t>((row_end - row_begin) * cols));
  Xxh3Stream source_bytes;
  KOMPAKT_RETURN_IF_ERROR(source_.ReadF32(tensor, row_begin, row_end, absl::MakeSpan(values_), &source_bytes));
  out->source_xxh3 = source_bytes.Digest();
  if (order_.empty() || prepared_ != &tensor) return absl::OkStatus();
  if (feedback_->ReordersColumns(tensor)) {
    std::vector<float> row(static_cast<size_t>(cols));
    for (int64_t r = 0; r < row_end - row_begin; ++r) {
      const absl::Span<float> values = absl::MakeSpan(values_).subspan(static_cast<size_t>(r * cols), row.size());
      PermuteColumns(values, cols, order_, absl::MakeSpan(row));
      std::copy(row.begin(), row.end(), values.begin());
    }
    return absl::OkStatus();
  }
  return ReadOrderedRows(tensor, row_begin, row_end);
}

absl::Status BandEncoder::ReadOrderedRows(const TensorInfo& tensor, int64_t row_begin, int64_t row_end) {
  const int64_t cols = tensor.cols;
  const auto place = [&](int64_t r) {
    return absl::MakeSpan(values_).subspan(static_cast<size_t>((r - row_begin) * cols), static_cast<size_t>(cols));
  };
  const auto bytes = [&](int64_t begin, int64_t end) {
    uint64_t sum = 0;
    for (const SourceRange& range : source_.Ranges(tensor, begin, end)) sum += range.bytes;
    return sum;
  };
  if (bytes(0, 1) < bytes(0, std::min(tensor.rows, kBandRows))) {
    for (int64_t r = row_begin; r < row_end; ++r) {
      const int64_t from = order_[static_cast<size_t>(r)];
      KOMPAKT_RETURN_IF_ERROR(source_.ReadF32(tensor, from, from + 1, place(r)));
    }
    return absl::OkStatus();
  }
  // A form that does not hold rows one after another: a single row costs as much to read as many.
  std::vector<float> piece;
  for (int64_t begin = 0; begin < tensor.rows; begin += kBandRows) {
    const int64_t end = std::min(tensor.rows, begin + kBandRows);
    piece.resize(static_cast<size_t>((end - begin) * cols));
    KOMPAKT_RETURN_IF_ERROR(source_.ReadF32(tensor, begin, end, absl::MakeSpan(piece)));
    for (int64_t r = row_begin; r < row_end; ++r) {
      const int64_t from = order_[static_cast<size_t>(r)];
      if (from >= begin && from < end) std::copy_n(piece.begin() + (from - begin) * cols, cols, place(r).begin());
    }
  }
  return absl::OkStatus();
}

absl::Status BandEncoder::PrepareColumns(const TensorInfo& tensor) {
  if (prepared_ == &tensor) return absl::OkStatus();
  prepared_ = nullptr;
  // Before another one is asked for: at most one per worker is held.
  factor_.reset();
  column_importance_.clear();
  order_.clear();
  if (importance_ != nullptr) {
    KOMPAKT_ASSIGN_OR_RETURN(column_importance_, importance_->Of(tensor));
  }
  if (feedback_ != nullptr) {
    KOMPAKT_ASSIGN_OR_RETURN(factor_, feedback_->FactorOf(tensor));
    if (feedback_->ReordersRows(tensor) || feedback_->ReordersColumns(tensor)) {
      KOMPAKT_ASSIGN_OR_RETURN(order_, feedback_->OrderOf(tensor));
    }
  }
  prepared_ = &tensor;
  return absl::OkStatus();
}

uint64_t BandEncoder::BandBytes(const TensorInfo& tensor, FormatId format) {
  const int64_t rows = std::min(tensor.rows, kBandRows);
  const uint64_t row_scales = static_cast<uint64_t>(CeilDiv(rows, kTileRows) * kTileRows) * sizeof(float);
  return TileBytes(format, rows, tensor.cols) + row_scales +
         static_cast<uint64_t>(CeilDiv(tensor.cols, kFp8Block)) * sizeof(float);
}

uint64_t BandEncoder::MemoryBytes(const TensorInfo& tensor, FormatId format) {
  const int64_t rows = std::min(tensor.rows, kBandRows);
  const uint64_t elements = static_cast<uint64_t>(CeilDiv(rows, kTileRows) * kTileRows * tensor.cols);
  // The widest stored form twice (as the source reads it and as it hands it over), or once and its F32 values.
  const uint64_t read_bytes = elements * 2 * sizeof(float);
  // Lanes, groups and codes of one row tile; with feedback its errors and what they change too.
  const uint64_t scratch_bytes = static_cast<uint64_t>(kTileRows * tensor.cols) * 7 * sizeof(float);
  // The side of the whole tensor waits for the last tile; a vector that grows may have twice its size.
  const uint64_t side_bytes = static_cast<uint64_t>(CeilDiv(tensor.rows, kTileRows) * kTileRows +
                                                    CeilDiv(tensor.rows, kFp8Block) * CeilDiv(tensor.cols, kFp8Block)) *
                              2 * sizeof(float);
  return read_bytes + scratch_bytes + side_bytes + TileBytes(format, rows, tensor.cols);
}

}  // namespace kompakt
