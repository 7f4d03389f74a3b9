// q5_g32: 5-bit nonlinear codes in groups of 32, 5.25 bits per weight (and one F32 per row).
//
// What a code, a group byte and the row scale mean: format/table_spec.h, with the 32 values of kQ5Table and the
// shift kQ5Shift. The group byte holds a 7-bit scale (less 64) and the shift bit above it.
#pragma once

#include "format/table_spec.h"
#include "format/value_tables.h"

namespace kompakt {

inline constexpr TableSpec kQ5G32 = {
    .id = FormatId::kQ5G32,
    .code_bits = 5,
    .values = kQ5Table,
    .shift = kQ5Shift,
    .group_cols = 32,
    .scale_bits = 7,
};

// Bytes of one tile (16 rows x 32 columns): 320 B codes (two planes, 4 bits and 1 bit), then 16 group bytes.
using Q5G32Tile = TileOf<kQ5G32>;
static_assert(sizeof(Q5G32Tile) == kTileElements * 21 / 32, "5.25 bits per weight");

extern const BlockFormat kQ5G32Format;

}  // namespace kompakt
