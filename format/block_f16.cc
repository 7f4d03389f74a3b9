#include "format/block_f16.h"

#include <cstring>

#include "format/float_formats.h"

namespace kompakt {
namespace {

void DecodeTile(const uint8_t* tile, const float* /*side*/, DecodedTile* out) {
  F16Tile t;
  std::memcpy(&t, tile, sizeof(t));
  for (int64_t k = 0; k < kTileCols; ++k) {
    for (int64_t r = 0; r < kTileRows; ++r) out->w[r][k] = F16ToF32(t.w[k / 2][r][k % 2]);
  }
}

void PackTile(const StoredTile& in, uint8_t* tile) {
  uint16_t w[kTileRows][kTileCols];
  std::memcpy(w, in.elements, sizeof(w));
  F16Tile t;
  for (int64_t k = 0; k < kTileCols; ++k) {
    for (int64_t r = 0; r < kTileRows; ++r) t.w[k / 2][r][k % 2] = w[r][k];
  }
  std::memcpy(tile, &t, sizeof(t));
}

void UnpackTile(const uint8_t* tile, StoredTile* out) {
  F16Tile t;
  std::memcpy(&t, tile, sizeof(t));
  uint16_t w[kTileRows][kTileCols];
  for (int64_t k = 0; k < kTileCols; ++k) {
    for (int64_t r = 0; r < kTileRows; ++r) w[r][k] = t.w[k / 2][r][k % 2];
  }
  std::memcpy(out->elements, w, sizeof(w));
}

void DecodeElements(const uint8_t* elements, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) {
    uint16_t bits;
    std::memcpy(&bits, elements + i * 2, sizeof(bits));
    out[i] = F16ToF32(bits);
  }
}

}  // namespace

const BlockFormat kF16Format = {
    .id = FormatId::kF16,
    .name = "f16",
    .bits_per_weight = 16,
    .exact = true,
    .vector_ok = true,
    .group_cols = 0,
    .tile_bytes = sizeof(F16Tile),
    .side = SideKind::kNone,
    .stored_element_bytes = 2,
    .decode_tile = DecodeTile,
    .pack_tile = PackTile,
    .unpack_tile = UnpackTile,
    .decode_elements = DecodeElements,
};

}  // namespace kompakt
