#include "format/block_f32.h"

#include <cstring>

#include "format/block_format.h"
#include "format/float_formats.h"
#include "format/word_transpose.h"

namespace kompakt {
namespace {

void DecodeTile(const uint8_t* tile, const float* /*side*/, DecodedTile* out) {
  F32Tile t;
  std::memcpy(&t, tile, sizeof(t));
  for (int64_t k = 0; k < kTileCols; ++k) {
    for (int64_t r = 0; r < kTileRows; ++r) out->w[r][k] = t.w[k][r];
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
    .pack_tile = PackWords<4>,
    .unpack_tile = UnpackWords<4>,
    .decode_elements = DecodeElements,
};

}  // namespace kompakt
