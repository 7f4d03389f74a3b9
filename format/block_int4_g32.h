// int4_g32: upstream symmetric INT4 with one BF16 scale per 32 columns of a row, codes and scales kept bit for bit.
// 4 bits per weight and 16 bits per group: 4.5 in all.
//
// The weight is
//     w[r, c] = float(code - 8) * scale[r][c / 32]
// one F32 product, the BF16 scale widened first.
#pragma once

#include <cstdint>

#include "format/format_id.h"
#include "format/nibble_codes.h"

namespace kompakt {

// Bytes of one tile (16 rows x 32 columns): 256 B codes, then 32 B scales, one per row.
struct Int4G32Tile {
  NibbleCodes codes;           // [k / 8][row][byte]: low nibble k..k+3, high nibble k+4..k+7
  uint16_t scales[kTileRows];  // BF16 bits
};
static_assert(sizeof(Int4G32Tile) == kTileElements * 9 / 16, "4.5 bits per weight");

inline constexpr int kInt4CodeBias = 8;

extern const BlockFormat kInt4G32Format;

}  // namespace kompakt
