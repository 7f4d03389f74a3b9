#include "quant/encode_cast.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "format/float_formats.h"

namespace kompakt {
namespace {

// `cast` turns a value into its stored bits, `widen` back.
template <typename Bits, typename Cast, typename Widen>
void EncodeWith(FormatId id, Cast cast, Widen widen, const RowTile& in, uint8_t* tiles, float* row_scales,
                TileError* error) {
  StoredRows stored;
  stored.format = id;
  stored.rows = in.n_rows;
  stored.cols = in.cols;
  stored.elements.resize(static_cast<size_t>(in.n_rows * in.cols) * sizeof(Bits));
  *error = {};
  for (int64_t row = 0; row < in.n_rows; ++row) {
    double squared_error = 0;
    double squared_weight = 0;
    double largest = 0;
    for (int64_t col = 0; col < in.cols; ++col) {
      const int64_t i = row * in.cols + col;
      const Bits bits = cast(in.values[i]);
      std::memcpy(stored.elements.data() + static_cast<size_t>(i) * sizeof(Bits), &bits, sizeof(Bits));
      const double weight = static_cast<double>(in.values[i]);
      const double difference = weight - static_cast<double>(widen(bits));
      squared_error += difference * difference;
      squared_weight += weight * weight;
      largest = std::max(largest, std::fabs(difference));
    }
    error->sum_squared_error += squared_error;
    error->sum_squared_weight += squared_weight;
    error->max_abs_error = std::max(error->max_abs_error, static_cast<float>(largest));
  }
  error->count = static_cast<uint64_t>(in.n_rows * in.cols);
  PackTiles(stored, tiles);
  std::fill_n(row_scales, kTileRows, 0.0f);
}

// Finite values that round to infinity keep the largest finite magnitude.
uint16_t Saturated(uint16_t bits, uint16_t infinity) {
  return (bits & 0x7fff) == infinity ? static_cast<uint16_t>(bits - 1) : bits;
}

}  // namespace

void EncodeF32(const RowTile& in, EncoderScratch& /*scratch*/, uint8_t* tiles, float* row_scales, TileError* error) {
  const auto same = [](float value) { return value; };
  EncodeWith<float>(FormatId::kF32, same, same, in, tiles, row_scales, error);
}

void EncodeF16(const RowTile& in, EncoderScratch& /*scratch*/, uint8_t* tiles, float* row_scales, TileError* error) {
  const auto cast = [](float value) { return Saturated(F32ToF16(value), 0x7c00); };
  EncodeWith<uint16_t>(FormatId::kF16, cast, F16ToF32, in, tiles, row_scales, error);
}

void EncodeBf16(const RowTile& in, EncoderScratch& /*scratch*/, uint8_t* tiles, float* row_scales, TileError* error) {
  const auto cast = [](float value) { return Saturated(F32ToBf16(value), 0x7f80); };
  EncodeWith<uint16_t>(FormatId::kBf16, cast, Bf16ToF32, in, tiles, row_scales, error);
}

}  // namespace kompakt
