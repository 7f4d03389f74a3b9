// Parameters of an indexer's kernels (index_scores.cu, index_select.cu): which rows of the latent cache a token attends
// to, as in DeepSeek-V3.2's report, section 2.1. Pointers are device memory. T tokens of the call.
//
// A step is index_append, index_scores, index_select, then attention over the selected rows (MlaDecodeParams::ids).
// `position` is read on the device, so that a captured graph serves every step.
#pragma once

#include <cstdint>

namespace kompakt::cuda {

// The keys of an indexer on a device, one row per token, BF16. With 128 values a row has the bytes of
// kernels/latent_cache.h.
struct DeviceIndexCache {
  int dim = 0;               // values of a key, at most kMaxDim
  int64_t capacity = 0;      // rows
  uint16_t* data = nullptr;  // [capacity][dim_padded()], zeros behind dim; 16-byte aligned

  static constexpr int kMaxDim = 128;
  static constexpr int kMaxHeads = 128;

  constexpr int dim_padded() const { return (dim + 31) / 32 * 32; }
  constexpr int row_bytes() const { return 2 * dim_padded(); }
};

// Rotation of the first `dim` values of a key or a query, by the angles of its token.
struct IndexRotation {
  const float* cos_sin = nullptr;  // [T, dim / 2, 2]
  int dim = 0;                     // even, at most that of the keys
  bool halves = false;             // pair j is j and j + dim / 2; else 2j and 2j + 1
};

// Appends T rows: LayerNorm, then rotation.
struct IndexAppendParams {
  const float* a = nullptr;     // [T, dim]: output of wk
  const float* norm = nullptr;  // [dim]
  const float* bias = nullptr;  // [dim]
  float eps = 0;
  IndexRotation rotation;
  const int32_t* position = nullptr;  // [1]: row of the first token
  int tokens = 0;
  DeviceIndexCache cache;
};

// scores[t][j] = scale * sum over heads of w[t][head] * relu(q[t][head] . key[j]) for the rows j that token t sees:
// [0, position + first + t]. Queries are taken as the sum of two BF16 values, and what is summed is F32.
struct IndexScoresParams {
  int heads = 0;             // at most DeviceIndexCache::kMaxHeads
  const float* q = nullptr;  // [T, heads, dim], not rotated
  const float* w = nullptr;  // [T, heads]
  float scale = 0;
  IndexRotation rotation;
  const int32_t* position = nullptr;  // [1]: of the call that these tokens are part of
  int first = 0;                      // tokens of that call before these
  int tokens = 0;
  int rows = 0;  // no token sees more
  DeviceIndexCache cache;
  float* scores = nullptr;  // [T, capacity]
};

// ids[t] = the `top_k` rows of highest score that token t sees, ascending; equal scores as kernels/top_rows.h has them.
// A token that sees no more rows than that gets all of them, whatever they score; behind them ids are not written.
struct IndexSelectParams {
  int top_k = 0;
  const int32_t* position = nullptr;  // as above
  int first = 0;
  int tokens = 0;
  int64_t capacity = 0;            // of the cache
  float* scores = nullptr;         // [T, capacity], of IndexScores; changed
  int32_t* order = nullptr;        // [T, capacity], scratch
  int32_t* ids = nullptr;          // [T, top_k]
  uint32_t* not_finite = nullptr;  // [1], set to 1 where a score was NaN or infinite
};

}  // namespace kompakt::cuda
