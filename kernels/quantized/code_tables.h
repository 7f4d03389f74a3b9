// What the codes of a format are worth as bytes, value + 128: the unsigned operand of integer dot products.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "format/block_int4_g32.h"
#include "format/table_spec.h"

namespace kompakt::quantized {

// One entry for every index of up to six bits; what a format does not use of it repeats.
struct CodeTable {
  alignas(64) uint8_t bytes[64];
};

template <const TableSpec& kSpec>
inline constexpr CodeTable kTableOf = [] {
  CodeTable table{};
  for (int i = 0; i < 64; ++i) table.bytes[i] = static_cast<uint8_t>(kSpec.values[i % kSpec.n_values()] + 128);
  return table;
}();

// How the codes of a table format are looked up by an instruction that takes kIndexBits bits of each byte as its index:
// 6 (vpermb) or 4 (byte shuffles). An index holds as many codes as fit, as they lie in their planes: bits of the low
// plane from bit 0 on, two of the high plane, if there is one, above. Each of these codes has its own table, in which
// the bits of the others do not matter, so that they share shifts, and the merging of the planes.
template <const TableSpec& kSpec, int kIndexBits>
struct SharedIndex {
  static constexpr int kHighAt = kSpec.high_bits() > 0 ? kIndexBits - 2 : kIndexBits;  // first bit of the high plane
  static constexpr int kLowCodes = kHighAt / kSpec.low_bits();
  static constexpr int kHighCodes = kSpec.high_bits() > 0 ? 2 / kSpec.high_bits() : 1;
  static constexpr int kTables = kLowCodes > kHighCodes ? kLowCodes : kHighCodes;
  static_assert(kLowCodes >= 1 && kTables % kLowCodes == 0 && kTables % kHighCodes == 0);

  // For line `j` of the tile: how far its bytes of either plane are shifted to the right (where negative, left), and
  // its table.
  static constexpr int LowShift(int j) { return FirstBit<kSpec.low_bits()>(j, kLowCodes); }
  static constexpr int HighShift(int j) { return FirstBit<kSpec.high_bits()>(j, kHighCodes) - kHighAt; }
  static constexpr int TableOf(int j) { return j % (8 / kSpec.low_bits()) % kTables; }

  static constexpr std::array<CodeTable, kTables> kByLine = [] {
    std::array<CodeTable, kTables> tables{};
    for (int t = 0; t < kTables; ++t) {
      const int low_at = t % kLowCodes * kSpec.low_bits();
      const int high_at = kHighAt + t % kHighCodes * kSpec.high_bits();
      for (int i = 0; i < 64; ++i) {
        const int low = i >> low_at & ((1 << kSpec.low_bits()) - 1);
        const int high = i >> high_at & ((1 << kSpec.high_bits()) - 1);
        tables[static_cast<size_t>(t)].bytes[i] =
            static_cast<uint8_t>(kSpec.values[high << kSpec.low_bits() | low] + 128);
      }
    }
    return tables;
  }();
  static constexpr const CodeTable& Table(int j) { return kByLine[static_cast<size_t>(TableOf(j))]; }

 private:
  // Of the codes that share an index with line `j`, in a byte of a plane.
  template <int kBits>
  static constexpr int FirstBit(int j, int codes) {
    const int place = j % (8 / kBits);
    return kBits * (place - place % codes);
  }
};

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
