// The tile that bf16 and f16 share: they differ only in what 16 bits mean.
#pragma once

#include <cstdint>
#include <cstring>

#include "format/format_id.h"

namespace kompakt {

// Bytes of one tile (16 rows x 32 columns): 1024 B. One 32-bit word = 2 consecutive k of one row.
struct HalfTile {
  uint16_t w[kTileCols / 2][kTileRows][2];  // [k / 2][row][k % 2]
};
static_assert(sizeof(HalfTile) == kTileElements * 2, "16 bits per weight");

// The functions of a BlockFormat row, for elements whose value is ToF32(bits).
template <float (*ToF32)(uint16_t)>
struct HalfTileOps {
  static void DecodeTile(const uint8_t* tile, const float* /*side*/, DecodedTile* out) {
    HalfTile t;
    std::memcpy(&t, tile, sizeof(t));
    for (int64_t k = 0; k < kTileCols; ++k) {
      for (int64_t r = 0; r < kTileRows; ++r) out->w[r][k] = ToF32(t.w[k / 2][r][k % 2]);
    }
  }

  static void DecodeElements(const uint8_t* elements, int64_t n, float* out) {
    for (int64_t i = 0; i < n; ++i) {
      uint16_t bits;
      std::memcpy(&bits, elements + i * 2, sizeof(bits));
      out[i] = ToF32(bits);
    }
  }
};

}  // namespace kompakt
