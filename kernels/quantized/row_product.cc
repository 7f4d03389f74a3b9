#include "kernels/quantized/row_product.h"

#include "format/status.h"
#include "kernels/portable/row_tiles.h"

namespace kompakt::quantized {
namespace {

constexpr int64_t kPanelBytes = std::max(kGroupTiles * kPanelColTiles * static_cast<int64_t>(sizeof(PanelTile)),
                                         portable::kPanelFloats* static_cast<int64_t>(sizeof(float)));
static_assert(kGroupTiles == portable::kGroupTiles);

// What the sums of 16 rows are still to be multiplied by.
void RowFactors(const MatrixView& w, int64_t row_tile, float* factors) {
  switch (w.format->id) {
    case FormatId::kInt4G32:
      std::fill_n(factors, kTileRows, 1.0f);
      return;
    // Their codes are multiplied as twice their value.
    case FormatId::kMxfp4:
      std::fill_n(factors, kTileRows, 0.5f);
      return;
    case FormatId::kNvfp4: {
      const float* const side = w.side(row_tile, 0);
      std::fill_n(factors, kTileRows, 0.5f * side[0] / side[1]);
      return;
    }
    default:
      std::copy_n(w.side(row_tile, 0), kTileRows, factors);
  }
}

constexpr int64_t kLineBytes = 64;  // of a cache

// The next `bytes` of [p, end) into the second level: the first one is full of what is being multiplied. Returns what
// comes next.
const uint8_t* Prefetch(const uint8_t* p, const uint8_t* end, int64_t bytes) {
  const int64_t n = std::min<int64_t>(bytes, end - p);
  for (int64_t i = 0; i < n; i += kLineBytes) __builtin_prefetch(p + i, 0, 2);
  return p + n;
}

bool IntegerScales(FormatId id) { return id != FormatId::kInt4G32 && id != FormatId::kMxfp4 && id != FormatId::kNvfp4; }

// Scales the sums of a block.
void Finish(const IntegerIsa& isa, const MatrixView& w, int64_t first, int64_t tiles, const ActBlock& x, float* c) {
  for (int64_t i = 0; i < tiles; ++i) {
    float factors[kTileRows];
    RowFactors(w, first + i, factors);
    isa.finish(factors, x, c + i * kTileRows, kGroupRows);
  }
}

// MultiplyRowTiles with weights that are floats.
void MultiplyFloats(const IntegerIsa& isa, const MatrixView& w, int64_t first, int64_t tiles, const Operand& x,
                    const ThreadScratch& scratch, const Upcoming& next, BlockSink sink) {
  const BlockFormat& format = *w.format;
  const auto product = isa.floats->product[static_cast<size_t>(format.id)];
  float factors[kTileRows];
  std::fill_n(factors, kTileRows, FloatFactor(format.id));
  const int64_t col_tiles = w.layout.col_tiles;
  static_assert(kPanelColTiles % (kFp8Block / kTileCols) == 0);
  const int64_t at_once = x.tokens <= kFewTokens ? col_tiles : kPanelColTiles;
  const BlockPlan plan(x.tokens, kFloatTokens);
  const uint8_t* ahead = next.begin;
  const int64_t pieces = portable::CeilDiv(col_tiles, at_once) * plan.blocks;
  const int64_t share = portable::CeilDiv((next.end - next.begin) / kLineBytes + 1, pieces) * kLineBytes;
  for (int64_t col = 0; col < col_tiles; col += at_once) {
    const int64_t n = std::min(at_once, col_tiles - col);
    for (int64_t b = 0; b < plan.blocks; ++b) {
      const int64_t token = plan.Begin(b);
      const ActBlock block{.scales = x.raised.scales + token, .tokens = plan.Tokens(b)};
      float* const c = scratch.c + token * kGroupRows;
      product({.w = &w,
               .first = first,
               .tiles = tiles,
               .first_col_tile = col,
               .col_tiles = n,
               .rows = x.raised.rows + token,
               .tokens = block.tokens,
               .c = c,
               .c_stride = kGroupRows});
      if (x.tokens > kFewTokens) ahead = Prefetch(ahead, next.end, share);
      if (col + n < col_tiles) continue;
      for (int64_t i = 0; i < tiles; ++i) isa.finish(factors, block, c + i * kTileRows, kGroupRows);
      sink(token, block.tokens, c);
    }
  }
}

}  // namespace

absl::StatusOr<TeamScratch> TeamScratch::Create(int64_t tokens, KernelContext& context) {
  TeamScratch scratch;
  scratch.tokens_ = tokens;
  scratch.bytes_ = kPanelBytes + 2 * tokens * kGroupRows * static_cast<int64_t>(sizeof(float));
  KOMPAKT_ASSIGN_OR_RETURN(scratch.base_, context.workspace->RawBytes(context.threads() * scratch.bytes_));
  return scratch;
}

ThreadScratch TeamScratch::Of(int thread) const {
  uint8_t* const panels = base_ + thread * bytes_;
  auto* const c = reinterpret_cast<float*>(panels + kPanelBytes);
  return {panels, c, c + tokens_ * kGroupRows};
}

void MultiplyRowTiles(const IntegerIsa& isa, const MatrixView& w, int64_t first, int64_t tiles, const Operand& x,
                      const ThreadScratch& scratch, const Upcoming& next, BlockSink sink) {
  const BlockFormat& format = *w.format;
  if (HasFloatProduct(isa, format)) {
    MultiplyFloats(isa, w, first, tiles, x, scratch, next, sink);
    return;
  }
  if (!HasIntegerProduct(isa, format, x.act)) {
    portable::MultiplyRowTiles(portable::BestPanelIsa(), w, first, tiles, x.rows, x.tokens,
                               reinterpret_cast<float*>(scratch.panels), scratch.c, kGroupRows);
    sink(0, x.tokens, scratch.c);
    return;
  }
  const size_t precision = PrecisionIndex(x.act);
  const auto format_index = static_cast<size_t>(format.id);
  const int64_t col_tiles = w.layout.col_tiles;
  if (x.tokens <= kFewTokens) {
    const IntegerIsa::Few few = isa.few[precision][format_index];
    for (int64_t i = 0; i < tiles; ++i) {
      few(w.tile(first + i, 0), col_tiles, x.blocks[0], scratch.c + i * kTileRows, kGroupRows);
    }
    Finish(isa, w, first, tiles, x.blocks[0], scratch.c);
    sink(0, x.tokens, scratch.c);
    return;
  }
  const bool integers = x.act == ActPrecision::kInt8 && IntegerScales(format.id);
  const IntegerIsa::Many many = isa.many[precision][integers ? 1 : 0][format.group_cols == 16 ? 1 : 0];
  auto* const panel = reinterpret_cast<PanelTile*>(scratch.panels);
  const uint8_t* ahead = next.begin;
  const int64_t panels = portable::CeilDiv(col_tiles, kPanelColTiles);
  const int64_t share = portable::CeilDiv((next.end - next.begin) / kLineBytes + 1, panels * x.n_blocks) * kLineBytes;
  for (int64_t col = 0; col < col_tiles; col += kPanelColTiles) {
    const int64_t n = std::min(kPanelColTiles, col_tiles - col);
    const bool last = col + n == col_tiles;
    for (int64_t i = 0; i < tiles; ++i) {
      isa.unpack[precision][format_index](w.tile(first + i, col), n, panel + i * kPanelColTiles);
    }
    int64_t token = 0;
    for (int64_t b = 0; b < x.n_blocks; ++b) {
      const ActBlock& block = x.blocks[b];
      // Sums that are begun and ended by one panel need not be kept.
      float* const c = scratch.c + (col_tiles > kPanelColTiles ? token * kGroupRows : 0);
      for (int64_t i = 0; i < tiles; ++i) {
        many(panel + i * kPanelColTiles, col, n, block, c + i * kTileRows, kGroupRows);
      }
      ahead = Prefetch(ahead, next.end, share);
      if (last) {
        Finish(isa, w, first, tiles, block, c);
        sink(token, block.tokens, c);
      }
      token += block.tokens;
    }
  }
}

absl::Status Multiply(const IntegerIsa& isa, const MatrixView& w, const Operand& x, float* y, int64_t y_stride,
                      bool accumulate, KernelContext& context) {
  Workspace::Scope scope(*context.workspace);
  KOMPAKT_ASSIGN_OR_RETURN(const TeamScratch team, TeamScratch::Create(x.tokens, context));
  const int64_t row_tiles = w.layout.row_tiles;
  const int64_t per_task = portable::TilesPerTask(row_tiles, context.threads());
  context.Run(
      portable::CeilDiv(row_tiles, per_task),
      [&](int64_t task, int thread) {
        const int64_t first = task * per_task;
        const int64_t tiles = std::min(per_task, row_tiles - first);
        const int64_t row = first * kTileRows;
        const int64_t rows = std::min(tiles * kTileRows, w.shape.rows - row);
        const auto store = [&](int64_t token, int64_t n, const float* c) {
          for (int64_t t = 0; t < n; ++t, c += kGroupRows) {
            float* const out = y + (token + t) * y_stride + row;
            if (accumulate) {
              for (int64_t r = 0; r < rows; ++r) out[r] += c[r];
            } else {
              std::copy_n(c, rows, out);
            }
          }
        };
        // The next task is mostly the same thread's.
        const int64_t next = first + tiles;
        const Upcoming upcoming(w, next, std::min(per_task, row_tiles - next));
        MultiplyRowTiles(isa, w, first, tiles, x, team.Of(thread), upcoming, store);
      },
      portable::WorthThreads(w.shape.rows * w.shape.cols * x.tokens));
  return absl::OkStatus();
}

}  // namespace kompakt::quantized
