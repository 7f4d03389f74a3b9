// How codes of few bits lie in a tile: in planes of 1, 2 or 4 bits per code. Codes of 3, 5 and 6 bits have two planes,
// their low bits and then their high ones.
//
// A plane of B bits is [k / (32 / B)] lines of one 32-bit word per row. Byte i of a word holds the codes of the columns
// i, i + 4, i + 8, ... of the word's 32 / B, from its lowest bits up. So a shift and a mask give four consecutive codes
// of a row, one per byte.
#pragma once

#include <cstdint>

#include "format/format_id.h"
#include "format/word_transpose.h"

namespace kompakt {

template <int kBits>
using CodePlane = uint8_t[kBits][kTileRows][4];  // [k / (32 / kBits)][row][byte]

template <int kBits>
constexpr uint8_t PlaneAt(const CodePlane<kBits>& plane, int64_t row, int64_t k) {
  constexpr int64_t kSpan = 32 / kBits;
  return static_cast<uint8_t>(plane[k / kSpan][row][k % 4] >> (k % kSpan / 4 * kBits) & ((1 << kBits) - 1));
}

// The other bits stay as they are.
template <int kBits>
constexpr void SetPlane(CodePlane<kBits>& plane, int64_t row, int64_t k, int code) {
  constexpr int64_t kSpan = 32 / kBits;
  uint8_t& byte = plane[k / kSpan][row][k % 4];
  const int shift = static_cast<int>(k % kSpan / 4 * kBits);
  const int mask = (1 << kBits) - 1;
  byte = static_cast<uint8_t>((byte & ~(mask << shift)) | (code & mask) << shift);
}

// `words`: the codes of a tile, one per byte, as transposed words [k / 4][row][k % 4]. Takes kBits of each from
// `first_bit` up.
template <int kBits>
void PackPlane(const uint8_t* words, int first_bit, uint8_t* plane) {
  constexpr int64_t kLine = kTileRows * kWordBytes;
  constexpr int64_t kLines = 8 / kBits;
  for (int64_t word = 0; word < kBits; ++word, words += kLines * kLine, plane += kLine) {
    for (int64_t b = 0; b < kLine; ++b) {
      int byte = 0;
      for (int64_t j = 0; j < kLines; ++j) {
        byte |= (words[j * kLine + b] >> first_bit & ((1 << kBits) - 1)) << (j * kBits);
      }
      plane[b] = static_cast<uint8_t>(byte);
    }
  }
}

}  // namespace kompakt
