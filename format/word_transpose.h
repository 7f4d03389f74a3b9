// Transposition of 32-bit words: how rows become tiles. In every format that keeps whole elements a tile is its rows'
// 32-bit words with the row as the inner index, so this is the inner loop of packing and unpacking.
#pragma once

#include <cstdint>

#include "format/format_id.h"

namespace kompakt {

inline constexpr int64_t kWordBytes = 4;

// Rows of words, `stride_bytes` apart and of any alignment -> out[n_words][16], any alignment. n_rows: 0..16; the rest
// of the 16 becomes zero.
void TransposeWords(const uint8_t* rows, int64_t stride_bytes, int64_t n_rows, int64_t n_words, uint8_t* out);

// The inverse: words[n_words][16] -> n_rows rows, `stride_bytes` apart.
void TransposeWordsBack(const uint8_t* words, int64_t n_words, int64_t n_rows, int64_t stride_bytes, uint8_t* rows);

// BlockFormat::pack_tile and unpack_tile of the formats whose tiles are transposed words.
template <int64_t kElementBytes>
void PackWords(const StoredTile& in, uint8_t* tile) {
  constexpr int64_t kRowBytes = kTileCols * kElementBytes;
  TransposeWords(in.elements, kRowBytes, kTileRows, kRowBytes / kWordBytes, tile);
}
template <int64_t kElementBytes>
void UnpackWords(const uint8_t* tile, StoredTile* out) {
  constexpr int64_t kRowBytes = kTileCols * kElementBytes;
  TransposeWordsBack(tile, kRowBytes / kWordBytes, kTileRows, kRowBytes, out->elements);
}

}  // namespace kompakt
