// Some row tiles of a packed matrix times an operand: what linear and the FFNs are made of.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/quantized/operand.h"

namespace kompakt::quantized {

// Row tiles that many tokens are multiplied with together, and columns of them that are unpacked at a time: four panels
// of 2048 columns are 160 KiB.
inline constexpr int64_t kGroupTiles = 4;
inline constexpr int64_t kGroupRows = kGroupTiles * kTileRows;
inline constexpr int64_t kPanelColTiles = 64;

// Scratch of one thread. Panels hold PanelTile or, for products in F32, the panels of kernels/portable.
struct ThreadScratch {
  uint8_t* panels = nullptr;
  float* c = nullptr;   // [tokens][kGroupRows]
  float* c2 = nullptr;  // likewise
};

class TeamScratch {
 public:
  // For products of up to `tokens` tokens.
  static absl::StatusOr<TeamScratch> Create(int64_t tokens, KernelContext& context);
  ThreadScratch Of(int thread) const;

 private:
  uint8_t* base_ = nullptr;
  int64_t tokens_ = 0;
  int64_t bytes_ = 0;  // per thread
};

// c[t][(tile - first) * 16 + r] = x[t] . row r of the tile, for tiles [first, first + tiles), tiles <= kGroupTiles, and
// all tokens of the operand; c is kGroupRows wide. Rows past the edge of the matrix give values nobody may read.
void MultiplyRowTiles(const IntegerIsa& isa, const MatrixView& w, int64_t first, int64_t tiles, const Operand& x,
                      uint8_t* panels, float* c);

// y = x W^T or y += x W^T for all rows of w. y: [tokens, rows], y_stride apart.
absl::Status Multiply(const IntegerIsa& isa, const MatrixView& w, const Operand& x, float* y, int64_t y_stride,
                      bool accumulate, KernelContext& context);

}  // namespace kompakt::quantized
