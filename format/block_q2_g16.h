// q2_g16: 2-bit nonlinear codes in groups of 16, 2.5 bits per weight (and one F32 per row).
//
// What a code, a group byte and the row scale mean: format/table_spec.h, with the 4 values of kQ2Table and the
// shift kQ2Shift. The group byte holds a 6-bit scale (less 32) and the shift bit above it; bit 7 is zero.
#pragma once

#include "format/table_spec.h"
#include "format/value_tables.h"

namespace kompakt {

inline constexpr TableSpec kQ2G16 = {
    .id = FormatId::kQ2G16,
    .code_bits = 2,
    .values = kQ2Table,
    .shift = kQ2Shift,
    .group_cols = 16,
    .scale_bits = 6,
};

// Bytes of one tile (16 rows x 32 columns): 128 B codes, then 32 group bytes.
using Q2G16Tile = TileOf<kQ2G16>;
static_assert(sizeof(Q2G16Tile) == kTileElements * 5 / 16, "2.5 bits per weight");

extern const BlockFormat kQ2G16Format;

}  // namespace kompakt
