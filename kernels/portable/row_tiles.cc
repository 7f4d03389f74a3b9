#include "kernels/portable/row_tiles.h"

#include "format/status.h"

namespace kompakt::portable {
namespace {

// The product wants pointers to the first value of the panel's columns; tokens go through in blocks, so that these
// pointers can live on the stack.
constexpr int64_t kTokenBlock = 64;

// The direct product of FP8 multiplies scales with a power of two.
bool DirectFits(const MatrixView& w, int64_t first, int64_t tiles) {
  if (w.format->side != SideKind::kBlockScale) return true;
  constexpr int64_t kColTiles = kFp8Block / kTileCols;
  for (int64_t tile = first; tile < first + tiles; ++tile) {
    for (int64_t col_tile = 0; col_tile < w.layout.col_tiles; col_tile += kColTiles) {
      if (!(*w.side(tile, col_tile) < 128.0f)) return false;
    }
  }
  return true;
}

}  // namespace

void MultiplyRowTiles(const PanelIsa& isa, const MatrixView& w, int64_t first, int64_t tiles, const float* const* x,
                      int64_t tokens, float* panel, float* c, int64_t c_stride) {
  if (const auto direct = isa.direct[static_cast<size_t>(w.format->id)];
      direct != nullptr && tokens <= kDirectTokens && DirectFits(w, first, tiles)) {
    direct({.w = &w, .first = first, .tiles = tiles, .a = x, .tokens = tokens, .c = c, .c_stride = c_stride});
    return;
  }
  constexpr int64_t kTileStride = kPanelColTiles * kTileElements;
  for (int64_t col_tile = 0; col_tile < w.layout.col_tiles; col_tile += kPanelColTiles) {
    const int64_t col_tiles = std::min(kPanelColTiles, w.layout.col_tiles - col_tile);
    const int64_t column = col_tile * kTileCols;
    for (int64_t i = 0; i < tiles; ++i) {
      for (int64_t j = 0; j < col_tiles; ++j) {
        DecodePanel(isa, *w.format, w.tile(first + i, col_tile + j), w.side(first + i, col_tile + j),
                    panel + i * kTileStride + j * kTileElements);
      }
    }
    for (int64_t t = 0; t < tokens; t += kTokenBlock) {
      const int64_t n = std::min(kTokenBlock, tokens - t);
      const float* rows[kTokenBlock];
      for (int64_t i = 0; i < n; ++i) rows[i] = x[t + i] + column;
      isa.multiply({.a = rows,
                    .tokens = n,
                    .k = std::min(col_tiles * kTileCols, w.shape.cols - column),
                    .panel = panel,
                    .k_stride = kTileRows,
                    .tiles = tiles,
                    .tile_stride = kTileStride,
                    .c = c + t * c_stride,
                    .c_stride = c_stride,
                    .accumulate = col_tile > 0});
    }
  }
}

absl::StatusOr<const float**> RowPointers(Workspace& workspace, const float* x, int64_t n, int64_t stride) {
  KOMPAKT_ASSIGN_OR_RETURN(const float** const rows, workspace.Pointers(n));
  for (int64_t i = 0; i < n; ++i) rows[i] = x + i * stride;
  return rows;
}

}  // namespace kompakt::portable
