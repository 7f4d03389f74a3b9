#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

#include "format/status.h"
#include "kernels/reference/dot.h"
#include "kernels/reference/reference_ops.h"
#include "kernels/reference/rotate.h"
#include "kernels/sparse_mla.h"
#include "kernels/top_rows.h"

namespace kompakt::reference {
namespace {

constexpr int64_t kTokens = 8;

void LayerNormRow(const float* x, const IndexAppendParams& p, float* y) {
  const int64_t n = p.cache.dim;
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(x[i]);
  const double mean = sum / static_cast<double>(n);
  double squares = 0;
  for (int64_t i = 0; i < n; ++i) {
    const double d = static_cast<double>(x[i]) - mean;
    squares += d * d;
  }
  const double scale = 1.0 / std::sqrt(squares / static_cast<double>(n) + p.eps);
  for (int64_t i = 0; i < n; ++i) {
    y[i] = static_cast<float>((static_cast<double>(x[i]) - mean) * scale * static_cast<double>(p.norm[i]) +
                              static_cast<double>(p.bias[i]));
  }
}

}  // namespace

absl::Status IndexAppend(const IndexAppendParams& p, KernelContext& context) {
  const int64_t dim = p.cache.dim;
  Workspace::Scope scope(*context.workspace);
  KOMPAKT_ASSIGN_OR_RETURN(float* const rows, context.workspace->Floats(context.threads() * dim));
  context.RunPieces(p.tokens, kTokens, [&](int64_t begin, int64_t end, int thread) {
    float* const key = rows + thread * dim;
    for (int64_t t = begin; t < end; ++t) {
      LayerNormRow(p.a + t * dim, p, key);
      RotateRow(p.cos_sin + t * p.rope_dim, p.rope_dim, p.pairs, key);
      StoreIndexKey(p.cache, p.position + t, key);
    }
  });
  return absl::OkStatus();
}

absl::Status IndexSelect(const IndexSelectParams& p, KernelContext& context) {
  const int64_t filled = p.position + p.tokens;
  Workspace::Scope scope(*context.workspace);
  KOMPAKT_ASSIGN_OR_RETURN(float* const all_scores, context.workspace->Floats(context.threads() * filled));
  KOMPAKT_ASSIGN_OR_RETURN(float* const all_keys, context.workspace->Floats(context.threads() * p.cache.dim));
  KOMPAKT_ASSIGN_OR_RETURN(int32_t* const all_orders, context.workspace->Ints(context.threads() * p.cache.capacity));
  std::atomic<bool> finite = true;
  context.Run(p.tokens, [&](int64_t t, int thread) {
    float* const scores = all_scores + thread * filled;
    const int64_t seen = p.position + t + 1;
    const int64_t dim = p.cache.dim;
    for (int64_t j = 0; j < seen; ++j) {
      const float* const key = IndexKeys(p.cache, j, j + 1, all_keys + thread * dim);
      double score = 0;
      for (int64_t h = 0; h < p.heads; ++h) {
        const double dot = Dot(p.q + (t * p.heads + h) * dim, key, dim);
        // Not std::max, which would hide a NaN.
        const double relu = dot < 0 ? 0 : dot;
        score += static_cast<double>(p.w[t * p.heads + h]) * relu;
      }
      scores[j] = static_cast<float>(static_cast<double>(p.scale) * score);
    }
    if (!CleanScores(scores, seen)) finite.store(false, std::memory_order_relaxed);
    SelectTopRows(scores, seen, p.cache.capacity, p.top_k, all_orders + thread * p.cache.capacity, p.ids + t * p.top_k);
  });
  *p.finite = finite.load();
  return absl::OkStatus();
}

absl::Status MlaSparse(const MlaSparseParams& p, KernelContext& context) {
  return GatherAndAttend(
      p, 1,
      [&](int64_t token, int64_t /*tokens*/, const LatentCache* caches) {
        MlaParams one = p.mla;
        one.tokens = 1;
        one.position = p.selected - 1;
        one.cache = *caches;
        one.q += token * one.heads * (one.nope_dim + one.rope_dim);
        one.y += token * one.heads * one.value_dim;
        return MlaDecode(one, context);
      },
      context);
}

}  // namespace kompakt::reference
