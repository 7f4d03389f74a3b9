#include "format/block_q4_g32.h"

#include <cstring>

namespace kompakt {
namespace {

void DecodeTile(const uint8_t* tile, const float* side, DecodedTile* out) {
  Q4G32Tile t;
  std::memcpy(&t, tile, sizeof(t));
  for (int64_t r = 0; r < kTileRows; ++r) {
    const int s = (t.groups[r] & 0x7f) - kQ4G32ScaleBias;
    const int shift = t.groups[r] >> kQ4G32ScaleBits;
    for (int64_t k = 0; k < kTileCols; ++k) {
      out->w[r][k] = side[r] * static_cast<float>(s * Q4Value(NibbleAt(t.codes, r, k), shift));
    }
  }
}

}  // namespace

const BlockFormat kQ4G32Format = {
    .id = FormatId::kQ4G32,
    .name = "q4_g32",
    .bits_per_weight = 4.25,
    .exact = false,
    .vector_ok = false,
    .group_cols = 32,
    .tile_bytes = sizeof(Q4G32Tile),
    .side = SideKind::kRowScale,
    .stored_element_bytes = 0,
    .decode_tile = DecodeTile,
    .pack_tile = nullptr,
    .unpack_tile = nullptr,
    .decode_elements = nullptr,
};

}  // namespace kompakt
