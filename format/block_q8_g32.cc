#include "format/block_q8_g32.h"

#include <cstring>

#include "format/block_format.h"

namespace kompakt {
namespace {

void DecodeTile(const uint8_t* tile, const float* side, DecodedTile* out) {
  Q8G32Tile t;
  std::memcpy(&t, tile, sizeof(t));
  for (int64_t r = 0; r < kTileRows; ++r) {
    const int s = t.groups[r];
    for (int64_t k = 0; k < kTileCols; ++k) {
      out->w[r][k] = side[r] * static_cast<float>(s * (t.codes[k / 4][r][k % 4] - kQ8CodeBias));
    }
  }
}

}  // namespace

const BlockFormat kQ8G32Format = {
    .id = FormatId::kQ8G32,
    .name = "q8_g32",
    .bits_per_weight = 8.25,
    .exact = false,
    .vector_ok = false,
    .group_cols = 32,
    .tile_bytes = sizeof(Q8G32Tile),
    .side = SideKind::kRowScale,
    .stored_element_bytes = 0,
    .decode_tile = DecodeTile,
    .pack_tile = nullptr,
    .unpack_tile = nullptr,
    .decode_elements = nullptr,
};

}  // namespace kompakt
