// A block of eight warps that multiplies 32 rows of one or two matrices by some tokens, and hands each warp the results
// of one token, lane = row.
#pragma once

#include "kernels/cuda/row_tiles.cuh"
#include "kernels/cuda/rows_out.cuh"

namespace kompakt::KOMPAKT_BACKEND {

inline constexpr int kDecodeWarps = 8;
inline constexpr int kDecodeThreads = kDecodeWarps * 32;
// Blocks that a multiprocessor holds at least, which bounds the registers to 128.
inline constexpr int kDecodeBlocks = 2;
// Tokens of a block where there are several. Twice as many would need twice the registers; the weights of neighbouring
// blocks come from L2.
inline constexpr int kChunk = 4;
// Floats of shared memory for partial sums: 16 rows of each warp and token.
constexpr int PartialFloats(int tokens) { return kDecodeWarps * 16 * tokens; }

// A warp's 16 rows into partial[token][warp][row]. The caller synchronises before Collect.
template <int kTokens>
KOMPAKT_DEVICE void StorePartial(const RowSums<kTokens>& sums, SharedPtr<float> partial) {
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  if (lane >= 4) return;
  KOMPAKT_UNROLL
  for (int t = 0; t < kTokens; ++t) {
    KOMPAKT_UNROLL
    for (int r = 0; r < 4; ++r) partial[(t * kDecodeWarps + warp) * 16 + lane * 4 + r] = sums.v[r][t];
  }
}

// The sum of row lane % 16 over warps first, first + 2, ... of kParts, in this order; row tile lane / 16 is that of the
// odd warps.
template <int kParts>
KOMPAKT_DEVICE float Collect(SharedPtr<float> partial, int token, int first) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  float v = 0;
  KOMPAKT_UNROLL
  for (int part = 0; part < kParts; ++part) {
    const float s = partial[(token * kDecodeWarps + first + 2 * part + lane / 16) * 16 + lane % 16];
    v += s;
  }
  return v;
}

// Rows 32 block .. 32 block + 31 of w times the tokens: warp t gets those of token t. Warps 2 i and 2 i + 1 take the
// i-th quarter of the column tiles of the two row tiles. All threads of the block call this.
template <int kTokens>
KOMPAKT_DEVICE float MultiplyBlock(const cuda::Matrix& w, int block, const cuda::Activations& x,
                                   const TokenRows<kTokens>& tokens, SharedPtr<float> partial) {
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int row_tile = block * 2 + warp % 2;
  RowSums<kTokens> sums;
  if (row_tile * 16 < w.rows) sums = MultiplyRowTile<kTokens>(w, row_tile, warp / 2, kDecodeWarps / 2, x, tokens);
  StorePartial(sums, partial);
  __syncthreads();
  return warp < kTokens ? Collect<kDecodeWarps / 2>(partial, warp, 0) : 0;
}

// Rows of activations that a block of token chunk `chunk` multiplies; the last one again where there are fewer.
template <int kTokens>
KOMPAKT_DEVICE TokenRows<kTokens> RowsOfChunk(int64_t chunk, int64_t tokens) {
  TokenRows<kTokens> rows;
  KOMPAKT_UNROLL
  for (int t = 0; t < kTokens; ++t) rows.row[t] = static_cast<int>(min(chunk * kTokens + t, tokens - 1));
  return rows;
}

}  // namespace kompakt::KOMPAKT_BACKEND
