// IntegerIsa: what an instruction set contributes to products of integer activations with packed weights. The drivers
// of this folder cut the work into row tiles and blocks of tokens; an IntegerIsa multiplies one row tile with one
// block.
//
// Every instruction set computes, for each token and row, the same integers and then the same chain of F32 operations
// over ascending groups of 32 columns, so all of them give the same bits, for few tokens and for many:
//     integer scales, kInt8   acc = fma(float(sum over 16- or 32-column groups of s * dot), d, acc)
//     all other cases         acc = fma(float(dot), s * d, acc) for each group of the weights' scales
//     y = acc * (factor of the row) * (scale of the token)
// dot = sum of c * value(code), exact in int32; s the group's scale, an integer (table formats, q8_g32) or an F32; c, d
// as in kernels/activation.h.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"
#include "format/block_format.h"
#include "kernels/activation.h"
#include "kernels/quantized/float_isa.h"

namespace kompakt::quantized {

// One group of 32 columns of one token. The order of the codes is the instruction set's own. Sums are of codes, times
// -128: what a product with weights stored as value + 128 is to be corrected by.
template <int kPlanes>
struct ActGroup {
  int8_t codes[kPlanes * kActGroup];
  float scale;
  int32_t offset;          // of all 32 columns
  int32_t half_offset[2];  // of columns 0..15 and 16..31
};
using ActGroup8 = ActGroup<1>;
using ActGroup16 = ActGroup<2>;
static_assert(sizeof(ActGroup8) == 48 && sizeof(ActGroup16) == 80);

constexpr size_t GroupBytes(ActPrecision act) {
  return act == ActPrecision::kInt16 ? sizeof(ActGroup16) : sizeof(ActGroup8);
}

// Tokens that are multiplied together, their groups side by side: groups[col tile][tokens].
struct ActBlock {
  const uint8_t* groups = nullptr;  // of GroupBytes(act) each
  const float* scales = nullptr;    // [tokens], of the tokens
  int64_t tokens = 0;

  const uint8_t* At(int64_t col_tile, ActPrecision act) const {
    return groups + static_cast<size_t>(col_tile * tokens) * GroupBytes(act);
  }
};
inline constexpr int64_t kFewTokens = 4;     // up to here a product reads the tiles as they are
inline constexpr int64_t kBlockTokens = 12;  // the most of one block

// A row tile with its weights as bytes value + 128 and its group scales: what many tokens are multiplied with.
struct PanelTile {
  alignas(64) uint8_t codes[kTileCols / 4][kTileRows][4];
  // [group][row] int32, or F32 where the format has such scales or the activations are kInt16; the second group only
  // where it has 16 columns.
  alignas(64) uint8_t scales[2][kTileRows][4];
};

struct IntegerIsa {
  absl::string_view name;
  bool (*available)();

  // Row x[n] to groups; group i goes to groups + i * stride_bytes. *scale receives the scale of the token: 1, or 2^64
  // where values of that size would overflow the sums.
  void (*quantize[2])(const float* x, int64_t n, uint8_t* groups, size_t stride_bytes, float* scale);

  // acc[t][16] = product of one row tile with up to kFewTokens tokens, not yet scaled by rows and tokens. Indexed by
  // precision (kInt8, kInt16), then by format; null: no integer product.
  using Few = void (*)(const uint8_t* tiles, int64_t col_tiles, const ActBlock& x, float* acc, int64_t acc_stride);
  std::array<Few, kFormats> few[2];

  // `col_tiles` tiles of a row tile as a panel, for activations of that precision.
  using Unpack = void (*)(const uint8_t* tiles, int64_t col_tiles, PanelTile* panel);
  std::array<Unpack, kFormats> unpack[2];

  // The same for one with more tokens, of a panel that begins at col tile `first` of the row tile; unless that is 0,
  // acc goes on from what it holds. Indexed by precision, then whether scales are integers (kInt8 only), then whether
  // groups have 16 columns.
  using Many = void (*)(const PanelTile* panel, int64_t first, int64_t col_tiles, const ActBlock& x, float* acc,
                        int64_t acc_stride);
  Many many[2][2][2];

  // acc[t][r] = acc[t][r] * factors[r] * x.scales[t] for 16 rows and the tokens of a block: the last step.
  void (*finish)(const float* factors, const ActBlock& x, float* acc, int64_t acc_stride);

  const FloatIsa* floats;  // null: products with weights that are floats are those of the portable set
};

inline constexpr size_t PrecisionIndex(ActPrecision act) { return act == ActPrecision::kInt16 ? 1 : 0; }

}  // namespace kompakt::quantized
