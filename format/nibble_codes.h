// The codes of the upstream 4-bit formats: a plane (code_planes.h), and its way from and to one byte per code. One
// 32-bit word holds 8 consecutive k of one row, byte i the codes of k + i (low nibble) and k + 4 + i (high nibble).
#pragma once

#include <cstdint>

#include "format/code_planes.h"
#include "format/format_id.h"
#include "format/word_transpose.h"

namespace kompakt {

using NibbleCodes = CodePlane<4>;  // [k / 8][row][byte]

inline uint8_t NibbleAt(const NibbleCodes& codes, int64_t row, int64_t k) { return PlaneAt<4>(codes, row, k); }

// `code` is below 16.
inline void SetNibble(NibbleCodes& codes, int64_t row, int64_t k, uint8_t code) { SetPlane<4>(codes, row, k, code); }

// To transposed words [k / 4][row][k % 4], one code per byte.
inline void UnpackNibbleWords(const uint8_t* codes, uint8_t* words) {
  constexpr int64_t kLine = kTileRows * kWordBytes;
  for (int64_t i = 0; i < kTileCols / 8; ++i) {
    for (int64_t b = 0; b < kLine; ++b) {
      words[2 * i * kLine + b] = codes[i * kLine + b] & 0xf;
      words[(2 * i + 1) * kLine + b] = codes[i * kLine + b] >> 4;
    }
  }
}

// All codes of a tile from and to one byte each, row-major [16][32].
inline void PackNibbles(const uint8_t* elements, NibbleCodes& codes) {
  uint8_t words[kTileElements];
  TransposeWords(elements, kTileCols, kTileRows, kTileCols / kWordBytes, words);
  PackPlane<4>(words, 0, &codes[0][0][0]);
}
inline void UnpackNibbles(const NibbleCodes& codes, uint8_t* elements) {
  uint8_t words[kTileElements];
  UnpackNibbleWords(&codes[0][0][0], words);
  TransposeWordsBack(words, kTileCols / kWordBytes, kTileRows, kTileCols, elements);
}

}  // namespace kompakt
