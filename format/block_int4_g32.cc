#include "format/block_int4_g32.h"

#include <cstring>

#include "format/block_format.h"
#include "format/float_formats.h"

namespace kompakt {
namespace {

void DecodeTile(const uint8_t* tile, const float* /*side*/, DecodedTile* out) {
  Int4G32Tile t;
  std::memcpy(&t, tile, sizeof(t));
  for (int64_t r = 0; r < kTileRows; ++r) {
    const float scale = Bf16ToF32(t.scales[r]);
    for (int64_t k = 0; k < kTileCols; ++k) {
      out->w[r][k] = static_cast<float>(NibbleAt(t.codes, r, k) - kInt4CodeBias) * scale;
    }
  }
}

void PackTile(const StoredTile& in, uint8_t* tile) {
  Int4G32Tile t = {};
  PackNibbles(in.elements, t.codes);
  for (int64_t r = 0; r < kTileRows; ++r) t.scales[r] = in.group_scales[r];
  std::memcpy(tile, &t, sizeof(t));
}

void UnpackTile(const uint8_t* tile, StoredTile* out) {
  Int4G32Tile t;
  std::memcpy(&t, tile, sizeof(t));
  UnpackNibbles(t.codes, out->elements);
  for (int64_t r = 0; r < kTileRows; ++r) out->group_scales[r] = t.scales[r];
}

void DecodeElements(const uint8_t* elements, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = static_cast<float>((elements[i] & 0xf) - kInt4CodeBias);
}

float GroupScale(uint16_t bits, int64_t /*group*/) { return Bf16ToF32(bits); }

}  // namespace

const BlockFormat kInt4G32Format = {
    .id = FormatId::kInt4G32,
    .name = "int4_g32",
    .bits_per_weight = 4.5,
    .exact = true,
    .vector_ok = false,
    .group_cols = 32,
    .tile_bytes = sizeof(Int4G32Tile),
    .side = SideKind::kNone,
    .stored_element_bytes = 1,
    .decode_tile = DecodeTile,
    .pack_tile = PackTile,
    .unpack_tile = UnpackTile,
    .decode_elements = DecodeElements,
    .group_scale = GroupScale,
};

}  // namespace kompakt
