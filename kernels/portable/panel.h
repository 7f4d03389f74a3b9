// Panels: the one inner loop of the portable set, and what feeds it.
//
// A panel is a block of a matrix in F32, k-major: panel[k][16 rows]. A product multiplies rows of activations with it,
//     c[t][r] (+)= sum over k of a[t][k] * panel[k][r]
// every sum one chain of multiply, round, add, round in ascending k. So a value depends neither on how many tokens or
// panels are multiplied together nor on the instruction set: all of them give the same bits.
#pragma once

#include <cstdint>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "format/block_format.h"

namespace kompakt::portable {

struct PanelProduct {
  const float* const* a = nullptr;  // [tokens] rows of at least k values
  int64_t tokens = 0;
  int64_t k = 0;
  const float* panel = nullptr;  // value (k, r) of panel i at panel[i * tile_stride + k * k_stride + r]
  int64_t k_stride = kTileRows;
  int64_t tiles = 1;  // panels side by side
  int64_t tile_stride = 0;
  float* c = nullptr;  // [tokens, tiles * 16]
  int64_t c_stride = 0;
  bool accumulate = false;
};

// Row tiles of a matrix with few tokens, straight from the bytes of their tiles: the bits that decoding and multiplying
// would give.
struct DirectProduct {
  const MatrixView* w = nullptr;
  int64_t first = 0;  // row tile
  int64_t tiles = 0;
  const float* const* a = nullptr;  // [tokens] rows of w->shape.cols values
  int64_t tokens = 0;               // at most kDirectTokens
  float* c = nullptr;               // [tokens, tiles * 16]
  int64_t c_stride = 0;
};
inline constexpr int64_t kDirectTokens = 2;

// The loops above, compiled for one instruction set.
struct PanelIsa {
  absl::string_view name;
  bool (*available)();
  void (*multiply)(const PanelProduct& p);
  // One tile as a panel [32][16]: the values of decode_tile, transposed; only the sign of a zero may differ. Indexed by
  // FormatId; null: decode_tile is used.
  void (*const* decode)(const uint8_t* tile, const float* side, float* panel);
  // Indexed by FormatId; null: there is only the way over a panel.
  void (*const* direct)(const DirectProduct& p);
  // b[j][i] = a[i][j] for a block of rows x cols values, both multiples of 4.
  void (*transpose)(const float* a, int64_t a_stride, int64_t rows, int64_t cols, float* b, int64_t b_stride);
  // gate <- silu(gate) * up, n a multiple of 16.
  void (*silu_times)(float* gate, const float* up, int64_t n);
  // x <- e^x, n a multiple of 16.
  void (*exp)(float* x, int64_t n);
  // One step of an online softmax. scores[n], n a multiple of 16, are multiplied by `scale` and become
  // exp(score - *largest), where *largest first rises to the largest of them. *sum <- *sum * keep + their sum. Returns
  // keep = exp(old *largest - new *largest), by which everything summed before is to be multiplied. A score of minus
  // infinity becomes 0; at least one is finite.
  float (*softmax_step)(float* scores, int64_t n, float scale, float* largest, float* sum);
};

// Every instruction set of this build, baseline first.
absl::Span<const PanelIsa> AllPanelIsas();
// The last that this machine runs.
const PanelIsa& BestPanelIsa();

// decode_tile into a panel, for any format.
void DecodePanel(const PanelIsa& isa, const BlockFormat& format, const uint8_t* tile, const float* side, float* panel);

}  // namespace kompakt::portable
