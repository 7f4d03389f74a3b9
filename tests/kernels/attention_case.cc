#include "tests/kernels/attention_case.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace kompakt {

MlaParams AttentionCase::Params(float* y) const {
  return {.heads = shape.heads,
          .nope_dim = shape.nope,
          .rope_dim = shape.rope,
          .value_dim = shape.value,
          .softmax_scale = scale,
          .kv_b = kv_b.view,
          .q = q.data(),
          .tokens = tokens,
          .position = position,
          .cache = cache,
          .y = y};
}

AttentionCase MakeAttentionCase(const AttentionShape& s, FormatId format, int64_t position, int64_t tokens,
                                CacheFormat cache_format) {
  AttentionCase c;
  c.shape = s;
  c.cache_format = cache_format;
  c.tokens = tokens;
  c.position = position;
  c.kv_b =
      MakeRandomMatrix(format, s.heads * (s.nope + s.value), s.rank, 1.0f / std::sqrt(static_cast<float>(s.rank)), 1);
  const int64_t filled = position + tokens;
  c.cache_bytes = *AlignedBuffer::Create(
      static_cast<uint64_t>(filled + 3) * LatentCache::LatentRowBytes(s.rank, s.rope, cache_format), "cache");
  c.cache = {
      .rank = s.rank, .rope = s.rope, .capacity = filled + 3, .data = c.cache_bytes.data(), .format = cache_format};
  c.rows = RandomVector(filled * c.cache.width(), 1.0f, 2);
  for (int64_t j = 0; j < filled; ++j) StoreLatentRow(c.cache, j, &c.rows[static_cast<size_t>(j * c.cache.width())]);
  std::vector<float> scratch(c.rows.size());
  const float* const read = LatentRows(c.cache, 0, filled, scratch.data());
  std::copy_n(read, c.rows.size(), c.rows.begin());
  // What lies behind the filled rows must not be seen.
  const std::vector<float> poison(static_cast<size_t>(c.cache.width()), std::nanf(""));
  for (int64_t j = filled; j < filled + 3; ++j) StoreLatentRow(c.cache, j, poison.data());
  c.q = RandomVector(tokens * s.heads * (s.nope + s.rope), 1.0f, 3);
  c.scale = 1.0f / std::sqrt(static_cast<float>(s.nope + s.rope));
  return c;
}

std::vector<double> PlainAttention(const AttentionCase& c) {
  const AttentionShape& s = c.shape;
  const int64_t filled = c.position + c.tokens;
  const int64_t width = s.rank + s.rope;
  std::vector<double> y(static_cast<size_t>(c.tokens * s.heads * s.value), 0);
  for (int64_t h = 0; h < s.heads; ++h) {
    const int64_t head_rows = s.nope + s.value;
    std::vector<double> kv(static_cast<size_t>(filled * head_rows), 0);
    for (int64_t j = 0; j < filled; ++j) {
      for (int64_t d = 0; d < head_rows; ++d) {
        double sum = 0;
        for (int64_t i = 0; i < s.rank; ++i) {
          sum += static_cast<double>(c.rows[static_cast<size_t>(j * width + i)]) *
                 static_cast<double>(c.kv_b.values[static_cast<size_t>((h * head_rows + d) * s.rank + i)]);
        }
        kv[static_cast<size_t>(j * head_rows + d)] = sum;
      }
    }
    for (int64_t t = 0; t < c.tokens; ++t) {
      const float* const q = &c.q[static_cast<size_t>((t * s.heads + h) * (s.nope + s.rope))];
      const int64_t seen = c.position + t + 1;
      std::vector<double> p(static_cast<size_t>(seen));
      double largest = -std::numeric_limits<double>::infinity();
      for (int64_t j = 0; j < seen; ++j) {
        double dot = 0;
        for (int64_t d = 0; d < s.nope; ++d)
          dot += static_cast<double>(q[d]) * kv[static_cast<size_t>(j * head_rows + d)];
        for (int64_t d = 0; d < s.rope; ++d) {
          dot += static_cast<double>(q[s.nope + d]) *
                 static_cast<double>(c.rows[static_cast<size_t>(j * width + s.rank + d)]);
        }
        p[static_cast<size_t>(j)] = dot * static_cast<double>(c.scale);
        largest = std::max(largest, p[static_cast<size_t>(j)]);
      }
      double sum = 0;
      for (double& x : p) sum += x = std::exp(x - largest);
      for (int64_t j = 0; j < seen; ++j) {
        for (int64_t d = 0; d < s.value; ++d) {
          y[static_cast<size_t>((t * s.heads + h) * s.value + d)] +=
              p[static_cast<size_t>(j)] / sum * kv[static_cast<size_t>(j * head_rows + s.nope + d)];
        }
      }
    }
  }
  return y;
}

}  // namespace kompakt
