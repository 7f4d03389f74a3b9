// Four row tiles of packed matrices times up to 64 tokens on tensor cores, straight from the tiles.
//
// The A operand of mma.m16n8k32 is a tile: 16 rows, 32 columns, and a register of it is 4 consecutive columns of a row,
// which is what a word of a tile gives (tile_formats.cuh). So lane (g, t) decodes columns 4 t .. and 16 + 4 t .. of
// rows g and g + 8, for all tokens at once; B are the codes of activations as they lie. Each group of columns is one
// product of integers, which is exact, times the scales of row and token in F32.
//
// Tiles and codes go through two stages of shared memory, filled by cp.async. A warp has a row tile of its own. What a
// token gets does not depend on the others: its sums run over the column tiles in order.
#pragma once

#include "kernels/cuda/matrix_params.h"
#include "kernels/cuda/tile_formats.cuh"

namespace kompakt::KOMPAKT_BACKEND {

inline constexpr int kManyWarps = 4;
inline constexpr int kManyThreads = kManyWarps * 32;
inline constexpr int kManyTokens = 64;             // of a block at most
inline constexpr int kManyRows = kManyWarps * 16;  // of a block
inline constexpr int kStageTiles = 2;              // column tiles
inline constexpr int kCodeStride =
    kStageTiles * 32 + 16;  // bytes from token to token: their words lie in different banks
inline constexpr int kResultStride = kManyRows + 1;

// Bytes of one stage, and where its parts begin.
inline constexpr int kWarpTileBytes = kStageTiles * 528;  // of the largest integer format
inline constexpr int kCodesAt = kManyWarps * kWarpTileBytes;
inline constexpr int kScalesAt = kCodesAt + 2 * kManyTokens * kCodeStride;
inline constexpr int kSumsAt = kScalesAt + kStageTiles * kManyTokens * 4;
inline constexpr int kStageBytes = kSumsAt + kStageTiles * 2 * kManyTokens * 4;
// Results take the place of the stages.
inline constexpr int kResultBytes = kManyTokens * kResultStride * 4;
inline constexpr int kPoolBytes = 2 * kStageBytes > kResultBytes ? 2 * kStageBytes : kResultBytes;
static_assert(kPoolBytes <= 46 << 10, "static shared memory");

// What a block multiplies. `w` and `row_tile` differ from warp to warp.
struct Products {
  cuda::Matrix w = {};
  int row_tile = 0;
  bool rows = true;  // false: the row tile is past the matrix
  cuda::Activations x = {};
  int tokens = 0;  // 1 to kManyTokens
};

// The A operand and the scales of rows g and g + 8 of a tile.
struct TileFragment {
  uint32_t a[4];
  float scale[2][2];  // [group of 16 columns][row]; groups of 32: the first
  float shift[2][2];
};

template <typename F>
KOMPAKT_DEVICE void LoadTile(SharedPtr<const uint8_t> tile, TileFragment* out) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int g = lane / 4, t = lane % 4;
  const auto words = SharedCast<const uint32_t>(tile);
  KOMPAKT_UNROLL
  for (int i = 0; i < 4; ++i) {
    const int j = t + i / 2 * 4, row = g + i % 2 * 8;
    const uint32_t low = words[j * F::kLowBits / 8 * 16 + row];
    uint32_t high = 0;
    if constexpr (F::kHighBits > 0) high = words[(F::kLowBits + j * F::kHighBits / 8) * 16 + row];
    out->a[i] = ValuesOf<F>(low, high, j);
  }
  constexpr int kGroupsOfTile = static_cast<int>(kTileCols) / F::kGroupCols;
  KOMPAKT_UNROLL
  for (int group = 0; group < kGroupsOfTile; ++group) {
    KOMPAKT_UNROLL
    for (int i = 0; i < 2; ++i) {
      const uint32_t bits = ScaleBitsOf<F>(tile, group, g + i * 8);
      out->scale[group][i] = F::Scale(bits);
      out->shift[group][i] = F::Shift(bits);
    }
  }
}

// Starts the copies of stage `stage` (its column tiles, of all) into `to`. `rows`: of x for each token.
KOMPAKT_DEVICE void FillStage(const Products& p, int tile_bytes, int stage, SharedPtr<const int> rows,
                              SharedPtr<uint8_t> to) {
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int col_tiles = (p.w.cols + 31) / 32;
  const int first = stage * kStageTiles;
  if (p.rows) {
    const uint8_t* const from = p.w.data + (static_cast<int64_t>(p.row_tile) * col_tiles + first) * tile_bytes;
    const int bytes = min(kStageTiles, col_tiles - first) * tile_bytes;
    for (int at = lane * 16; at < bytes; at += 32 * 16) CopyAsync16(to + (warp * kWarpTileBytes + at), from + at);
  }
  const auto scales = SharedCast<float>(to + kScalesAt);
  const auto sums = SharedCast<float>(to + kSumsAt);
  // A thread brings half of the columns of a token.
  const int token = thread / 2, tile = first + thread % 2;
  const int row = rows[token];
  const bool inside = tile < col_tiles;
  const int64_t at = static_cast<int64_t>(row) * col_tiles + (inside ? tile : 0);
  for (int plane = 0; plane < p.x.planes; ++plane) {
    const int8_t* const codes =
        p.x.codes + ((static_cast<int64_t>(row) * p.x.planes + plane) * col_tiles + (inside ? tile : 0)) * 32;
    const auto place = to + (kCodesAt + (plane * kManyTokens + token) * kCodeStride + thread % 2 * 32);
    CopyAsync16(place, codes, inside ? 16 : 0);
    CopyAsync16(place + 16, codes + 16, inside ? 16 : 0);
  }
  CopyAsync4(scales + (thread % 2 * kManyTokens + token), p.x.scales + at, inside ? 4 : 0);
  for (int half = 0; half < 2; ++half) {
    CopyAsync4(sums + ((thread % 2 * 2 + half) * kManyTokens + token), p.x.sums + at * 2 + half, inside ? 4 : 0);
  }
}

// An exact integer in an F32: c - kExact as floats, for |c| < 2^22.
inline constexpr int kExactBits = 0x4b400000;
inline constexpr float kExact = 12582912.0f;

// v[i] = a b of the codes of one plane, over all 32 columns or those of one group of 16.
template <int kGroup>
KOMPAKT_DEVICE void Multiply(const TileFragment& w, uint32_t b0, uint32_t b1, float (&v)[4]) {
  int c[4] = {kExactBits, kExactBits, kExactBits, kExactBits};
  if constexpr (kGroup < 0) {
    const uint32_t b[2] = {b0, b1};
    MmaS8(c, w.a, b);
  } else {
    const uint32_t a[2] = {w.a[2 * kGroup], w.a[2 * kGroup + 1]};
    MmaS8Half(c, a, kGroup == 0 ? b0 : b1);
  }
  KOMPAKT_UNROLL
  for (int i = 0; i < 4; ++i) v[i] = __int_as_float(c[i]) - kExact;
}

// acc += tile times tokens 8 n .. 8 n + 7. kGroup: -1 for groups of 32 columns.
template <int kGroup>
KOMPAKT_DEVICE void AddGroup(const TileFragment& w, SharedPtr<const uint8_t> stage, int tile, int n, int planes,
                             float (&acc)[4]) {
  constexpr int kFirst = kGroup > 0 ? kGroup : 0;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int g = lane / 4, t = lane % 4;
  float v[4] = {};
  for (int plane = 0; plane < planes; ++plane) {
    const auto codes = SharedCast<const uint32_t>(
        stage + (kCodesAt + (plane * kManyTokens + n * 8 + g) * kCodeStride + tile * 32 + t * 4));
    const uint32_t b0 = codes[0], b1 = codes[4];
    if (plane == 0) {
      Multiply<kGroup>(w, b0, b1, v);
    } else {
      float low[4];
      Multiply<kGroup>(w, b0, b1, low);
      KOMPAKT_UNROLL
      for (int i = 0; i < 4; ++i) v[i] = fmaf(v[i], 256.0f, low[i]);
    }
  }
  const int token = n * 8 + t * 2;
  const float2 d = SharedCast<const float2>(stage + (kScalesAt + (tile * kManyTokens + token) * 4))[0];
  const auto sums = SharedCast<const float2>(stage + (kSumsAt + ((tile * 2 + kFirst) * kManyTokens + token) * 4));
  float2 sum = sums[0];
  if constexpr (kGroup < 0) {
    const float2 second = sums[kManyTokens / 2];
    sum.x += second.x;
    sum.y += second.y;
  }
  KOMPAKT_UNROLL
  for (int i = 0; i < 4; ++i) {
    const float product = fmaf(w.shift[kFirst][i / 2], i % 2 == 0 ? sum.x : sum.y, v[i]);
    acc[i] = fmaf(product, w.scale[kFirst][i / 2] * (i % 2 == 0 ? d.x : d.y), acc[i]);
  }
}

// results[token][16 warp + row] = acc times the factor of the row. With a barrier.
KOMPAKT_DEVICE void StoreResults(const Products& p, const float (&acc)[kManyTokens / 8][4], SharedPtr<uint8_t> pool) {
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int g = lane / 4, t = lane % 4;
  float factor[2] = {1, 1};
  if (p.rows) {
    DeviceFormats::With(p.w.format, [&](auto format) {
      using F = decltype(format);
      const auto* const side = reinterpret_cast<const float*>(p.w.data + p.w.side_offset);
      factor[0] = RowFactor<F>(side, p.row_tile * 16 + g);
      factor[1] = RowFactor<F>(side, p.row_tile * 16 + g + 8);
    });
  }
  const auto results = SharedCast<float>(pool);
  KOMPAKT_UNROLL
  for (int n = 0; n < kManyTokens / 8; ++n) {
    KOMPAKT_UNROLL
    for (int i = 0; i < 4; ++i) {
      results[(n * 8 + t * 2 + i % 2) * kResultStride + warp * 16 + g + i / 2 * 8] = acc[n][i] * factor[i / 2];
    }
  }
  __syncthreads();
}

// results[token][16 warp + row] = w x. `rows`: rows of x of all kManyTokens tokens, the last one again where there are
// fewer; written before a barrier. All threads of the block call this; the results are there when it returns.
KOMPAKT_DEVICE void MultiplyTiles(const Products& p, SharedPtr<const int> rows, SharedPtr<uint8_t> pool) {
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int col_tiles = (p.w.cols + 31) / 32;
  const int stages = (col_tiles + kStageTiles - 1) / kStageTiles;
  const int tile_bytes = DeviceFormats::TileBytes(p.w.format);
  float acc[kManyTokens / 8][4] = {};
  FillStage(p, tile_bytes, 0, rows, pool);
  CommitAsync();
  for (int stage = 0; stage < stages; ++stage) {
    if (stage + 1 < stages) FillStage(p, tile_bytes, stage + 1, rows, pool + (stage + 1) % 2 * kStageBytes);
    CommitAsync();
    WaitAsync<1>();
    __syncthreads();
    const SharedPtr<const uint8_t> here = pool + stage % 2 * kStageBytes;
    const int tiles = p.rows ? min(kStageTiles, col_tiles - stage * kStageTiles) : 0;
    for (int tile = 0; tile < tiles; ++tile) {
      TileFragment w;
      bool halves = false;
      DeviceFormats::With(p.w.format, [&](auto format) {
        using F = decltype(format);
        if constexpr (F::kInteger) {
          LoadTile<F>(here + (warp * kWarpTileBytes + tile * F::kTileBytes), &w);
          halves = F::kGroupCols == 16;
        }
      });
      KOMPAKT_UNROLL
      for (int n = 0; n < kManyTokens / 8; ++n) {
        if (n * 8 >= p.tokens) break;
        if (halves) {
          AddGroup<0>(w, here, tile, n, p.x.planes, acc[n]);
          AddGroup<1>(w, here, tile, n, p.x.planes, acc[n]);
        } else {
          AddGroup<-1>(w, here, tile, n, p.x.planes, acc[n]);
        }
      }
    }
    // The stage is filled again two steps later, behind this.
    __syncthreads();
  }
  StoreResults(p, acc, pool);
}

}  // namespace kompakt::KOMPAKT_BACKEND
