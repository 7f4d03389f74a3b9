// fp8_b128: upstream FP8 E4M3FN with one F32 scale per 128 x 128 block, codes and scales kept bit for bit. 8 bits per
// weight and 32 bits per block: 8.002 in all.
//
// The weight is
//     w[r, c] = value(code) * scale[r / 128][c / 128]
// one F32 product; value(code) is exact in F32 (format/float_formats.h). The scales lie in the matrix's side data.
#pragma once

#include <cstdint>

#include "format/format_id.h"

namespace kompakt {

// Bytes of one tile (16 rows x 32 columns): 512 B. One 32-bit word = 4 consecutive k of one row.
struct Fp8B128Tile {
  uint8_t codes[kTileCols / 4][kTileRows][4];  // [k / 4][row][k % 4]
};
static_assert(sizeof(Fp8B128Tile) == kTileElements, "8 bits per weight");

extern const BlockFormat kFp8B128Format;

}  // namespace kompakt
