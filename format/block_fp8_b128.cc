#include "format/block_fp8_b128.h"

#include <bit>
#include <cstring>

#include "format/block_format.h"
#include "format/float_formats.h"
#include "format/word_transpose.h"

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

// Fp8E4m3ToF32 without branches or look-ups, so that compilers make vectors of it.
void DecodeElements(const uint8_t* elements, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t code = elements[i];
    const uint32_t magnitude = (code & 0x7f) << 20;
    const uint32_t normal = magnitude + (120u << 23);
    // Below the least normal 2^-6 the mantissa counts units of 2^-9: those of a number in [2^-6, 2^-5).
    const uint32_t subnormal = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude + (121u << 23)) - 0x1p-6f);
    const uint32_t finite = magnitude < (1u << 23) ? subnormal : normal;
    const uint32_t value = (code & 0x7f) == 0x7f ? 0x7fc00000u : finite;
    out[i] = std::bit_cast<float>(value | (code & 0x80) << 24);
  }
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
    .pack_tile = PackWords<1>,
    .unpack_tile = UnpackWords<1>,
    .decode_elements = DecodeElements,
};

}  // namespace kompakt
