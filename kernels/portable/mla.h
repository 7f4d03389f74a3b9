// What both forms of attention need of one head's part of kv_b.
#pragma once

#include <cstdint>

#include "kernels/kernel_set.h"
#include "kernels/portable/panel.h"

namespace kompakt::portable {

// Rows of the cache that are attended to together.
inline constexpr int64_t kCacheBlock = 64;

// Rows [row_begin, row_begin + rows) of w as panels of 16 rows and all columns, columns padded to whole tiles:
// out[ceil(rows / 16)][col_tiles * 32][16]. Lanes past `rows` hold unspecified finite values.
void DecodeRowPanels(const PanelIsa& isa, const MatrixView& w, int64_t row_begin, int64_t rows, float* out);

// b[j][i] = a[i][j] for any rows and cols.
void Transpose(const PanelIsa& isa, const float* a, int64_t a_stride, int64_t rows, int64_t cols, float* b,
               int64_t b_stride);

}  // namespace kompakt::portable
