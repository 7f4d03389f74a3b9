#include "quant/row_lanes.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "quant/lanes.h"

namespace kompakt {

LaneWidth BestLaneWidth() {
#if defined(__x86_64__)
  static const LaneWidth width = [] {
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl")) {
      return LaneWidth::k16;
    }
    return __builtin_cpu_supports("avx2") ? LaneWidth::k8 : LaneWidth::k4;
  }();
  return width;
#else
  return LaneWidth::k4;
#endif
}

RowLanes LoadRowLanes(const RowTile& in, EncoderScratch& scratch) {
  RowLanes lanes;
  lanes.cols = in.cols;
  lanes.n_rows = in.n_rows;
  scratch.lanes.resize(static_cast<size_t>(in.cols * kTileRows));
  float* x = scratch.lanes.data();
  for (int64_t r = 0; r < kTileRows; ++r) {
    const float* row = in.values + r * in.cols;
    float largest = 0;
    if (r < in.n_rows) {
      for (int64_t c = 0; c < in.cols; ++c) {
        const float magnitude = std::fabs(row[c]);
        largest = magnitude > largest ? magnitude : largest;
      }
    }
    lanes.zero[r] = largest == 0;
    if (lanes.zero[r]) {
      for (int64_t c = 0; c < in.cols; ++c) x[c * kTileRows + r] = 0;
      continue;
    }
    lanes.exponent[r] = std::ilogb(largest);
    // In double, because 2^149 is no float.
    const double scale = std::ldexp(1.0, -lanes.exponent[r]);
    for (int64_t c = 0; c < in.cols; ++c) {
      x[c * kTileRows + r] = static_cast<float>(static_cast<double>(row[c]) * scale);
    }
  }
  lanes.x = x;

  float largest = 0;
  for (const float h : in.importance) largest = std::max(largest, h);
  if (largest > 0) {
    scratch.importance.resize(static_cast<size_t>(in.cols));
    const double scale = std::ldexp(1.0, -std::ilogb(largest));
    for (size_t c = 0; c < scratch.importance.size(); ++c) {
      scratch.importance[c] = std::max(static_cast<float>(static_cast<double>(in.importance[c]) * scale), 0x1p-20f);
    }
    lanes.h = scratch.importance.data();
  }
  return lanes;
}

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

void MeasureError(const RowTile& in, const float* row_scales, const int16_t* integers, TileError* error) {
  // Four rows at a time: each sum is a chain of dependent additions, and four chains keep the adder busy.
  constexpr int64_t kRows = 4;
  *error = {};
  for (int64_t row = 0; row < in.n_rows; row += kRows) {
    const float* values[kRows];
    float scale[kRows];
    for (int64_t r = 0; r < kRows; ++r) {
      values[r] = in.values + std::min(row + r, in.n_rows - 1) * in.cols;  // a row past the end is not added below
      scale[r] = row_scales[row + r];
    }
    double squared_error[kRows] = {};
    double squared_weight[kRows] = {};
    double largest[kRows] = {};
    for (int64_t c = 0; c < in.cols; ++c) {
      for (int64_t r = 0; r < kRows; ++r) {
        const double weight = static_cast<double>(values[r][c]);
        const double decoded = static_cast<double>(scale[r] * static_cast<float>(integers[c * kTileRows + row + r]));
        const double difference = weight - decoded;
        squared_error[r] += difference * difference;
        squared_weight[r] += weight * weight;
        const double magnitude = std::fabs(difference);
        largest[r] = magnitude > largest[r] ? magnitude : largest[r];
      }
    }
    for (int64_t r = 0; r < std::min(kRows, in.n_rows - row); ++r) {
      error->sum_squared_error += squared_error[r];
      error->sum_squared_weight += squared_weight[r];
      error->max_abs_error = std::max(error->max_abs_error, static_cast<float>(largest[r]));
    }
  }
  error->count = static_cast<uint64_t>(in.n_rows * in.cols);
}

}  // namespace kompakt
