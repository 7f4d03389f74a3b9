// Some row tiles of a packed matrix times some tokens: what linear and the FFNs are made of.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/portable/panel.h"
#include "kernels/workspace.h"

namespace kompakt::portable {

// Row tiles that are multiplied together, and columns of them that are decoded at a time: four panels of 128 columns
// are 32 KiB.
inline constexpr int64_t kGroupTiles = 4;
inline constexpr int64_t kPanelColTiles = 4;
inline constexpr int64_t kPanelFloats = kGroupTiles * kPanelColTiles * kTileElements;

// Row tiles per task, so that `threads` have about two tasks each. Does not change any result.
inline int64_t TilesPerTask(int64_t row_tiles, int64_t threads) {
  int64_t tiles = kGroupTiles;
  while (tiles > 1 && row_tiles < 2 * threads * tiles) tiles /= 2;
  return tiles;
}

// Is so much work worth waking threads up? About ten microseconds of it are.
inline bool WorthThreads(int64_t multiplications) { return multiplications >= int64_t{1} << 16; }

inline int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// c[t][(tile - first) * 16 + r] = x[t] . row r of the tile, for tiles [first, first + tiles), tiles <= kGroupTiles.
// x: [tokens] rows of w.shape.cols values. c_stride >= tiles * 16. panel: kPanelFloats of scratch.
// Rows past the edge of the matrix give values nobody may read.
void MultiplyRowTiles(const PanelIsa& isa, const MatrixView& w, int64_t first, int64_t tiles, const float* const* x,
                      int64_t tokens, float* panel, float* c, int64_t c_stride);

// [n] pointers to rows `stride` floats apart.
absl::StatusOr<const float**> RowPointers(Workspace& workspace, const float* x, int64_t n, int64_t stride);

}  // namespace kompakt::portable
