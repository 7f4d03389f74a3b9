// What the matrix kernels multiply and what they leave behind. Plain structures; pointers are device memory unless it
// is said, innermost dimension last, T tokens. Read by nvcc: no Abseil.
#pragma once

#include <cstdint>

#include "format/format_id.h"

namespace kompakt::cuda {

// A packed matrix as it lies in the file (format/block_format.h): tiles, then side data.
struct Matrix {
  const uint8_t* data = nullptr;  // the blob, 64-byte aligned
  uint64_t side_offset = 0;       // bytes from `data` to its side data (BlobLayout::side_offset)
  int32_t rows = 0;
  int32_t cols = 0;
  FormatId format = FormatId::kF32;
};

inline constexpr int64_t kGroupCols = 32;  // columns that share an activation scale, and rows of a block of results
constexpr int64_t Groups(int64_t n) { return (n + kGroupCols - 1) / kGroupCols; }
// Columns with the zero padding that kernels read.
constexpr int64_t Padded(int64_t n) { return Groups(n) * kGroupCols; }

// Rows of activations on their way into a product: F32, and integers by the rule of kernels/activation.h, so with the
// codes that a CPU would use but for the rounding of what is rounded.
//
// A row may still wait for its RMSNorm: x holds v * weight, `squares` the sums of v^2 over 32 values each, and the
// product is multiplied by 1 / sqrt(sum / cols + eps) at its end, which is the same, since the factor is one per row.
struct Activations {
  int32_t cols = 0;
  int32_t planes = 0;        // of codes: 0 none, 1 int8, 2 int16 (high bytes, then low ones)
  float* x = nullptr;        // [T, Padded(cols)], padding zero; null where all that reads it takes codes
  int8_t* codes = nullptr;   // [T, planes, Padded(cols)], padding zero; 16-byte aligned
  float* scales = nullptr;   // [T, Groups(cols)]
  float* sums = nullptr;     // [T, 2 Groups(cols)]: sums of 16 codes, exact
  float* squares = nullptr;  // [T, Groups(cols)], or null: no norm
  float eps = 0;
};

// A byte count per buffer of Activations, and all of them one after the other in one piece of memory.
struct ActivationLayout {
  int32_t cols = 0;
  int32_t planes = 0;
  bool with_x = false;
  bool with_squares = false;

  constexpr uint64_t x_bytes(int64_t rows) const { return with_x ? Bytes(rows * Padded(cols) * 4) : 0; }
  constexpr uint64_t code_bytes(int64_t rows) const { return Bytes(rows * planes * Padded(cols)); }
  constexpr uint64_t scale_bytes(int64_t rows) const { return planes > 0 ? Bytes(rows * Groups(cols) * 4) : 0; }
  constexpr uint64_t sum_bytes(int64_t rows) const { return planes > 0 ? Bytes(rows * Groups(cols) * 8) : 0; }
  constexpr uint64_t square_bytes(int64_t rows) const { return with_squares ? Bytes(rows * Groups(cols) * 4) : 0; }
  constexpr uint64_t bytes(int64_t rows) const {
    return x_bytes(rows) + code_bytes(rows) + scale_bytes(rows) + sum_bytes(rows) + square_bytes(rows);
  }
  // `base`: bytes(rows) of memory, 256-byte aligned.
  Activations Place(void* base, int64_t rows, float eps) const {
    auto* at = static_cast<uint8_t*>(base);
    Activations a{.cols = cols, .planes = planes, .eps = eps};
    if (with_x) a.x = reinterpret_cast<float*>(at);
    at += x_bytes(rows);
    if (planes > 0) {
      a.codes = reinterpret_cast<int8_t*>(at);
      at += code_bytes(rows);
      a.scales = reinterpret_cast<float*>(at);
      at += scale_bytes(rows);
      a.sums = reinterpret_cast<float*>(at);
      at += sum_bytes(rows);
    }
    if (with_squares) a.squares = reinterpret_cast<float*>(at);
    return a;
  }

 private:
  static constexpr uint64_t Bytes(int64_t n) { return (static_cast<uint64_t>(n) + 255) / 256 * 256; }
};

// What becomes of the results v of a product, 32 rows at a time. Any part may be left out.
struct RowsOut {
  float* y = nullptr;  // [T, y_stride]
  int64_t y_stride = 0;
  bool accumulate = false;  // v += y first: the residual stream
  // The results as activations of the next product; cols = rows of this one. With `squares`, v * norm is kept and the
  // norm's factor follows in that product. x where the next matrices are of a float format, or the router.
  Activations next = {};
  const float* norm = nullptr;  // [rows], or null: 1
};

}  // namespace kompakt::cuda
