// q4_g32: 4-bit nonlinear codes in groups of 32, 4.25 bits per weight (and one F32 per row).
//
// What a code, a group byte and the row scale mean: format/table_spec.h, with the 16 values of kQ4Table and the
// shift kQ4Shift. The group byte holds a 7-bit scale (less 64) and the shift bit above it.
#pragma once

#include "format/table_spec.h"
#include "format/value_tables.h"

namespace kompakt {

inline constexpr TableSpec kQ4G32 = {
    .id = FormatId::kQ4G32,
    .code_bits = 4,
    .values = kQ4Table,
    .shift = kQ4Shift,
    .group_cols = 32,
    .scale_bits = 7,
};

// Bytes of one tile (16 rows x 32 columns): 256 B codes (one plane), then 16 group bytes.
using Q4G32Tile = TileOf<kQ4G32>;
static_assert(sizeof(Q4G32Tile) == kTileElements * 17 / 32, "4.25 bits per weight");

extern const BlockFormat kQ4G32Format;

}  // namespace kompakt
