// nvfp4: upstream NVFP4, E2M1 codes with one E4M3 scale per 16 columns of a row and one F32 scale per matrix, all kept
// bit for bit. 4 bits per weight and 8 bits per group: 4.5 in all.
//
// The weight is
//     w[r, c] = value(code) * value(s[r][c / 16]) * multiplier / divisor
// from left to right. The first product is exact in F32. One of multiplier and divisor is 1, because producers either
// multiply by their scale (ModelOpt) or divide by it (compressed-tensors), so at most one operation rounds, and every
// reader gets the bits of the producer's own arithmetic. Both numbers are the side of the matrix.
#pragma once

#include <cstdint>

#include "format/format_id.h"
#include "format/nibble_codes.h"

namespace kompakt {

// Bytes of one tile (16 rows x 32 columns): 256 B codes, then 32 B scales: rows 0..15 of group 0, then of group 1.
struct Nvfp4Tile {
  NibbleCodes codes;             // [k / 8][row][byte]: low nibble k..k+3, high nibble k+4..k+7
  uint8_t scales[2][kTileRows];  // E4M3, [group][row]
};
static_assert(sizeof(Nvfp4Tile) == kTileElements * 9 / 16, "4.5 bits per weight");

inline constexpr int64_t kNvfp4Group = 16;

extern const BlockFormat kNvfp4Format;

}  // namespace kompakt
