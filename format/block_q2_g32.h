// q2_g32: 2-bit nonlinear codes in groups of 32, 2.25 bits per weight (and one F32 per row).
//
// What a code, a group byte and the row scale mean: format/table_spec.h, with the 4 values of kQ2Table and the
// shift kQ2Shift. The group byte holds a 7-bit scale (less 64) and the shift bit above it.
#pragma once

#include "format/table_spec.h"
#include "format/value_tables.h"

namespace kompakt {

inline constexpr TableSpec kQ2G32 = {
    .id = FormatId::kQ2G32,
    .code_bits = 2,
    .values = kQ2Table,
    .shift = kQ2Shift,
    .group_cols = 32,
    .scale_bits = 7,
};

// Bytes of one tile (16 rows x 32 columns): 128 B codes, then 16 group bytes.
using Q2G32Tile = TileOf<kQ2G32>;
static_assert(sizeof(Q2G32Tile) == kTileElements * 9 / 32, "2.25 bits per weight");

extern const BlockFormat kQ2G32Format;

}  // namespace kompakt
