// Some row tiles of a packed matrix times an operand: what linear and the FFNs are made of.
#pragma once

#include <algorithm>
#include <cstdint>

#include "absl/functional/function_ref.h"
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
  float* c = nullptr;      // [tokens][kGroupRows]: sums of MultiplyRowTiles
  float* spare = nullptr;  // likewise, for its caller
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

// Called with the products of tokens [first, first + tokens), which it may change: c[i][(tile - first tile) * 16 + r]
// of token first + i, kGroupRows apart. Rows past the edge of the matrix hold values nobody may read.
using BlockSink = absl::FunctionRef<void(int64_t first, int64_t tokens, float* c)>;

// Weights that the caller will multiply next. They are asked for bit by bit while something else is multiplied, so that
// memory is read while the cores compute.
struct Upcoming {
  const uint8_t* begin = nullptr;
  const uint8_t* end = nullptr;

  Upcoming() = default;
  // Row tiles [first, first + tiles) of w.
  Upcoming(const MatrixView& w, int64_t first, int64_t tiles)
      : begin(w.tile(first, 0)), end(begin + static_cast<uint64_t>(tiles) * w.layout.row_tile_bytes(*w.format)) {}
};

// x[t] . row r for rows of tiles [first, first + tiles), tiles <= kGroupTiles, and all tokens of the operand, handed
// over block by block in ascending order while they are in the cache.
void MultiplyRowTiles(const IntegerIsa& isa, const MatrixView& w, int64_t first, int64_t tiles, const Operand& x,
                      const ThreadScratch& scratch, const Upcoming& next, BlockSink sink);

// y = x W^T or y += x W^T for all rows of w. y: [tokens, rows], y_stride apart.
absl::Status Multiply(const IntegerIsa& isa, const MatrixView& w, const Operand& x, float* y, int64_t y_stride,
                      bool accumulate, KernelContext& context);

}  // namespace kompakt::quantized
