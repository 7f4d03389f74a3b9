// RowWork: what encoding one row tile works on, laid out as every instruction set wants it.
#pragma once

#include <cstdint>

#include "quant/encoder.h"

namespace kompakt {

// A row scale as it is stored, and the same in the units of RowWork::x.
struct RowScale {
  float stored = 0;
  float scaled = 0;  // stored * 2^-exponent, exact
};
// The nearest row scale that the file can hold: F32, not zero, and small enough that scale * largest_integer is finite.
RowScale StorableScale(double scaled, int exponent, int largest_integer);

// Points into an EncoderScratch. Columns are padded with zeros to whole tiles.
struct RowWork {
  int64_t cols = 0;
  int64_t padded_cols = 0;  // a multiple of 32
  int64_t n_rows = 0;
  int64_t group_cols = 0;
  int64_t groups = 0;  // those that hold a column of the matrix
  // [padded_cols][16]; each row scaled by a power of two so that its largest magnitude lies in [1, 2). The scaling is
  // exact and keeps squares away from overflow and underflow; an element 2^-126 below its row's largest may lose bits,
  // which no format here could hold. Zero in padding.
  float* x = nullptr;
  const float* importance = nullptr;  // [padded_cols] of columns, largest in [1, 2), 0 in padding; null: all alike
  // [padded_cols][16] what the squared error of a weight counts, 0 in padding; null: all alike.
  const float* h = nullptr;
  uint8_t* quads = nullptr;       // [padded_cols / 4][128]: the columns of a group in 1/32767 of its largest magnitude
  float* groups_state = nullptr;  // [groups][fields][16], as the search of a format family says
  uint8_t* codes = nullptr;       // [padded_cols / 4][row][4]
  int8_t* values = nullptr;       // the same order: code value and shift, what the group scale multiplies
  bool zero[kTileRows] = {};      // no nonzero value, or padding
  int exponent[kTileRows] = {};   // the row is x * 2^exponent
  RowScale scale[kTileRows];
};

// Transposes the rows and sizes the scratch; x is not yet scaled (row_pass.h does).
RowWork MakeRowWork(const RowTile& in, int64_t group_cols, int64_t group_fields, EncoderScratch& scratch);

// From the largest magnitude of each row, as bits: zero, exponent, and the two factors whose product is 2^-exponent
// (neither alone would do for subnormal rows). False when one is not finite.
bool SetExponents(const int32_t largest_bits[kTileRows], RowWork* work, float factor[kTileRows],
                  float second_factor[kTileRows], bool* second_needed);

// Refits the row scales to sums of h x i and h i^2, i being the integers that the row scale multiplies.
void FitRowScales(const float xi[kTileRows], const float ii[kTileRows], int largest_integer, RowWork* work);

// The sums of each row, in its units, into the statistics of the tile.
void ReduceError(const RowWork& work, const double squared_error[kTileRows], const double squared_weight[kTileRows],
                 const float largest[kTileRows], TileError* error);

}  // namespace kompakt
