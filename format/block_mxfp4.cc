#include "format/block_mxfp4.h"

#include <cstring>

#include "format/block_format.h"
#include "format/float_formats.h"

namespace kompakt {
namespace {

void DecodeTile(const uint8_t* tile, const float* /*side*/, DecodedTile* out) {
  Mxfp4Tile t;
  std::memcpy(&t, tile, sizeof(t));
  for (int64_t r = 0; r < kTileRows; ++r) {
    const float scale = E8m0ToF32(t.exponents[r]);
    for (int64_t k = 0; k < kTileCols; ++k) out->w[r][k] = kE2m1Values[NibbleAt(t.codes, r, k)] * scale;
  }
}

void PackTile(const StoredTile& in, uint8_t* tile) {
  Mxfp4Tile t = {};
  PackNibbles(in.elements, t.codes);
  for (int64_t r = 0; r < kTileRows; ++r) t.exponents[r] = static_cast<uint8_t>(in.group_scales[r]);
  std::memcpy(tile, &t, sizeof(t));
}

void UnpackTile(const uint8_t* tile, StoredTile* out) {
  Mxfp4Tile t;
  std::memcpy(&t, tile, sizeof(t));
  UnpackNibbles(t.codes, out->elements);
  for (int64_t r = 0; r < kTileRows; ++r) out->group_scales[r] = t.exponents[r];
}

void DecodeElements(const uint8_t* elements, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = kE2m1Values[elements[i] & 0xf];
}

float GroupScale(uint16_t bits, int64_t /*group*/) { return E8m0ToF32(static_cast<uint8_t>(bits)); }

}  // namespace

const BlockFormat kMxfp4Format = {
    .id = FormatId::kMxfp4,
    .name = "mxfp4",
    .bits_per_weight = 4.25,
    .exact = true,
    .vector_ok = false,
    .group_cols = 32,
    .tile_bytes = sizeof(Mxfp4Tile),
    .side = SideKind::kNone,
    .stored_element_bytes = 1,
    .since_minor = 1,
    .decode_tile = DecodeTile,
    .pack_tile = PackTile,
    .unpack_tile = UnpackTile,
    .decode_elements = DecodeElements,
    .group_scale = GroupScale,
};

}  // namespace kompakt
