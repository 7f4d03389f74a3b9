#include "quant/encode_cast.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "format/float_formats.h"
#include "format/word_transpose.h"

namespace kompakt {
namespace {

// Values cast at a time: the chunk stays in the fastest cache, and a double takes its sums.
constexpr int64_t kChunk = 512;

// `cast` turns a value into its stored bits, `widen` back. A 16-bit format's tile is a transposition of 32-bit words,
// two elements each; so the cast rows are transposed as words.
template <typename Bits, typename Cast, typename Widen>
bool EncodeWith(Cast cast, Widen widen, const RowTile& in, EncoderScratch& scratch, uint8_t* tiles, float* row_scales,
                TileError* error) {
  const int64_t padded = (in.cols + kTileCols - 1) / kTileCols * kTileCols;
  Bits* stored = scratch.codes.Get<Bits>(static_cast<size_t>(padded * kTileRows));
  *error = {};
  int32_t largest_bits = 0;
  for (int64_t row = 0; row < in.n_rows; ++row) {
    const float* values = in.values + row * in.cols;
    Bits* out = stored + row * padded;
    double squared_error = 0;
    double squared_weight = 0;
    float largest = 0;
    for (int64_t begin = 0; begin < in.cols; begin += kChunk) {
      const int64_t end = std::min(in.cols, begin + kChunk);
      for (int64_t c = begin; c < end; ++c) {
        out[c] = cast(values[c]);
        const int32_t bits = std::bit_cast<int32_t>(values[c]) & 0x7fffffff;
        largest_bits = bits > largest_bits ? bits : largest_bits;
      }
      for (int64_t c = begin; c < end; ++c) {
        const float difference = std::fabs(values[c] - widen(out[c]));
        largest = difference > largest ? difference : largest;
      }
      // Four chains of additions.
      double errors[4] = {};
      double weights[4] = {};
      for (int64_t c = begin; c < end; ++c) {
        const double weight = static_cast<double>(values[c]);
        const double difference = weight - static_cast<double>(widen(out[c]));
        errors[c % 4] += difference * difference;
        weights[c % 4] += weight * weight;
      }
      squared_error += (errors[0] + errors[1]) + (errors[2] + errors[3]);
      squared_weight += (weights[0] + weights[1]) + (weights[2] + weights[3]);
    }
    std::fill(out + in.cols, out + padded, Bits{});
    error->sum_squared_error += squared_error;
    error->sum_squared_weight += squared_weight;
    error->max_abs_error = std::max(error->max_abs_error, largest);
  }
  if (largest_bits >= 0x7f800000) return false;
  error->count = static_cast<uint64_t>(in.n_rows * in.cols);
  const int64_t row_bytes = padded * static_cast<int64_t>(sizeof(Bits));
  TransposeWords(reinterpret_cast<const uint8_t*>(stored), row_bytes, in.n_rows, row_bytes / 4, tiles);
  std::fill_n(row_scales, kTileRows, 0.0f);
  return true;
}

// Finite values that round to infinity keep the largest finite magnitude.
uint16_t Saturated(uint16_t bits, uint16_t infinity) {
  return (bits & 0x7fff) == infinity ? static_cast<uint16_t>(bits - 1) : bits;
}

}  // namespace

bool EncodeF32(const EncoderSet& /*set*/, SearchEffort /*effort*/, const RowTile& in, EncoderScratch& scratch,
               uint8_t* tiles, float* row_scales, TileError* error) {
  const auto same = [](float value) { return value; };
  return EncodeWith<float>(same, same, in, scratch, tiles, row_scales, error);
}

bool EncodeF16(const EncoderSet& /*set*/, SearchEffort /*effort*/, const RowTile& in, EncoderScratch& scratch,
               uint8_t* tiles, float* row_scales, TileError* error) {
  const auto cast = [](float value) { return Saturated(F32ToF16(value), 0x7c00); };
  return EncodeWith<uint16_t>(cast, F16ToF32, in, scratch, tiles, row_scales, error);
}

bool EncodeBf16(const EncoderSet& /*set*/, SearchEffort /*effort*/, const RowTile& in, EncoderScratch& scratch,
                uint8_t* tiles, float* row_scales, TileError* error) {
  const auto cast = [](float value) { return Saturated(F32ToBf16(value), 0x7f80); };
  return EncodeWith<uint16_t>(cast, Bf16ToF32, in, scratch, tiles, row_scales, error);
}

}  // namespace kompakt
