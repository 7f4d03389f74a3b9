// TableSpec: a format whose codes index a table of int8 values, with a two-level scale and a shift bit. What
// distinguishes such formats is data; decode, kernels and encoders read it here.
//
// A row r carries one F32 scale d_r (side data). Each group of columns carries one byte: bits 0..scale_bits-1 an
// unsigned scale s, the next bit a shift bit b, the rest zero. The weight is
//     w[r, c] = d_r * float((s - 2^(scale_bits - 1)) * (values[code] + b * shift))
// The integer is exact (at most 64 * 128 in magnitude); the product with d_r is one F32 rounding. A negative scale
// mirrors the table, which is not symmetric. A kernel needs a look-up per code and one int8 dot product; the shift
// costs one multiple of the group's activation sum.
//
// Bytes of one tile (16 rows x 32 columns): the planes of the codes (code_planes.h), the low bits first, then the group
// bytes: rows 0..15 of group 0, then of group 1 where there are two.
#pragma once

#include <cstdint>

#include "format/code_planes.h"
#include "format/format_id.h"

namespace kompakt {

struct TableSpec {
  FormatId id;
  int code_bits;         // 2 to 6
  const int8_t* values;  // [1 << code_bits], format/value_tables.h
  int shift;
  int64_t group_cols;  // 16 or 32
  int scale_bits;      // 6 or 7

  constexpr int n_values() const { return 1 << code_bits; }
  constexpr int low_bits() const { return code_bits < 4 ? 2 : 4; }
  constexpr int high_bits() const { return code_bits - low_bits(); }
  constexpr uint64_t low_bytes() const { return static_cast<uint64_t>(low_bits()) * kTileElements / 8; }
  constexpr uint64_t code_bytes() const { return static_cast<uint64_t>(code_bits) * kTileElements / 8; }
  constexpr int64_t groups() const { return kTileCols / group_cols; }
  constexpr uint64_t tile_bytes() const { return code_bytes() + static_cast<uint64_t>(groups() * kTileRows); }
  constexpr int scale_bias() const { return 1 << (scale_bits - 1); }
  // Of a group byte.
  constexpr int ScaleOf(int group) const { return (group & ((1 << scale_bits) - 1)) - scale_bias(); }
  constexpr int ShiftOf(int group) const { return (group >> scale_bits & 1) * shift; }
};

// A tile as a struct.
template <int kLowBits, int kHighBits, int kGroups>
struct TableTile {
  CodePlane<kLowBits> low;
  CodePlane<kHighBits> high;
  uint8_t groups[kGroups][kTileRows];  // [k / group_cols][row]

  int CodeAt(int64_t row, int64_t k) const { return PlaneAt<kLowBits>(low, row, k) | HighAt(row, k) << kLowBits; }
  void SetCode(int64_t row, int64_t k, int code) {
    SetPlane<kLowBits>(low, row, k, code);
    SetPlane<kHighBits>(high, row, k, code >> kLowBits);
  }

 private:
  int HighAt(int64_t row, int64_t k) const { return PlaneAt<kHighBits>(high, row, k); }
};
// Codes of one plane.
template <int kLowBits, int kGroups>
struct TableTile<kLowBits, 0, kGroups> {
  CodePlane<kLowBits> low;
  uint8_t groups[kGroups][kTileRows];

  int CodeAt(int64_t row, int64_t k) const { return PlaneAt<kLowBits>(low, row, k); }
  void SetCode(int64_t row, int64_t k, int code) { SetPlane<kLowBits>(low, row, k, code); }
};
template <const TableSpec& kSpec>
using TileOf = TableTile<kSpec.low_bits(), kSpec.high_bits(), static_cast<int>(kSpec.groups())>;

}  // namespace kompakt
