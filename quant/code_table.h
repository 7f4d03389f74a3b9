// CodeTable: the values of a nonlinear format as the encoders want them, and what else distinguishes such formats.
#pragma once

#include <cstddef>
#include <cstdint>

#include "format/table_spec.h"

namespace kompakt {

// At most 64 values: 6-bit codes.
struct CodeTable {
  int n = 0;
  alignas(64) int8_t value[64] = {};      // ascending; the sum of two neighbours is odd
  alignas(64) int8_t threshold[64] = {};  // an integer y belongs to code i or above when y > threshold[i - 1]
  alignas(64) int8_t nearest[256] = {};   // by y as unsigned byte: the value nearest to the integer y
  alignas(64) uint8_t code[256] = {};     // and its code
};

constexpr CodeTable MakeCodeTable(const TableSpec& spec) {
  CodeTable table;
  table.n = spec.n_values();
  for (int i = 0; i < table.n; ++i) {
    table.value[i] = spec.values[i];
    if (i == 0) continue;
    table.threshold[i - 1] = static_cast<int8_t>((spec.values[i - 1] + spec.values[i]) >> 1);  // downwards
  }
  for (int y = -128; y < 128; ++y) {
    int code = 0;
    while (code + 1 < table.n && y > table.threshold[code]) ++code;
    table.nearest[static_cast<uint8_t>(y)] = table.value[code];
    table.code[static_cast<uint8_t>(y)] = static_cast<uint8_t>(code);
  }
  return table;
}

// True when no integer lies exactly between two neighbours, so that rounding to an integer first changes no code, and
// when all values fit int8 with the shift.
constexpr bool IsSearchable(const TableSpec& spec) {
  for (int i = 1; i < spec.n_values(); ++i) {
    if (spec.values[i - 1] >= spec.values[i] || (spec.values[i - 1] + spec.values[i]) % 2 == 0) return false;
  }
  return spec.shift > 0 && spec.values[spec.n_values() - 1] + spec.shift <= 127;
}

// A format of table codes with a group scale and a shift bit: one row per format (encode_table.cc).
struct TableFormat {
  const TableSpec* spec;
  const CodeTable* table;
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
