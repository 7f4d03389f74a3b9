// The number formats as device code sees them: from the 32-bit words of a tile to four int8 values, or to F32.
//
// One structure per format, one row in DeviceFormats. All that kernels know of a format is there:
//   kId, kTileBytes
//   kInteger             true: a weight is  row factor * group scale * (value + shift), value an int8
//     kLowBits, kHighBits  the planes of its codes (format/code_planes.h); kHighBits 0: one plane
//     kGroupCols           columns that share a scale: 16 or 32
//     kScaleBytes          of one row's scale of a group; scales follow the codes, [group][row]
//     kShifted             false: the shift is always 0
//     Values(codes)        four codes, one per byte -> four int8
//     kTableBits, Words    of a table with 2^kTableBits entries that Values looks up; 0: no table
//     Scale(bits), Shift(bits)
//   !kInteger            a weight is  block scale * value, value F32
//     kWordCols            columns in a 32-bit word
//     Value(word, i)       column i of a word
//   kSide                which factor is beside the tiles
#pragma once

#include <cstdint>
#include <tuple>

#include "format/block_bf16.h"
#include "format/block_f16.h"
#include "format/block_f32.h"
#include "format/block_fp8_b128.h"
#include "format/block_int4_g32.h"
#include "format/block_mxfp4.h"
#include "format/block_nvfp4.h"
#include "format/block_q2_g16.h"
#include "format/block_q2_g32.h"
#include "format/block_q3_g16.h"
#include "format/block_q3_g32.h"
#include "format/block_q4_g16.h"
#include "format/block_q4_g32.h"
#include "format/block_q5_g32.h"
#include "format/block_q6_g32.h"
#include "format/block_q8_g32.h"
#include "format/half_tile.h"
#include "kernels/cuda/ptx.cuh"

namespace kompakt::KOMPAKT_BACKEND {

// Line `line` of a tile's 32-bit words, its 16 rows; four of them are 16 bytes.
inline constexpr int kLineBytes = 64;

// ---- Look-ups.

// Four 4-bit numbers, one per byte, as the nibbles of the low 16 bits.
KOMPAKT_DEVICE uint32_t Nibbles(uint32_t bytes) { return __byte_perm(bytes | bytes >> 4, 0, 0x4420); }

// Four entries of a table of 2^kBits bytes. Words: Words::Word(i), entries 4 i to 4 i + 3, all constants of the
// program. A byte permutation looks up among 8; further bits of the codes choose between halves.
template <typename Words, int kBits>
KOMPAKT_DEVICE uint32_t LookUp(uint32_t codes) {
  static_assert(kBits >= 2 && kBits <= 6);
  if constexpr (kBits == 2) {
    return __byte_perm(Words::Word(0), 0, Nibbles(codes));
  } else {
    constexpr int kOctets = 1 << (kBits - 3);
    const uint32_t selector = Nibbles(codes & 0x07070707u);
    uint32_t v[kOctets];
    KOMPAKT_UNROLL
    for (int i = 0; i < kOctets; ++i) v[i] = __byte_perm(Words::Word(2 * i), Words::Word(2 * i + 1), selector);
    KOMPAKT_UNROLL
    for (int bit = 3; bit < kBits; ++bit) {
      // Byte i of the first of a pair, or of the second where the bit is set.
      const uint32_t half = Nibbles(codes >> (bit - 2) & 0x04040404u) | 0x3210u;
      KOMPAKT_UNROLL
      for (int i = 0; i < kOctets >> (bit - 2); ++i) v[i] = __byte_perm(v[2 * i], v[2 * i + 1], half);
    }
    return v[0];
  }
}

// Eight codes of a plane of kBits, one per nibble, in the order of columns 0 4 1 5 2 6 3 7: that of a word of a 4-bit
// plane. `word`: of the line that has columns 8 segment .. 8 segment + 7.
template <int kBits>
KOMPAKT_DEVICE uint32_t NibblesOf(uint32_t word, int segment) {
  if constexpr (kBits == 4) {
    return word;
  } else if constexpr (kBits == 2) {
    const uint32_t codes = word >> (segment % 2 * 4);
    return (codes & 0x03030303u) | (codes << 2 & 0x30303030u);
  } else {
    static_assert(kBits == 1);
    const uint32_t codes = word >> (segment * 2);
    return (codes & 0x01010101u) | (codes << 3 & 0x10101010u);
  }
}

// The entries of eight codes, in the order of NibblesOf. `low`: bits 0 to 3 of the codes, `high`: bits 4 and 5.
template <typename Words, int kBits>
KOMPAKT_DEVICE void LookUpEight(uint32_t low, [[maybe_unused]] uint32_t high, uint32_t (&out)[2]) {
  static_assert(kBits >= 2 && kBits <= 6);
  if constexpr (kBits == 2) {
    out[0] = PermuteBytes(Words::Word(0), 0, low);
    out[1] = PermuteBytes(Words::Word(0), 0, low >> 16);
  } else {
    constexpr int kOctets = 1 << (kBits - 3);
    const uint32_t selector = kBits > 3 ? low & 0x77777777u : low;
    // Byte i of the first of a pair of octets, or of the second where the bit is set.
    uint32_t halves[kBits > 3 ? kBits - 3 : 1];
    KOMPAKT_UNROLL
    for (int bit = 3; bit < kBits; ++bit) {
      halves[bit - 3] = ((bit == 3 ? low >> 1 : bit == 4 ? high << 2 : high << 1) & 0x44444444u) | 0x32103210u;
    }
    KOMPAKT_UNROLL
    for (int word = 0; word < 2; ++word) {
      uint32_t v[kOctets];
      KOMPAKT_UNROLL
      for (int i = 0; i < kOctets; ++i) {
        v[i] = PermuteBytes(Words::Word(2 * i), Words::Word(2 * i + 1), selector >> (16 * word));
      }
      KOMPAKT_UNROLL
      for (int bit = 3; bit < kBits; ++bit) {
        KOMPAKT_UNROLL
        for (int i = 0; i < kOctets >> (bit - 2); ++i) {
          v[i] = PermuteBytes(v[2 * i], v[2 * i + 1], halves[bit - 3] >> (16 * word));
        }
      }
      out[word] = v[0];
    }
  }
}

constexpr uint32_t PackBytes(const int8_t* v) {
  uint32_t word = 0;
  for (int i = 0; i < 4; ++i) word |= static_cast<uint32_t>(static_cast<uint8_t>(v[i])) << (8 * i);
  return word;
}

// ---- Formats of integer codes.

template <const TableSpec& kSpec>
struct TableFormat {
  static constexpr FormatId kId = kSpec.id;
  static constexpr bool kInteger = true;
  static constexpr int kTileBytes = static_cast<int>(kSpec.tile_bytes());
  static constexpr int kLowBits = kSpec.low_bits();
  static constexpr int kHighBits = kSpec.high_bits();
  static constexpr int kGroupCols = static_cast<int>(kSpec.group_cols);
  static constexpr int kScaleBytes = 1;
  static constexpr bool kShifted = true;
  static constexpr SideKind kSide = SideKind::kRowScale;

  template <int kIndex>
  static constexpr uint32_t kWord = PackBytes(kSpec.values + 4 * kIndex);
  struct Words {
    // A chain that folds away, since `i` is a constant wherever loops are unrolled.
    KOMPAKT_DEVICE static uint32_t Word(int i) { return Select<kSpec.n_values() / 4 - 1>(i); }
    template <int kLast>
    KOMPAKT_DEVICE static uint32_t Select(int i) {
      if constexpr (kLast == 0) {
        return kWord<0>;
      } else {
        return i == kLast ? kWord<kLast> : Select<kLast - 1>(i);
      }
    }
  };
  static constexpr int kTableBits = kSpec.code_bits;
  KOMPAKT_DEVICE static uint32_t Values(uint32_t codes) { return LookUp<Words, kTableBits>(codes); }
  KOMPAKT_DEVICE static float Scale(uint32_t bits) {
    return static_cast<float>(static_cast<int>(bits & ((1u << kSpec.scale_bits) - 1)) - kSpec.scale_bias());
  }
  KOMPAKT_DEVICE static float Shift(uint32_t bits) {
    return (bits >> kSpec.scale_bits & 1u) != 0 ? static_cast<float>(kSpec.shift) : 0.0f;
  }
};

struct Q8G32Format {
  static constexpr FormatId kId = FormatId::kQ8G32;
  static constexpr bool kInteger = true;
  static constexpr int kTileBytes = sizeof(Q8G32Tile);
  static constexpr int kLowBits = 8;
  static constexpr int kHighBits = 0;
  static constexpr int kGroupCols = 32;
  static constexpr int kScaleBytes = 1;
  static constexpr bool kShifted = false;
  static constexpr SideKind kSide = SideKind::kRowScale;
  static constexpr int kTableBits = 0;

  // Less 128.
  KOMPAKT_DEVICE static uint32_t Values(uint32_t codes) { return codes ^ 0x80808080u; }
  KOMPAKT_DEVICE static float Scale(uint32_t bits) { return static_cast<float>(bits); }
  KOMPAKT_DEVICE static float Shift(uint32_t) { return 0; }
};

struct Int4G32Format {
  static constexpr FormatId kId = FormatId::kInt4G32;
  static constexpr bool kInteger = true;
  static constexpr int kTileBytes = sizeof(Int4G32Tile);
  static constexpr int kLowBits = 4;
  static constexpr int kHighBits = 0;
  static constexpr int kGroupCols = 32;
  static constexpr int kScaleBytes = 2;
  static constexpr bool kShifted = true;
  static constexpr SideKind kSide = SideKind::kNone;
  static constexpr int kTableBits = 0;

  KOMPAKT_DEVICE static uint32_t Values(uint32_t codes) { return codes; }
  KOMPAKT_DEVICE static float Scale(uint32_t bits) { return __uint_as_float(bits << 16); }
  KOMPAKT_DEVICE static float Shift(uint32_t) { return -kInt4CodeBias; }
};

// E2M1 twice, which is an integer; the scales are halved for it.
struct E2m1Format {
  static constexpr bool kInteger = true;
  static constexpr int kLowBits = 4;
  static constexpr int kHighBits = 0;
  static constexpr int kScaleBytes = 1;
  static constexpr bool kShifted = false;

  struct Words {
    KOMPAKT_DEVICE static uint32_t Word(int i) {
      constexpr uint32_t kDoubled[4] = {0x03020100u, 0x0c080604u, 0xfdfeff00u, 0xf4f8fafcu};
      return i == 0 ? kDoubled[0] : i == 1 ? kDoubled[1] : i == 2 ? kDoubled[2] : kDoubled[3];
    }
  };
  static constexpr int kTableBits = 4;
  KOMPAKT_DEVICE static uint32_t Values(uint32_t codes) { return LookUp<Words, kTableBits>(codes); }
  KOMPAKT_DEVICE static float Shift(uint32_t) { return 0; }
};

// E4M3 without its NaNs, which no file holds: moved into the fields of an F32, whose subnormals are the same ones.
KOMPAKT_DEVICE float FromE4m3(uint32_t code) {
  return __uint_as_float((code & 0x80u) << 24 | (code & 0x7fu) << 20) * 0x1p120f;
}

struct Mxfp4Format : E2m1Format {
  static constexpr FormatId kId = FormatId::kMxfp4;
  static constexpr int kTileBytes = sizeof(Mxfp4Tile);
  static constexpr int kGroupCols = 32;
  static constexpr SideKind kSide = SideKind::kNone;
  // 2^(bits - 128): subnormal for bits of 0 and 1.
  KOMPAKT_DEVICE static float Scale(uint32_t bits) {
    return bits >= 2 ? __uint_as_float((bits - 1) << 23) : __uint_as_float(0x200000u << bits);
  }
};

struct Nvfp4Format : E2m1Format {
  static constexpr FormatId kId = FormatId::kNvfp4;
  static constexpr int kTileBytes = sizeof(Nvfp4Tile);
  static constexpr int kGroupCols = kNvfp4Group;
  static constexpr SideKind kSide = SideKind::kTensorScale;
  KOMPAKT_DEVICE static float Scale(uint32_t bits) { return FromE4m3(bits) * 0.5f; }
};

// ---- Formats of floats.

struct F32Format {
  static constexpr FormatId kId = FormatId::kF32;
  static constexpr bool kInteger = false;
  static constexpr int kTileBytes = sizeof(F32Tile);
  static constexpr int kWordCols = 1;
  static constexpr SideKind kSide = SideKind::kNone;
  KOMPAKT_DEVICE static float Value(uint32_t word, int) { return __uint_as_float(word); }
};

struct F16Format {
  static constexpr FormatId kId = FormatId::kF16;
  static constexpr bool kInteger = false;
  static constexpr int kTileBytes = sizeof(HalfTile);
  static constexpr int kWordCols = 2;
  static constexpr SideKind kSide = SideKind::kNone;
  KOMPAKT_DEVICE static float Value(uint32_t word, int i) { return i == 0 ? LowF16(word) : HighF16(word); }
};

struct Bf16Format {
  static constexpr FormatId kId = FormatId::kBf16;
  static constexpr bool kInteger = false;
  static constexpr int kTileBytes = sizeof(HalfTile);
  static constexpr int kWordCols = 2;
  static constexpr SideKind kSide = SideKind::kNone;
  KOMPAKT_DEVICE static float Value(uint32_t word, int i) { return i == 0 ? LowBf16(word) : HighBf16(word); }
};

struct Fp8B128Format {
  static constexpr FormatId kId = FormatId::kFp8B128;
  static constexpr bool kInteger = false;
  static constexpr int kTileBytes = sizeof(Fp8B128Tile);
  static constexpr int kWordCols = 4;
  static constexpr SideKind kSide = SideKind::kBlockScale;
  KOMPAKT_DEVICE static float Value(uint32_t word, int i) { return FromE4m3(word >> (8 * i) & 0xffu); }
};

// ---- The table.

template <typename... Formats>
struct FormatList {
  static constexpr int kSize = sizeof...(Formats);
  template <int kIndex>
  using Row = std::tuple_element_t<kIndex, std::tuple<Formats...>>;
  // Is row i the format i?
  static constexpr bool InOrder() {
    constexpr FormatId kIds[] = {Formats::kId...};
    for (int i = 0; i < kSize; ++i) {
      if (kIds[i] != static_cast<FormatId>(i)) return false;
    }
    return true;
  }
  // Each format whose tiles have codes in them, and nothing else but scales, has as many bytes as the file's tile.
  template <typename F>
  static constexpr bool TileAddsUp() {
    if constexpr (F::kInteger) {
      return F::kTileBytes == (F::kLowBits + F::kHighBits) * kLineBytes +
                                  static_cast<int>(kTileCols) / F::kGroupCols * 16 * F::kScaleBytes;
    } else {
      return F::kTileBytes == static_cast<int>(kTileCols) / F::kWordCols * kLineBytes;
    }
  }
  static constexpr bool AllTilesAddUp() { return (TileAddsUp<Formats>() && ...); }

  // body(F()) of the format `id`, by few jumps: the others are not asked one after the other.
  template <typename Body>
  KOMPAKT_DEVICE static void With(FormatId id, const Body& body) {
    static_assert(kSize == 16, "a case for each row");
    switch (static_cast<int>(id)) {
      case 0:
        return body(Row<0>());
      case 1:
        return body(Row<1>());
      case 2:
        return body(Row<2>());
      case 3:
        return body(Row<3>());
      case 4:
        return body(Row<4>());
      case 5:
        return body(Row<5>());
      case 6:
        return body(Row<6>());
      case 7:
        return body(Row<7>());
      case 8:
        return body(Row<8>());
      case 9:
        return body(Row<9>());
      case 10:
        return body(Row<10>());
      case 11:
        return body(Row<11>());
      case 12:
        return body(Row<12>());
      case 13:
        return body(Row<13>());
      case 14:
        return body(Row<14>());
      default:
        return body(Row<15>());
    }
  }
  // of(F()) of the format `id`, a number that is constant for each: without a jump.
  template <typename Of>
  static constexpr uint32_t Pick(FormatId id, const Of& of) {
    return ((id == Formats::kId ? of(Formats()) : 0u) | ...);
  }
  static constexpr bool IsInteger(FormatId id) { return ((id == Formats::kId && Formats::kInteger) || ...); }
  static constexpr int TileBytes(FormatId id) { return ((id == Formats::kId ? Formats::kTileBytes : 0) + ...); }
};

// In the order of FormatId.
using DeviceFormats =
    FormatList<F32Format, F16Format, Bf16Format, Fp8B128Format, Int4G32Format, Q8G32Format, TableFormat<kQ4G32>,
               TableFormat<kQ4G16>, Mxfp4Format, Nvfp4Format, TableFormat<kQ6G32>, TableFormat<kQ5G32>,
               TableFormat<kQ3G32>, TableFormat<kQ3G16>, TableFormat<kQ2G32>, TableFormat<kQ2G16>>;
static_assert(DeviceFormats::kSize == kFormatCount && DeviceFormats::InOrder(), "every format has its row");
static_assert(DeviceFormats::AllTilesAddUp());

// ---- Four consecutive columns of a row.

// Columns 4 j .. 4 j + 3 of the line that `word` is of, a plane of kBits, as one code per byte.
template <int kBits>
KOMPAKT_DEVICE uint32_t CodesOf(uint32_t word, int j) {
  if constexpr (kBits == 8) {
    return word;
  } else {
    constexpr uint32_t kMask = ((1u << kBits) - 1) * 0x01010101u;
    return word >> (j % (8 / kBits) * kBits) & kMask;
  }
}

// `low`, `high`: the words of the planes that hold columns 4 j .. 4 j + 3.
template <typename F>
KOMPAKT_DEVICE uint32_t ValuesOf(uint32_t low, uint32_t high, int j) {
  uint32_t codes = CodesOf<F::kLowBits>(low, j);
  if constexpr (F::kHighBits > 0) codes |= CodesOf<F::kHighBits>(high, j) << F::kLowBits;
  return F::Values(codes);
}

// ---- Eight consecutive columns of a row.

// Are they in the order of NibblesOf? Else in their own.
template <typename F>
inline constexpr bool kInNibbleOrder = F::kTableBits > 0;

// `low`: the words of the low plane that hold columns 8 segment .. 8 segment + 7, the same one twice unless a column is
// a byte; `high`: the word of the high plane.
template <typename F>
KOMPAKT_DEVICE void EightValuesOf(const uint32_t (&low)[2], [[maybe_unused]] uint32_t high, int segment,
                                  uint32_t (&out)[2]) {
  if constexpr (kInNibbleOrder<F>) {
    uint32_t codes = NibblesOf<F::kLowBits>(low[0], segment), above = 0;
    if constexpr (F::kHighBits > 0) above = NibblesOf<F::kHighBits>(high, segment);
    if constexpr (F::kHighBits > 0 && F::kLowBits < 4) codes |= above << F::kLowBits;
    LookUpEight<typename F::Words, F::kTableBits>(codes, above, out);
  } else {
    KOMPAKT_UNROLL
    for (int i = 0; i < 2; ++i) out[i] = F::Values(CodesOf<F::kLowBits>(low[i], segment * 2 + i));
  }
}

// Byte of column i among these eight.
template <typename F>
constexpr int ByteOfEight(int i) {
  return kInNibbleOrder<F> ? i % 4 * 2 + i / 4 : i;
}

// Eight int8 in the order of EightValuesOf<F>.
template <typename F>
KOMPAKT_DEVICE uint2 LikeEightValues(const uint2& v) {
  if constexpr (kInNibbleOrder<F>) return make_uint2(PermuteBytes(v.x, v.y, 0x5140), PermuteBytes(v.x, v.y, 0x7362));
  return v;
}

// The bits of the scale of `row` and `group` in a tile.
template <typename F>
KOMPAKT_DEVICE uint32_t ScaleBitsOf(SharedPtr<const uint8_t> tile, int group, int row) {
  const int at = (F::kLowBits + F::kHighBits) * kLineBytes + (group * 16 + row) * F::kScaleBytes;
  if constexpr (F::kScaleBytes == 2) {
    const uint16_t bits = SharedCast<const uint16_t>(tile)[at / 2];
    return bits;
  } else {
    const uint8_t bits = tile[at];
    return bits;
  }
}

// The factor of all of a row that is beside the tiles. Not of fp8_b128, whose scales differ along the row.
template <typename F>
KOMPAKT_DEVICE float RowFactor([[maybe_unused]] const float* side, [[maybe_unused]] int row) {
  if constexpr (F::kSide == SideKind::kRowScale) return LoadCached(side + row);
  if constexpr (F::kSide == SideKind::kTensorScale) return LoadCached(side) / LoadCached(side + 1);
  return 1;
}

}  // namespace kompakt::KOMPAKT_BACKEND
