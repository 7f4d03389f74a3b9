#include "quant/row_work.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "format/word_transpose.h"

namespace kompakt {

RowScale StorableScale(double scaled, int exponent, int largest_integer) {
  // The 2^-23 keeps the rounding of the quotient on the safe side.
  const double largest = static_cast<double>(std::numeric_limits<float>::max()) / largest_integer * (1 - 0x1p-23);
  const double least = std::numeric_limits<float>::denorm_min();
  const double wanted = std::clamp(std::ldexp(scaled, exponent), least, largest);
  RowScale scale;
  scale.stored = static_cast<float>(wanted);
  scale.scaled = static_cast<float>(std::ldexp(static_cast<double>(scale.stored), -exponent));
  return scale;
}

RowWork MakeRowWork(const RowTile& in, int64_t group_cols, int64_t group_fields, EncoderScratch& scratch) {
  RowWork work;
  work.cols = in.cols;
  work.padded_cols = (in.cols + kTileCols - 1) / kTileCols * kTileCols;
  work.n_rows = in.n_rows;
  work.group_cols = group_cols;
  work.groups = (in.cols + group_cols - 1) / group_cols;
  const size_t padded = static_cast<size_t>(work.padded_cols);
  const size_t lanes = static_cast<size_t>(kTileRows);
  work.x = scratch.lanes.Get<float>(padded * lanes);
  work.quads = scratch.quads.Get<uint8_t>(padded / 4 * 128);
  work.groups_state = scratch.groups.Get<float>(static_cast<size_t>(work.groups * group_fields) * lanes);
  work.codes = scratch.codes.Get<uint8_t>(padded * lanes);
  work.values = scratch.values.Get<int8_t>(padded * lanes);
  TransposeWords(reinterpret_cast<const uint8_t*>(in.values), in.cols * static_cast<int64_t>(sizeof(float)), in.n_rows,
                 in.cols, reinterpret_cast<uint8_t*>(work.x));
  std::fill(work.x + in.cols * kTileRows, work.x + work.padded_cols * kTileRows, 0.0f);

  const auto [least, most] = std::minmax_element(in.importance.begin(), in.importance.end());
  if (!in.importance.empty() && *least < *most) {
    const float largest = *most;
    // Behind it the place for the weights of single elements.
    float* h = scratch.importance.Get<float>(padded * (1 + lanes));
    const double scale = std::ldexp(1.0, -std::ilogb(largest));
    for (size_t c = 0; c < in.importance.size(); ++c) {
      h[c] = std::max(static_cast<float>(static_cast<double>(in.importance[c]) * scale), 0x1p-20f);
    }
    std::fill(h + in.cols, h + work.padded_cols, 0.0f);
    work.importance = h;
  }
  return work;
}

bool SetExponents(const int32_t largest_bits[kTileRows], RowWork* work, float factor[kTileRows],
                  float second_factor[kTileRows], bool* second_needed) {
  constexpr int32_t kInfinity = 0x7f800000;
  *second_needed = false;
  for (int64_t r = 0; r < kTileRows; ++r) {
    if (largest_bits[r] >= kInfinity) return false;
    factor[r] = second_factor[r] = 1;
    work->zero[r] = largest_bits[r] == 0;
    if (work->zero[r]) continue;
    const int exponent = std::ilogb(std::bit_cast<float>(largest_bits[r]));
    work->exponent[r] = exponent;
    // 2^127 is the largest power that F32 has; its smallest, 2^-149, is far below 2^-127.
    const int first = std::max(exponent, -127);
    factor[r] = static_cast<float>(std::ldexp(1.0, -first));
    second_factor[r] = static_cast<float>(std::ldexp(1.0, first - exponent));
    *second_needed |= first != exponent;
  }
  return true;
}

void FitRowScales(const float xi[kTileRows], const float ii[kTileRows], int largest_integer, RowWork* work) {
  for (int64_t r = 0; r < kTileRows; ++r) {
    if (ii[r] > 0 && xi[r] > 0) {
      work->scale[r] =
          StorableScale(static_cast<double>(xi[r]) / static_cast<double>(ii[r]), work->exponent[r], largest_integer);
    }
  }
}

void ReduceError(const RowWork& work, const double squared_error[kTileRows], const double squared_weight[kTileRows],
                 const float largest[kTileRows], TileError* error) {
  *error = {};
  for (int64_t r = 0; r < work.n_rows; ++r) {
    const double square = std::ldexp(1.0, 2 * work.exponent[r]);
    error->sum_squared_error += squared_error[r] * square;
    error->sum_squared_weight += squared_weight[r] * square;
    error->max_abs_error = std::max(error->max_abs_error,
                                    static_cast<float>(std::ldexp(static_cast<double>(largest[r]), work.exponent[r])));
  }
  error->count = static_cast<uint64_t>(work.n_rows * work.cols);
}

}  // namespace kompakt
