// Part of a region (instruction_set.h): what the searches of all format families share, group by group and row by row.
#pragma once

#include <cstdint>

// Groups are at most this wide.
constexpr int kMostGroupCols = 32;
constexpr int kMostGroupQuads = kMostGroupCols / 4;
// A group's integers reach to this: its columns in units of 1/32767 of its largest magnitude.
constexpr float kUnits = 32767;
// A group this far below its row's largest weight is zero in any case; it keeps 1 / largest finite.
constexpr float kLeastGroup = 0x1p-60f;

// Scales the rows of work.x. False when a value is not finite.
KOMPAKT_INLINE bool ScaleRows(RowWork& work) {
  // Two, because each is a chain of operations that wait for each other. The columns are padded to an even number.
  I largest[2] = {Splat(0), Splat(0)};
  for (int64_t c = 0; c < work.padded_cols; c += 2) {
    largest[0] = Max(MagnitudeBits(Load(work.x + c * 16)), largest[0]);
    largest[1] = Max(MagnitudeBits(Load(work.x + c * 16 + 16)), largest[1]);
  }
  int32_t bits[16];
  Store(Max(largest[0], largest[1]), bits);
  float factor[16], second_factor[16];
  bool second_needed = false;
  if (!SetExponents(bits, &work, factor, second_factor, &second_needed)) return false;
  const F scale = Load(factor);
  for (int64_t c = 0; c < work.cols; ++c) Store(Load(work.x + c * 16) * scale, work.x + c * 16);
  if (!second_needed) return true;
  const F second_scale = Load(second_factor);
  for (int64_t c = 0; c < work.cols; ++c) Store(Load(work.x + c * 16) * second_scale, work.x + c * 16);
  return true;
}

// One group of one row tile.
struct Group {
  const float* x;  // [cols][16]
  Quad* u;         // [cols / 4]
  const float* h;  // [cols] weights of the columns; null where all count alike and none is padding
  int64_t quad;    // index of the first one in its row tile
  int quads;
  float weights[kMostGroupCols];  // where h points if it is not the importance itself
};

KOMPAKT_INLINE void FindGroup(const RowWork& work, int64_t g, Group* group) {
  const int64_t col = g * work.group_cols;
  group->x = work.x + col * 16;
  group->quad = col / 4;
  group->u = reinterpret_cast<Quad*>(work.quads + group->quad * static_cast<int64_t>(sizeof(Quad)));
  group->quads = static_cast<int>(work.group_cols / 4);
  group->h = work.h == nullptr ? nullptr : work.h + col;
  // The last group may be cut by the matrix edge; its padding must not count.
  if (group->h == nullptr && col + work.group_cols > work.cols) {
    for (int64_t k = 0; k < work.group_cols; ++k) group->weights[k] = col + k < work.cols ? 1.0f : 0.0f;
    group->h = group->weights;
  }
}

// Largest and smallest value, as magnitudes above and below zero.
KOMPAKT_INLINE void Extremes(const Group& group, F* up, F* down) {
  F most = Splat(0.0f), least = Splat(0.0f);
  for (int k = 0; k < 4 * group.quads; ++k) {
    const F x = Load(group.x + k * 16);
    most = Max(x, most);
    least = Min(x, least);
  }
  *up = most;
  *down = Splat(0.0f) - least;
}

// The group's columns as integers.
KOMPAKT_INLINE void MakeQuads(const Group& group, const F& to_units) {
  for (int i = 0; i < group.quads; ++i) {
    const float* x = group.x + i * 64;
    MakeQuad(Load(x) * to_units, Load(x + 16) * to_units, Load(x + 32) * to_units, Load(x + 48) * to_units,
             &group.u[i]);
  }
}

// 2^15 / step as the factor of ScaleToBytes; 0 where step is 0. `step` is in units of the group's integers.
KOMPAKT_INLINE I InverseFactor(const F& step, float numerator, float most) {
  const F zero = Splat(0.0f);
  const F inverse = Splat(numerator) / step;
  const F bounded = Max(Min(inverse, Splat(most)), Splat(-most));
  return RoundToInt(Select(Equal(step, zero), zero, bounded));
}

KOMPAKT_INLINE void AddLanes(const F& values, double sums[16]) {
  float lanes[16];
  Store(values, lanes);
  for (int i = 0; i < 16; ++i) sums[i] += static_cast<double>(lanes[i]);
}

// Refits the row scales to sums of h x i and h i^2, i being the integers that the row scale multiplies.
KOMPAKT_INLINE void FitRows(const F& xi, const F& ii, int largest_integer, RowWork* work) {
  float xi_lanes[16], ii_lanes[16];
  Store(xi, xi_lanes);
  Store(ii, ii_lanes);
  FitRowScales(xi_lanes, ii_lanes, largest_integer, work);
}

// One byte per row of the matrix.
KOMPAKT_INLINE void StoreGroupBytes(const RowWork& work, const I& values, uint8_t* bytes) {
  int32_t lanes[16];
  Store(values, lanes);
  for (int r = 0; r < 16; ++r) bytes[r] = static_cast<uint8_t>(r < work.n_rows ? lanes[r] : 0);
}

KOMPAKT_INLINE F RowScales(const RowWork& work) {
  float scales[16];
  for (int r = 0; r < 16; ++r) scales[r] = work.zero[r] ? 1.0f : work.scale[r].scaled;
  return Load(scales);
}

// Sums over a group of h u q and h q q with the F32 values of u.
struct WeightedSums {
  F uq, qq;
};
KOMPAKT_INLINE void AddWeighted(const Group& group, int i, const F& to_units, const I& values, WeightedSums* sums) {
  for (int k = 0; k < 4; ++k) {
    const F q = ToFloat(SignedByte(values, k));
    const F weighted = q * group.h[4 * i + k];
    sums->uq = sums->uq + Load(group.x + (4 * i + k) * 16) * to_units * weighted;
    sums->qq = sums->qq + q * weighted;
  }
}

// A mask of the quad's columns that lie in the matrix.
KOMPAKT_INLINE I ColumnMask(const RowWork& work, int64_t quad) {
  const int64_t left = work.cols - quad * 4;
  if (left >= 4) return Splat(-1);
  return Splat(left <= 0 ? 0 : static_cast<int32_t>((1u << (8 * left)) - 1));
}

// Error of the row tile: values[] times the group scale is the integer that the row scale multiplies. `scales` points
// to the group scales of the first group, `stride` floats from group to group. In the row's units; in F32 within 128
// columns, then in double.
KOMPAKT_INLINE void MeasureError(const RowWork& work, const float* scales, int64_t stride, TileError* error) {
  const F row_scale = RowScales(work);
  F largest = Splat(0.0f);
  double squared_error[16] = {}, squared_weight[16] = {};
  constexpr int64_t kRun = 128;
  for (int64_t begin = 0; begin < work.cols; begin += kRun) {
    const int64_t end = begin + kRun < work.cols ? begin + kRun : work.cols;
    F error_sum = Splat(0.0f), weight_sum = Splat(0.0f);
    for (int64_t c = begin; c < end; c += 4) {
      const F s = Load(scales + c / work.group_cols * stride);
      const I values = Load(reinterpret_cast<const int32_t*>(work.values + c * 16));
      const int columns = end - c < 4 ? static_cast<int>(end - c) : 4;
      for (int k = 0; k < 4; ++k) {
        if (k >= columns) break;
        const F x = Load(work.x + (c + k) * 16);
        const F difference = x - row_scale * (s * ToFloat(SignedByte(values, k)));
        largest = Max(Magnitude(difference), largest);
        error_sum = error_sum + difference * difference;
        weight_sum = weight_sum + x * x;
      }
    }
    AddLanes(error_sum, squared_error);
    AddLanes(weight_sum, squared_weight);
  }
  float largest_lanes[16];
  Store(largest, largest_lanes);
  ReduceError(work, squared_error, squared_weight, largest_lanes, error);
}
