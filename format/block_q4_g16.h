// q4_g16: 4-bit nonlinear codes in groups of 16, 4.5 bits per weight (and one F32 per row).
//
// A row r carries one F32 scale d_r (side data). Each group of 16 columns carries one byte: bits 0..5 an unsigned scale
// s, bit 6 a shift bit b, bit 7 zero. The weight is
//     w[r, c] = d_r * float((s - 32) * (kQ4Table[code] + b * kQ4Shift))
// The integer is exact (at most 32 * 128 in magnitude); the product with d_r is one F32 rounding. A kernel needs one
// byte shuffle and one int8 dot product; the shift costs one multiple of the group's activation sum.
#pragma once

#include <cstdint>

#include "format/block_format.h"
#include "format/nibble_codes.h"
#include "format/q4_table.h"

namespace kompakt {

// Bytes of one tile (16 rows x 32 columns): 256 B codes, then 32 group bytes: rows 0..15 of group 0, then of group 1.
struct Q4G16Tile {
  NibbleCodes codes;             // [k / 8][row][byte]: low nibble k..k+3, high nibble k+4..k+7
  uint8_t groups[2][kTileRows];  // [k / 16][row]
};
static_assert(sizeof(Q4G16Tile) == kTileElements * 9 / 16, "4.5 bits per weight");

inline constexpr int kQ4G16ScaleBits = 6;
inline constexpr int kQ4G16ScaleBias = 32;

extern const BlockFormat kQ4G16Format;

}  // namespace kompakt
