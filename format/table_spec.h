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
#include <cstring>

#include "format/block_format.h"
#include "format/code_planes.h"

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

// The codes of one tile, one per byte as transposed words [k / 4][row][k % 4], into its planes.
template <const TableSpec& kSpec>
void PackTableCodes(const uint8_t* words, uint8_t* tile) {
  PackPlane<kSpec.low_bits()>(words, 0, tile);
  if constexpr (kSpec.high_bits() > 0) {
    PackPlane<kSpec.high_bits()>(words, kSpec.low_bits(), tile + kSpec.low_bytes());
  }
}

template <const TableSpec& kSpec>
void DecodeTableTile(const uint8_t* bytes, const float* side, DecodedTile* out) {
  TileOf<kSpec> tile;
  static_assert(sizeof(tile) == kSpec.tile_bytes());
  std::memcpy(&tile, bytes, sizeof(tile));
  for (int64_t r = 0; r < kTileRows; ++r) {
    for (int64_t k = 0; k < kTileCols; ++k) {
      const int group = tile.groups[k / kSpec.group_cols][r];
      const int value = kSpec.values[tile.CodeAt(r, k)] + kSpec.ShiftOf(group);
      out->w[r][k] = side[r] * static_cast<float>(kSpec.ScaleOf(group) * value);
    }
  }
}

// The row of the table of formats.
template <const TableSpec& kSpec>
constexpr BlockFormat TableFormatRow(const char* name, uint16_t since_minor) {
  return {
      .id = kSpec.id,
      .name = name,
      .bits_per_weight = static_cast<double>(kSpec.tile_bytes()) * 8 / kTileElements,
      .exact = false,
      .vector_ok = false,
      .group_cols = kSpec.group_cols,
      .tile_bytes = kSpec.tile_bytes(),
      .side = SideKind::kRowScale,
      .stored_element_bytes = 0,
      .since_minor = since_minor,
      .decode_tile = DecodeTableTile<kSpec>,
      .pack_tile = nullptr,
      .unpack_tile = nullptr,
      .decode_elements = nullptr,
  };
}

}  // namespace kompakt
