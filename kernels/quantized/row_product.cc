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

bool IntegerScales(FormatId id) { return id != FormatId::kInt4G32 && id != FormatId::kMxfp4 && id != FormatId::kNvfp4; }

void Finish(const MatrixView& w, int64_t first, int64_t tiles, const Operand& x, float* c) {
  for (int64_t i = 0; i < tiles; ++i) {
    float factors[kTileRows];
    RowFactors(w, first + i, factors);
    float* row = c + i * kTileRows;
    for (int64_t b = 0; b < x.n_blocks; ++b) {
      for (int64_t t = 0; t < x.blocks[b].tokens; ++t, row += kGroupRows) {
        const float scale = x.blocks[b].scales[t];
        for (int64_t r = 0; r < kTileRows; ++r) row[r] = row[r] * factors[r] * scale;
      }
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
                      uint8_t* panels, float* c) {
  const BlockFormat& format = *w.format;
  if (!HasIntegerProduct(isa, format, x.act)) {
    portable::MultiplyRowTiles(portable::BestPanelIsa(), w, first, tiles, x.rows, x.tokens,
                               reinterpret_cast<float*>(panels), c, kGroupRows);
    return;
  }
  const size_t precision = PrecisionIndex(x.act);
  const auto format_index = static_cast<size_t>(format.id);
  const int64_t col_tiles = w.layout.col_tiles;
  if (x.tokens <= kFewTokens) {
    for (int64_t i = 0; i < tiles; ++i) {
      isa.few[precision][format_index](w.tile(first + i, 0), col_tiles, x.blocks[0], c + i * kTileRows, kGroupRows);
    }
    Finish(w, first, tiles, x, c);
    return;
  }
  const bool integers = x.act == ActPrecision::kInt8 && IntegerScales(format.id);
  const IntegerIsa::Many many = isa.many[precision][integers ? 1 : 0][format.group_cols == 16 ? 1 : 0];
  auto* const panel = reinterpret_cast<PanelTile*>(panels);
  for (int64_t col = 0; col < col_tiles; col += kPanelColTiles) {
    const int64_t n = std::min(kPanelColTiles, col_tiles - col);
    for (int64_t i = 0; i < tiles; ++i) {
      isa.unpack[precision][format_index](w.tile(first + i, col), n, panel + i * kPanelColTiles);
    }
    float* block_c = c;
    for (int64_t b = 0; b < x.n_blocks; ++b) {
      for (int64_t i = 0; i < tiles; ++i) {
        many(panel + i * kPanelColTiles, col, n, x.blocks[b], block_c + i * kTileRows, kGroupRows);
      }
      block_c += x.blocks[b].tokens * kGroupRows;
    }
  }
  Finish(w, first, tiles, x, c);
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
        const ThreadScratch scratch = team.Of(thread);
        const int64_t first = task * per_task;
        const int64_t tiles = std::min(per_task, row_tiles - first);
        const int64_t row = first * kTileRows;
        const int64_t rows = std::min(tiles * kTileRows, w.shape.rows - row);
        MultiplyRowTiles(isa, w, first, tiles, x, scratch.panels, scratch.c);
        for (int64_t t = 0; t < x.tokens; ++t) {
          float* const out = y + t * y_stride + row;
          const float* const in = scratch.c + t * kGroupRows;
          if (accumulate) {
            for (int64_t r = 0; r < rows; ++r) out[r] += in[r];
          } else {
            std::copy(in, in + rows, out);
          }
        }
      },
      portable::WorthThreads(w.shape.rows * w.shape.cols * x.tokens));
  return absl::OkStatus();
}

}  // namespace kompakt::quantized
