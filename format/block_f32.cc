#include "format/block_f32.h"

#include <cstring>

#include "format/float_formats.h"

namespace kompakt {
namespace {

void DecodeTile(const uint8_t* tile, const float* /*side*/, DecodedTile* out) {
  F32Tile t;
  std::memcpy(&t, tile, sizeof(t));
  for (int64_t k = 0; k < kTileCols; ++k) {
    for (int64_t r = 0; r < kTileRows; ++r) out->w[r][k] = t.w[k][r];
  }
}

// Bits are moved as integers: a float register may quieten a NaN on some machines.
void PackTile(const StoredTile& in, uint8_t* tile) {
  for (int64_t k = 0; k < kTileCols; ++k) {
    for (int64_t r = 0; r < kTileRows; ++r) {
      std::memcpy(tile + (k * kTileRows + r) * 4, in.elements + (r * kTileCols + k) * 4, 4);
    }
  }
}

void UnpackTile(const uint8_t* tile, StoredTile* out) {
  for (int64_t k = 0; k < kTileCols; ++k) {
    for (int64_t r = 0; r < kTileRows; ++r) {
      std::memcpy(out->elements + (r * kTileCols + k) * 4, tile + (k * kTileRows + r) * 4, 4);
    }
  }
}

void DecodeElements(const uint8_t* elements, int64_t n, float* out) {
  std::memcpy(out, elements, static_cast<size_t>(n) * 4);
}

}  // namespace

const BlockFormat kF32Format = {
    .id = FormatId::kF32,
    .name = "f32",
    .bits_per_weight = 32,
    .exact = true,
    .vector_ok = true,
    .group_cols = 0,
    .tile_bytes = sizeof(F32Tile),
    .side = SideKind::kNone,
    .stored_element_bytes = 4,
    .decode_tile = DecodeTile,
    .pack_tile = PackTile,
    .unpack_tile = UnpackTile,
    .decode_elements = DecodeElements,
};

}  // namespace kompakt
