// What the codes of a format are worth as bytes, value + 128: the unsigned operand of integer dot products.
#pragma once

#include <cstdint>

#include "format/block_int4_g32.h"
#include "format/table_spec.h"

namespace kompakt::quantized {

// Repeated to 64 entries, so that the bits above a code may hold anything.
struct CodeTable {
  alignas(64) uint8_t bytes[64];
};

template <const TableSpec& kSpec>
inline constexpr CodeTable kTableOf = [] {
  CodeTable table{};
  for (int i = 0; i < 64; ++i) table.bytes[i] = static_cast<uint8_t>(kSpec.values[i % kSpec.n_values()] + 128);
  return table;
}();

inline constexpr CodeTable kInt4Table = [] {
  CodeTable table{};
  for (int i = 0; i < 64; ++i) table.bytes[i] = static_cast<uint8_t>(i % 16 - kInt4CodeBias + 128);
  return table;
}();

// Twice the value of an E2M1 code, which is an integer.
inline constexpr CodeTable kE2m1Table = [] {
  constexpr int kTwice[8] = {0, 1, 2, 3, 4, 6, 8, 12};
  CodeTable table{};
  for (int i = 0; i < 64; ++i) {
    table.bytes[i] = static_cast<uint8_t>(128 + ((i & 8) != 0 ? -kTwice[i % 8] : kTwice[i % 8]));
  }
  return table;
}();

}  // namespace kompakt::quantized
