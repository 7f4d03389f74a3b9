// q6_g32: 6-bit nonlinear codes in groups of 32, 6.25 bits per weight (and one F32 per row).
//
// What a code, a group byte and the row scale mean: format/table_spec.h, with the 64 values of kQ6Table and the
// shift kQ6Shift. The group byte holds a 7-bit scale (less 64) and the shift bit above it.
#pragma once

#include "format/table_spec.h"
#include "format/value_tables.h"

namespace kompakt {

inline constexpr TableSpec kQ6G32 = {
    .id = FormatId::kQ6G32,
    .code_bits = 6,
    .values = kQ6Table,
    .shift = kQ6Shift,
    .group_cols = 32,
    .scale_bits = 7,
};

// Bytes of one tile (16 rows x 32 columns): 384 B codes (two planes, 4 bits and 2 bits), then 16 group bytes.
using Q6G32Tile = TileOf<kQ6G32>;
static_assert(sizeof(Q6G32Tile) == kTileElements * 25 / 32, "6.25 bits per weight");

extern const BlockFormat kQ6G32Format;

}  // namespace kompakt
