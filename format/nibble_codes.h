// How the 4-bit formats place the codes of a tile: one 32-bit word holds 8 consecutive k of one row, byte i the codes
// of k + i (low nibble) and k + 4 + i (high nibble).
#pragma once

#include <cstdint>
#include <cstring>

#include "format/block_format.h"

namespace kompakt {

using NibbleCodes = uint8_t[kTileCols / 8][kTileRows][4];  // [k / 8][row][byte]

inline uint8_t NibbleAt(const NibbleCodes& codes, int64_t row, int64_t k) {
  return static_cast<uint8_t>((codes[k / 8][row][k % 4] >> (k % 8 < 4 ? 0 : 4)) & 0xf);
}

// `code` is below 16.
inline void SetNibble(NibbleCodes& codes, int64_t row, int64_t k, uint8_t code) {
  uint8_t& byte = codes[k / 8][row][k % 4];
  byte = static_cast<uint8_t>(k % 8 < 4 ? (byte & 0xf0) | code : (byte & 0x0f) | (code << 4));
}

// All codes of a tile from and to one byte each, row-major [16][32]. Eight codes are one 64-bit number here; its upper
// half, four bits to the left, fills the gaps of the lower.
inline void PackNibbles(const uint8_t* elements, NibbleCodes& codes) {
  for (int64_t r = 0; r < kTileRows; ++r) {
    for (int64_t word = 0; word < kTileCols / 8; ++word) {
      uint64_t k;
      std::memcpy(&k, elements + r * kTileCols + word * 8, sizeof(k));
      k &= 0x0f0f0f0f0f0f0f0fu;
      const uint32_t packed = static_cast<uint32_t>(k | k >> 28);
      std::memcpy(codes[word][r], &packed, sizeof(packed));
    }
  }
}
inline void UnpackNibbles(const NibbleCodes& codes, uint8_t* elements) {
  for (int64_t r = 0; r < kTileRows; ++r) {
    for (int64_t word = 0; word < kTileCols / 8; ++word) {
      uint32_t packed;
      std::memcpy(&packed, codes[word][r], sizeof(packed));
      const uint64_t k = (packed & 0x0f0f0f0fu) | static_cast<uint64_t>(packed & 0xf0f0f0f0u) << 28;
      std::memcpy(elements + r * kTileCols + word * 8, &k, sizeof(k));
    }
  }
}

}  // namespace kompakt
