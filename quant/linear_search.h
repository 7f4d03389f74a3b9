// Part of a region (instruction_set.h): the encoder of formats with int8 codes and a group scale.
// The method and its written rules: docs/quantization.md, "How a tile is encoded".
#pragma once

#include <cstdint>

constexpr int kMostOffsets = 16;
struct LinearSearch {
  // Candidates for a group's s, relative to the one that just avoids clipping, in the order of the written rule. A
  // smaller s has finer steps and clips; each step of s also draws the rounding errors anew, and that is what most of
  // the search gains.
  int offsets;
  float offset[kMostOffsets];
  int refinements;  // how often the codes and the row scale are adjusted to each other
};
// In the order of SearchEffort.
constexpr LinearSearch kLinearSearches[] = {
    {4, {0, 1, 2, 3}, 0},
    {10, {0, 1, 2, 3, 4, 5, 6, 7, -1, -2}, 1},
    {16, {0, 1, 2, 3, 4, 5, 6, 7, -1, -2, 8, 9, 10, 11, 12, 13}, 2},
};

// Per group and row, in groups_state: the unit of its integers and its inverse; the scale at which the group's extremes
// are half a step past the last codes, so that rounding loses as much as clipping; the chosen scale s.
enum LinearField { kLinearUnit, kLinearInverseUnit, kLinearReach, kLinearScale, kLinearFields };

constexpr float kMostCode = 127, kLeastCode = -128;
// Of AddResiduals: y up to 255 in units of 1/32.
constexpr float kMostResidualFactor = 255 * 32;

KOMPAKT_INLINE void PrepareLinear(const Group& group, float* state) {
  F up, down;
  Extremes(group, &up, &down);
  const F largest = Max(up, down);
  const I empty = Less(largest, Splat(kLeastGroup));
  const F zero = Splat(0.0f);
  const F to_units = Select(empty, zero, Splat(1.0f) / largest) * kUnits;
  Store(Select(empty, zero, largest * (1.0f / kUnits)), state + kLinearUnit * 16);
  Store(to_units, state + kLinearInverseUnit * 16);
  Store(Select(empty, zero, Max(up * (1.0f / 127.5f), down * (1.0f / 128.5f))), state + kLinearReach * 16);
  MakeQuads(group, to_units);
}

// Squared errors of the group, in units of the group's integers, for the steps t.
template <int kSteps>
KOMPAKT_INLINE void ErrorOfSteps(const Group& group, const F& to_units, const F* t, F* error) {
  if (group.h == nullptr) {
    Multiplier multiplier[kSteps];
    Residuals residuals[kSteps];
    for (int i = 0; i < kSteps; ++i) {
      MakeMultiplier(InverseFactor(t[i], 0x1p20f, kMostResidualFactor), &multiplier[i]);
      Clear(&residuals[i]);
    }
    for (int q = 0; q < group.quads; ++q) {
      for (int i = 0; i < kSteps; ++i) AddResiduals(group.u[q], multiplier[i], &residuals[i]);
    }
    for (int i = 0; i < kSteps; ++i) {
      I sum;
      Sum(residuals[i], &sum);
      error[i] = t[i] * t[i] * ToFloat(sum);
    }
    return;
  }
  for (int i = 0; i < kSteps; ++i) {
    const F inverse = to_units / t[i];
    F sum = Splat(0.0f);
    for (int k = 0; k < 4 * group.quads; ++k) {
      const F y = Load(group.x + k * 16) * inverse;
      const F difference = y - Round(Max(Min(y, Splat(kMostCode)), Splat(kLeastCode)));
      sum = sum + difference * difference * Load(group.h + k * 16);
    }
    error[i] = t[i] * t[i] * sum;
  }
}

KOMPAKT_INLINE void ChooseLinear(const LinearFormat& format, const LinearSearch& search, const Group& group,
                                 const F& row_scale, float* state) {
  const F to_units = Load(state + kLinearInverseUnit * 16);
  const F reach = Load(state + kLinearReach * 16);
  const F most = Splat(static_cast<float>(format.most_scale));
  const F one = Splat(1.0f), zero = Splat(0.0f);
  const I empty = Equal(reach, zero);
  const F step = Select(empty, one, row_scale * to_units);
  const F base = Round(Min(reach / row_scale, most));
  F best_error = Splat(3.4e38f), best = zero;
  for (int i = 0; i < search.offsets; i += 2) {
    F s[2], t[2], error[2];
    for (int j = 0; j < 2; ++j) {
      s[j] = Max(Min(base + search.offset[i + j], most), one);
      t[j] = step * s[j];
    }
    ErrorOfSteps<2>(group, to_units, t, error);
    for (int j = 0; j < 2; ++j) {
      const I better = Less(error[j], best_error);
      best_error = Select(better, error[j], best_error);
      best = Select(better, s[j], best);
    }
  }
  Store(Select(empty, zero, best), state + kLinearScale * 16);
}

// The codes of a group for its s, and the sums of the row scale's fit.
KOMPAKT_INLINE void AssignLinear(const LinearFormat& format, const RowWork& work, const Group& group,
                                 const F& row_scale, const float* state, F* uq, F* qq) {
  const F zero = Splat(0.0f);
  const F to_units = Load(state + kLinearInverseUnit * 16);
  const F s = Load(state + kLinearScale * 16);
  const I some = Greater(s, zero);
  const F bound = to_units * (30000.0f / kUnits);
  const F inverse = Min(Select(some, Splat(1.0f) / (row_scale * s), zero), bound);
  const I bias = Splat(static_cast<int32_t>(0x01010101u * static_cast<uint32_t>(format.code_bias)));
  int32_t in_matrix[16];
  for (int r = 0; r < 16; ++r) in_matrix[r] = r < work.n_rows ? -1 : 0;
  const I rows = Load(in_matrix);
  GroupSums sums;
  StartSums(group, &sums);
  for (int i = 0; i < group.quads; ++i) {
    const float* x = group.x + i * 64;
    const I values =
        RoundToBytes(Load(x) * inverse, Load(x + 16) * inverse, Load(x + 32) * inverse, Load(x + 48) * inverse);
    const I mask = rows & ColumnMask(work, group.quad + i);
    Store(AddBytes(values, bias) & mask, reinterpret_cast<int32_t*>(work.codes + (group.quad + i) * 64));
    Store(values, reinterpret_cast<int32_t*>(work.values + (group.quad + i) * 64));
    AddToSums(group, i, to_units, values, &sums);
  }
  FinishSums(group, sums, uq, qq);
}

KOMPAKT_INLINE void FirstLinearRowScale(const LinearFormat& format, int largest_integer, RowWork& work) {
  F needed = Splat(0.0f);
  for (int64_t g = 0; g < work.groups; ++g) {
    // One hundredth above, so that the largest group has candidates on both sides.
    const F reach = Load(work.groups_state + (g * kLinearFields + kLinearReach) * 16);
    needed = Max(reach * (1.01f / static_cast<float>(format.most_scale)), needed);
  }
  float lanes[16];
  Store(needed, lanes);
  for (int r = 0; r < 16; ++r) {
    work.scale[r] = {};
    if (work.zero[r]) continue;
    work.scale[r] = StorableScale(static_cast<double>(lanes[r]), work.exponent[r], largest_integer);
  }
}

// Codes for the row scale, then the row scale for them; the first time also the group scales.
template <bool kChoose>
KOMPAKT_INLINE void AdjustLinear(const LinearFormat& format, const LinearSearch& search, int largest_integer,
                                 RowWork& work) {
  const F row_scale = RowScales(work);
  F xi = Splat(0.0f), ii = Splat(0.0f);
  for (int64_t g = 0; g < work.groups; ++g) {
    Group group;
    FindGroup(work, g, &group);
    float* state = work.groups_state + g * kLinearFields * 16;
    if (kChoose) ChooseLinear(format, search, group, row_scale, state);
    F uq, qq;
    AssignLinear(format, work, group, row_scale, state, &uq, &qq);
    const F s = Load(state + kLinearScale * 16);
    xi = xi + Load(state + kLinearUnit * 16) * s * uq;
    ii = ii + s * s * qq;
  }
  FitRows(xi, ii, largest_integer, &work);
}

// All passes: group scales, codes and row scales of the tile, for the weights that work.h has. One copy: it is long.
__attribute__((noinline)) void SearchLinear(const LinearFormat& format, const LinearSearch& search, RowWork& work) {
  const int largest_integer = format.most_scale * 128;
  for (int64_t g = 0; g < work.groups; ++g) {
    Group group;
    FindGroup(work, g, &group);
    PrepareLinear(group, work.groups_state + g * kLinearFields * 16);
  }
  FirstLinearRowScale(format, largest_integer, work);
  AdjustLinear<true>(format, search, largest_integer, work);
  for (int i = 0; i < search.refinements; ++i) AdjustLinear<false>(format, search, largest_integer, work);
}

bool EncodeLinear(const LinearFormat& format, SearchEffort effort, const RowTile& in, EncoderScratch& scratch,
                  uint8_t* tiles, float* row_scales, TileError* error) {
  const LinearSearch& search = kLinearSearches[static_cast<int>(effort)];
  RowWork work = MakeRowWork(in, format.group_cols, kLinearFields, scratch);
  if (!ScaleRows(work)) return false;
  SearchLinear(format, search, work);
  if (work.importance != nullptr) {
    // By weights as well; each row keeps what has the smaller weighted error.
    RowResult plain;
    PlaceResult(work, kLinearScale, 1, kLinearFields, &scratch.kept, &plain);
    KeepResult(work, &plain);
    WeighElements(work);
    const float* scales = work.groups_state + kLinearScale * 16;
    const F plain_error = WeightedError(work, work.h, scales, kLinearFields * 16);
    SearchLinear(format, search, work);
    RestoreRows(plain, Less(plain_error, WeightedError(work, work.h, scales, kLinearFields * 16)), work);
  }
  for (int64_t g = 0; g < work.groups; ++g, tiles += format.tile_bytes) {
    format.write_codes(work.codes + g * kTileElements, tiles);
    const float* s = work.groups_state + (g * kLinearFields + kLinearScale) * 16;
    StoreGroupBytes(work, RoundToInt(Load(s)), tiles + format.code_bytes);
  }
  for (int64_t row = 0; row < kTileRows; ++row) row_scales[row] = row < work.n_rows ? work.scale[row].stored : 0;
  MeasureError(work, work.groups_state + kLinearScale * 16, kLinearFields * 16, error);
  return true;
}
