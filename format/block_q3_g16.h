// q3_g16: 3-bit nonlinear codes in groups of 16, 3.5 bits per weight (and one F32 per row).
//
// What a code, a group byte and the row scale mean: format/table_spec.h, with the 8 values of kQ3Table and the
// shift kQ3Shift. The group byte holds a 6-bit scale (less 32) and the shift bit above it; bit 7 is zero.
#pragma once

#include "format/table_spec.h"
#include "format/value_tables.h"

namespace kompakt {

inline constexpr TableSpec kQ3G16 = {
    .id = FormatId::kQ3G16,
    .code_bits = 3,
    .values = kQ3Table,
    .shift = kQ3Shift,
    .group_cols = 16,
    .scale_bits = 6,
};

// Bytes of one tile (16 rows x 32 columns): 192 B codes (two planes, 2 bits and 1 bit), then 32 group bytes.
using Q3G16Tile = TileOf<kQ3G16>;
static_assert(sizeof(Q3G16Tile) == kTileElements * 7 / 16, "3.5 bits per weight");

extern const BlockFormat kQ3G16Format;

}  // namespace kompakt
