// A block of eight warps that multiplies 32 rows of one or two matrices by some tokens, and hands each warp the results
// of one token, lane = row.
#pragma once

#include "kernels/cuda/row_tiles.cuh"
#include "kernels/cuda/rows_out.cuh"

namespace kompakt::KOMPAKT_BACKEND {

inline constexpr int kDecodeWarps = 8;
inline constexpr int kDecodeThreads = kDecodeWarps * 32;
// Blocks of one token that a multiprocessor holds at least, which bounds the registers to 80; of several tokens 2, 128.
constexpr int DecodeBlocks(int tokens) { return tokens == 1 ? 3 : 2; }
// Dynamic shared memory: the warps' rings.
inline constexpr int kDecodeSharedBytes = kDecodeWarps * kRingBytes;
// Tokens of a block where there are several. Twice as many would need twice the registers; the weights of neighbouring
// blocks come from L2.
inline constexpr int kChunk = 4;
// Floats of shared memory for partial sums: 16 rows of each warp and token.
constexpr int PartialFloats(int tokens) { return kDecodeWarps * 16 * tokens; }

// A warp's 16 rows into partial[token][warp][row]. The caller synchronises before Collect.
template <int kTokens>
KOMPAKT_DEVICE void StorePartial(const RowSums<kTokens>& sums, SharedPtr<float> partial) {
  const int warp = static_cast<int>(threadIdx.x / 32), lane = static_cast<int>(threadIdx.x % 32);
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
  const int lane = static_cast<int>(threadIdx.x % 32);
  float v = 0;
  KOMPAKT_UNROLL
  for (int part = 0; part < kParts; ++part) {
    const float s = partial[(token * kDecodeWarps + first + 2 * part + lane / 16) * 16 + lane % 16];
    v += s;
  }
  return v;
}

// The ring of this warp in the dynamic shared memory.
KOMPAKT_DEVICE SharedPtr<uint8_t> WarpRing() {
  KOMPAKT_DYNAMIC_SHARED(memory);
  return SharedSlice<uint8_t>(memory, threadIdx.x / 32 * kRingBytes, kRingBytes);
}

// Rows 32 block .. 32 block + 31 of w times the tokens, over part `part` of `parts` of the columns: warp t gets those
// of token t. Warps 2 i and 2 i + 1 take the i-th quarter of the column tiles of the two row tiles. All threads of the
// block call this; each calls `meanwhile()` while weights are on their way.
template <int kTokens, typename Meanwhile>
KOMPAKT_DEVICE float MultiplyBlock(const cuda::Matrix& w, int block, const cuda::Activations& x,
                                   const TokenRows<kTokens>& tokens, SharedPtr<float> partial,
                                   const Meanwhile& meanwhile, int part = 0, int parts = 1) {
  constexpr int kQuarters = kDecodeWarps / 2;
  const int warp = static_cast<int>(threadIdx.x / 32);
  StorePartial(MultiplyRowTile<kTokens>(w, block * 2 + warp % 2, part * kQuarters + warp / 2, parts * kQuarters, x,
                                        tokens, WarpRing(), meanwhile),
               partial);
  __syncthreads();
  return warp < kTokens ? Collect<kQuarters>(partial, warp, 0) : 0;
}

// The token that this warp finishes, of the chunk blockIdx.x.
template <int kTokens>
struct WarpsToken {
  int token;
  bool there;

  KOMPAKT_DEVICE explicit WarpsToken(int64_t tokens)
      : token(static_cast<int>(blockIdx.x * kTokens + threadIdx.x / 32)),
        there(threadIdx.x / 32 < kTokens && token < tokens) {}
};

// The squares of each token's row, kept in shared memory by the warp that finishes the token, until its end: asked for
// early, and in no register meanwhile.
template <int kTokens>
struct NormInputs {
  SharedPtr<float> squares;  // [kTokens][32]

  KOMPAKT_DEVICE void Load(const cuda::Activations& x, int token) const {
    squares[threadIdx.x] = LaneSquares(x, token);
  }
  KOMPAKT_DEVICE float Factor(const cuda::Activations& x) const {
    const float of_lane = squares[threadIdx.x];
    return NormFactor(x, of_lane);
  }
};

// Rows of activations that a block of token chunk `chunk` multiplies; the last one again where there are fewer.
template <int kTokens>
KOMPAKT_DEVICE TokenRows<kTokens> RowsOfChunk(int chunk, int tokens) {
  TokenRows<kTokens> rows;
  KOMPAKT_UNROLL
  for (int t = 0; t < kTokens; ++t) rows.row[t] = min(chunk * kTokens + t, tokens - 1);
  return rows;
}

}  // namespace kompakt::KOMPAKT_BACKEND
