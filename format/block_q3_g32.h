// q3_g32: 3-bit nonlinear codes in groups of 32, 3.25 bits per weight (and one F32 per row).
//
// What a code, a group byte and the row scale mean: format/table_spec.h, with the 8 values of kQ3Table and the
// shift kQ3Shift. The group byte holds a 7-bit scale (less 64) and the shift bit above it.
#pragma once

#include "format/table_spec.h"
#include "format/value_tables.h"

namespace kompakt {

inline constexpr TableSpec kQ3G32 = {
    .id = FormatId::kQ3G32,
    .code_bits = 3,
    .values = kQ3Table,
    .shift = kQ3Shift,
    .group_cols = 32,
    .scale_bits = 7,
};

// Bytes of one tile (16 rows x 32 columns): 192 B codes (two planes, 2 bits and 1 bit), then 16 group bytes.
using Q3G32Tile = TileOf<kQ3G32>;
static_assert(sizeof(Q3G32Tile) == kTileElements * 13 / 32, "3.25 bits per weight");

extern const BlockFormat kQ3G32Format;

}  // namespace kompakt
