// q4_g16: 4-bit nonlinear codes in groups of 16, 4.5 bits per weight (and one F32 per row).
//
// What a code, a group byte and the row scale mean: format/table_spec.h, with the 16 values of kQ4Table and the
// shift kQ4Shift. The group byte holds a 6-bit scale (less 32) and the shift bit above it; bit 7 is zero.
#pragma once

#include "format/table_spec.h"
#include "format/value_tables.h"

namespace kompakt {

inline constexpr TableSpec kQ4G16 = {
    .id = FormatId::kQ4G16,
    .code_bits = 4,
    .values = kQ4Table,
    .shift = kQ4Shift,
    .group_cols = 16,
    .scale_bits = 6,
};

// Bytes of one tile (16 rows x 32 columns): 256 B codes (one plane), then 32 group bytes.
using Q4G16Tile = TileOf<kQ4G16>;
static_assert(sizeof(Q4G16Tile) == kTileElements * 9 / 16, "4.5 bits per weight");

extern const BlockFormat kQ4G16Format;

}  // namespace kompakt
