// CodeTable: the values of a nonlinear format as the encoders want them, and what else distinguishes such formats.
#pragma once

#include <cstddef>
#include <cstdint>

#include "format/block_format.h"

namespace kompakt {

// At most 64 values: 6-bit codes.
struct CodeTable {
  int n = 0;
  alignas(64) int8_t value[64] = {};      // ascending; the sum of two neighbours is odd
  alignas(64) int8_t threshold[64] = {};  // an integer y belongs to code i or above when y > threshold[i - 1]
  alignas(64) int8_t nearest[256] = {};   // by y as unsigned byte: the value nearest to the integer y
  alignas(64) uint8_t code[256] = {};     // and its code
};

template <size_t kValues>
constexpr CodeTable MakeCodeTable(const int8_t (&values)[kValues]) {
  static_assert(kValues >= 2 && kValues <= 64);
  CodeTable table;
  table.n = static_cast<int>(kValues);
  for (size_t i = 0; i < kValues; ++i) {
    table.value[i] = values[i];
    if (i == 0) continue;
    table.threshold[i - 1] = static_cast<int8_t>((values[i - 1] + values[i]) >> 1);  // downwards
  }
  for (int y = -128; y < 128; ++y) {
    size_t code = 0;
    while (code + 1 < kValues && y > table.threshold[code]) ++code;
    table.nearest[static_cast<uint8_t>(y)] = table.value[code];
    table.code[static_cast<uint8_t>(y)] = static_cast<uint8_t>(code);
  }
  return table;
}

// True when no integer lies exactly between two neighbours, so that rounding to an integer first changes no code.
template <size_t kValues>
constexpr bool HasNoTies(const int8_t (&values)[kValues]) {
  for (size_t i = 1; i < kValues; ++i) {
    if ((values[i - 1] + values[i]) % 2 == 0) return false;
  }
  return true;
}

// A format of table codes with a group scale and a shift bit: one row per format (encode_q4.cc).
struct TableFormat {
  FormatId id;
  const CodeTable* table;
  int shift;            // what the shift bit adds to all values
  int64_t group_cols;   // 16 or 32
  int scale_bits;       // of the group scale; stored plus 2^(scale_bits - 1); the next bit is the shift bit
  uint64_t code_bytes;  // the group bytes of a tile follow its codes: [group][row]
  uint64_t tile_bytes;
  // The codes of one tile, one per byte: [k / 4][row][k % 4].
  void (*write_codes)(const uint8_t* codes, uint8_t* tile);
};

// A format of int8 codes with a group scale.
struct LinearFormat {
  FormatId id;
  int64_t group_cols;   // 32
  int most_scale;       // of the group scale, stored as it is; the least is 1
  int code_bias;        // what is stored is the code plus this
  uint64_t code_bytes;  // the group bytes of a tile follow its codes: [group][row]
  uint64_t tile_bytes;
  void (*write_codes)(const uint8_t* codes, uint8_t* tile);
};

}  // namespace kompakt
