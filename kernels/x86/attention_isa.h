// The loops of latent attention, compiled once per instruction set and number format; the steps around them are written
// once, in mla_decode.cc and mla_prefill.cc.
//
// A unit is 32 bits of an operand: one F32, or two bf16 that follow each other along the summed dimension. So the same
// strides and the same steps serve both. Products of bf16 are exact and summed in F32 (vdpbf16ps: subnormal operands
// count as zero, sums round to nearest even).
//
// Every result is a function of its own row and column alone: sums over the summed dimension are one chain in ascending
// order, however many rows and columns are computed together.
#pragma once

#include <cstdint>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "format/block_format.h"
#include "kernels/latent_cache.h"

namespace kompakt::x86 {

inline constexpr int64_t kLanes = 16;

constexpr int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t RoundUp(int64_t n, int64_t to) { return CeilDiv(n, to) * to; }

// c[i][j] (+)= sum over k of a(i, k) * b(k, j), j over `tiles` times 16 columns.
struct UnitProduct {
  const uint32_t* a = nullptr;  // unit (i, k) at a[i * a_row + k * a_k]
  int64_t a_row = 0;
  int64_t a_k = 1;
  const uint32_t* b = nullptr;  // unit (k, j) at b[k * b_k + (j / 16) * b_tile + j % 16]
  int64_t b_k = kLanes;
  int64_t b_tile = kLanes;
  int64_t rows = 0;
  int64_t k = 0;  // units
  int64_t tiles = 1;
  float* c = nullptr;  // c[i * c_row + j]
  int64_t c_row = 0;
  bool accumulate = false;
  // With one tile: as many bytes as half of `a` are fetched from here meanwhile; null: none.
  const uint8_t* next = nullptr;
};

// c[i][j] += sum over pairs of values: as UnitProduct, with b in rows as the cache keeps them: value (k, j) at
// b[k * b_k + j] in units of value_bytes. Columns come in chunks of 32, and where units hold two values, c has them in
// the order of PairColumn.
struct RowProduct {
  const uint32_t* a = nullptr;  // unit (i, k) at a[i * a_row + k * a_k]
  int64_t a_row = 0;
  int64_t a_k = 1;
  const void* b = nullptr;
  int64_t b_k = 0;   // values
  int64_t n_b = 0;   // rows of b; where it is odd, the last unit's second value has a zero partner
  int64_t rows = 0;  // a multiple of 16
  int64_t chunks = 0;
  float* c = nullptr;
  int64_t c_row = 0;
  const uint8_t* next = nullptr;  // as many bytes as 16 rows of c are fetched from here meanwhile; null: none
};

// The loops of one instruction set.
struct AttentionLoops {
  int64_t unit_values;  // 1: F32; 2: bf16

  void (*multiply)(const UnitProduct& p);
  void (*multiply_rows)(const RowProduct& p);
  // c[rows][32 chunks], as multiply_rows left it, in the order of columns. In place.
  void (*order_columns)(float* c, int64_t c_row, int64_t rows, int64_t chunks);

  // x[n] -> units[ceil(n / unit_values)], a missing value is zero.
  void (*to_units)(const float* x, int64_t n, uint32_t* units);
  // Rows 0 .. n_rows of c[n_rows][16 tiles] -> units [ceil(n_rows / unit_values)][16 tiles]: values of one unit come
  // from consecutive rows.
  void (*rows_to_units)(const float* c, int64_t c_row, int64_t n_rows, int64_t tiles, uint32_t* units,
                        int64_t units_row);
  // b[j][i] = a[i][j] for rows <= 16; lanes past `rows` become zero. b: [cols][16].
  void (*transpose)(const uint32_t* a, int64_t a_row, int64_t rows, int64_t cols, uint32_t* b);

  // One step of 16 online softmaxes side by side, in powers of two. scores[n][16], of which lane l sees the first
  // seen[l]. largest, sum, keep: [16]. Leaves weights as units [ceil(n / unit_values)][16] and adds what they are after
  // rounding to `sum`; a lane that has seen nothing keeps kUnseen.
  void (*softmax_columns)(float* scores, int64_t n, const int32_t* seen, float* largest, float* sum, float* keep,
                          uint32_t* weights);
  // The same for one row of scores[n], n a multiple of 16, of which the first `seen` >= 1 count. Returns keep; weights
  // are units [n / unit_values].
  float (*softmax_row)(float* scores, int64_t n, int64_t seen, float* largest, float* sum, uint32_t* weights);
  // c[i] *= factor.
  void (*scale)(float* c, int64_t n, float factor);
  // c[i] += factor * x[i], n a multiple of 16.
  void (*add_scaled)(float* c, const float* x, int64_t n, float factor);
  float (*exp2)(float x);

  // y[c] = sum over r of x[r] * w[row_begin + r][c], for one token; y: [col_tiles * 32]. `lanes`: scratch of rows + 48.
  // As many bytes as the tiles of so many rows are fetched from `next` meanwhile; null: none.
  void (*absorb)(const MatrixView& w, int64_t row_begin, int64_t rows, const float* x, const uint8_t* next,
                 float* lanes, float* y);
  // y[r] = sum over c of x[c] * w[row_begin + r][c]; x: [col_tiles * 32], zeros past the last column. `lanes` as above.
  void (*project)(const MatrixView& w, int64_t row_begin, int64_t rows, const float* x, float* lanes, float* y);
};

struct AttentionIsa : AttentionLoops {
  absl::string_view name;
  bool (*available)();
};

// Of a lane that has seen no row: below every score, and its powers of two are zero.
inline constexpr float kUnseen = -3e38f;

// Every instruction set of this build: F32 ones first.
absl::Span<const AttentionIsa* const> AllAttentionIsas();

}  // namespace kompakt::x86
