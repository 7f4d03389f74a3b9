#include "quant/encode_q4.h"

#include <algorithm>
#include <cmath>

#include "format/block_q4_g16.h"
#include "format/block_q4_g32.h"
#include "format/nibble_codes.h"
#include "format/q4_table.h"
#include "quant/row_lanes.h"

namespace kompakt {
namespace {

// What distinguishes the two formats.
struct Q4Kind {
  int64_t group_cols;
  int scale_bits;
  int scale_bias;
  uint8_t* (*group_byte)(uint8_t* tile, int64_t col_in_tile, int64_t row);
};
constexpr Q4Kind kG32 = {32, kQ4G32ScaleBits, kQ4G32ScaleBias,
                         [](uint8_t* tile, int64_t /*col*/, int64_t row) { return tile + sizeof(NibbleCodes) + row; }};
constexpr Q4Kind kG16 = {16, kQ4G16ScaleBits, kQ4G16ScaleBias, [](uint8_t* tile, int64_t col, int64_t row) {
                           return tile + sizeof(NibbleCodes) + col / 16 * kTileRows + row;
                         }};

constexpr int kMaxGroupCols = 32;
// Magnitude of a group scale x (code value + shift).
constexpr int LargestInteger(const Q4Kind& kind) {
  return kind.scale_bias * std::max(-kQ4Table[0], kQ4Table[15] + kQ4Shift);
}
// A group this far below its row's largest weight is zero in any case; it keeps 1 / absmax finite.
constexpr float kLeastGroup = 0x1p-60f;

// A combination of the table's orientation and the shift bit, in the order of the written rule. The table has a far and
// a near end (kQ4Table[0] and [15]); the far end may point to the side of the group's absmax or away from it.
constexpr int kCombinations = 4;
constexpr bool kFarEndOnAbsmax[kCombinations] = {true, true, false, false};
constexpr float kShiftOf[kCombinations] = {0, kQ4Shift, 0, kQ4Shift};

// First candidates for a group scale, as multiples of the scale at which the group's extremes meet the ends of the
// table. Above 1 the extremes meet entries further in. Where the best scales of Gaussian and Student-t(5) groups lie:
// docs/quantization.md.
constexpr int kMostFactors = 5;
constexpr int kFactors[kCombinations] = {5, 5, 3, 3};
constexpr float kFactor[kCombinations][kMostFactors] = {{0.92f, 0.98f, 1.04f, 1.2f, 1.42f},
                                                        {0.92f, 0.98f, 1.04f, 1.2f, 1.42f},
                                                        {0.92f, 0.98f, 1.16f},
                                                        {0.92f, 0.98f, 1.16f}};

// Per group and row, in scratch.groups: absmax; the best continuous scale of each combination and of all of them, in
// units of absmax; the chosen scale s and shift value.
enum GroupField { kAbsmax, kBest, kOverall = kBest + kCombinations, kScale, kShift, kGroupFields };

struct Work {
  const Q4Kind* kind;
  const RowLanes* rows;
  float* groups;      // [group][GroupField][16]
  uint8_t* codes;     // [cols][16]
  int16_t* integers;  // [cols][16]: (s) x (table value + shift)
  RowScale scale[kTileRows];
};

template <int W>
struct TableLanes {
  using F = typename Lanes<W>::F;
  F first, threshold[15], step[15];

  KOMPAKT_INLINE TableLanes() {
    first = F{} + static_cast<float>(kQ4Table[0]);
    for (int i = 0; i < 15; ++i) {
      threshold[i] = F{} + 0.5f * static_cast<float>(kQ4Table[i] + kQ4Table[i + 1]);
      step[i] = F{} + static_cast<float>(kQ4Table[i + 1] - kQ4Table[i]);
    }
  }
  // The table's value nearest to y; exactly between two, the lower.
  KOMPAKT_INLINE void Nearest(const F& y, F* value) const {
    F v = first;
    for (int i = 0; i < 15; ++i) v += y > threshold[i] ? step[i] : F{};
    *value = v;
  }
};

template <typename V>
KOMPAKT_INLINE void Max(const V& a, V* b) {
  *b = a > *b ? a : *b;
}

// round to nearest even, |x| < 2^22
template <typename V>
KOMPAKT_INLINE void Round(V* x) {
  *x = (*x + 12582912.0f) - 12582912.0f;
}

// The group's columns in units of its absmax.
template <int W>
KOMPAKT_INLINE void LoadGroup(const float* x, int64_t n, const typename Lanes<W>::F& inverse, typename Lanes<W>::F* u) {
  for (int64_t k = 0; k < n; ++k) {
    LoadLanes(x + k * kTileRows, &u[k]);
    u[k] *= inverse;
  }
}

// The best continuous scale of each combination: for the codes that a candidate scale gives, the least-squares scale.
template <int W, bool kWeighted>
KOMPAKT_INLINE void CoarseSearch(const TableLanes<W>& table, const float* x, const float* h, int64_t n, float* group) {
  using F = typename Lanes<W>::F;
  F up{}, down{};
  F u[kMaxGroupCols];
  for (int64_t k = 0; k < n; ++k) {
    LoadLanes(x + k * kTileRows, &u[k]);
    Max<F>(u[k], &up);
    Max<F>(-u[k], &down);
  }
  F absmax = up;
  Max(down, &absmax);
  const auto empty = absmax < kLeastGroup;
  const F inverse = empty ? F{} : 1.0f / absmax;
  absmax = empty ? F{} : absmax;
  StoreLanes(absmax, group + kAbsmax * kTileRows);
  for (int64_t k = 0; k < n; ++k) u[k] *= inverse;
  up *= inverse;
  down *= inverse;

  F overall_gain = F{} - 1.0f;
  F overall{};
  for (int c = 0; c < kCombinations; ++c) {
    const float far = -(static_cast<float>(kQ4Table[0]) + kShiftOf[c]);
    const float near = static_cast<float>(kQ4Table[15]) + kShiftOf[c];
    // The far end is negative: where it points up, the scale is negative.
    const auto mirrored = kFarEndOnAbsmax[c] ? up > down : up <= down;
    const F to_far = mirrored ? up : down;
    const F to_near = mirrored ? down : up;
    F reach = to_far * (1.0f / far);
    Max<F>(to_near * (1.0f / near), &reach);
    reach = empty ? F{} + 1.0f : reach;
    const F inverse_reach = (mirrored ? F{} - 1.0f : F{} + 1.0f) / reach;
    F best_gain = F{} - 1.0f;
    F best{};
    for (int f = 0; f < kFactors[c]; ++f) {
      const F to_table = inverse_reach * (1.0f / kFactor[c][f]);
      F uq{}, qq{};
      for (int64_t k = 0; k < n; ++k) {
        F q;
        table.Nearest(u[k] * to_table - kShiftOf[c], &q);
        q += kShiftOf[c];
        const F weighted = kWeighted ? q * h[k] : q;
        uq += u[k] * weighted;
        qq += q * weighted;
      }
      const F scale = uq / qq;
      const F gain = uq * scale;  // what the scale explains of sum h u^2
      const auto better = gain > best_gain;
      best_gain = better ? gain : best_gain;
      best = better ? scale : best;
    }
    StoreLanes(best, group + (kBest + c) * kTileRows);
    const auto better = best_gain > overall_gain;
    overall_gain = better ? best_gain : overall_gain;
    overall = better ? best : overall;
  }
  StoreLanes(overall, group + kOverall * kTileRows);
}

// sum h (u - scale * value)^2 with the nearest values, in units of absmax^2. `step` is the row scale in units of
// absmax.
template <int W, bool kWeighted>
KOMPAKT_INLINE void ErrorOf(const TableLanes<W>& table, const typename Lanes<W>::F* u, const float* h, int64_t n,
                            const typename Lanes<W>::F& step, const typename Lanes<W>::F& s,
                            const typename Lanes<W>::F& shift, typename Lanes<W>::F* error) {
  using F = typename Lanes<W>::F;
  const auto none = s == 0.0f;
  const F scale = none ? F{} + 1.0f : step * s;
  const F inverse = none ? F{} : 1.0f / scale;
  F sum{};
  for (int64_t k = 0; k < n; ++k) {
    F q;
    table.Nearest(u[k] * inverse - shift, &q);
    // The error is taken in units of the group, not of the table, so that s = 0 needs no case of its own below.
    const F value = none ? F{} : (q + shift) * scale;
    const F difference = u[k] - value;
    sum += kWeighted ? difference * difference * h[k] : difference * difference;
  }
  *error = sum;
}

// Chooses s and the shift of a group for a given row scale among the neighbours of each combination's best scale.
// Order of the written rule: combinations in their order, of each the nearer s first.
template <int W, bool kWeighted>
KOMPAKT_INLINE void ChooseScale(const TableLanes<W>& table, const Q4Kind& kind, const typename Lanes<W>::F* u,
                                const float* h, int64_t n, const typename Lanes<W>::F& step, float* group) {
  using F = typename Lanes<W>::F;
  const float least = static_cast<float>(-kind.scale_bias);
  const float most = static_cast<float>(kind.scale_bias - 1);
  F best_error = F{} + 3.4e38f;
  F best_s{}, best_shift{};
  for (int c = 0; c < kCombinations; ++c) {
    F wanted;
    LoadLanes(group + (kBest + c) * kTileRows, &wanted);
    wanted /= step;
    wanted = wanted < least ? F{} + least : wanted;
    wanted = wanted > most ? F{} + most : wanted;
    F nearer = wanted;
    Round(&nearer);
    F other = nearer + (wanted < nearer ? F{} - 1.0f : F{} + 1.0f);
    other = other < least ? F{} + least : other;
    other = other > most ? F{} + most : other;
    const F shift = F{} + kShiftOf[c];
    for (int i = 0; i < 2; ++i) {
      const F s = i == 0 ? nearer : other;
      F error;
      ErrorOf<W, kWeighted>(table, u, h, n, step, s, shift, &error);
      const auto better = error < best_error;
      best_error = better ? error : best_error;
      best_s = better ? s : best_s;
      best_shift = better ? shift : best_shift;
    }
  }
  StoreLanes(best_s, group + kScale * kTileRows);
  StoreLanes(best_shift, group + kShift * kTileRows);
}

// The row scale has moved a little: s and its two neighbours again, the shift as it is. Order: s, s - 1, s + 1.
template <int W, bool kWeighted>
KOMPAKT_INLINE void RefineScale(const TableLanes<W>& table, const Q4Kind& kind, const typename Lanes<W>::F* u,
                                const float* h, int64_t n, const typename Lanes<W>::F& step, float* group) {
  using F = typename Lanes<W>::F;
  const float least = static_cast<float>(-kind.scale_bias);
  const float most = static_cast<float>(kind.scale_bias - 1);
  F s, shift;
  LoadLanes(group + kScale * kTileRows, &s);
  LoadLanes(group + kShift * kTileRows, &shift);
  const F centre = s;
  F best_error = F{} + 3.4e38f;
  for (const float offset : {0.0f, -1.0f, 1.0f}) {
    F candidate = centre + offset;
    candidate = candidate < least ? F{} + least : candidate;
    candidate = candidate > most ? F{} + most : candidate;
    F error;
    ErrorOf<W, kWeighted>(table, u, h, n, step, candidate, shift, &error);
    const auto better = error < best_error;
    best_error = better ? error : best_error;
    s = better ? candidate : s;
  }
  StoreLanes(s, group + kScale * kTileRows);
}

// The codes of a group for its s and shift, and the sums of the row scale's least-squares fit: sum h x i and sum h i^2
// with i the integer that the row scale multiplies.
template <int W, bool kWeighted>
KOMPAKT_INLINE void AssignCodes(const TableLanes<W>& table, const float* x, const typename Lanes<W>::F* u,
                                const float* h, int64_t n, const typename Lanes<W>::F& step, const float* group,
                                uint8_t* codes, int16_t* integers, double* fit_xi, double* fit_ii) {
  using F = typename Lanes<W>::F;
  using I = typename Lanes<W>::I;
  F s, shift;
  LoadLanes(group + kScale * kTileRows, &s);
  LoadLanes(group + kShift * kTileRows, &shift);
  const auto none = s == 0.0f;
  const F scale = none ? F{} + 1.0f : step * s;
  const F inverse = none ? F{} : 1.0f / scale;
  F xi{}, ii{};
  for (int64_t k = 0; k < n; ++k) {
    const F y = u[k] * inverse - shift;
    F q = table.first;
    I code{};
    for (int i = 0; i < 15; ++i) {
      const I above = y > table.threshold[i];
      q += above ? table.step[i] : F{};
      code -= above;
    }
    code = none ? I{} : code;
    const F integer = s * (q + shift);
    F weight;
    LoadLanes(x + k * kTileRows, &weight);
    const F weighted = kWeighted ? integer * h[k] : integer;
    xi += weight * weighted;
    ii += integer * weighted;
    for (int lane = 0; lane < W; ++lane) {
      codes[k * kTileRows + lane] = static_cast<uint8_t>(code[lane]);
      integers[k * kTileRows + lane] = static_cast<int16_t>(integer[lane]);
    }
  }
  for (int lane = 0; lane < W; ++lane) {
    fit_xi[lane] += static_cast<double>(xi[lane]);
    fit_ii[lane] += static_cast<double>(ii[lane]);
  }
}

// First row scale: the largest group scale gets the largest s.
template <int W>
KOMPAKT_INLINE void FirstRowScale(Work& work, int64_t groups, int first_row) {
  using F = typename Lanes<W>::F;
  const float most = static_cast<float>(work.kind->scale_bias - 1);
  const float least = static_cast<float>(work.kind->scale_bias);
  F needed{};
  for (int64_t g = 0; g < groups; ++g) {
    const float* group = work.groups + g * kGroupFields * kTileRows + first_row;
    F absmax, scale;
    LoadLanes(group + kAbsmax * kTileRows, &absmax);
    LoadLanes(group + kOverall * kTileRows, &scale);
    scale *= absmax;
    Max<F>(scale * (1.0f / most), &needed);
    Max<F>(scale * (-1.0f / least), &needed);
  }
  for (int lane = 0; lane < W; ++lane) {
    const int row = first_row + lane;
    work.scale[row] = {};
    if (!work.rows->zero[row]) {
      work.scale[row] =
          StorableScale(static_cast<double>(needed[lane]), work.rows->exponent[row], LargestInteger(*work.kind));
    }
  }
}

template <int W, bool kWeighted>
KOMPAKT_INLINE void EncodeRows(Work& work) {
  using F = typename Lanes<W>::F;
  const TableLanes<W> table;
  const RowLanes& rows = *work.rows;
  const Q4Kind& kind = *work.kind;
  const int64_t groups = (rows.cols + kind.group_cols - 1) / kind.group_cols;
  for (int first_row = 0; first_row < rows.n_rows; first_row += W) {
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t col = g * kind.group_cols;
      CoarseSearch<W, kWeighted>(table, rows.x + col * kTileRows + first_row, kWeighted ? rows.h + col : nullptr,
                                 std::min(kind.group_cols, rows.cols - col),
                                 work.groups + g * kGroupFields * kTileRows + first_row);
    }
    FirstRowScale<W>(work, groups, first_row);
    // Twice: scales and codes for the row scale, then the row scale for them. The last fit moves only the row scale.
    for (int round = 0; round < 2; ++round) {
      F row_scale;
      for (int lane = 0; lane < W; ++lane) row_scale[lane] = work.scale[first_row + lane].scaled;
      double fit_xi[W] = {};
      double fit_ii[W] = {};
      for (int64_t g = 0; g < groups; ++g) {
        const int64_t col = g * kind.group_cols;
        const int64_t n = std::min(kind.group_cols, rows.cols - col);
        const float* x = rows.x + col * kTileRows + first_row;
        const float* h = kWeighted ? rows.h + col : nullptr;
        float* group = work.groups + g * kGroupFields * kTileRows + first_row;
        F absmax;
        LoadLanes(group + kAbsmax * kTileRows, &absmax);
        const auto empty = absmax == 0.0f;
        const F inverse = empty ? F{} : 1.0f / absmax;
        const F step = empty ? F{} + 1.0f : row_scale * inverse;
        F u[kMaxGroupCols];
        LoadGroup<W>(x, n, inverse, u);
        if (round == 0) {
          ChooseScale<W, kWeighted>(table, kind, u, h, n, step, group);
        } else {
          RefineScale<W, kWeighted>(table, kind, u, h, n, step, group);
        }
        AssignCodes<W, kWeighted>(table, x, u, h, n, step, group, work.codes + col * kTileRows + first_row,
                                  work.integers + col * kTileRows + first_row, fit_xi, fit_ii);
      }
      for (int lane = 0; lane < W; ++lane) {
        const int row = first_row + lane;
        if (fit_ii[lane] > 0 && fit_xi[lane] > 0) {
          work.scale[row] = StorableScale(fit_xi[lane] / fit_ii[lane], rows.exponent[row], LargestInteger(*work.kind));
        }
      }
    }
  }
}

template <bool kWeighted>
void EncodeRows4(Work& work) {
  EncodeRows<4, kWeighted>(work);
}
#if defined(__x86_64__)
template <bool kWeighted>
KOMPAKT_TARGET_AVX2 void EncodeRows8(Work& work) {
  EncodeRows<8, kWeighted>(work);
}
template <bool kWeighted>
KOMPAKT_TARGET_AVX512 void EncodeRows16(Work& work) {
  EncodeRows<16, kWeighted>(work);
}
#endif

template <bool kWeighted>
void EncodeRowsWith(LaneWidth width, Work& work) {
#if defined(__x86_64__)
  if (width == LaneWidth::k16) return EncodeRows16<kWeighted>(work);
  if (width == LaneWidth::k8) return EncodeRows8<kWeighted>(work);
#endif
  EncodeRows4<kWeighted>(work);
}

void WriteTiles(const Work& work, uint64_t tile_bytes, uint8_t* tiles) {
  const RowLanes& rows = *work.rows;
  const Q4Kind& kind = *work.kind;
  std::fill_n(tiles, static_cast<uint64_t>((rows.cols + kTileCols - 1) / kTileCols) * tile_bytes, uint8_t{0});
  for (int64_t col = 0; col < rows.cols; ++col) {
    auto& nibbles = *reinterpret_cast<NibbleCodes*>(tiles + static_cast<uint64_t>(col / kTileCols) * tile_bytes);
    const int64_t k = col % kTileCols;
    const int up = k % 8 < 4 ? 0 : 4;
    for (int64_t row = 0; row < rows.n_rows; ++row) {
      uint8_t& byte = nibbles[k / 8][row][k % 4];
      byte = static_cast<uint8_t>(byte | (work.codes[col * kTileRows + row] << up));
    }
  }
  for (int64_t col = 0; col < rows.cols; col += kind.group_cols) {
    const float* group = work.groups + col / kind.group_cols * kGroupFields * kTileRows;
    uint8_t* tile = tiles + static_cast<uint64_t>(col / kTileCols) * tile_bytes;
    for (int64_t row = 0; row < rows.n_rows; ++row) {
      const int s = static_cast<int>(group[kScale * kTileRows + row]) + kind.scale_bias;
      const int shift = group[kShift * kTileRows + row] != 0 ? 1 : 0;
      *kind.group_byte(tile, col % kTileCols, row) = static_cast<uint8_t>(s | (shift << kind.scale_bits));
    }
  }
}

}  // namespace

void EncodeQ4(FormatId format, LaneWidth width, const RowTile& in, EncoderScratch& scratch, uint8_t* tiles,
              float* row_scales, TileError* error) {
  const Q4Kind& kind = format == FormatId::kQ4G16 ? kG16 : kG32;
  const RowLanes rows = LoadRowLanes(in, scratch);
  const int64_t groups = (in.cols + kind.group_cols - 1) / kind.group_cols;
  scratch.groups.resize(static_cast<size_t>(groups * kGroupFields * kTileRows));
  scratch.codes.resize(static_cast<size_t>(in.cols * kTileRows));
  scratch.integers.resize(static_cast<size_t>(in.cols * kTileRows));
  Work work = {&kind, &rows, scratch.groups.data(), scratch.codes.data(), scratch.integers.data(), {}};
  if (rows.h != nullptr) {
    EncodeRowsWith<true>(width, work);
  } else {
    EncodeRowsWith<false>(width, work);
  }
  WriteTiles(work, FormatOf(format).tile_bytes, tiles);
  for (int64_t row = 0; row < kTileRows; ++row) row_scales[row] = row < in.n_rows ? work.scale[row].stored : 0;
  MeasureError(in, row_scales, work.integers, error);
}

void EncodeQ4G32(const RowTile& in, EncoderScratch& scratch, uint8_t* tiles, float* row_scales, TileError* error) {
  EncodeQ4(FormatId::kQ4G32, BestLaneWidth(), in, scratch, tiles, row_scales, error);
}

void EncodeQ4G16(const RowTile& in, EncoderScratch& scratch, uint8_t* tiles, float* row_scales, TileError* error) {
  EncodeQ4(FormatId::kQ4G16, BestLaneWidth(), in, scratch, tiles, row_scales, error);
}

}  // namespace kompakt
