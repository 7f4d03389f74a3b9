// Scores of an indexer. Parts of the cache are tasks: the keys of a part are transposed once into panels and multiplied
// with the queries of all heads of several tokens. Then each token chooses for itself.
#include <algorithm>
#include <atomic>

#include "format/status.h"
#include "kernels/portable/mla.h"
#include "kernels/portable/portable_ops.h"
#include "kernels/portable/row_tiles.h"
#include "kernels/top_rows.h"

namespace kompakt::portable {
namespace {

constexpr int64_t kTokensAtOnce = 8;
constexpr int64_t kQueryTile = 16;

struct Job {
  const PanelIsa& isa;
  const IndexSelectParams& p;
  int64_t token;         // first of the call's tokens that this job computes
  int64_t tokens;        // at most kTokensAtOnce
  float* scores;         // [tokens, score_stride]
  int64_t score_stride;  // rows seen by the last token, in whole blocks
};

// scores[t][begin .. begin + kCacheBlock) of every token of the job. scratch: kCacheBlock * (2 * dim + kQueryTile)
// floats.
void ScoreBlock(const Job& job, int64_t begin, float* scratch) {
  const IndexSelectParams& p = job.p;
  const int64_t dim = p.cache.dim;
  const int64_t end = std::min(begin + kCacheBlock, p.position + job.token + job.tokens);
  const int64_t tiles = CeilDiv(end - begin, kTileRows);
  float* const keys = scratch;                      // [tiles][dim][16]
  float* const dots = scratch + kCacheBlock * dim;  // [kQueryTile][kCacheBlock]
  const float* const rows = IndexKeys(p.cache, begin, end, dots + kQueryTile * kCacheBlock);
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const int64_t n = std::min(kTileRows, end - begin - tile * kTileRows);
    float* const panel = keys + tile * dim * kTileRows;
    if (n < kTileRows) std::fill_n(panel, dim * kTileRows, 0.0f);
    Transpose(job.isa, rows + tile * kTileRows * dim, dim, n, dim, panel, kTileRows);
  }
  for (int64_t t = 0; t < job.tokens; ++t) {
    float* const scores = job.scores + t * job.score_stride + begin;
    std::fill_n(scores, tiles * kTileRows, 0.0f);
    const int64_t row = (job.token + t) * p.heads;
    for (int64_t first = 0; first < p.heads; first += kQueryTile) {
      const int64_t n = std::min(kQueryTile, p.heads - first);
      const float* a[kQueryTile];
      for (int64_t i = 0; i < n; ++i) a[i] = p.q + (row + first + i) * dim;
      job.isa.multiply({.a = a,
                        .tokens = n,
                        .k = dim,
                        .panel = keys,
                        .tiles = tiles,
                        .tile_stride = dim * kTileRows,
                        .c = dots,
                        .c_stride = kCacheBlock});
      for (int64_t i = 0; i < n; ++i) {
        const float w = p.w[row + first + i];
        const float* const dot = dots + i * kCacheBlock;
        // Not std::max, which would hide a NaN.
        for (int64_t j = 0; j < tiles * kTileRows; ++j) scores[j] += w * (dot[j] < 0.0f ? 0.0f : dot[j]);
      }
    }
    for (int64_t j = 0; j < tiles * kTileRows; ++j) scores[j] *= p.scale;
  }
}

absl::Status RunJob(Job job, KernelContext& context, std::atomic<bool>* finite) {
  const IndexSelectParams& p = job.p;
  const int64_t last_seen = p.position + job.token + job.tokens;
  const int64_t blocks = CeilDiv(last_seen, kCacheBlock);
  job.score_stride = blocks * kCacheBlock;
  Workspace::Scope scope(*context.workspace);
  KOMPAKT_ASSIGN_OR_RETURN(job.scores, context.workspace->Floats(job.tokens * job.score_stride));
  KOMPAKT_ASSIGN_OR_RETURN(int32_t* const orders, context.workspace->Ints(job.tokens * p.cache.capacity));
  const int64_t floats = kCacheBlock * (2 * p.cache.dim + kQueryTile);
  KOMPAKT_ASSIGN_OR_RETURN(float* const scratch, context.workspace->Floats(context.threads() * floats));
  const bool parallel = WorthThreads(job.tokens * p.heads * last_seen * p.cache.dim);
  context.Run(
      blocks, [&](int64_t block, int thread) { ScoreBlock(job, block * kCacheBlock, scratch + thread * floats); },
      parallel);
  context.Run(
      job.tokens,
      [&](int64_t t, int) {
        const int64_t seen = p.position + job.token + t + 1;
        float* const scores = job.scores + t * job.score_stride;
        if (!CleanScores(scores, seen)) finite->store(false, std::memory_order_relaxed);
        SelectTopRows(scores, seen, p.cache.capacity, p.top_k, orders + t * p.cache.capacity,
                      p.ids + (job.token + t) * p.top_k);
      },
      parallel);
  return absl::OkStatus();
}

}  // namespace

absl::Status IndexSelect(const IndexSelectParams& p, KernelContext& context) {
  std::atomic<bool> finite = true;
  for (int64_t token = 0; token < p.tokens; token += kTokensAtOnce) {
    const Job job{.isa = BestPanelIsa(),
                  .p = p,
                  .token = token,
                  .tokens = std::min(kTokensAtOnce, p.tokens - token),
                  .scores = nullptr,
                  .score_stride = 0};
    KOMPAKT_RETURN_IF_ERROR(RunJob(job, context, &finite));
  }
  *p.finite = finite.load();
  return absl::OkStatus();
}

}  // namespace kompakt::portable
