// q8_g32: int8 codes with a two-level scale, 8.25 bits per weight (and one F32 per row).
//
// A row r carries one F32 scale d_r (side data). Each group of 32 columns carries one byte s, an unsigned scale. The
// weight is
//     w[r, c] = d_r * float(s * (code - 128))
// The integer s * (code - 128) lies within [-32640, 32385] and is exact; the product with d_r is one F32 rounding.
// Codes are stored unsigned because that is the operand order of the integer dot products (u8 x s8).
#pragma once

#include <cstdint>

#include "format/format_id.h"

namespace kompakt {

// Bytes of one tile (16 rows x 32 columns): 512 B codes, then 16 group bytes, one per row.
struct Q8G32Tile {
  uint8_t codes[kTileCols / 4][kTileRows][4];  // [k / 4][row][k % 4], value + 128
  uint8_t groups[kTileRows];                   // s of each row
};
static_assert(sizeof(Q8G32Tile) == kTileElements * 33 / 32, "8.25 bits per weight");

inline constexpr int kQ8CodeBias = 128;

extern const BlockFormat kQ8G32Format;

}  // namespace kompakt
