// f32: plain F32, 32 bits per weight. Exact for every source.
#pragma once

#include <cstdint>

#include "format/format_id.h"

namespace kompakt {

// Bytes of one tile (16 rows x 32 columns): 2048 B. The 16 rows of one column lie together.
struct F32Tile {
  float w[kTileCols][kTileRows];  // [k][row]
};
static_assert(sizeof(F32Tile) == kTileElements * 4, "32 bits per weight");

extern const BlockFormat kF32Format;

}  // namespace kompakt
