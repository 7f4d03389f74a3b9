// Part of a region (instruction_set.h): the encoder of formats with a code table, a group scale and a shift bit.
// The method and its written rules: docs/quantization.md, "How a tile is encoded".
#pragma once

#include <cstdint>

// A combination of the table's orientation and the shift bit, in the order of the written rule. The table has a far and
// a near end (its first and last value); the far end may point to the side of the group's largest magnitude or away.
constexpr int kCombinations = 4;
constexpr bool kFarEndOnLargest[kCombinations] = {true, true, false, false};
constexpr bool kShifted[kCombinations] = {false, true, false, true};

constexpr int kMostFactors = 9;
struct TableSearch {
  // First candidates for a group scale, as multiples of the scale at which the group's extremes meet the ends of the
  // table: with the far end on the largest magnitude, then away from it. Above 1 the extremes meet entries further in.
  int factors[2];
  float factor[2][kMostFactors];
  int kept;         // the best of the combinations, tried on the row's grid
  int pairs;        // of integers tried there, one below and one above the wanted scale
  int refinements;  // how often row scale and group scales are adjusted to each other
};
// By bits per code, from 2 on, then in the order of SearchEffort. The factors are the best found by coordinate descent
// on Gaussian and Student-t(5) groups.
constexpr int kFewestCodeBits = 2;
constexpr TableSearch kTableSearches[][3] = {
    {{{3, 1}, {{0.52f, 0.62f, 0.74f}, {0.74f}}, 1, 1, 0},
     {{5, 3}, {{0.5f, 0.56f, 0.62f, 0.68f, 0.82f}, {0.58f, 0.72f, 0.88f}}, 4, 1, 1},
     {{9, 7},
      {{0.5f, 0.52f, 0.54f, 0.56f, 0.6f, 0.62f, 0.68f, 0.74f, 0.82f}, {0.5f, 0.58f, 0.64f, 0.7f, 0.76f, 0.86f, 1.0f}},
      4,
      3,
      2}},
    {{{3, 1}, {{0.83f, 0.92f, 1.07f}, {0.92f}}, 1, 1, 0},
     {{5, 3}, {{0.8f, 0.86f, 0.92f, 1.07f, 1.25f}, {0.83f, 0.92f, 1.04f}}, 4, 1, 1},
     {{9, 7},
      {{0.8f, 0.86f, 0.92f, 0.95f, 1.02f, 1.13f, 1.25f, 1.34f, 1.6f}, {0.8f, 0.86f, 0.92f, 0.95f, 1.04f, 1.1f, 1.49f}},
      4,
      3,
      2}},
    {{{3, 1}, {{0.95f, 1.03f, 1.23f}, {0.985f}}, 1, 1, 0},
     {{5, 3}, {{0.935f, 1.02f, 1.18f, 1.28f, 1.44f}, {0.95f, 1.03f, 1.215f}}, 4, 1, 1},
     {{9, 7},
      {{0.92f, 0.97f, 1.005f, 1.07f, 1.12f, 1.17f, 1.25f, 1.33f, 1.455f},
       {0.92f, 0.962f, 1.003f, 1.045f, 1.1f, 1.188f, 1.26f}},
      4,
      3,
      2}},
    {{{3, 1}, {{1.0f, 1.28f, 1.4f}, {1.0f}}, 1, 1, 0},
     {{5, 3}, {{0.975f, 1.01f, 1.25f, 1.305f, 1.4f}, {0.97f, 1.01f, 1.165f}}, 4, 1, 1},
     {{9, 7},
      {{0.95f, 0.98f, 1.01f, 1.04f, 1.255f, 1.31f, 1.4f, 1.46f, 1.58f},
       {0.96f, 0.98f, 1.01f, 1.11f, 1.16f, 1.22f, 1.39f}},
      4,
      3,
      2}},
    {{{3, 1}, {{1.0f, 1.08f, 1.13f}, {1.0f}}, 1, 1, 0},
     {{5, 3}, {{0.99f, 1.02f, 1.08f, 1.13f, 1.23f}, {1.0f, 1.08f, 1.13f}}, 4, 1, 1},
     {{9, 7},
      {{0.92f, 0.96f, 0.985f, 1.0f, 1.02f, 1.08f, 1.1f, 1.13f, 1.23f},
       {0.96f, 0.985f, 1.0f, 1.06f, 1.08f, 1.13f, 1.18f}},
      4,
      3,
      2}}};

constexpr int kMostKept = 4;
// Per group and row, in groups_state: the unit of its integers and its inverse; the best continuous scales, in units
// of x, with their shifts, the best first; the chosen scale s and shift.
enum TableField {
  kUnit,
  kInverseUnit,
  kBest,
  kBestShift = kBest + kMostKept,
  kScale = kBestShift + kMostKept,
  kShift,
  kTableFields
};

// Sums of u q and q q over the group for the codes that each of the factors gives; `shift` in each byte.
template <int kFactors, bool kWithShift>
KOMPAKT_INLINE void TryFactors(const CodeTable& table, const NearestTable& nearest, const Group& group,
                               const F& to_units, const I* factors, const I& shift, F* uq, F* qq) {
  Multiplier multiplier[kFactors];
  for (int f = 0; f < kFactors; ++f) MakeMultiplier(factors[f], &multiplier[f]);
  const auto values = [&](int i, int f) __attribute__((always_inline)) {
    I y = ScaleToBytes(group.u[i], multiplier[f]);
    if (!kWithShift) return Nearest(nearest, table, y);
    return AddBytes(Nearest(nearest, table, SubtractBytes(y, shift)), shift);
  };
  if (group.h == nullptr) {
    GroupBias bias;
    MakeBias(group.u, group.quads, &bias);
    Products products[kFactors];
    for (int f = 0; f < kFactors; ++f) Clear(&products[f]);
    for (int i = 0; i < group.quads; ++i) {
      for (int f = 0; f < kFactors; ++f) AddProducts(group.u[i], values(i, f), &products[f]);
    }
    for (int f = 0; f < kFactors; ++f) {
      I sum_uq, sum_qq;
      Sums(products[f], bias, &sum_uq, &sum_qq);
      uq[f] = ToFloat(sum_uq);
      qq[f] = ToFloat(sum_qq);
    }
    return;
  }
  for (int f = 0; f < kFactors; ++f) {
    WeightedSums sums = {Splat(0.0f), Splat(0.0f)};
    for (int i = 0; i < group.quads; ++i) AddWeighted(group, i, to_units, values(i, f), &sums);
    uq[f] = sums.uq;
    qq[f] = sums.qq;
  }
}

KOMPAKT_INLINE I ShiftBytes(const F& shift) {
  I bytes = RoundToInt(shift) & Splat(255);
  bytes = bytes | ShiftLeft(bytes, 8);
  return bytes | ShiftLeft(bytes, 16);
}

struct BestSums {
  F gain_top, gain_bottom;  // (sum u q)^2 and sum q q: what the least-squares scale explains is their ratio
  F uq;
};

template <int kFactors, bool kWithShift>
KOMPAKT_INLINE void TryCoarse(const CodeTable& table, const NearestTable& nearest, const Group& group,
                              const F& to_units, const F& inverse_reach, const float* factor, const I& shift,
                              BestSums* best) {
  I factors[kFactors];
  F uq[kFactors], qq[kFactors];
  for (int f = 0; f < kFactors; ++f) factors[f] = RoundToInt(inverse_reach * (1.0f / factor[f]));
  TryFactors<kFactors, kWithShift>(table, nearest, group, to_units, factors, shift, uq, qq);
  for (int f = 0; f < kFactors; ++f) {
    const F top = uq[f] * uq[f];
    const I better = Greater(top * best->gain_bottom, best->gain_top * qq[f]);
    best->gain_top = Select(better, top, best->gain_top);
    best->gain_bottom = Select(better, qq[f], best->gain_bottom);
    best->uq = Select(better, uq[f], best->uq);
  }
}

template <bool kWithShift>
KOMPAKT_INLINE void TryAllCoarse(const CodeTable& table, const NearestTable& nearest, const Group& group,
                                 const F& to_units, const F& inverse_reach, const float* factor, int factors,
                                 const I& shift, BestSums* best) {
  while (factors >= 3) {
    TryCoarse<3, kWithShift>(table, nearest, group, to_units, inverse_reach, factor, shift, best);
    factor += 3;
    factors -= 3;
  }
  if (factors == 2) {
    TryCoarse<2, kWithShift>(table, nearest, group, to_units, inverse_reach, factor, shift, best);
  } else if (factors == 1) {
    TryCoarse<1, kWithShift>(table, nearest, group, to_units, inverse_reach, factor, shift, best);
  }
}

// The best continuous scale of each combination: for the codes that a candidate scale gives, the least-squares scale.
KOMPAKT_INLINE void CoarseSearch(const TableFormat& format, const TableSearch& search, const NearestTable& nearest,
                                 const Group& group, float* state) {
  const CodeTable& table = *format.table;
  F up, down;
  Extremes(group, &up, &down);
  F largest = Max(up, down);
  const I empty = Less(largest, Splat(kLeastGroup));
  const F zero = Splat(0.0f), one = Splat(1.0f);
  const F inverse = Select(empty, zero, one / largest);
  const F to_units = inverse * kUnits;
  const F unit = Select(empty, zero, largest * (1.0f / kUnits));
  Store(unit, state + kUnit * 16);
  Store(to_units, state + kInverseUnit * 16);
  MakeQuads(group, to_units);
  up = up * inverse;
  down = down * inverse;

  F gains[kMostKept], scales[kMostKept], shifts[kMostKept];
  for (int i = 0; i < search.kept; ++i) {
    gains[i] = Splat(-1.0f);
    scales[i] = shifts[i] = zero;
  }
  for (int c = 0; c < kCombinations; ++c) {
    const float shift = kShifted[c] ? static_cast<float>(format.spec->shift) : 0.0f;
    const float far = -(static_cast<float>(table.value[0]) + shift);
    const float near = static_cast<float>(table.value[table.n - 1]) + shift;
    // The far end is negative: where it points up, the scale is negative.
    const I up_is_larger = Greater(up, down);
    const I mirrored = kFarEndOnLargest[c] ? up_is_larger : Equal(up_is_larger, Splat(0));
    const F to_far = Select(mirrored, up, down);
    const F to_near = Select(mirrored, down, up);
    const F reach = Select(empty, one, Max(to_near * (1.0f / near), to_far * (1.0f / far)));
    const F inverse_reach = Select(mirrored, Splat(-1.0f), one) / reach;
    BestSums best = {zero, one, zero};
    if (kShifted[c]) {
      TryAllCoarse<true>(table, nearest, group, to_units, inverse_reach, search.factor[c / 2], search.factors[c / 2],
                         ShiftBytes(Splat(shift)), &best);
    } else {
      TryAllCoarse<false>(table, nearest, group, to_units, inverse_reach, search.factor[c / 2], search.factors[c / 2],
                          Splat(0), &best);
    }
    const F inverse_bottom = one / best.gain_bottom;
    F gain = best.gain_top * inverse_bottom;
    F scale = best.uq * inverse_bottom * unit;
    F scale_shift = Splat(shift);
    for (int i = 0; i < search.kept; ++i) {
      const I better = Greater(gain, gains[i]);
      const F old_gain = gains[i], old_scale = scales[i], old_shift = shifts[i];
      gains[i] = Select(better, gain, old_gain);
      scales[i] = Select(better, scale, old_scale);
      shifts[i] = Select(better, scale_shift, old_shift);
      gain = Select(better, old_gain, gain);
      scale = Select(better, old_scale, scale);
      scale_shift = Select(better, old_shift, scale_shift);
    }
  }
  for (int i = 0; i < search.kept; ++i) {
    Store(scales[i], state + (kBest + i) * 16);
    Store(shifts[i], state + (kBestShift + i) * 16);
  }
}

constexpr int LeastScale(const TableFormat& format) { return -(1 << (format.spec->scale_bits - 1)); }
constexpr int MostScale(const TableFormat& format) { return (1 << (format.spec->scale_bits - 1)) - 1; }
// Magnitude of a group scale x (code value + shift).
constexpr int LargestInteger(const TableFormat& format) {
  const int far = -format.table->value[0];
  const int near = format.table->value[format.table->n - 1] + format.spec->shift;
  return -LeastScale(format) * (far > near ? far : near);
}

// First row scale: the largest group scale gets the largest s.
KOMPAKT_INLINE void FirstRowScale(const TableFormat& format, RowWork& work) {
  F needed = Splat(0.0f);
  for (int64_t g = 0; g < work.groups; ++g) {
    const F scale = Load(work.groups_state + (g * kTableFields + kBest) * 16);
    needed = Max(scale * (1.0f / static_cast<float>(MostScale(format))), needed);
    needed = Max(scale * (1.0f / static_cast<float>(LeastScale(format))), needed);
  }
  float lanes[16];
  Store(needed, lanes);
  for (int r = 0; r < 16; ++r) {
    work.scale[r] = {};
    if (work.zero[r]) continue;
    work.scale[r] = StorableScale(static_cast<double>(lanes[r]), work.exponent[r], LargestInteger(format));
  }
}

struct Choice {
  F error, s, shift, uq, qq;
};

// Group scales on the row's grid, all with one shift: their squared error, without the part that is the same for all.
template <int kScales>
KOMPAKT_INLINE void TryScales(const TableFormat& format, const NearestTable& nearest, const Group& group,
                              const F& to_units, const F& step, const F* s, const F& shift, Choice* best) {
  I factors[kScales];
  F t[kScales], uq[kScales], qq[kScales];
  for (int i = 0; i < kScales; ++i) {
    t[i] = step * s[i];
    factors[i] = InverseFactor(t[i], 0x1p15f, 32767.0f);
  }
  TryFactors<kScales, true>(*format.table, nearest, group, to_units, factors, ShiftBytes(shift), uq, qq);
  for (int i = 0; i < kScales; ++i) {
    const F error = t[i] * (t[i] * qq[i] - uq[i] * 2.0f);
    const I better = Less(error, best->error);
    best->error = Select(better, error, best->error);
    best->s = Select(better, s[i], best->s);
    best->shift = Select(better, shift, best->shift);
    best->uq = Select(better, uq[i], best->uq);
    best->qq = Select(better, qq[i], best->qq);
  }
}

KOMPAKT_INLINE F OnGrid(const TableFormat& format, const F& s) {
  return Max(Min(s, Splat(static_cast<float>(MostScale(format)))), Splat(static_cast<float>(LeastScale(format))));
}

// The two integers next to each kept combination's scale.
KOMPAKT_INLINE void ChooseScale(const TableFormat& format, const TableSearch& search, const NearestTable& nearest,
                                const Group& group, const F& row_scale, const float* state, Choice* best) {
  const F to_units = Load(state + kInverseUnit * 16);
  const F step = row_scale * to_units;
  for (int i = 0; i < search.kept; ++i) {
    const F wanted = OnGrid(format, Load(state + (kBest + i) * 16) / row_scale);
    const F nearer = Round(wanted);
    const F toward = Select(Less(wanted, nearer), Splat(-1.0f), Splat(1.0f));
    const F shift = Load(state + (kBestShift + i) * 16);
    // In the order of their distance.
    for (int pair = 0; pair < search.pairs; ++pair) {
      const float n = static_cast<float>(pair);
      const F s[2] = {OnGrid(format, nearer - toward * n), OnGrid(format, nearer + toward * (n + 1.0f))};
      TryScales<2>(format, nearest, group, to_units, step, s, shift, best);
    }
  }
}

// The row scale has moved a little: s and its two neighbours again, the shift as it is. Order: s, s - 1, s + 1.
KOMPAKT_INLINE void RefineScale(const TableFormat& format, const NearestTable& nearest, const Group& group,
                                const F& row_scale, const float* state, Choice* best) {
  const F to_units = Load(state + kInverseUnit * 16);
  const F now = Load(state + kScale * 16);
  const F s[3] = {now, OnGrid(format, now - 1.0f), OnGrid(format, now + 1.0f)};
  TryScales<3>(format, nearest, group, to_units, row_scale * to_units, s, Load(state + kShift * 16), best);
}

// The codes of a group for its s and shift; they replace the sums that the search had.
KOMPAKT_INLINE void AssignCodes(const TableFormat& format, const NearestTable& nearest, const RowWork& work,
                                const Group& group, const F& row_scale, const float* state, F* uq, F* qq) {
  const F zero = Splat(0.0f);
  const F to_units = Load(state + kInverseUnit * 16);
  const F s = Load(state + kScale * 16);
  const I shift = ShiftBytes(Load(state + kShift * 16));
  const I some = Equal(Equal(s, zero), Splat(0));
  // Bounded so that the integers cannot overflow; what is past the table's ends stays there.
  const F bound = to_units * (30000.0f / kUnits);
  const F inverse = Max(Min(Select(some, Splat(1.0f) / (row_scale * s), zero), bound), zero - bound);
  GroupSums sums;
  StartSums(group, &sums);
  for (int i = 0; i < group.quads; ++i) {
    const float* x = group.x + i * 64;
    const I y = SubtractBytes(
        RoundToBytes(Load(x) * inverse, Load(x + 16) * inverse, Load(x + 32) * inverse, Load(x + 48) * inverse), shift);
    const I mask = some & ColumnMask(work, group.quad + i);
    const I values = AddBytes(Nearest(nearest, *format.table, y), shift) & mask;
    Store(CodeOf(nearest, *format.table, y) & mask, reinterpret_cast<int32_t*>(work.codes + (group.quad + i) * 64));
    Store(values, reinterpret_cast<int32_t*>(work.values + (group.quad + i) * 64));
    AddToSums(group, i, to_units, values, &sums);
  }
  FinishSums(group, sums, uq, qq);
}

// One pass over the groups of a row tile: their scales, or at last their codes; then the row scale for them.
enum class TablePass { kChoose, kRefine, kAssign };
template <TablePass kPass>
KOMPAKT_INLINE void AdjustRows(const TableFormat& format, const TableSearch& search, const NearestTable& nearest,
                               RowWork& work) {
  const F row_scale = RowScales(work);
  F xi = Splat(0.0f), ii = Splat(0.0f);
  for (int64_t g = 0; g < work.groups; ++g) {
    Group group;
    FindGroup(work, g, &group);
    float* state = work.groups_state + g * kTableFields * 16;
    Choice best = {Splat(3.4e38f), Splat(0.0f), Splat(0.0f), Splat(0.0f), Splat(0.0f)};
    if (kPass == TablePass::kAssign) {
      best.s = Load(state + kScale * 16);
      AssignCodes(format, nearest, work, group, row_scale, state, &best.uq, &best.qq);
    } else {
      if (kPass == TablePass::kChoose) ChooseScale(format, search, nearest, group, row_scale, state, &best);
      if (kPass == TablePass::kRefine) RefineScale(format, nearest, group, row_scale, state, &best);
      Store(best.s, state + kScale * 16);
      Store(best.shift, state + kShift * 16);
    }
    xi = xi + Load(state + kUnit * 16) * best.s * best.uq;
    ii = ii + best.s * best.s * best.qq;
  }
  FitRows(xi, ii, LargestInteger(format), &work);
}

void WriteTableTiles(const TableFormat& format, const RowWork& work, uint8_t* tiles) {
  const int64_t groups_per_tile = kTileCols / format.spec->group_cols;
  // A group past the edge has no codes.
  const int64_t cols = work.groups * format.spec->group_cols;
  std::memset(work.codes + cols * 16, 0, static_cast<size_t>((work.padded_cols - cols) * 16));
  for (int64_t tile = 0; tile * kTileCols < work.padded_cols; ++tile, tiles += format.spec->tile_bytes()) {
    format.write_codes(work.codes + tile * kTileElements, tiles);
    uint8_t* bytes = tiles + format.spec->code_bytes();
    for (int64_t i = 0; i < groups_per_tile; ++i, bytes += kTileRows) {
      const int64_t g = tile * groups_per_tile + i;
      if (g >= work.groups) {
        std::memset(bytes, 0, kTileRows);
        continue;
      }
      const float* state = work.groups_state + g * kTableFields * 16;
      const I s = RoundToInt(Load(state + kScale * 16)) - Splat(LeastScale(format));
      const I unshifted = Equal(Load(state + kShift * 16), Splat(0.0f));
      StoreGroupBytes(work, s + Select(unshifted, Splat(0), Splat(1 << format.spec->scale_bits)), bytes);
    }
  }
}

// All passes: group scales, codes and row scales of the tile, for the weights that work.h has. One copy: it is long.
__attribute__((noinline)) void SearchTable(const TableFormat& format, const TableSearch& search,
                                           const NearestTable& nearest, RowWork& work) {
  for (int64_t g = 0; g < work.groups; ++g) {
    Group group;
    FindGroup(work, g, &group);
    CoarseSearch(format, search, nearest, group, work.groups_state + g * kTableFields * 16);
  }
  FirstRowScale(format, work);
  AdjustRows<TablePass::kChoose>(format, search, nearest, work);
  for (int i = 0; i < search.refinements; ++i) AdjustRows<TablePass::kRefine>(format, search, nearest, work);
  AdjustRows<TablePass::kAssign>(format, search, nearest, work);
}
// With importance: the search by weights, and without; each row keeps what has the smaller weighted error.
void SearchWeighted(const TableFormat& format, const TableSearch& search, const NearestTable& nearest,
                    EncoderScratch& scratch, RowWork& work) {
  RowResult plain;
  PlaceResult(work, kScale, 2, kTableFields, &scratch.kept, &plain);
  SearchTable(format, search, nearest, work);
  KeepResult(work, &plain);
  WeighElements(work);
  const F plain_error = WeightedError(work, work.h, work.groups_state + kScale * 16, kTableFields * 16);
  SearchTable(format, search, nearest, work);
  const F error = WeightedError(work, work.h, work.groups_state + kScale * 16, kTableFields * 16);
  RestoreRows(plain, Less(plain_error, error), work);
}

const TableSearch& TableSearchOf(const TableFormat& format, SearchEffort effort) {
  return kTableSearches[format.spec->code_bits - kFewestCodeBits][static_cast<int>(effort)];
}

bool EncodeTable(const TableFormat& format, SearchEffort effort, const RowTile& in, EncoderScratch& scratch,
                 uint8_t* tiles, float* row_scales, TileError* error) {
  const TableSearch& search = TableSearchOf(format, effort);
  RowWork work = MakeRowWork(in, format.spec->group_cols, kTableFields, scratch);
  if (!ScaleRows(work)) return false;
  const NearestTable nearest(*format.table);
  if (work.importance == nullptr) {
    SearchTable(format, search, nearest, work);
  } else {
    SearchWeighted(format, search, nearest, scratch, work);
  }
  WriteTableTiles(format, work, tiles);
  for (int64_t row = 0; row < kTileRows; ++row) row_scales[row] = row < work.n_rows ? work.scale[row].stored : 0;
  MeasureError(work, work.groups_state + kScale * 16, kTableFields * 16, error);
  return true;
}
