// q4_g32: 4-bit nonlinear codes in groups of 32, 4.25 bits per weight (and one F32 per row).
//
// A row r carries one F32 scale d_r (side data). Each group of 32 columns carries one byte: bits 0..6 an unsigned scale
// s, bit 7 a shift bit b. The weight is
//     w[r, c] = d_r * float((s - 64) * (kQ4Table[code] + b * kQ4Shift))
// The integer is exact (at most 64 * 128 in magnitude); the product with d_r is one F32 rounding. A negative s - 64
// mirrors the table, which is not symmetric.
#pragma once

#include <cstdint>

#include "format/block_format.h"
#include "format/nibble_codes.h"
#include "format/q4_table.h"

namespace kompakt {

// Bytes of one tile (16 rows x 32 columns): 256 B codes, then 16 group bytes, one per row.
struct Q4G32Tile {
  NibbleCodes codes;          // [k / 8][row][byte]: low nibble k..k+3, high nibble k+4..k+7
  uint8_t groups[kTileRows];  // [row]
};
static_assert(sizeof(Q4G32Tile) == kTileElements * 17 / 32, "4.25 bits per weight");

inline constexpr int kQ4G32ScaleBits = 7;
inline constexpr int kQ4G32ScaleBias = 64;

extern const BlockFormat kQ4G32Format;

}  // namespace kompakt
