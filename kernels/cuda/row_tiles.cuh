// Two row tiles of a packed matrix times a few tokens, straight from the tiles: decode.
//
// A lane owns four rows of a tile and eight of its columns, so that one 16-byte load brings a 4-bit format's codes of
// both; a warp takes two neighbouring column tiles at a time:
//     lane = 16 * (which tile) + 4 * segment + quad     rows 4 quad .. 4 quad + 3, columns 8 segment .. 8 segment + 7
// Sums stay in the lane until the end. What a token gets depends neither on the other tokens nor on their number.
#pragma once

#include "kernels/cuda/matrix_params.h"
#include "kernels/cuda/tile_formats.cuh"

namespace kompakt::KOMPAKT_BACKEND {

KOMPAKT_DEVICE uint32_t WordOf(const uint4& v, int i) { return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w; }

// What a lane loads of one tile.
template <typename F>
struct Fragment {
  // Columns in a word of the low plane; a line of narrower ones serves several segments.
  static constexpr int kLowCols = [] {
    if constexpr (F::kInteger)
      return 32 / F::kLowBits;
    else
      return F::kWordCols;
  }();
  static constexpr int kLines = kLowCols >= 8 ? 1 : 8 / kLowCols;
  static constexpr bool kHasHigh = [] {
    if constexpr (F::kInteger)
      return F::kHighBits > 0;
    else
      return false;
  }();
  static constexpr int kScaleBytes = [] {
    if constexpr (F::kInteger)
      return F::kScaleBytes;
    else
      return 0;
  }();

  static constexpr int kWords = 4 * kLines + (kHasHigh ? 4 : 0) + kScaleBytes;  // that are used

  uint4 low[kLines];
  uint4 high;          // of a second plane
  uint32_t scales[2];  // of four rows: the first word is enough for scales of one byte

  KOMPAKT_DEVICE void Load(const uint8_t* tile, int segment, int quad) {
    const int first = kLowCols >= 8 ? segment * 8 / kLowCols : segment * kLines;
    KOMPAKT_UNROLL
    for (int i = 0; i < kLines; ++i) low[i] = LoadStreaming<uint4>(tile + (first + i) * kLineBytes + quad * 16);
    if constexpr (F::kInteger) {
      if constexpr (F::kHighBits > 0) {
        high = LoadStreaming<uint4>(tile + (F::kLowBits + segment * F::kHighBits / 4) * kLineBytes + quad * 16);
      }
      const int group = segment * 8 / F::kGroupCols;
      const uint8_t* const at =
          tile + (F::kLowBits + F::kHighBits) * kLineBytes + (group * 16 + quad * 4) * F::kScaleBytes;
      if constexpr (F::kScaleBytes == 2) {
        const auto both = LoadStreaming<uint2>(at);
        scales[0] = both.x;
        scales[1] = both.y;
      } else {
        scales[0] = LoadStreaming<uint32_t>(at);
      }
    }
  }
  KOMPAKT_DEVICE uint32_t ScaleBits(int row) const {
    if constexpr (kScaleBytes == 2) return scales[row / 2] >> (row % 2 * 16) & 0xffffu;
    return scales[0] >> (8 * row) & 0xffu;
  }
  // Columns 4 half .. 4 half + 3 of the lane's eight, of its row `row`, as int8.
  KOMPAKT_DEVICE uint32_t Values(int row, int segment, int half) const {
    uint32_t high_word = 0;
    if constexpr (kHasHigh) high_word = WordOf(high, row);
    return ValuesOf<F>(WordOf(low[kLines == 1 ? 0 : half], row), high_word, segment * 2 + half);
  }
  // Column i of the lane's eight, before any scale.
  KOMPAKT_DEVICE float Value(int row, int i) const {
    return F::Value(WordOf(low[i / F::kWordCols], row), i % F::kWordCols);
  }
};

// The tokens of a block: kTokens of them, of which the last may be repeated.
template <int kTokens>
struct TokenRows {
  int row[kTokens];  // of the activations, of which there are below 2^32 bytes
};

// acc[row][token] of a lane's four rows.
template <int kTokens>
using Sums = float[4][kTokens];

// A lane's eight columns of a tile by codes.
template <typename F, int kTokens>
KOMPAKT_DEVICE void AddCodes(const Fragment<F>& w, int tile, int segment, const cuda::Activations& x,
                             const TokenRows<kTokens>& tokens, Sums<kTokens>& acc) {
  const auto groups = static_cast<uint32_t>(cuda::Groups(x.cols));
  uint32_t values[4][2];
  float scale[4], shift[4];
  KOMPAKT_UNROLL
  for (int r = 0; r < 4; ++r) {
    values[r][0] = w.Values(r, segment, 0);
    values[r][1] = w.Values(r, segment, 1);
    scale[r] = F::Scale(w.ScaleBits(r));
    shift[r] = F::Shift(w.ScaleBits(r));
  }
  KOMPAKT_UNROLL
  for (int t = 0; t < kTokens; ++t) {
    const auto row = static_cast<uint32_t>(tokens.row[t]);
    const uint32_t group = row * groups + static_cast<uint32_t>(tile);
    const int8_t* const codes =
        x.codes + ((row * static_cast<uint32_t>(x.planes) * groups + static_cast<uint32_t>(tile)) * 32u +
                   static_cast<uint32_t>(segment) * 8u);
    const uint2 c = LoadCached(reinterpret_cast<const uint2*>(codes));
    const float d = LoadCached(x.scales + group);
    // The shift multiplies the sum of the whole group, in one lane of it.
    float sum = 0;
    if constexpr (F::kShifted) {
      const float* const sums = x.sums + group * 2;
      if constexpr (F::kGroupCols == 16) {
        if (segment % 2 == 0) sum = LoadCached(sums + segment / 2);
      } else {
        if (segment == 0) sum = LoadCached(sums) + LoadCached(sums + 1);
      }
    }
    int dot[4];
    KOMPAKT_UNROLL
    for (int r = 0; r < 4; ++r) {
      dot[r] = __dp4a(static_cast<int>(values[r][0]), static_cast<int>(c.x), 0);
      dot[r] = __dp4a(static_cast<int>(values[r][1]), static_cast<int>(c.y), dot[r]);
    }
    if (x.planes == 2) {
      const uint2 low = LoadCached(reinterpret_cast<const uint2*>(codes + groups * 32));
      KOMPAKT_UNROLL
      for (int r = 0; r < 4; ++r) {
        dot[r] = __dp4a(static_cast<int>(values[r][0]), static_cast<int>(low.x), dot[r] * 256);
        dot[r] = __dp4a(static_cast<int>(values[r][1]), static_cast<int>(low.y), dot[r]);
      }
    }
    KOMPAKT_UNROLL
    for (int r = 0; r < 4; ++r) {
      float v = static_cast<float>(dot[r]);
      if constexpr (F::kShifted) v = fmaf(shift[r], sum, v);
      acc[r][t] = fmaf(v, scale[r] * d, acc[r][t]);
    }
  }
}

// The same by F32 activations.
template <typename F, int kTokens>
KOMPAKT_DEVICE void AddFloats(const Fragment<F>& w, int tile, int segment, [[maybe_unused]] float block_scale,
                              const cuda::Activations& x, const TokenRows<kTokens>& tokens, Sums<kTokens>& acc) {
  const auto groups = static_cast<uint32_t>(cuda::Groups(x.cols));
  KOMPAKT_UNROLL
  for (int r = 0; r < 4; ++r) {
    float v[8];
    float scale = block_scale;
    if constexpr (F::kInteger) {
      scale = F::Scale(w.ScaleBits(r));
      const float shift = F::Shift(w.ScaleBits(r));
      KOMPAKT_UNROLL
      for (int i = 0; i < 8; ++i) {
        v[i] = static_cast<float>(static_cast<int8_t>(w.Values(r, segment, i / 4) >> (8 * (i % 4)))) + shift;
      }
    } else {
      KOMPAKT_UNROLL
      for (int i = 0; i < 8; ++i) v[i] = w.Value(r, i);
    }
    KOMPAKT_UNROLL
    for (int t = 0; t < kTokens; ++t) {
      const auto* const at =
          reinterpret_cast<const float4*>(x.x + (tokens.row[t] * groups * 32 + tile * 32 + segment * 8));
      const float4 a = LoadCached(at), b = LoadCached(at + 1);
      float dot = v[0] * a.x;
      dot = fmaf(v[1], a.y, dot);
      dot = fmaf(v[2], a.z, dot);
      dot = fmaf(v[3], a.w, dot);
      dot = fmaf(v[4], b.x, dot);
      dot = fmaf(v[5], b.y, dot);
      dot = fmaf(v[6], b.z, dot);
      dot = fmaf(v[7], b.w, dot);
      acc[r][t] = fmaf(dot, scale, acc[r][t]);
    }
  }
}

// acc += row tile `row_tile` of w times x, over the pairs of column tiles first, first + stride, ...; of this warp.
// Not yet multiplied by the row factor. kAhead: fragments that are on their way at once.
template <typename F, int kTokens, bool kCodes>
KOMPAKT_DEVICE void MultiplyPairs(const cuda::Matrix& w, int row_tile, int first, int stride,
                                  const cuda::Activations& x, const TokenRows<kTokens>& tokens, Sums<kTokens>& acc) {
  constexpr int kWords = Fragment<F>::kWords;
  constexpr int kAhead = kTokens > 1 || kWords > 12 ? 1 : kWords > 6 ? 2 : 4;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int segment = lane / 4 % 4, quad = lane % 4;
  const int col_tiles = (w.cols + 31) / 32;
  const uint8_t* const tiles = w.data + static_cast<int64_t>(row_tile) * col_tiles * F::kTileBytes;
  const float* block_scales = nullptr;
  if constexpr (F::kSide == SideKind::kBlockScale) {
    block_scales = reinterpret_cast<const float*>(w.data + w.side_offset) + row_tile / 8 * ((w.cols + 127) / 128);
  }
  for (int tile = first * 2 + lane / 16; tile < col_tiles; tile += 2 * stride * kAhead) {
    Fragment<F> fragments[kAhead];
    KOMPAKT_UNROLL
    for (int i = 0; i < kAhead; ++i) {
      const int at = tile + 2 * stride * i;
      if (at < col_tiles) fragments[i].Load(tiles + static_cast<uint64_t>(at) * F::kTileBytes, segment, quad);
    }
    KOMPAKT_UNROLL
    for (int i = 0; i < kAhead; ++i) {
      const int at = tile + 2 * stride * i;
      if (at >= col_tiles) break;
      if constexpr (kCodes) {
        AddCodes<F, kTokens>(fragments[i], at, segment, x, tokens, acc);
      } else {
        float block_scale = 1;
        if constexpr (F::kSide == SideKind::kBlockScale) block_scale = LoadCached(block_scales + at / 4);
        AddFloats<F, kTokens>(fragments[i], at, segment, block_scale, x, tokens, acc);
      }
    }
  }
}

// Sums of one warp: v[row][token] of a lane's four rows.
template <int kTokens>
struct RowSums {
  Sums<kTokens> v = {};
};

// Row tile `row_tile` of w times the tokens, this warp's part of the columns: the pairs first, first + stride, ... All
// lanes of the same quad get the same.
template <int kTokens>
KOMPAKT_DEVICE RowSums<kTokens> MultiplyRowTile(const cuda::Matrix& w, int row_tile, int first, int stride,
                                                const cuda::Activations& x, const TokenRows<kTokens>& tokens) {
  RowSums<kTokens> result;
  Sums<kTokens>& sums = result.v;
  const int quad = static_cast<int>(threadIdx.x) % 4;
  DeviceFormats::With(w.format, [&](auto format) {
    using F = decltype(format);
    if constexpr (F::kInteger) {
      if (x.planes > 0) {
        MultiplyPairs<F, kTokens, true>(w, row_tile, first, stride, x, tokens, sums);
      } else {
        MultiplyPairs<F, kTokens, false>(w, row_tile, first, stride, x, tokens, sums);
      }
    } else {
      MultiplyPairs<F, kTokens, false>(w, row_tile, first, stride, x, tokens, sums);
    }
    KOMPAKT_UNROLL
    for (int r = 0; r < 4; ++r) {
      const float factor =
          RowFactor<F>(reinterpret_cast<const float*>(w.data + w.side_offset), row_tile * 16 + quad * 4 + r);
      KOMPAKT_UNROLL
      for (int t = 0; t < kTokens; ++t) sums[r][t] *= factor;
    }
  });
  KOMPAKT_UNROLL
  for (int r = 0; r < 4; ++r) {
    KOMPAKT_UNROLL
    for (int t = 0; t < kTokens; ++t) {
      KOMPAKT_UNROLL
      for (int offset = 4; offset < 32; offset *= 2) {
        sums[r][t] += __shfl_xor_sync(kFullWarp, sums[r][t], offset);
      }
    }
  }
  return result;
}

}  // namespace kompakt::KOMPAKT_BACKEND
