// f16: plain IEEE binary16, 16 bits per weight. Exact for F16 sources.
#pragma once

#include <cstdint>

#include "format/block_format.h"

namespace kompakt {

// Bytes of one tile (16 rows x 32 columns): 1024 B. One 32-bit word = 2 consecutive k of one row.
struct F16Tile {
  uint16_t w[kTileCols / 2][kTileRows][2];  // [k / 2][row][k % 2]
};
static_assert(sizeof(F16Tile) == kTileElements * 2, "16 bits per weight");

extern const BlockFormat kF16Format;

}  // namespace kompakt
