// A random problem of latent attention, and what the plain formula in F64 makes of it.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/kernel_set.h"
#include "tests/kernels/random_matrix.h"

namespace kompakt {

struct AttentionShape {
  int64_t heads, nope, rope, value, rank;
};

struct AttentionCase {
  AttentionShape shape;
  CacheFormat cache_format = CacheFormat::kF32;
  RandomMatrix kv_b;
  AlignedBuffer cache_bytes;
  LatentCache cache;
  std::vector<float> rows;  // [filled, width], as the cache gives them back
  std::vector<float> q;     // [T, H, nope + rope]
  int64_t tokens;
  int64_t position;
  float scale;

  // y: [tokens, heads, value].
  MlaParams Params(float* y) const;
};

// Scores and values are of order 1. Rows behind the filled ones hold NaN.
AttentionCase MakeAttentionCase(const AttentionShape& shape, FormatId format, int64_t position, int64_t tokens,
                                CacheFormat cache_format = CacheFormat::kF32);

// [tokens, heads, value].
std::vector<double> PlainAttention(const AttentionCase& c);

}  // namespace kompakt
