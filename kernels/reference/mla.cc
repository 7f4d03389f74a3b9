#include <algorithm>
#include <cmath>
#include <limits>

#include "format/status.h"
#include "kernels/reference/dot.h"
#include "kernels/reference/reference_ops.h"

namespace kompakt::reference {
namespace {

constexpr int64_t kBlock = 64;  // cached rows that are decompressed at a time

// What one head needs; sizes in floats or doubles as the types say.
struct HeadScratch {
  float* weights;   // [dn + dv, rank]: the head's rows of kv_b
  float* rows;      // [kBlock, width]: cache rows, where they are not stored as F32
  float* keys;      // [kBlock, dn]
  float* values;    // [kBlock, dv]
  double* largest;  // [T]: running maximum of the scores
  double* sum;      // [T]: running sum of exp(score - largest)
  double* mean;     // [T, dv]: running sum of exp(score - largest) * value
};

// Adds cache rows [begin, begin + n) to the running softmax of query t.
void AddBlock(const MlaParams& p, const HeadScratch& s, const float* rows, const float* q, int64_t t, int64_t n) {
  const int64_t width = p.cache.width();
  double scores[kBlock];
  double largest = s.largest[t];
  for (int64_t j = 0; j < n; ++j) {
    const double dot =
        Dot(q, s.keys + j * p.nope_dim, p.nope_dim) + Dot(q + p.nope_dim, rows + j * width + p.cache.rank, p.rope_dim);
    scores[j] = static_cast<double>(p.softmax_scale) * dot;
    largest = std::max(largest, scores[j]);
  }
  double* const mean = s.mean + t * p.value_dim;
  const double keep = std::exp(s.largest[t] - largest);
  s.sum[t] *= keep;
  for (int64_t d = 0; d < p.value_dim; ++d) mean[d] *= keep;
  for (int64_t j = 0; j < n; ++j) {
    const double weight = std::exp(scores[j] - largest);
    s.sum[t] += weight;
    for (int64_t d = 0; d < p.value_dim; ++d) {
      mean[d] += weight * static_cast<double>(s.values[j * p.value_dim + d]);
    }
  }
  s.largest[t] = largest;
}

void PrefillHead(const MlaParams& p, const HeadScratch& s, int64_t head) {
  const int64_t rank = p.cache.rank;
  const int64_t width = p.cache.width();
  const int64_t head_rows = p.nope_dim + p.value_dim;
  const int64_t q_width = p.nope_dim + p.rope_dim;
  DecodeRows(p.kv_b, head * head_rows, (head + 1) * head_rows,
             absl::MakeSpan(s.weights, static_cast<size_t>(head_rows * rank)));
  std::fill(s.largest, s.largest + p.tokens, -std::numeric_limits<double>::infinity());
  std::fill(s.sum, s.sum + p.tokens, 0.0);
  std::fill(s.mean, s.mean + p.tokens * p.value_dim, 0.0);
  const int64_t filled = p.position + p.tokens;
  for (int64_t begin = 0; begin < filled; begin += kBlock) {
    const int64_t end = std::min(filled, begin + kBlock);
    const float* const rows = LatentRows(p.cache, begin, end, s.rows);
    for (int64_t j = 0; j < end - begin; ++j) {
      for (int64_t d = 0; d < head_rows; ++d) {
        const auto value = static_cast<float>(Dot(rows + j * width, s.weights + d * rank, rank));
        if (d < p.nope_dim) {
          s.keys[j * p.nope_dim + d] = value;
        } else {
          s.values[j * p.value_dim + d - p.nope_dim] = value;
        }
      }
    }
    for (int64_t t = std::max<int64_t>(0, begin - p.position); t < p.tokens; ++t) {
      const int64_t seen = std::min(end, p.position + t + 1) - begin;
      AddBlock(p, s, rows, p.q + (t * p.heads + head) * q_width, t, seen);
    }
  }
  for (int64_t t = 0; t < p.tokens; ++t) {
    float* const y = p.y + (t * p.heads + head) * p.value_dim;
    for (int64_t d = 0; d < p.value_dim; ++d) {
      y[d] = static_cast<float>(s.mean[t * p.value_dim + d] / s.sum[t]);
    }
  }
}

// One token and head in the absorbed form. `latent_query` and `latent_mean`: [rank]; `scores`: [rows seen].
void DecodeHead(const MlaParams& p, int64_t t, int64_t head, float* weights, float* row_scratch, float* latent_query,
                double* latent_mean, double* scores) {
  const int64_t rank = p.cache.rank;
  const int64_t head_rows = p.nope_dim + p.value_dim;
  const float* const q = p.q + (t * p.heads + head) * (p.nope_dim + p.rope_dim);
  DecodeRows(p.kv_b, head * head_rows, (head + 1) * head_rows,
             absl::MakeSpan(weights, static_cast<size_t>(head_rows * rank)));
  for (int64_t i = 0; i < rank; ++i) {
    double sum = 0;
    for (int64_t d = 0; d < p.nope_dim; ++d) {
      sum += static_cast<double>(q[d]) * static_cast<double>(weights[d * rank + i]);
    }
    latent_query[i] = static_cast<float>(sum);
  }
  const int64_t seen = p.position + t + 1;
  double largest = -std::numeric_limits<double>::infinity();
  for (int64_t j = 0; j < seen; ++j) {
    const float* const row = LatentRows(p.cache, j, j + 1, row_scratch);
    scores[j] = static_cast<double>(p.softmax_scale) *
                (Dot(latent_query, row, rank) + Dot(q + p.nope_dim, row + rank, p.rope_dim));
    largest = std::max(largest, scores[j]);
  }
  double total = 0;
  std::fill(latent_mean, latent_mean + rank, 0.0);
  for (int64_t j = 0; j < seen; ++j) {
    const float* const row = LatentRows(p.cache, j, j + 1, row_scratch);
    const double weight = std::exp(scores[j] - largest);
    total += weight;
    for (int64_t i = 0; i < rank; ++i) latent_mean[i] += weight * static_cast<double>(row[i]);
  }
  float* const y = p.y + (t * p.heads + head) * p.value_dim;
  const float* const up = weights + p.nope_dim * rank;
  for (int64_t d = 0; d < p.value_dim; ++d) {
    double sum = 0;
    for (int64_t i = 0; i < rank; ++i) sum += latent_mean[i] / total * static_cast<double>(up[d * rank + i]);
    y[d] = static_cast<float>(sum);
  }
}

}  // namespace

absl::Status MlaPrefill(const MlaParams& p, KernelContext& context) {
  const int64_t head_rows = p.nope_dim + p.value_dim;
  const int64_t floats = head_rows * p.cache.rank + kBlock * (p.cache.width() + head_rows);
  const int64_t doubles = p.tokens * (2 + p.value_dim);
  Workspace::Scope scope(*context.workspace);
  KOMPAKT_ASSIGN_OR_RETURN(float* const f, context.workspace->Floats(context.threads() * floats));
  KOMPAKT_ASSIGN_OR_RETURN(double* const d, context.workspace->Doubles(context.threads() * doubles));
  context.Run(p.heads, [&](int64_t head, int thread) {
    HeadScratch s{};
    s.weights = f + thread * floats;
    s.rows = s.weights + head_rows * p.cache.rank;
    s.keys = s.rows + kBlock * p.cache.width();
    s.values = s.keys + kBlock * p.nope_dim;
    s.largest = d + thread * doubles;
    s.sum = s.largest + p.tokens;
    s.mean = s.sum + p.tokens;
    PrefillHead(p, s, head);
  });
  return absl::OkStatus();
}

absl::Status MlaDecode(const MlaParams& p, KernelContext& context) {
  const int64_t rank = p.cache.rank;
  const int64_t floats = (p.nope_dim + p.value_dim) * rank + p.cache.width() + rank;
  const int64_t doubles = rank + p.position + p.tokens;
  Workspace::Scope scope(*context.workspace);
  KOMPAKT_ASSIGN_OR_RETURN(float* const f, context.workspace->Floats(context.threads() * floats));
  KOMPAKT_ASSIGN_OR_RETURN(double* const d, context.workspace->Doubles(context.threads() * doubles));
  context.Run(p.heads, [&](int64_t head, int thread) {
    float* const weights = f + thread * floats;
    float* const row = weights + (p.nope_dim + p.value_dim) * rank;
    double* const mean = d + thread * doubles;
    for (int64_t t = 0; t < p.tokens; ++t) {
      DecodeHead(p, t, head, weights, row, row + p.cache.width(), mean, mean + rank);
    }
  });
  return absl::OkStatus();
}

}  // namespace kompakt::reference
