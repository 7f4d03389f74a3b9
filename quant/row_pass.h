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
  const float* h;  // [cols][16] what squared errors count; null where all count alike and none is padding
  int64_t quad;    // index of the first one in its row tile
  int quads;
  float weights[kMostGroupCols * 16];  // where h points if it is not that of the row tile
};

// What the squared error of each element counts: importance of the column x sqrt(mean square of the row + its square).
// Rows are in their own units; only ratios within a row matter.
KOMPAKT_INLINE void WeighElements(RowWork& work) {
  F sum = Splat(0.0f);
  for (int64_t c = 0; c < work.cols; ++c) {
    const F x = Load(work.x + c * 16);
    sum = sum + x * x;
  }
  const F mean = sum * (1.0f / static_cast<float>(work.cols));
  float* h = const_cast<float*>(work.importance) + work.padded_cols;
  for (int64_t c = 0; c < work.padded_cols; ++c) {
    const F x = Load(work.x + c * 16);
    Store(SquareRoot(mean + x * x) * work.importance[c], h + c * 16);
  }
  work.h = h;
}

KOMPAKT_INLINE void FindGroup(const RowWork& work, int64_t g, Group* group) {
  const int64_t col = g * work.group_cols;
  group->x = work.x + col * 16;
  group->quad = col / 4;
  group->u = reinterpret_cast<Quad*>(work.quads + group->quad * static_cast<int64_t>(sizeof(Quad)));
  group->quads = static_cast<int>(work.group_cols / 4);
  group->h = work.h == nullptr ? nullptr : work.h + col * 16;
  // The last group may be cut by the matrix edge; its padding must not count.
  if (group->h == nullptr && col + work.group_cols > work.cols) {
    for (int64_t k = 0; k < work.group_cols; ++k) {
      Store(Splat(col + k < work.cols ? 1.0f : 0.0f), group->weights + k * 16);
    }
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
    const F weighted = q * Load(group.h + (4 * i + k) * 16);
    sums->uq = sums->uq + Load(group.x + (4 * i + k) * 16) * to_units * weighted;
    sums->qq = sums->qq + q * weighted;
  }
}

// The same sums with the integers of u where all columns count alike, else with the weights.
struct GroupSums {
  GroupBias bias;
  Products products;
  WeightedSums weighted;
};
KOMPAKT_INLINE void StartSums(const Group& group, GroupSums* sums) {
  MakeBias(group.u, group.h == nullptr ? group.quads : 0, &sums->bias);
  Clear(&sums->products);
  sums->weighted = {Splat(0.0f), Splat(0.0f)};
}
KOMPAKT_INLINE void AddToSums(const Group& group, int i, const F& to_units, const I& values, GroupSums* sums) {
  if (group.h == nullptr) {
    AddProducts(group.u[i], values, &sums->products);
  } else {
    AddWeighted(group, i, to_units, values, &sums->weighted);
  }
}
KOMPAKT_INLINE void FinishSums(const Group& group, const GroupSums& sums, F* uq, F* qq) {
  if (group.h != nullptr) {
    *uq = sums.weighted.uq;
    *qq = sums.weighted.qq;
    return;
  }
  I sum_uq, sum_qq;
  Sums(sums.products, sums.bias, &sum_uq, &sum_qq);
  *uq = ToFloat(sum_uq);
  *qq = ToFloat(sum_qq);
}

// A mask of the quad's columns that lie in the matrix.
KOMPAKT_INLINE I ColumnMask(const RowWork& work, int64_t quad) {
  const int64_t left = work.cols - quad * 4;
  if (left >= 4) return Splat(-1);
  return Splat(left <= 0 ? 0 : static_cast<int32_t>((1u << (8 * left)) - 1));
}

// What was found for the rows of a tile: codes and what they mean, the fields of the groups that say how, row scales.
// `fields` of the groups' state are kept, from `first` on.
struct RowResult {
  uint8_t* codes;
  int8_t* values;
  float* groups;  // [groups][fields][16]
  RowScale scale[16];
  int first, fields, stride;  // in the state of a group
};
KOMPAKT_INLINE void KeepResult(const RowWork& work, RowResult* kept) {
  std::memcpy(kept->codes, work.codes, static_cast<size_t>(work.padded_cols * 16));
  std::memcpy(kept->values, work.values, static_cast<size_t>(work.padded_cols * 16));
  const size_t bytes = static_cast<size_t>(kept->fields) * 16 * sizeof(float);
  for (int64_t g = 0; g < work.groups; ++g) {
    std::memcpy(kept->groups + g * kept->fields * 16, work.groups_state + (g * kept->stride + kept->first) * 16, bytes);
  }
  for (int r = 0; r < 16; ++r) kept->scale[r] = work.scale[r];
}
// Where `mask` is set, the rows become again what was kept.
KOMPAKT_INLINE void RestoreRows(const RowResult& kept, const I& mask, RowWork& work) {
  int32_t lanes[16];
  Store(mask, lanes);
  int32_t any = 0;
  for (int r = 0; r < 16; ++r) any |= lanes[r];
  if (any == 0) return;
  for (int64_t at = 0; at < work.padded_cols * 16; at += 64) {
    for (uint8_t* to : {work.codes + at, reinterpret_cast<uint8_t*>(work.values) + at}) {
      const uint8_t* from =
          to == work.codes + at ? kept.codes + at : reinterpret_cast<const uint8_t*>(kept.values) + at;
      const I old = Load(reinterpret_cast<const int32_t*>(from));
      Store(Select(mask, old, Load(reinterpret_cast<const int32_t*>(to))), reinterpret_cast<int32_t*>(to));
    }
  }
  for (int64_t g = 0; g < work.groups; ++g) {
    for (int f = 0; f < kept.fields; ++f) {
      float* to = work.groups_state + (g * kept.stride + kept.first + f) * 16;
      Store(Select(mask, Load(kept.groups + (g * kept.fields + f) * 16), Load(to)), to);
    }
  }
  for (int r = 0; r < 16; ++r) {
    if (lanes[r] != 0) work.scale[r] = kept.scale[r];
  }
}
KOMPAKT_INLINE void PlaceResult(const RowWork& work, int first, int fields, int stride, ScratchBuffer* buffer,
                                RowResult* result) {
  const int64_t bytes = work.padded_cols * 16;
  const int64_t floats = work.groups * fields * 16;
  uint8_t* at = buffer->Get<uint8_t>(static_cast<size_t>(2 * bytes + floats * 4));
  result->codes = at;
  result->values = reinterpret_cast<int8_t*>(at + bytes);
  result->groups = reinterpret_cast<float*>(at + 2 * bytes);
  result->first = first;
  result->fields = fields;
  result->stride = stride;
}

// Error of the row tile, weighted by h, in the row's units. As MeasureError; `scales` likewise.
KOMPAKT_INLINE F WeightedError(const RowWork& work, const float* h, const float* scales, int64_t stride) {
  const F row_scale = RowScales(work);
  F sum = Splat(0.0f);
  for (int64_t c = 0; c < work.cols; ++c) {
    const F s = Load(scales + c / work.group_cols * stride);
    const I values = Load(reinterpret_cast<const int32_t*>(work.values + c / 4 * 64));
    const F difference = Load(work.x + c * 16) - row_scale * (s * ToFloat(SignedByte(values, static_cast<int>(c % 4))));
    sum = sum + difference * difference * Load(h + c * 16);
  }
  return sum;
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
