// RowLanes: the rows of one tile as every encoder wants them: transposed to [cols][16] and each scaled by a power of
// two so that its largest magnitude lies in [1, 2). The scaling is exact and keeps squares away from overflow and
// underflow; an element 2^-126 below its row's largest may lose bits, which no format here could hold.
#pragma once

#include <cstdint>

#include "quant/encoder.h"

namespace kompakt {

struct RowLanes {
  const float* x = nullptr;  // [cols][16]; zero in padding rows
  const float* h = nullptr;  // [cols] importance, its largest value in [1, 2); null: all columns alike
  int64_t cols = 0;
  int64_t n_rows = 0;
  bool zero[kTileRows] = {};     // no nonzero value, or padding
  int exponent[kTileRows] = {};  // the row is x * 2^exponent
};

// Fills scratch.lanes and scratch.importance; the result points into them.
RowLanes LoadRowLanes(const RowTile& in, EncoderScratch& scratch);

// A row scale as it is stored, and the same in the units of RowLanes::x.
struct RowScale {
  float stored = 0;
  float scaled = 0;  // stored * 2^-exponent, exact
};
// The nearest row scale that the file can hold: F32, not zero, and small enough that scale * largest_integer is finite.
RowScale StorableScale(double scaled, int exponent, int largest_integer);

// Error of the whole tile: integers[cols][16] are group scale x code value. Overwrites *error.
void MeasureError(const RowTile& in, const float* row_scales, const int16_t* integers, TileError* error);

}  // namespace kompakt
