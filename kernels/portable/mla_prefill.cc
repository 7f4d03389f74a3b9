// The plain form, one head at a time: keys and values of a block of cached rows are decompressed and every query that
// sees them takes one step of its online softmax. Blocks begin at multiples of kCacheBlock in the timeline, so a query
// meets the same blocks however the text was cut.
#include <algorithm>
#include <limits>

#include "format/status.h"
#include "kernels/portable/mla.h"
#include "kernels/portable/portable_ops.h"
#include "kernels/portable/row_tiles.h"

namespace kompakt::portable {
namespace {

constexpr int64_t kQueryTile = 16;
constexpr float kNegInf = -std::numeric_limits<float>::infinity();

// Sizes of one head, padded to panels, and where its scratch lies.
struct Shape {
  int64_t nope_tiles, value_tiles, panel_cols;  // panel_cols: rank padded to tiles
  int64_t key_dim;                              // nope + rope
  int64_t queries;                              // of one task, at most

  Shape(const MlaParams& p, int64_t queries_per_task)
      : nope_tiles(CeilDiv(p.nope_dim, kTileRows)),
        value_tiles(CeilDiv(p.value_dim, kTileRows)),
        panel_cols(p.kv_b.layout.col_tiles * kTileCols),
        key_dim(p.nope_dim + p.rope_dim),
        queries(queries_per_task) {}

  int64_t nope_pad() const { return nope_tiles * kTileRows; }
  int64_t value_pad() const { return value_tiles * kTileRows; }
  int64_t floats(const MlaParams& p) const {
    return (nope_pad() + value_pad()) * panel_cols + kCacheBlock * (p.cache.width() + nope_pad() + value_pad()) +
           key_dim * kCacheBlock + kQueryTile * kCacheBlock + queries * (value_pad() + 2) + 16 * kTileRows;
  }
};

struct Scratch {
  float* key_weights;    // [nope_tiles][panel_cols][16]
  float* value_weights;  // [value_tiles][panel_cols][16]
  float* rows;           // [kCacheBlock][width], where the cache is not F32
  float* nope;           // [kCacheBlock][nope_pad]
  float* values;         // [kCacheBlock][value_pad]
  float* keys;           // [kCacheBlock / 16][key_dim][16]
  float* scores;         // [kQueryTile][kCacheBlock]
  float* mean;           // [queries][value_pad]
  float* largest;        // [queries]
  float* sum;            // [queries]

  Scratch(const MlaParams& p, const Shape& s, float* next) {
    const auto take = [&next](int64_t n) {
      float* const piece = next;
      next += CeilDiv(n, kTileRows) * kTileRows;
      return piece;
    };
    key_weights = take(s.nope_pad() * s.panel_cols);
    value_weights = take(s.value_pad() * s.panel_cols);
    rows = take(kCacheBlock * p.cache.width());
    nope = take(kCacheBlock * s.nope_pad());
    values = take(kCacheBlock * s.value_pad());
    keys = take(s.key_dim * kCacheBlock);
    scores = take(kQueryTile * kCacheBlock);
    mean = take(s.queries * s.value_pad());
    largest = take(s.queries);
    sum = take(s.queries);
  }
};

// Keys and values of n cached rows.
void Decompress(const PanelIsa& isa, const MlaParams& p, const Shape& s, const Scratch& scratch, const float* rows,
                int64_t n) {
  const int64_t width = p.cache.width();
  const float* pointers[kCacheBlock];
  for (int64_t j = 0; j < n; ++j) pointers[j] = rows + j * width;
  PanelProduct product{.a = pointers,
                       .tokens = n,
                       .k = p.cache.rank,
                       .panel = scratch.key_weights,
                       .tiles = s.nope_tiles,
                       .tile_stride = s.panel_cols * kTileRows,
                       .c = scratch.nope,
                       .c_stride = s.nope_pad()};
  isa.multiply(product);
  product.panel = scratch.value_weights;
  product.tiles = s.value_tiles;
  product.c = scratch.values;
  product.c_stride = s.value_pad();
  isa.multiply(product);
  for (int64_t tile = 0; tile * kTileRows < n; ++tile) {
    float* const keys = scratch.keys + tile * s.key_dim * kTileRows;
    const int64_t in_tile = std::min(kTileRows, n - tile * kTileRows);
    if (in_tile < kTileRows) std::fill_n(keys, s.key_dim * kTileRows, 0.0f);
    Transpose(isa, scratch.nope + tile * kTileRows * s.nope_pad(), s.nope_pad(), in_tile, p.nope_dim, keys, kTileRows);
    Transpose(isa, rows + tile * kTileRows * width + p.cache.rank, width, in_tile, p.rope_dim,
              keys + p.nope_dim * kTileRows, kTileRows);
  }
}

// Queries [t, t + n) of the call take one step over n_rows rows that begin at `begin`; query i of the task is t.
void Attend(const PanelIsa& isa, const MlaParams& p, const Shape& s, const Scratch& scratch, int64_t head, int64_t t,
            int64_t i, int64_t n, int64_t begin, int64_t n_rows) {
  const int64_t key_tiles = CeilDiv(n_rows, kTileRows);
  const float* pointers[kQueryTile];
  for (int64_t q = 0; q < n; ++q) pointers[q] = p.q + ((t + q) * p.heads + head) * s.key_dim;
  isa.multiply({.a = pointers,
                .tokens = n,
                .k = s.key_dim,
                .panel = scratch.keys,
                .tiles = key_tiles,
                .tile_stride = s.key_dim * kTileRows,
                .c = scratch.scores,
                .c_stride = kCacheBlock});
  for (int64_t q = 0; q < n; ++q) {
    float* const scores = scratch.scores + q * kCacheBlock;
    const int64_t seen = std::min(n_rows, p.position + t + q + 1 - begin);
    std::fill(scores + seen, scores + key_tiles * kTileRows, kNegInf);
    const float keep =
        isa.softmax_step(scores, key_tiles * kTileRows, p.softmax_scale, &scratch.largest[i + q], &scratch.sum[i + q]);
    if (keep != 1.0f) {
      float* const mean = scratch.mean + (i + q) * s.value_pad();
      for (int64_t d = 0; d < s.value_pad(); ++d) mean[d] *= keep;
    }
    pointers[q] = scores;
  }
  isa.multiply({.a = pointers,
                .tokens = n,
                .k = n_rows,
                .panel = scratch.values,
                .k_stride = s.value_pad(),
                .tiles = s.value_tiles,
                .tile_stride = kTileRows,
                .c = scratch.mean + i * s.value_pad(),
                .c_stride = s.value_pad(),
                .accumulate = true});
}

// Queries [t_begin, t_end) of one head.
void PrefillHead(const PanelIsa& isa, const MlaParams& p, const Shape& s, const Scratch& scratch, int64_t head,
                 int64_t t_begin, int64_t t_end) {
  const int64_t head_row = head * (p.nope_dim + p.value_dim);
  DecodeRowPanels(isa, p.kv_b, head_row, p.nope_dim, scratch.key_weights);
  DecodeRowPanels(isa, p.kv_b, head_row + p.nope_dim, p.value_dim, scratch.value_weights);
  const int64_t queries = t_end - t_begin;
  std::fill_n(scratch.largest, queries, kNegInf);
  std::fill_n(scratch.sum, queries, 0.0f);
  std::fill_n(scratch.mean, queries * s.value_pad(), 0.0f);
  const int64_t filled = p.position + t_end;
  for (int64_t begin = 0; begin < filled; begin += kCacheBlock) {
    const int64_t end = std::min(filled, begin + kCacheBlock);
    const float* const rows = LatentRows(p.cache, begin, end, scratch.rows);
    Decompress(isa, p, s, scratch, rows, end - begin);
    for (int64_t t = std::max(t_begin, begin - p.position); t < t_end; t += kQueryTile) {
      const int64_t n = std::min(kQueryTile, t_end - t);
      const int64_t visible = std::min(end, p.position + t + n) - begin;
      Attend(isa, p, s, scratch, head, t, t - t_begin, n, begin, visible);
    }
  }
  for (int64_t i = 0; i < queries; ++i) {
    float* const y = p.y + ((t_begin + i) * p.heads + head) * p.value_dim;
    for (int64_t d = 0; d < p.value_dim; ++d) y[d] = scratch.mean[i * s.value_pad() + d] / scratch.sum[i];
  }
}

}  // namespace

absl::Status MlaPrefill(const MlaParams& p, KernelContext& context) {
  const PanelIsa& isa = BestPanelIsa();
  // Queries are parted where heads alone would leave threads idle; each part decompresses for itself.
  const int64_t wanted_parts = CeilDiv(2 * context.threads(), p.heads);
  const int64_t parts = p.heads >= context.threads() && p.heads % context.threads() == 0
                            ? 1
                            : std::clamp<int64_t>(wanted_parts, 1, CeilDiv(p.tokens, kCacheBlock));
  const int64_t per_part = CeilDiv(p.tokens, parts);
  const Shape shape(p, per_part);
  const int64_t floats = CeilDiv(shape.floats(p), kTileRows) * kTileRows;
  Workspace::Scope scope(*context.workspace);
  KOMPAKT_ASSIGN_OR_RETURN(float* const base, context.workspace->Floats(context.threads() * floats));
  context.Run(p.heads * parts, [&](int64_t task, int thread) {
    const Scratch scratch(p, shape, base + thread * floats);
    const int64_t t_begin = task % parts * per_part;
    const int64_t t_end = std::min(p.tokens, t_begin + per_part);
    if (t_begin < t_end) PrefillHead(isa, p, shape, scratch, task / parts, t_begin, t_end);
  });
  return absl::OkStatus();
}

}  // namespace kompakt::portable
