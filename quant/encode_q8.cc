#include "quant/encode_q8.h"

#include <algorithm>

#include "format/block_q8_g32.h"
#include "quant/row_lanes.h"

namespace kompakt {
namespace {

constexpr int64_t kGroupCols = 32;
constexpr float kMostScale = 255;
constexpr int kLargestInteger = 255 * 128;
// Candidates for a group's s, relative to the smallest that loses nothing by clipping, in the order of the written
// rule. A smaller s has finer steps and clips; each step of s also draws the 32 rounding errors anew, and that is what
// most of the search gains.
constexpr int kCandidates = 10;
constexpr float kOffset[kCandidates] = {0, 1, 2, 3, 4, 5, 6, 7, -1, -2};

struct Work {
  const RowLanes* rows;
  float* scales;      // [group][16]: s
  uint8_t* codes;     // [cols][16]: value + 128
  int16_t* integers;  // [cols][16]: s x value
  RowScale scale[kTileRows];
};

template <typename V>
KOMPAKT_INLINE void Max(const V& a, V* b) {
  *b = a > *b ? a : *b;
}

// The code value nearest to y (ties to even), within -128..127.
template <typename V>
KOMPAKT_INLINE void Nearest(V* y) {
  *y = *y < -128.0f ? V{} - 128.0f : *y;
  *y = *y > 127.0f ? V{} + 127.0f : *y;
  *y = (*y + 12582912.0f) - 12582912.0f;
}

// The scale at which the group's extremes are half a step past the last codes: rounding loses as much as clipping.
template <int W>
KOMPAKT_INLINE void Reach(const float* x, int64_t n, typename Lanes<W>::F* reach) {
  using F = typename Lanes<W>::F;
  F up{}, down{};
  for (int64_t k = 0; k < n; ++k) {
    F value;
    LoadLanes(x + k * kTileRows, &value);
    Max<F>(value, &up);
    Max<F>(-value, &down);
  }
  *reach = up * (1.0f / 127.5f);
  Max<F>(down * (1.0f / 128.5f), reach);
}

template <int W, bool kWeighted>
KOMPAKT_INLINE void ChooseScale(const float* x, const float* h, int64_t n, const typename Lanes<W>::F& row_scale,
                                float* s_out) {
  using F = typename Lanes<W>::F;
  F reach;
  Reach<W>(x, n, &reach);
  F base = reach / row_scale;
  base = base > kMostScale ? F{} + kMostScale : base;
  base = (base + 12582912.0f) - 12582912.0f;
  F best_error = F{} + 3.4e38f;
  F best{};
  for (const float offset : kOffset) {
    F s = base + offset;
    s = s < 1.0f ? F{} + 1.0f : s;
    s = s > kMostScale ? F{} + kMostScale : s;
    const F scale = row_scale * s;
    const F inverse = 1.0f / scale;
    F error{};
    for (int64_t k = 0; k < n; ++k) {
      F value;
      LoadLanes(x + k * kTileRows, &value);
      F q = value * inverse;
      Nearest(&q);
      const F difference = value - q * scale;
      error += kWeighted ? difference * difference * h[k] : difference * difference;
    }
    const auto better = error < best_error;
    best_error = better ? error : best_error;
    best = better ? s : best;
  }
  best = reach == 0.0f ? F{} : best;
  StoreLanes(best, s_out);
}

template <int W, bool kWeighted>
KOMPAKT_INLINE void AssignCodes(const float* x, const float* h, int64_t n, const typename Lanes<W>::F& row_scale,
                                const float* s_in, uint8_t* codes, int16_t* integers, double* fit_xi, double* fit_ii) {
  using F = typename Lanes<W>::F;
  F s;
  LoadLanes(s_in, &s);
  const auto none = s == 0.0f;
  const F inverse = none ? F{} : 1.0f / (row_scale * s);
  F xi{}, ii{};
  for (int64_t k = 0; k < n; ++k) {
    F value;
    LoadLanes(x + k * kTileRows, &value);
    F q = value * inverse;
    Nearest(&q);
    const F integer = s * q;
    const F weighted = kWeighted ? integer * h[k] : integer;
    xi += value * weighted;
    ii += integer * weighted;
    for (int lane = 0; lane < W; ++lane) {
      codes[k * kTileRows + lane] = static_cast<uint8_t>(static_cast<int>(q[lane]) + kQ8CodeBias);
      integers[k * kTileRows + lane] = static_cast<int16_t>(integer[lane]);
    }
  }
  for (int lane = 0; lane < W; ++lane) {
    fit_xi[lane] += static_cast<double>(xi[lane]);
    fit_ii[lane] += static_cast<double>(ii[lane]);
  }
}

template <int W, bool kWeighted>
KOMPAKT_INLINE void EncodeRows(Work& work) {
  using F = typename Lanes<W>::F;
  const RowLanes& rows = *work.rows;
  const int64_t groups = (rows.cols + kGroupCols - 1) / kGroupCols;
  for (int first_row = 0; first_row < rows.n_rows; first_row += W) {
    F needed{};
    for (int64_t g = 0; g < groups; ++g) {
      F reach;
      Reach<W>(rows.x + g * kGroupCols * kTileRows + first_row, std::min(kGroupCols, rows.cols - g * kGroupCols),
               &reach);
      // One hundredth above, so that the largest group has candidates on both sides.
      Max<F>(reach * (1.01f / kMostScale), &needed);
    }
    for (int lane = 0; lane < W; ++lane) {
      const int row = first_row + lane;
      work.scale[row] = {};
      if (!rows.zero[row]) {
        work.scale[row] = StorableScale(static_cast<double>(needed[lane]), rows.exponent[row], kLargestInteger);
      }
    }
    // Twice: codes for the row scale, then the row scale for them. The second time the group scales stay.
    for (int round = 0; round < 2; ++round) {
      F row_scale;
      for (int lane = 0; lane < W; ++lane) {
        row_scale[lane] = rows.zero[first_row + lane] ? 1.0f : work.scale[first_row + lane].scaled;
      }
      double fit_xi[W] = {};
      double fit_ii[W] = {};
      for (int64_t g = 0; g < groups; ++g) {
        const int64_t col = g * kGroupCols;
        const int64_t n = std::min(kGroupCols, rows.cols - col);
        const float* x = rows.x + col * kTileRows + first_row;
        const float* h = kWeighted ? rows.h + col : nullptr;
        float* s = work.scales + g * kTileRows + first_row;
        if (round == 0) ChooseScale<W, kWeighted>(x, h, n, row_scale, s);
        AssignCodes<W, kWeighted>(x, h, n, row_scale, s, work.codes + col * kTileRows + first_row,
                                  work.integers + col * kTileRows + first_row, fit_xi, fit_ii);
      }
      for (int lane = 0; lane < W; ++lane) {
        const int row = first_row + lane;
        if (fit_ii[lane] > 0 && fit_xi[lane] > 0) {
          work.scale[row] = StorableScale(fit_xi[lane] / fit_ii[lane], rows.exponent[row], kLargestInteger);
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

void WriteTiles(const Work& work, uint8_t* tiles) {
  const RowLanes& rows = *work.rows;
  const int64_t col_tiles = (rows.cols + kTileCols - 1) / kTileCols;
  std::fill_n(tiles, static_cast<size_t>(col_tiles) * sizeof(Q8G32Tile), uint8_t{0});
  for (int64_t col = 0; col < rows.cols; ++col) {
    auto& tile = *reinterpret_cast<Q8G32Tile*>(tiles + static_cast<size_t>(col / kTileCols) * sizeof(Q8G32Tile));
    const int64_t k = col % kTileCols;
    for (int64_t row = 0; row < rows.n_rows; ++row) tile.codes[k / 4][row][k % 4] = work.codes[col * kTileRows + row];
    if (k != 0) continue;
    const float* s = work.scales + col / kGroupCols * kTileRows;
    for (int64_t row = 0; row < rows.n_rows; ++row) tile.groups[row] = static_cast<uint8_t>(s[row]);
  }
}

}  // namespace

void EncodeQ8(LaneWidth width, const RowTile& in, EncoderScratch& scratch, uint8_t* tiles, float* row_scales,
              TileError* error) {
  const RowLanes rows = LoadRowLanes(in, scratch);
  const int64_t groups = (in.cols + kGroupCols - 1) / kGroupCols;
  scratch.groups.resize(static_cast<size_t>(groups * kTileRows));
  scratch.codes.resize(static_cast<size_t>(in.cols * kTileRows));
  scratch.integers.resize(static_cast<size_t>(in.cols * kTileRows));
  Work work = {&rows, scratch.groups.data(), scratch.codes.data(), scratch.integers.data(), {}};
  if (rows.h != nullptr) {
    EncodeRowsWith<true>(width, work);
  } else {
    EncodeRowsWith<false>(width, work);
  }
  WriteTiles(work, tiles);
  for (int64_t row = 0; row < kTileRows; ++row) row_scales[row] = row < in.n_rows ? work.scale[row].stored : 0;
  MeasureError(in, row_scales, work.integers, error);
}

void EncodeQ8G32(const RowTile& in, EncoderScratch& scratch, uint8_t* tiles, float* row_scales, TileError* error) {
  EncodeQ8(BestLaneWidth(), in, scratch, tiles, row_scales, error);
}

}  // namespace kompakt
