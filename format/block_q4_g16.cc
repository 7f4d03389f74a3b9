#include "format/block_q4_g16.h"

#include <cstring>

namespace kompakt {
namespace {

void DecodeTile(const uint8_t* tile, const float* side, DecodedTile* out) {
  Q4G16Tile t;
  std::memcpy(&t, tile, sizeof(t));
  for (int64_t r = 0; r < kTileRows; ++r) {
    for (int64_t k = 0; k < kTileCols; ++k) {
      const int group = t.groups[k / 16][r];
      const int s = (group & 0x3f) - kQ4G16ScaleBias;
      const int shift = (group >> kQ4G16ScaleBits) & 1;
      out->w[r][k] = side[r] * static_cast<float>(s * Q4Value(NibbleAt(t.codes, r, k), shift));
    }
  }
}

}  // namespace

const BlockFormat kQ4G16Format = {
    .id = FormatId::kQ4G16,
    .name = "q4_g16",
    .bits_per_weight = 4.5,
    .exact = false,
    .vector_ok = false,
    .group_cols = 16,
    .tile_bytes = sizeof(Q4G16Tile),
    .side = SideKind::kRowScale,
    .stored_element_bytes = 0,
    .decode_tile = DecodeTile,
    .pack_tile = nullptr,
    .unpack_tile = nullptr,
    .decode_elements = nullptr,
};

}  // namespace kompakt
