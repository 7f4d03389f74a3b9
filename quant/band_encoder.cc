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
  values_.resize(static_cast<size_t>(rows * tensor.cols));
  Xxh3Stream source_bytes;
  KOMPAKT_RETURN_IF_ERROR(source_.ReadF32(tensor, row_begin, row_end, absl::MakeSpan(values_), &source_bytes));
  out->source_xxh3 = source_bytes.Digest();
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
  std::vector<float> importance;
  if (importance_ != nullptr) {
    KOMPAKT_ASSIGN_OR_RETURN(importance, importance_->Of(tensor));
  }
  const bool row_scales = FormatOf(format).side == SideKind::kRowScale;
  const uint64_t tile_row_bytes = TileBytes(format, kTileRows, tensor.cols);
  const int64_t tile_rows = CeilDiv(rows, kTileRows);
  out->tiles.resize(static_cast<size_t>(tile_rows) * tile_row_bytes);
  for (int64_t t = 0; t < tile_rows; ++t) {
    RowTile in;
    in.values = values_.data() + t * kTileRows * tensor.cols;
    in.n_rows = std::min(kTileRows, rows - t * kTileRows);
    in.cols = tensor.cols;
    in.importance = importance;
    float scales[kTileRows] = {};
    TileError error;
    const absl::Span<uint8_t> tiles =
        absl::MakeSpan(out->tiles).subspan(static_cast<size_t>(t) * tile_row_bytes, tile_row_bytes);
    if (absl::Status s = EncodeRowTile(format, effort_, in, scratch_, tiles, absl::MakeSpan(scales), &error); !s.ok()) {
      return WithContext(s, absl::StrCat(tensor.Name(), ", rows from ", row_begin + t * kTileRows));
    }
    if (row_scales) out->side.insert(out->side.end(), std::begin(scales), std::end(scales));
    Accumulate(error, &out->error);
  }
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
  // Lanes, groups and codes of one row tile.
  const uint64_t scratch_bytes = static_cast<uint64_t>(kTileRows * tensor.cols) * 4 * sizeof(float);
  // The side of the whole tensor waits for the last tile; a vector that grows may have twice its size.
  const uint64_t side_bytes = static_cast<uint64_t>(CeilDiv(tensor.rows, kTileRows) * kTileRows +
                                                    CeilDiv(tensor.rows, kFp8Block) * CeilDiv(tensor.cols, kFp8Block)) *
                              2 * sizeof(float);
  return read_bytes + scratch_bytes + side_bytes + TileBytes(format, rows, tensor.cols);
}

}  // namespace kompakt
