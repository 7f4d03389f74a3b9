#include "format/block_fp8_b128.h"

#include <cstring>

#include "format/float_formats.h"

namespace kompakt {
namespace {

void DecodeTile(const uint8_t* tile, const float* side, DecodedTile* out) {
  Fp8B128Tile t;
  std::memcpy(&t, tile, sizeof(t));
  const float scale = *side;
  for (int64_t k = 0; k < kTileCols; ++k) {
    for (int64_t r = 0; r < kTileRows; ++r) out->w[r][k] = kFp8E4m3Values[t.codes[k / 4][r][k % 4]] * scale;
  }
}

void PackTile(const StoredTile& in, uint8_t* tile) {
  Fp8B128Tile t;
  for (int64_t r = 0; r < kTileRows; ++r) {
    for (int64_t k = 0; k < kTileCols; ++k) t.codes[k / 4][r][k % 4] = in.elements[r * kTileCols + k];
  }
  std::memcpy(tile, &t, sizeof(t));
}

void UnpackTile(const uint8_t* tile, StoredTile* out) {
  Fp8B128Tile t;
  std::memcpy(&t, tile, sizeof(t));
  for (int64_t r = 0; r < kTileRows; ++r) {
    for (int64_t k = 0; k < kTileCols; ++k) out->elements[r * kTileCols + k] = t.codes[k / 4][r][k % 4];
  }
}

void DecodeElements(const uint8_t* elements, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = kFp8E4m3Values[elements[i]];
}

}  // namespace

const BlockFormat kFp8B128Format = {
    .id = FormatId::kFp8B128,
    .name = "fp8_b128",
    .bits_per_weight = 8,
    .exact = true,
    .vector_ok = false,
    .group_cols = 0,
    .tile_bytes = sizeof(Fp8B128Tile),
    .side = SideKind::kBlockScale,
    .stored_element_bytes = 1,
    .decode_tile = DecodeTile,
    .pack_tile = PackTile,
    .unpack_tile = UnpackTile,
    .decode_elements = DecodeElements,
};

}  // namespace kompakt
