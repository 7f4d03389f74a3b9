// The table of encoders, and the checked way into it.
#include <algorithm>
#include <cmath>
#include <limits>

#include "format/status.h"
#include "quant/encode_cast.h"
#include "quant/encode_q8.h"
#include "quant/encode_table.h"
#include "quant/encoder.h"
#include "quant/encoder_set.h"

namespace kompakt {
namespace {

constexpr Encoder kTable[] = {
    {FormatId::kF32, EncodeF32},
    {FormatId::kF16, EncodeF16},
    {FormatId::kBf16, EncodeBf16},
    {FormatId::kQ8G32, EncodeQ8G32},
    {FormatId::kQ6G32, EncodeNonlinear<FormatId::kQ6G32>},
    {FormatId::kQ5G32, EncodeNonlinear<FormatId::kQ5G32>},
    {FormatId::kQ4G16, EncodeNonlinear<FormatId::kQ4G16>},
    {FormatId::kQ4G32, EncodeNonlinear<FormatId::kQ4G32>},
    {FormatId::kQ3G16, EncodeNonlinear<FormatId::kQ3G16>},
    {FormatId::kQ3G32, EncodeNonlinear<FormatId::kQ3G32>},
    {FormatId::kQ2G16, EncodeNonlinear<FormatId::kQ2G16>},
    {FormatId::kQ2G32, EncodeNonlinear<FormatId::kQ2G32>},
};

// Index of the first value that is not finite; there is one.
int64_t FirstNotFinite(const float* values, int64_t n) {
  return std::find_if_not(values, values + n, [](float v) { return std::isfinite(v); }) - values;
}

}  // namespace

absl::Span<const Encoder> AllEncoders() { return kTable; }

const Encoder* FindEncoder(FormatId format) {
  for (const Encoder& encoder : kTable) {
    if (encoder.format == format) return &encoder;
  }
  return nullptr;
}

absl::Status EncodeRowTile(FormatId format, SearchEffort effort, const RowTile& in, EncoderScratch& scratch,
                           absl::Span<uint8_t> tiles, absl::Span<float> row_scales, TileError* error) {
  const Encoder* encoder = FindEncoder(format);
  if (encoder == nullptr) {
    return UsageError("nothing encodes into ", FormatOf(format).name, ": it only holds upstream codes");
  }
  return EncodeRowTileBy(
      [&](TileError* sums) {
        return encoder->encode(BestEncoderSet(), effort, in, scratch, tiles.data(), row_scales.data(), sums);
      },
      format, in, tiles, row_scales, error);
}

absl::Status EncodeRowTileBy(absl::FunctionRef<bool(TileError*)> encode, FormatId format, const RowTile& in,
                             absl::Span<uint8_t> tiles, absl::Span<float> row_scales, TileError* error) {
  const BlockFormat& row = FormatOf(format);
  if (in.values == nullptr || in.n_rows < 1 || in.n_rows > kTileRows || in.cols < 1) {
    return UsageError("a row tile has 1 to ", kTileRows, " rows and at least 1 column, got ", in.n_rows, " x ",
                      in.cols);
  }
  const uint64_t bytes = static_cast<uint64_t>((in.cols + kTileCols - 1) / kTileCols) * row.tile_bytes;
  if (tiles.size() != bytes || row_scales.size() != static_cast<size_t>(kTileRows)) {
    return UsageError("a row tile of ", in.cols, " columns in ", row.name, " needs ", bytes, " bytes and ", kTileRows,
                      " row scales, got ", tiles.size(), " and ", row_scales.size());
  }
  if (!in.importance.empty()) {
    if (in.importance.size() != static_cast<size_t>(in.cols)) {
      return UsageError("importance has ", in.importance.size(), " values for ", in.cols, " columns");
    }
    for (size_t c = 0; c < in.importance.size(); ++c) {
      if (!(in.importance[c] >= 0) || !std::isfinite(in.importance[c])) {
        return CorruptError("importance of column ", c, ": expected a finite value of 0 or more, found ",
                            in.importance[c]);
      }
    }
  }
  TileError ignored;
  if (!encode(error == nullptr ? &ignored : error)) {
    const int64_t i = FirstNotFinite(in.values, in.n_rows * in.cols);
    return CorruptError("row ", i / in.cols, ", column ", i % in.cols,
                        " of the row tile: expected a finite value, found ", in.values[i]);
  }
  return absl::OkStatus();
}

void Accumulate(const TileError& tile, ErrorStats* sum) {
  sum->set_sum_squared_error(sum->sum_squared_error() + tile.sum_squared_error);
  sum->set_sum_squared_weight(sum->sum_squared_weight() + tile.sum_squared_weight);
  sum->set_max_abs_error(std::max(sum->max_abs_error(), tile.max_abs_error));
  sum->set_count(sum->count() + tile.count);
}

void Add(const ErrorStats& more, ErrorStats* sum) {
  sum->set_sum_squared_error(sum->sum_squared_error() + more.sum_squared_error());
  sum->set_sum_squared_weight(sum->sum_squared_weight() + more.sum_squared_weight());
  sum->set_max_abs_error(std::max(sum->max_abs_error(), more.max_abs_error()));
  sum->set_count(sum->count() + more.count());
}

double NmseDb(const ErrorStats& stats) {
  if (stats.sum_squared_error() == 0) return -std::numeric_limits<double>::infinity();
  if (stats.sum_squared_weight() == 0) return 0;
  return 10 * std::log10(stats.sum_squared_error() / stats.sum_squared_weight());
}

}  // namespace kompakt
