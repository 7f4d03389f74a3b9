// FloatIsa: what an instruction set contributes to products of F32 activations with weights that are floats (f32, f16,
// bf16, fp8_b128), straight from their tiles.
//
// A row of activations is multiplied by a power of two first, so that its largest magnitude is in [2^30, 2^31), or as
// near to it as 2^126 gets, and zeros are put behind it. Then a weight need not be decoded: the fields of F16 and E4M3,
// moved to where those of an F32 are, are the weight times 2^-112 and 2^-120, subnormals included, and products with
// them are normal numbers. All of these powers are exact and are taken out of the sums at the end.
//
// Every instruction set gives the same bits, for few tokens and for many: one chain of fused multiply and add in
// ascending columns for each token and row; in fp8_b128 one for each 128 columns from zero on, and then
//     acc = fma(sum of the block, scale of the block, acc)
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "format/block_format.h"

namespace kompakt::quantized {

inline constexpr size_t kFormats = kFormatCount;

// The most tokens of one product.
inline constexpr int64_t kFloatTokens = 48;

struct FloatProduct {
  const MatrixView* w = nullptr;
  int64_t first = 0;  // row tile
  int64_t tiles = 1;
  // Columns; of fp8_b128 in multiples of 4 tiles, but for the end. Unless it begins at 0, c goes on from what it holds.
  int64_t first_col_tile = 0;
  int64_t col_tiles = 0;
  const float* const* rows = nullptr;  // [tokens], made by FloatIsa::raise
  int64_t tokens = 0;                  // at most kFloatTokens
  float* c = nullptr;                  // [tokens, tiles * 16]
  int64_t c_stride = 0;
};

struct FloatIsa {
  // y[n_padded] = x[n] times a power of two, then zeros; *scale = the inverse of that power. A row with a value that is
  // not finite stays as it is.
  void (*raise)(const float* x, int64_t n, int64_t n_padded, float* y, float* scale);
  // c[t][16 i + r] = rows[t] times row r of row tile first + i, not yet scaled. A weight that is no finite number makes
  // NaN, or what it is, of its row. Indexed by FormatId; null: not a format of floats.
  std::array<void (*)(const FloatProduct& p), kFormats> product;
};

// What the sums of a format are still to be multiplied by.
constexpr float FloatFactor(FormatId format) {
  return format == FormatId::kF16 ? 0x1p112f : format == FormatId::kFp8B128 ? 0x1p120f : 1.0f;
}

// Floats from one row to the next, for rows of `n_padded`: an odd number of cache lines, so that rows that are read
// side by side do not all lie in the same few places of a cache.
constexpr int64_t FloatRowStride(int64_t n_padded) {
  constexpr int64_t kLine = 16;
  const int64_t lines = (n_padded + kLine - 1) / kLine;
  return (lines + (lines % 2 == 0 ? 1 : 0)) * kLine;
}

}  // namespace kompakt::quantized
