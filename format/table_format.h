// The functions that a TableSpec (table_spec.h) has in the table of formats.
#pragma once

#include <cstdint>
#include <cstring>

#include "format/block_format.h"
#include "format/table_spec.h"

namespace kompakt {

// The codes of one tile, one per byte as transposed words [k / 4][row][k % 4], into its planes.
template <const TableSpec& kSpec>
void PackTableCodes(const uint8_t* words, uint8_t* tile) {
  PackPlane<kSpec.low_bits()>(words, 0, tile);
  if constexpr (kSpec.high_bits() > 0) {
    PackPlane<kSpec.high_bits()>(words, kSpec.low_bits(), tile + kSpec.low_bytes());
  }
}

template <const TableSpec& kSpec>
void DecodeTableTile(const uint8_t* bytes, const float* side, DecodedTile* out) {
  TileOf<kSpec> tile;
  static_assert(sizeof(tile) == kSpec.tile_bytes());
  std::memcpy(&tile, bytes, sizeof(tile));
  for (int64_t r = 0; r < kTileRows; ++r) {
    for (int64_t k = 0; k < kTileCols; ++k) {
      const int group = tile.groups[k / kSpec.group_cols][r];
      const int value = kSpec.values[tile.CodeAt(r, k)] + kSpec.ShiftOf(group);
      out->w[r][k] = side[r] * static_cast<float>(kSpec.ScaleOf(group) * value);
    }
  }
}

// The row of the table of formats.
template <const TableSpec& kSpec>
constexpr BlockFormat TableFormatRow(const char* name, uint16_t since_minor) {
  return {
      .id = kSpec.id,
      .name = name,
      .bits_per_weight = static_cast<double>(kSpec.tile_bytes()) * 8 / kTileElements,
      .exact = false,
      .vector_ok = false,
      .group_cols = kSpec.group_cols,
      .tile_bytes = kSpec.tile_bytes(),
      .side = SideKind::kRowScale,
      .stored_element_bytes = 0,
      .since_minor = since_minor,
      .decode_tile = DecodeTableTile<kSpec>,
      .pack_tile = nullptr,
      .unpack_tile = nullptr,
      .decode_elements = nullptr,
  };
}

}  // namespace kompakt
