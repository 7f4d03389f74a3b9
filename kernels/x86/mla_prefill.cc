// The plain form, one head at a time: keys and values of a block of cached rows are decompressed into units, and every
// query that sees them takes one step of its online softmax. Blocks begin at multiples of kBlock in the timeline, so a
// query meets the same blocks however the text was cut.
//
// Everything is one kind of product. Keys are made as W_UK c^T, so that the rows of the cache lie in lanes, which is
// how scores want them; values as c W_UV^T, so that their own columns do.
#if defined(__x86_64__)

#include <algorithm>

#include "format/status.h"
#include "kernels/portable/mla.h"
#include "kernels/portable/panel.h"
#include "kernels/x86/mla_ops.h"
#include "kernels/x86/mla_rows.h"

namespace kompakt::x86 {
namespace {

constexpr int64_t kBlock = 128;
constexpr int64_t kQueryTile = 16;
constexpr int64_t kValueRows = 32;  // cache rows whose values are made at a time
constexpr float kLog2E = 1.44269504088896341f;

// Sizes of one head in units and tiles of 16.
struct Shape {
  int64_t unit_values;
  int64_t nope_tiles, value_tiles, col_units;  // col_units: rank padded to tiles of the matrix
  int64_t nope_units, rank_units, width_units, key_units;
  int64_t value_pad;
  int64_t queries;  // of one task, at most

  Shape(const AttentionIsa& isa, const MlaParams& p, int64_t queries_per_task)
      : unit_values(isa.unit_values),
        nope_tiles(CeilDiv(p.nope_dim, kTileRows)),
        value_tiles(CeilDiv(p.value_dim, kTileRows)),
        col_units(p.kv_b.layout.col_tiles * kTileCols / isa.unit_values),
        nope_units(p.nope_dim / isa.unit_values),
        rank_units(p.cache.rank / isa.unit_values),
        width_units(p.cache.width() / isa.unit_values),
        key_units((p.nope_dim + p.rope_dim) / isa.unit_values),
        value_pad(value_tiles * kTileRows),
        queries(queries_per_task) {}
};

struct Scratch {
  uint32_t* key_weights;    // [nope_tiles][col_units][16]
  uint32_t* value_weights;  // [value_tiles][col_units][16]
  float* panel;             // [col_tiles * 32][16]: one tile of rows before it becomes units; a query
  float* rows;              // [kBlock][width + 1], where the cache does not hold units
  uint32_t* latents;        // [kBlock / 16][width_units][16]
  uint32_t* keys;           // [nope_tiles * 16 / unit_values][kBlock]
  uint32_t* values;         // [kBlock / unit_values][value_pad]
  float* products;          // [16][kBlock] or [kValueRows][value_pad]: keys or values before they become units
  uint32_t* queries;        // [queries][key_units]
  float* scores;            // [kQueryTile][kBlock]
  uint32_t* weights;        // [kQueryTile][kBlock / unit_values]
  float* mean;              // [queries][value_pad]
  float* largest;           // [queries]
  float* sum;               // [queries]

  // Returns the floats that it takes; `base` may be null.
  static int64_t Place(const MlaParams& p, const Shape& s, float* base, Scratch* out) {
    int64_t total = 0;
    const auto take = [&](int64_t n) {
      float* const piece = base == nullptr ? nullptr : base + total;
      total += RoundUp(n, kLanes);
      return piece;
    };
    const auto units = [&](int64_t n) { return reinterpret_cast<uint32_t*>(take(n)); };
    Scratch scratch{};
    scratch.key_weights = units(s.nope_tiles * s.col_units * kLanes);
    scratch.value_weights = units(s.value_tiles * s.col_units * kLanes);
    scratch.panel = take(std::max(p.kv_b.layout.col_tiles * kTileElements, s.key_units * s.unit_values));
    scratch.rows = take(kBlock * (p.cache.width() + 1));
    scratch.latents = units(kBlock * s.width_units);
    scratch.keys = units(s.nope_tiles * kTileRows / s.unit_values * kBlock);
    scratch.values = units(kBlock / s.unit_values * s.value_pad);
    scratch.products = take(std::max(kTileRows * kBlock, kValueRows * s.value_pad));
    scratch.queries = units(s.queries * s.key_units);
    scratch.scores = take(kQueryTile * kBlock);
    scratch.weights = units(kQueryTile * kBlock / s.unit_values);
    scratch.mean = take(s.queries * s.value_pad);
    scratch.largest = take(s.queries);
    scratch.sum = take(s.queries);
    if (out != nullptr) *out = scratch;
    return total;
  }
};

class HeadPass {
 public:
  HeadPass(const AttentionIsa& isa, const MlaParams& p, const Shape& shape, const Scratch& scratch, int64_t head)
      : isa_(isa), p_(p), s_(shape), scratch_(scratch), head_(head) {}

  // Queries [t_begin, t_end).
  void Run(int64_t t_begin, int64_t t_end) {
    const int64_t head_row = head_ * (p_.nope_dim + p_.value_dim);
    Weights(head_row, p_.nope_dim, scratch_.key_weights);
    Weights(head_row + p_.nope_dim, p_.value_dim, scratch_.value_weights);
    const int64_t n = t_end - t_begin;
    for (int64_t i = 0; i < n; ++i) Query(t_begin + i, scratch_.queries + i * s_.key_units);
    std::fill_n(scratch_.largest, n, kUnseen);
    std::fill_n(scratch_.sum, n, 0.0f);
    std::fill_n(scratch_.mean, n * s_.value_pad, 0.0f);
    const int64_t filled = p_.position + t_end;
    for (int64_t begin = 0; begin < filled; begin += kBlock) {
      const int64_t end = std::min(filled, begin + kBlock);
      Decompress(begin, end - begin);
      for (int64_t t = std::max(t_begin, begin - p_.position); t < t_end; t += kQueryTile) {
        const int64_t tile = std::min(kQueryTile, t_end - t);
        const int64_t visible = std::min(end, p_.position + t + tile) - begin;
        Attend(t, t - t_begin, tile, begin, visible);
      }
    }
    for (int64_t i = 0; i < n; ++i) {
      float* const y = p_.y + ((t_begin + i) * p_.heads + head_) * p_.value_dim;
      for (int64_t d = 0; d < p_.value_dim; ++d) y[d] = scratch_.mean[i * s_.value_pad + d] / scratch_.sum[i];
    }
  }

 private:
  // Rows [row_begin, row_begin + rows) of kv_b as units, [tile][col_units][16].
  void Weights(int64_t row_begin, int64_t rows, uint32_t* out) {
    const int64_t cols = p_.kv_b.layout.col_tiles * kTileCols;
    for (int64_t row = 0; row < rows; row += kTileRows) {
      portable::DecodeRowPanels(portable::BestPanelIsa(), p_.kv_b, row_begin + row, std::min(kTileRows, rows - row),
                                scratch_.panel);
      isa_.rows_to_units(scratch_.panel, kTileRows, cols, 1, out + row / kTileRows * s_.col_units * kLanes, kLanes);
    }
  }

  // A query, scaled for a softmax in powers of two.
  void Query(int64_t t, uint32_t* units) {
    const int64_t width = p_.nope_dim + p_.rope_dim;
    const float* const q = p_.q + (t * p_.heads + head_) * width;
    const float scale = p_.softmax_scale * kLog2E;
    for (int64_t i = 0; i < width; ++i) scratch_.panel[i] = q[i] * scale;
    isa_.to_units(scratch_.panel, width, units);
  }

  // Keys and values of n cached rows.
  void Decompress(int64_t begin, int64_t n) {
    const CacheUnits rows = ReadUnits(isa_, p_.cache, begin, begin + n, scratch_.rows);
    const int64_t tiles = CeilDiv(n, kLanes);
    for (int64_t tile = 0; tile < tiles; ++tile) {
      isa_.transpose(rows.units + tile * kLanes * rows.row_units, rows.row_units, std::min(kLanes, n - tile * kLanes),
                     s_.width_units, scratch_.latents + tile * s_.width_units * kLanes);
    }
    for (int64_t tile = 0; tile < s_.nope_tiles; ++tile) {
      isa_.multiply({.a = scratch_.key_weights + tile * s_.col_units * kLanes,
                     .a_row = 1,
                     .a_k = kLanes,
                     .b = scratch_.latents,
                     .b_k = kLanes,
                     .b_tile = s_.width_units * kLanes,
                     .rows = kTileRows,
                     .k = s_.rank_units,
                     .tiles = tiles,
                     .c = scratch_.products,
                     .c_row = kBlock});
      isa_.rows_to_units(scratch_.products, kBlock, kTileRows, tiles,
                         scratch_.keys + tile * kTileRows / s_.unit_values * kBlock, kBlock);
    }
    for (int64_t j = 0; j < n; j += kValueRows) {
      const int64_t some = std::min(kValueRows, n - j);
      isa_.multiply({.a = rows.units + j * rows.row_units,
                     .a_row = rows.row_units,
                     .a_k = 1,
                     .b = scratch_.value_weights,
                     .b_k = kLanes,
                     .b_tile = s_.col_units * kLanes,
                     .rows = some,
                     .k = s_.rank_units,
                     .tiles = s_.value_tiles,
                     .c = scratch_.products,
                     .c_row = s_.value_pad});
      isa_.rows_to_units(scratch_.products, s_.value_pad, some, s_.value_tiles,
                         scratch_.values + j / s_.unit_values * s_.value_pad, s_.value_pad);
    }
  }

  // Queries [t, t + n) of the call, i and on of the task, take one step over n_rows rows that begin at `begin`.
  void Attend(int64_t t, int64_t i, int64_t n, int64_t begin, int64_t n_rows) {
    const uint32_t* const queries = scratch_.queries + i * s_.key_units;
    UnitProduct product{.a = queries,
                        .a_row = s_.key_units,
                        .a_k = 1,
                        .b = scratch_.keys,
                        .b_k = kBlock,
                        .b_tile = kLanes,
                        .rows = n,
                        .k = s_.nope_units,
                        .tiles = CeilDiv(n_rows, kLanes),
                        .c = scratch_.scores,
                        .c_row = kBlock};
    isa_.multiply(product);
    product.a = queries + s_.nope_units;
    product.b = scratch_.latents + s_.rank_units * kLanes;
    product.b_k = kLanes;
    product.b_tile = s_.width_units * kLanes;
    product.k = s_.width_units - s_.rank_units;
    product.accumulate = true;
    isa_.multiply(product);
    for (int64_t q = 0; q < n; ++q) {
      const int64_t seen = std::min(n_rows, p_.position + t + q + 1 - begin);
      const float keep =
          isa_.softmax_row(scratch_.scores + q * kBlock, RoundUp(n_rows, 2 * kLanes), seen, &scratch_.largest[i + q],
                           &scratch_.sum[i + q], scratch_.weights + q * kBlock / s_.unit_values);
      if (keep != 1.0f) isa_.scale(scratch_.mean + (i + q) * s_.value_pad, s_.value_pad, keep);
    }
    isa_.multiply({.a = scratch_.weights,
                   .a_row = kBlock / s_.unit_values,
                   .a_k = 1,
                   .b = scratch_.values,
                   .b_k = s_.value_pad,
                   .b_tile = kLanes,
                   .rows = n,
                   .k = CeilDiv(n_rows, s_.unit_values),
                   .tiles = s_.value_tiles,
                   .c = scratch_.mean + i * s_.value_pad,
                   .c_row = s_.value_pad,
                   .accumulate = true});
  }

  const AttentionIsa& isa_;
  const MlaParams& p_;
  const Shape& s_;
  const Scratch& scratch_;
  const int64_t head_;
};

}  // namespace

absl::Status MlaPrefillWith(const AttentionIsa& isa, const MlaParams& p, KernelContext& context) {
  // Queries are parted where heads alone would leave threads idle; each part decompresses for itself.
  const int64_t wanted_parts = CeilDiv(2 * context.threads(), p.heads);
  const int64_t parts = p.heads >= context.threads() && p.heads % context.threads() == 0
                            ? 1
                            : std::clamp<int64_t>(wanted_parts, 1, CeilDiv(p.tokens, kBlock));
  const int64_t per_part = CeilDiv(p.tokens, parts);
  const Shape shape(isa, p, per_part);
  const int64_t floats = Scratch::Place(p, shape, nullptr, nullptr);
  Workspace::Scope scope(*context.workspace);
  KOMPAKT_ASSIGN_OR_RETURN(float* const base, context.workspace->Floats(context.threads() * floats));
  context.Run(p.heads * parts, [&](int64_t task, int thread) {
    Scratch scratch;
    Scratch::Place(p, shape, base + thread * floats, &scratch);
    const int64_t t_begin = task % parts * per_part;
    const int64_t t_end = std::min(p.tokens, t_begin + per_part);
    if (t_begin < t_end) HeadPass(isa, p, shape, scratch, task / parts).Run(t_begin, t_end);
  });
  return absl::OkStatus();
}

}  // namespace kompakt::x86

#endif
