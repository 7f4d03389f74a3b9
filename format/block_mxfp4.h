// mxfp4: upstream MXFP4 (OCP Microscaling Formats 1.0), E2M1 codes with one power-of-two scale per 32 columns of a row,
// codes and scales kept bit for bit. 4 bits per weight and 8 bits per group: 4.25 in all.
//
// The weight is
//     w[r, c] = value(code) * 2^(e[r][c / 32] - 127)
// one F32 product. Both factors are exact in F32; the product is too, though with e <= 1 it may be subnormal, and it is
// kept. e = 255 is NaN and e > 252 could pass the largest F32: neither occurs.
#pragma once

#include <cstdint>

#include "format/format_id.h"
#include "format/nibble_codes.h"

namespace kompakt {

// Bytes of one tile (16 rows x 32 columns): 256 B codes, then 16 B exponents, one per row.
struct Mxfp4Tile {
  NibbleCodes codes;             // [k / 8][row][byte]: low nibble k..k+3, high nibble k+4..k+7
  uint8_t exponents[kTileRows];  // E8M0
};
static_assert(sizeof(Mxfp4Tile) == kTileElements * 17 / 32, "4.25 bits per weight");

// With larger exponents 6 * 2^(e - 127) is not finite.
inline constexpr uint8_t kMxfp4LargestExponent = 252;

extern const BlockFormat kMxfp4Format;

}  // namespace kompakt
