#include "kernels/portable/mla.h"

#include <algorithm>

#include "kernels/portable/row_tiles.h"

namespace kompakt::portable {

void DecodeRowPanels(const PanelIsa& isa, const MatrixView& w, int64_t row_begin, int64_t rows, float* out) {
  const int64_t col_tiles = w.layout.col_tiles;
  const int64_t tile_floats = col_tiles * kTileElements;
  if (row_begin % kTileRows == 0) {
    for (int64_t i = 0; i < CeilDiv(rows, kTileRows); ++i) {
      const int64_t row_tile = row_begin / kTileRows + i;
      for (int64_t c = 0; c < col_tiles; ++c) {
        DecodePanel(isa, *w.format, w.tile(row_tile, c), w.side(row_tile, c),
                    out + i * tile_floats + c * kTileElements);
      }
    }
    return;
  }
  // A head that does not begin with a tile: its rows are moved to the lanes where they belong.
  std::fill_n(out, CeilDiv(rows, kTileRows) * tile_floats, 0.0f);
  for (int64_t row_tile = row_begin / kTileRows; row_tile * kTileRows < row_begin + rows; ++row_tile) {
    const int64_t begin = std::max(row_begin, row_tile * kTileRows);
    const int64_t end = std::min(row_begin + rows, (row_tile + 1) * kTileRows);
    for (int64_t c = 0; c < col_tiles; ++c) {
      float panel[kTileElements];
      DecodePanel(isa, *w.format, w.tile(row_tile, c), w.side(row_tile, c), panel);
      for (int64_t r = begin; r < end; ++r) {
        const int64_t to = r - row_begin;
        float* const lane = out + to / kTileRows * tile_floats + c * kTileElements + to % kTileRows;
        for (int64_t k = 0; k < kTileCols; ++k) lane[k * kTileRows] = panel[k * kTileRows + r % kTileRows];
      }
    }
  }
}

void Transpose(const PanelIsa& isa, const float* a, int64_t a_stride, int64_t rows, int64_t cols, float* b,
               int64_t b_stride) {
  const int64_t whole_rows = rows / 4 * 4;
  const int64_t whole_cols = cols / 4 * 4;
  isa.transpose(a, a_stride, whole_rows, whole_cols, b, b_stride);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = i < whole_rows ? whole_cols : 0; j < cols; ++j) b[j * b_stride + i] = a[i * a_stride + j];
  }
}

}  // namespace kompakt::portable
