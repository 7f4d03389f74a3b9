// Four row tiles of packed matrices times up to 64 tokens in F32, on tensor cores: what tile_products.cuh does where
// weights or activations have no integer codes.
//
// mma.m16n8k16 multiplies BF16 exactly and adds in F32. An F32 value is the sum of three BF16 values, eight bits each,
// and so x is three operands; a weight is one where eight bits hold it (bf16, fp8, the codes of every format of
// codes), two for f16, three for f32. Of the products of two pieces those that matter to F32 are added, the smallest
// first, over 16 columns; these sums then meet the scales of their group and go into the sum of a row, rounded to
// nearest, so that what tensor cores cut off does not add up along a row.
//
// The order of columns within an mma is ours to choose: lane (g, t) has columns 4 t .. 4 t + 3 of a half of a tile, of
// rows g and g + 8 and of token g.
#pragma once

#include "kernels/cuda/tile_products.cuh"

namespace kompakt::KOMPAKT_BACKEND {

inline constexpr int kFloatTileBytes = 2048;  // of the largest format
inline constexpr int kFloatStride = 48;       // floats from token to token: their words lie in different banks
inline constexpr int kFloatsAt = kManyWarps * kFloatTileBytes;
inline constexpr int kFloatStageBytes = kFloatsAt + kManyTokens * kFloatStride * 4;  // a stage is one column tile
inline constexpr int kFloatPoolBytes = 2 * kFloatStageBytes > kResultBytes ? 2 * kFloatStageBytes : kResultBytes;
static_assert(kFloatPoolBytes <= 46 << 10, "static shared memory");

inline constexpr int kPieces = 3;

// How many BF16 values a weight is.
template <typename F>
constexpr int PiecesOf() {
  return F::kId == FormatId::kF32 ? 3 : F::kId == FormatId::kF16 ? 2 : 1;
}

// Cuts the next eight bits off two values: what is left of them stays, exactly.
KOMPAKT_DEVICE uint32_t TakePiece(float& low, float& high) {
  const uint32_t low_bits = __float_as_uint(low) & 0xffff0000u;
  const uint32_t high_bits = __float_as_uint(high) & 0xffff0000u;
  low -= __uint_as_float(low_bits);
  high -= __uint_as_float(high_bits);
  return low_bits >> 16 | high_bits;
}

// The A operands of 16 columns, and the factors of rows g and g + 8.
struct FloatFragment {
  uint32_t a[kPieces][4];
  float scale[2];
  int pieces;
};

// Half `half` of a tile. `block_scale`: of formats that have one beside the tiles.
template <typename F>
KOMPAKT_DEVICE void LoadHalf(SharedPtr<const uint8_t> tile, int half, float block_scale, FloatFragment* out) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int g = lane / 4, t = lane % 4;
  const int j = half * 4 + t;  // columns 4 j .. 4 j + 3
  const auto words = SharedCast<const uint32_t>(tile);
  float v[2][4];
  KOMPAKT_UNROLL
  for (int i = 0; i < 2; ++i) {
    const int row = g + i * 8;
    if constexpr (F::kInteger) {
      const uint32_t low = words[j * F::kLowBits / 8 * 16 + row];
      uint32_t high = 0;
      if constexpr (F::kHighBits > 0) high = words[(F::kLowBits + j * F::kHighBits / 8) * 16 + row];
      const uint32_t values = ValuesOf<F>(low, high, j);
      const uint32_t bits = ScaleBitsOf<F>(tile, half * 16 / F::kGroupCols, row);
      out->scale[i] = F::Scale(bits);
      const float shift = F::Shift(bits);
      KOMPAKT_UNROLL
      for (int c = 0; c < 4; ++c) v[i][c] = static_cast<float>(static_cast<int8_t>(values >> (8 * c))) + shift;
    } else {
      KOMPAKT_UNROLL
      for (int c = 0; c < 4; ++c) {
        const uint32_t word = words[(4 * j + c) / F::kWordCols * 16 + row];
        v[i][c] = F::Value(word, c % F::kWordCols);
      }
      out->scale[i] = block_scale;
    }
  }
  out->pieces = PiecesOf<F>();
  KOMPAKT_UNROLL
  for (int piece = 0; piece < PiecesOf<F>(); ++piece) {
    KOMPAKT_UNROLL
    for (int i = 0; i < 4; ++i) out->a[piece][i] = TakePiece(v[i % 2][i / 2 * 2], v[i % 2][i / 2 * 2 + 1]);
  }
}

// Starts the copies of column tile `tile` into `to`. `rows`: of x for each token.
KOMPAKT_DEVICE void FillFloatStage(const Products& p, int tile_bytes, int tile, SharedPtr<const int> rows,
                                   SharedPtr<uint8_t> to) {
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int col_tiles = (p.w.cols + 31) / 32;
  if (p.rows) {
    const uint8_t* const from = p.w.data + (static_cast<int64_t>(p.row_tile) * col_tiles + tile) * tile_bytes;
    for (int at = lane * 16; at < tile_bytes; at += 32 * 16) {
      CopyAsync16(to + (warp * kFloatTileBytes + at), from + at);
    }
  }
  // Eight threads bring a token's 32 values.
  KOMPAKT_UNROLL
  for (int i = 0; i < kManyTokens * 8 / kManyThreads; ++i) {
    const int token = i * (kManyThreads / 8) + thread / 8, col = thread % 8 * 4;
    const int row = rows[token];
    CopyAsync16(to + (kFloatsAt + (token * kFloatStride + col) * 4),
                p.x.x + static_cast<int64_t>(row) * col_tiles * 32 + tile * 32 + col);
  }
}

// acc += half a tile times tokens 8 n .. 8 n + 7, whose values are x.
KOMPAKT_DEVICE void AddHalf(const FloatFragment& w, float4 x, float (&acc)[4]) {
  uint32_t b[kPieces][2];
  KOMPAKT_UNROLL
  for (int piece = 0; piece < kPieces; ++piece) {
    b[piece][0] = TakePiece(x.x, x.y);
    b[piece][1] = TakePiece(x.z, x.w);
  }
  float c[4] = {};
  KOMPAKT_UNROLL
  for (int order = kPieces - 1; order >= 0; --order) {
    KOMPAKT_UNROLL
    for (int piece = 0; piece <= order; ++piece) {
      if (piece < w.pieces) MmaBf16(c, w.a[piece], b[order - piece]);
    }
  }
  KOMPAKT_UNROLL
  for (int i = 0; i < 4; ++i) acc[i] = fmaf(c[i], w.scale[i / 2], acc[i]);
}

// As MultiplyTiles, by p.x.x.
KOMPAKT_DEVICE void MultiplyFloatTiles(const Products& p, SharedPtr<const int> rows, SharedPtr<uint8_t> pool) {
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int g = lane / 4, t = lane % 4;
  const int col_tiles = (p.w.cols + 31) / 32;
  const int tile_bytes = DeviceFormats::TileBytes(p.w.format);
  const auto* const side = reinterpret_cast<const float*>(p.w.data + p.w.side_offset);
  float acc[kManyTokens / 8][4] = {};
  FillFloatStage(p, tile_bytes, 0, rows, pool);
  CommitAsync();
  for (int tile = 0; tile < col_tiles; ++tile) {
    if (tile + 1 < col_tiles) {
      FillFloatStage(p, tile_bytes, tile + 1, rows, pool + (tile + 1) % 2 * kFloatStageBytes);
    }
    CommitAsync();
    WaitAsync<1>();
    __syncthreads();
    const SharedPtr<const uint8_t> here = pool + tile % 2 * kFloatStageBytes;
    for (int half = 0; p.rows && half < 2; ++half) {
      FloatFragment w;
      DeviceFormats::With(p.w.format, [&](auto format) {
        using F = decltype(format);
        float block_scale = 1;
        if constexpr (F::kSide == SideKind::kBlockScale) {
          block_scale = LoadCached(side + p.row_tile / 8 * ((p.w.cols + 127) / 128) + tile / 4);
        }
        LoadHalf<F>(here + warp * kFloatTileBytes, half, block_scale, &w);
      });
      KOMPAKT_UNROLL
      for (int n = 0; n < kManyTokens / 8; ++n) {
        if (n * 8 >= p.tokens) break;
        const int at = kFloatsAt + ((n * 8 + g) * kFloatStride + half * 16 + t * 4) * 4;
        const float4 x = SharedCast<const float4>(here + at)[0];
        AddHalf(w, x, acc[n]);
      }
    }
    // The stage is filled again two steps later, behind this.
    __syncthreads();
  }
  StoreResults(p, acc, pool);
}

}  // namespace kompakt::KOMPAKT_BACKEND
