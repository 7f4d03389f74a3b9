#include "format/block_nvfp4.h"

#include <cstring>

#include "format/block_format.h"
#include "format/float_formats.h"

namespace kompakt {
namespace {

void DecodeTile(const uint8_t* tile, const float* side, DecodedTile* out) {
  Nvfp4Tile t;
  std::memcpy(&t, tile, sizeof(t));
  const float multiplier = side[0];
  const float divisor = side[1];
  for (int64_t r = 0; r < kTileRows; ++r) {
    for (int64_t k = 0; k < kTileCols; ++k) {
      const float scale = kFp8E4m3Values[t.scales[k / kNvfp4Group][r]];
      out->w[r][k] = kE2m1Values[NibbleAt(t.codes, r, k)] * scale * multiplier / divisor;
    }
  }
}

void PackTile(const StoredTile& in, uint8_t* tile) {
  Nvfp4Tile t = {};
  PackNibbles(in.elements, t.codes);
  for (int64_t r = 0; r < kTileRows; ++r) {
    t.scales[0][r] = static_cast<uint8_t>(in.group_scales[r] & 0xff);
    t.scales[1][r] = static_cast<uint8_t>(in.group_scales[r] >> 8);
  }
  std::memcpy(tile, &t, sizeof(t));
}

void UnpackTile(const uint8_t* tile, StoredTile* out) {
  Nvfp4Tile t;
  std::memcpy(&t, tile, sizeof(t));
  UnpackNibbles(t.codes, out->elements);
  for (int64_t r = 0; r < kTileRows; ++r) {
    out->group_scales[r] = static_cast<uint16_t>(t.scales[0][r] | (t.scales[1][r] << 8));
  }
}

void DecodeElements(const uint8_t* elements, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = kE2m1Values[elements[i] & 0xf];
}

float GroupScale(uint16_t bits, int64_t group) {
  return kFp8E4m3Values[static_cast<uint8_t>(group == 0 ? bits & 0xff : bits >> 8)];
}

}  // namespace

const BlockFormat kNvfp4Format = {
    .id = FormatId::kNvfp4,
    .name = "nvfp4",
    .bits_per_weight = 4.5,
    .exact = true,
    .vector_ok = false,
    .group_cols = kNvfp4Group,
    .tile_bytes = sizeof(Nvfp4Tile),
    .side = SideKind::kTensorScale,
    .stored_element_bytes = 1,
    .since_minor = 1,
    .decode_tile = DecodeTile,
    .pack_tile = PackTile,
    .unpack_tile = UnpackTile,
    .decode_elements = DecodeElements,
    .group_scale = GroupScale,
};

}  // namespace kompakt
