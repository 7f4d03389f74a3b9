// The absorbed form. Three steps: queries into the latent space, per head; attention over the cache, split into parts
// of fixed rows so that threads have work whatever the number of heads; the parts merged and brought out of the latent
// space, per head. A part takes all heads together, because they share the cache rows.
#include <algorithm>
#include <limits>

#include "format/status.h"
#include "kernels/portable/mla.h"
#include "kernels/portable/portable_ops.h"
#include "kernels/portable/row_tiles.h"
#include "kernels/sparse_mla.h"

namespace kompakt::portable {
namespace {

constexpr int64_t kPartRows = 8 * kCacheBlock;  // of the cache; begins at a multiple of that in the timeline
constexpr int64_t kQueryTile = 16;
constexpr int64_t kTokensAtOnce = 8;
constexpr float kNegInf = -std::numeric_limits<float>::infinity();

// Rows are pairs (token, head), token-major.
struct Job {
  const PanelIsa& isa;
  const MlaParams& p;
  const LatentCache*
      caches;        // of each token of the job, whole, for mla_sparse; null: p.cache up to the token's own row
  int64_t token;     // first of the call's tokens that this job computes
  int64_t tokens;    // at most kTokensAtOnce
  int64_t rows = 0;  // tokens * heads
  int64_t parts = 0;
  int64_t rank_pad = 0;      // rank padded to panels
  float* queries = nullptr;  // [rows][width]: in the latent space, then the rotary part
  float* means = nullptr;    // [parts][rows][rank_pad]: sums of exp(score - largest) * latent
  float* largest = nullptr;  // [parts][rows]
  float* sums = nullptr;     // [parts][rows]

  const float* query(int64_t row) const { return p.q + (token * p.heads + row) * (p.nope_dim + p.rope_dim); }
};

// q^ = W_UK^T q of one head, and the rotary part beside it. weights: [nope_pad][panel_cols] and a panel of that size.
void AbsorbQueries(const Job& job, int64_t head, float* weights, float* panels) {
  const MlaParams& p = job.p;
  const int64_t cols = p.kv_b.layout.col_tiles * kTileCols;
  const int64_t tiles = CeilDiv(p.nope_dim, kTileRows);
  DecodeRowPanels(job.isa, p.kv_b, head * (p.nope_dim + p.value_dim), p.nope_dim, panels);
  for (int64_t i = 0; i < tiles; ++i) {
    job.isa.transpose(panels + i * cols * kTileRows, kTileRows, cols, kTileRows, weights + i * kTileRows * cols, cols);
  }
  const float* q[kTokensAtOnce];
  for (int64_t t = 0; t < job.tokens; ++t) q[t] = job.query(t * p.heads + head);
  // The panels are done with; their first floats take the result.
  float* const absorbed = panels;
  const int64_t rank_tiles = CeilDiv(p.cache.rank, kTileRows);
  job.isa.multiply({.a = q,
                    .tokens = job.tokens,
                    .k = p.nope_dim,
                    .panel = weights,
                    .k_stride = cols,
                    .tiles = rank_tiles,
                    .tile_stride = kTileRows,
                    .c = absorbed,
                    .c_stride = job.rank_pad});
  for (int64_t t = 0; t < job.tokens; ++t) {
    float* const out = job.queries + (t * p.heads + head) * p.cache.width();
    std::copy_n(absorbed + t * job.rank_pad, p.cache.rank, out);
    std::copy_n(q[t] + p.nope_dim, p.rope_dim, out + p.cache.rank);
  }
}

// Rows [row_begin, row_end) over the rows of one part of `cache`, of which row r sees first + r / heads + 1.
void AttendPart(const Job& job, const LatentCache& cache, int64_t first, int64_t part, int64_t row_begin,
                int64_t row_end, float* scratch) {
  const MlaParams& p = job.p;
  const int64_t width = p.cache.width();
  float* const scores = scratch;                          // [kQueryTile][kCacheBlock]
  float* const keys = scores + kQueryTile * kCacheBlock;  // [kCacheBlock / 16][width][16]
  float* const values = keys + kCacheBlock * width;       // [kCacheBlock][rank_pad], where rows cannot be used in place
  float* const row_scratch = values + kCacheBlock * job.rank_pad;
  const int64_t at = part * job.rows;
  std::fill(job.largest + at + row_begin, job.largest + at + row_end, kNegInf);
  std::fill(job.sums + at + row_begin, job.sums + at + row_end, 0.0f);
  std::fill(job.means + (at + row_begin) * job.rank_pad, job.means + (at + row_end) * job.rank_pad, 0.0f);
  const int64_t part_end = std::min((part + 1) * kPartRows, first + CeilDiv(row_end, p.heads));
  for (int64_t begin = part * kPartRows; begin < part_end; begin += kCacheBlock) {
    const int64_t end = std::min(part_end, begin + kCacheBlock);
    const float* const rows = LatentRows(cache, begin, end, row_scratch);
    for (int64_t tile = 0; begin + tile * kTileRows < end; ++tile) {
      const int64_t n = std::min(kTileRows, end - begin - tile * kTileRows);
      float* const panel = keys + tile * width * kTileRows;
      if (n < kTileRows) std::fill_n(panel, width * kTileRows, 0.0f);
      Transpose(job.isa, rows + tile * kTileRows * width, width, n, width, panel, kTileRows);
    }
    // A panel of 16 latent values must not reach past the last row of the cache.
    const bool in_place = p.cache.rank % kTileRows == 0;
    if (!in_place) {
      for (int64_t j = 0; j < end - begin; ++j) {
        std::copy_n(rows + j * width, p.cache.rank, values + j * job.rank_pad);
        std::fill_n(values + j * job.rank_pad + p.cache.rank, job.rank_pad - p.cache.rank, 0.0f);
      }
    }
    // A token before the block sees none of it: its rows are skipped.
    const int64_t blind = std::max<int64_t>(0, begin - first) * p.heads;
    for (int64_t row = std::max(row_begin, blind); row < row_end; row += kQueryTile) {
      const int64_t n = std::min(kQueryTile, row_end - row);
      const float* a[kQueryTile];
      for (int64_t i = 0; i < n; ++i) a[i] = job.queries + (row + i) * width;
      const int64_t key_tiles = CeilDiv(end - begin, kTileRows);
      job.isa.multiply({.a = a,
                        .tokens = n,
                        .k = width,
                        .panel = keys,
                        .tiles = key_tiles,
                        .tile_stride = width * kTileRows,
                        .c = scores,
                        .c_stride = kCacheBlock});
      for (int64_t i = 0; i < n; ++i) {
        float* const s = scores + i * kCacheBlock;
        const int64_t seen = std::min(end, first + (row + i) / p.heads + 1) - begin;
        std::fill(s + seen, s + key_tiles * kTileRows, kNegInf);
        const float keep = job.isa.softmax_step(s, key_tiles * kTileRows, p.softmax_scale, &job.largest[at + row + i],
                                                &job.sums[at + row + i]);
        if (keep != 1.0f) {
          float* const mean = job.means + (at + row + i) * job.rank_pad;
          for (int64_t d = 0; d < job.rank_pad; ++d) mean[d] *= keep;
        }
        a[i] = s;
      }
      job.isa.multiply({.a = a,
                        .tokens = n,
                        .k = end - begin,
                        .panel = in_place ? rows : values,
                        .k_stride = in_place ? width : job.rank_pad,
                        .tiles = job.rank_pad / kTileRows,
                        .tile_stride = kTileRows,
                        .c = job.means + (at + row) * job.rank_pad,
                        .c_stride = job.rank_pad,
                        .accumulate = true});
    }
  }
}

// Merges the parts of one head and takes the mean out of the latent space: o = W_UV o^. merged: [tokens][rank_pad].
void MergeHead(const Job& job, int64_t head, float* merged, float* panels, float* values) {
  const MlaParams& p = job.p;
  const float* rows[kTokensAtOnce];
  for (int64_t t = 0; t < job.tokens; ++t) {
    const int64_t row = t * p.heads + head;
    float* const out = merged + t * job.rank_pad;
    rows[t] = out;
    float largest = kNegInf;
    for (int64_t part = 0; part < job.parts; ++part) {
      largest = std::max(largest, job.largest[part * job.rows + row]);
    }
    float sum = 0;
    std::fill_n(out, job.rank_pad, 0.0f);
    for (int64_t part = 0; part < job.parts; ++part) {
      const int64_t at = part * job.rows + row;
      float weights[16] = {job.largest[at] - largest};
      job.isa.exp(weights, 16);
      const float weight = weights[0];
      // A part that this token does not see.
      if (weight == 0.0f) continue;
      sum += weight * job.sums[at];
      for (int64_t d = 0; d < job.rank_pad; ++d) out[d] += weight * job.means[at * job.rank_pad + d];
    }
    for (int64_t d = 0; d < job.rank_pad; ++d) out[d] /= sum;
  }
  const int64_t tiles = CeilDiv(p.value_dim, kTileRows);
  DecodeRowPanels(job.isa, p.kv_b, head * (p.nope_dim + p.value_dim) + p.nope_dim, p.value_dim, panels);
  job.isa.multiply({.a = rows,
                    .tokens = job.tokens,
                    .k = p.cache.rank,
                    .panel = panels,
                    .tiles = tiles,
                    .tile_stride = p.kv_b.layout.col_tiles * kTileCols * kTileRows,
                    .c = values,
                    .c_stride = tiles * kTileRows});
  for (int64_t t = 0; t < job.tokens; ++t) {
    std::copy_n(values + t * tiles * kTileRows, p.value_dim, p.y + ((job.token + t) * p.heads + head) * p.value_dim);
  }
}

absl::Status RunJob(Job job, KernelContext& context) {
  const MlaParams& p = job.p;
  const int64_t width = p.cache.width();
  const int64_t cols = p.kv_b.layout.col_tiles * kTileCols;
  const int64_t head_pad = (CeilDiv(p.nope_dim, kTileRows) + CeilDiv(p.value_dim, kTileRows)) * kTileRows;
  job.rows = job.tokens * p.heads;
  const int64_t last_seen = job.caches != nullptr ? job.caches[0].capacity : p.position + job.token + job.tokens;
  job.parts = CeilDiv(last_seen, kPartRows);
  job.rank_pad = CeilDiv(p.cache.rank, kTileRows) * kTileRows;
  Workspace& workspace = *context.workspace;
  Workspace::Scope scope(workspace);
  KOMPAKT_ASSIGN_OR_RETURN(job.queries, workspace.Floats(job.rows * width));
  KOMPAKT_ASSIGN_OR_RETURN(job.means, workspace.Floats(job.parts * job.rows * job.rank_pad));
  KOMPAKT_ASSIGN_OR_RETURN(job.largest, workspace.Floats(job.parts * job.rows));
  KOMPAKT_ASSIGN_OR_RETURN(job.sums, workspace.Floats(job.parts * job.rows));
  const int64_t head_floats = 2 * head_pad * cols + kTokensAtOnce * (job.rank_pad + head_pad);
  const int64_t part_floats = kCacheBlock * (kQueryTile + 2 * width + job.rank_pad);
  const int64_t floats = CeilDiv(std::max(head_floats, part_floats), kTileRows) * kTileRows;
  KOMPAKT_ASSIGN_OR_RETURN(float* const base, workspace.Floats(context.threads() * floats));

  const bool parallel_heads = WorthThreads(p.heads * head_pad * p.cache.rank);
  context.Run(
      p.heads,
      [&](int64_t head, int thread) {
        float* const weights = base + thread * floats;
        AbsorbQueries(job, head, weights, weights + head_pad * cols);
      },
      parallel_heads);
  // Rows are parted too where the cache alone would leave threads idle; each piece transposes the cache for itself.
  const int64_t row_tiles = CeilDiv(job.rows, kQueryTile);
  const int64_t pieces =
      job.caches != nullptr ? job.tokens : std::clamp<int64_t>(CeilDiv(context.threads(), job.parts), 1, row_tiles);
  const int64_t rows_per_piece = job.caches != nullptr ? p.heads : CeilDiv(row_tiles, pieces) * kQueryTile;
  const bool parallel_parts = WorthThreads(job.rows * last_seen * 2 * width);
  context.Run(
      job.parts * pieces,
      [&](int64_t task, int thread) {
        const int64_t piece = task % pieces;
        const int64_t row = piece * rows_per_piece;
        const int64_t row_end = std::min(job.rows, row + rows_per_piece);
        if (row >= row_end) return;
        float* const scratch = base + thread * floats;
        if (job.caches != nullptr) {
          AttendPart(job, job.caches[piece], last_seen - 1 - piece, task / pieces, row, row_end, scratch);
        } else {
          AttendPart(job, p.cache, p.position + job.token, task / pieces, row, row_end, scratch);
        }
      },
      parallel_parts);
  context.Run(
      p.heads,
      [&](int64_t head, int thread) {
        float* const panels = base + thread * floats;
        float* const merged = panels + head_pad * cols;
        MergeHead(job, head, merged, panels, merged + kTokensAtOnce * job.rank_pad);
      },
      parallel_heads);
  return absl::OkStatus();
}

}  // namespace

absl::Status MlaDecode(const MlaParams& p, KernelContext& context) {
  for (int64_t token = 0; token < p.tokens; token += kTokensAtOnce) {
    KOMPAKT_RETURN_IF_ERROR(RunJob({.isa = BestPanelIsa(),
                                    .p = p,
                                    .caches = nullptr,
                                    .token = token,
                                    .tokens = std::min(kTokensAtOnce, p.tokens - token)},
                                   context));
  }
  return absl::OkStatus();
}

absl::Status MlaSparse(const MlaSparseParams& p, KernelContext& context) {
  return GatherAndAttend(
      p, kTokensAtOnce,
      [&](int64_t token, int64_t tokens, const LatentCache* caches) {
        return RunJob({.isa = BestPanelIsa(), .p = p.mla, .caches = caches, .token = token, .tokens = tokens}, context);
      },
      context);
}

}  // namespace kompakt::portable
