// Every code of every number format against an independent evaluation of its definition.
#include <bit>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "format/block_format.h"
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
#include "format/float_formats.h"
#include "format/table_format.h"
#include "gtest/gtest.h"

namespace kompakt {
namespace {

uint32_t Bits(float value) { return std::bit_cast<uint32_t>(value); }

// The value of a sign | exponent | mantissa float of the given widths, by its definition. Neither infinity nor NaN.
double ValueOf(uint32_t bits, int exponent_bits, int mantissa_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const uint32_t mantissa = bits & ((1u << mantissa_bits) - 1);
  const int exponent = static_cast<int>((bits >> mantissa_bits) & ((1u << exponent_bits) - 1));
  const double sign = (bits >> (exponent_bits + mantissa_bits)) & 1 ? -1.0 : 1.0;
  const double fraction = std::ldexp(static_cast<double>(mantissa), -mantissa_bits);
  if (exponent == 0) return sign * std::ldexp(fraction, 1 - bias);
  return sign * std::ldexp(1 + fraction, exponent - bias);
}

TEST(Fp8Codes, AllDecodeToTheirDefinition) {
  for (uint32_t code = 0; code < 256; ++code) {
    const float value = Fp8E4m3ToF32(static_cast<uint8_t>(code));
    EXPECT_EQ(Bits(value), Bits(kFp8E4m3Values[code])) << code;
    EXPECT_EQ(IsFp8E4m3Nan(static_cast<uint8_t>(code)), (code & 0x7f) == 0x7f) << code;
    if ((code & 0x7f) == 0x7f) {
      EXPECT_TRUE(std::isnan(value)) << code;
      continue;
    }
    EXPECT_EQ(static_cast<double>(value), ValueOf(code, 4, 3)) << code;
    EXPECT_EQ(std::signbit(value), code >= 128) << code;
  }
  EXPECT_EQ(Fp8E4m3ToF32(0x7e), 448.0f);
}

TEST(Bf16Codes, AllDecodeAndRoundTrip) {
  for (uint32_t code = 0; code < 65536; ++code) {
    const float value = Bf16ToF32(static_cast<uint16_t>(code));
    ASSERT_EQ(Bits(value), code << 16);
    if (std::isnan(value)) {
      ASSERT_EQ(F32ToBf16(value), code | 0x40) << code;
    } else {
      ASSERT_EQ(F32ToBf16(value), code) << code;
    }
  }
}

TEST(F16Codes, AllDecodeToTheirDefinitionAndRoundTrip) {
  for (uint32_t code = 0; code < 65536; ++code) {
    const float value = F16ToF32(static_cast<uint16_t>(code));
    ASSERT_EQ(std::signbit(value), code >= 0x8000) << code;
    if ((code & 0x7c00) == 0x7c00) {
      ASSERT_EQ(std::isnan(value), (code & 0x3ff) != 0) << code;
      ASSERT_EQ(std::isinf(value), (code & 0x3ff) == 0) << code;
    } else {
      ASSERT_EQ(static_cast<double>(value), ValueOf(code, 5, 10)) << code;
    }
    ASSERT_EQ(F32ToF16(value), std::isnan(value) ? code | 0x200 : code) << code;
  }
}

TEST(E8m0Codes, AllArePowersOfTwo) {
  for (int code = 0; code < 255; ++code) {
    ASSERT_EQ(static_cast<double>(E8m0ToF32(static_cast<uint8_t>(code))), std::ldexp(1.0, code - 127)) << code;
  }
  EXPECT_TRUE(std::isnan(E8m0ToF32(255)));
}

// For each pair of neighbours a < b of the narrow format: what lies below the middle goes to a, above it to b, the
// middle itself to the even one. Covers every rounding decision there is.
template <typename Widen, typename Narrow>
void ExpectNearestEven(uint32_t infinity, double past_largest, Widen widen, Narrow narrow) {
  for (uint32_t sign : {0u, 0x8000u}) {
    const double s = sign ? -1.0 : 1.0;
    for (uint32_t code = 0; code < infinity; ++code) {
      const double a = std::abs(static_cast<double>(widen(static_cast<uint16_t>(code))));
      const bool last = code + 1 == infinity;
      const double b = last ? past_largest : std::abs(static_cast<double>(widen(static_cast<uint16_t>(code + 1))));
      const float middle = static_cast<float>(s * (a + (b - a) / 2));
      if (!std::isfinite(middle) || std::abs(static_cast<double>(middle)) != a + (b - a) / 2) continue;
      const uint32_t even = (code & 1) ? code + 1 : code;
      ASSERT_EQ(narrow(middle), sign | even) << "middle above code " << code;
      ASSERT_EQ(narrow(std::nextafter(middle, 0.0f)), sign | code) << "below the middle above code " << code;
      ASSERT_EQ(narrow(std::nextafter(middle, static_cast<float>(s) * INFINITY)), sign | (code + 1))
          << "above the middle above code " << code;
    }
  }
}

TEST(F16Codes, NarrowingRoundsToNearestEven) { ExpectNearestEven(0x7c00, 65536.0, F16ToF32, F32ToF16); }

TEST(Bf16Codes, NarrowingRoundsToNearestEven) { ExpectNearestEven(0x7f80, std::ldexp(1.0, 128), Bf16ToF32, F32ToBf16); }

TEST(Fp8B128, EveryCodeTimesItsScaleIsOneProduct) {
  std::mt19937 rng(1);
  for (int round = 0; round < 64; ++round) {
    const float scale =
        std::ldexp(1.0f + static_cast<float>(rng() & 0xffff) / 65536, static_cast<int>(rng() % 40) - 20);
    Fp8B128Tile tile;  // each code twice
    for (int i = 0; i < kTileElements; ++i) tile.codes[i % 32 / 4][i / 32][i % 4] = static_cast<uint8_t>(i);
    DecodedTile out;
    FormatOf(FormatId::kFp8B128).decode_tile(reinterpret_cast<const uint8_t*>(&tile), &scale, &out);
    for (int i = 0; i < kTileElements; ++i) {
      const float value = kFp8E4m3Values[static_cast<size_t>(i % 256)];
      if (std::isnan(value)) {
        ASSERT_TRUE(std::isnan(out.w[i / 32][i % 32]));
        continue;
      }
      const float expected =
          static_cast<float>(ValueOf(static_cast<uint32_t>(i % 256), 4, 3) * static_cast<double>(scale));
      ASSERT_EQ(Bits(out.w[i / 32][i % 32]), Bits(expected)) << "code " << i % 256 << " scale " << scale;
    }
  }
}

TEST(Int4G32, EveryCodeTimesEveryScaleIsOneProduct) {
  // 65,536 BF16 scales in 4,096 tiles of 16 rows; each row holds each code twice.
  for (uint32_t first = 0; first < 65536; first += 16) {
    Int4G32Tile tile = {};
    for (int64_t r = 0; r < kTileRows; ++r) {
      tile.scales[r] = static_cast<uint16_t>(first + r);
      for (int64_t k = 0; k < kTileCols; ++k) SetNibble(tile.codes, r, k, static_cast<uint8_t>((k * 5 + r) % 16));
    }
    DecodedTile out;
    FormatOf(FormatId::kInt4G32).decode_tile(reinterpret_cast<const uint8_t*>(&tile), nullptr, &out);
    for (int64_t r = 0; r < kTileRows; ++r) {
      const float scale = Bf16ToF32(static_cast<uint16_t>(first + r));
      for (int64_t k = 0; k < kTileCols; ++k) {
        const int value = static_cast<int>((k * 5 + r) % 16) - 8;
        const float expected = static_cast<float>(value * static_cast<double>(scale));
        if (std::isnan(expected)) {
          ASSERT_TRUE(std::isnan(out.w[r][k])) << "scale " << scale << " value " << value;
        } else {
          ASSERT_EQ(Bits(out.w[r][k]), Bits(expected)) << "scale " << scale << " value " << value;
        }
      }
    }
  }
}

// E2M1 by its definition: two exponent bits with bias 1, one mantissa bit.
double E2m1(uint32_t code) { return ValueOf(code, 2, 1); }

TEST(E2m1Codes, AllDecodeToTheirDefinition) {
  for (uint32_t code = 0; code < 16; ++code) {
    EXPECT_EQ(static_cast<double>(kE2m1Values[code]), E2m1(code)) << code;
    EXPECT_EQ(std::signbit(kE2m1Values[code]), code >= 8) << code;
  }
}

TEST(Mxfp4, EveryCodeTimesEveryExponentIsExact) {
  for (int first = 0; first < 256; first += 16) {
    Mxfp4Tile tile = {};
    for (int64_t r = 0; r < kTileRows; ++r) {
      tile.exponents[r] = static_cast<uint8_t>(first + r);
      for (int64_t k = 0; k < kTileCols; ++k) SetNibble(tile.codes, r, k, static_cast<uint8_t>((k * 5 + r) % 16));
    }
    DecodedTile out;
    FormatOf(FormatId::kMxfp4).decode_tile(reinterpret_cast<const uint8_t*>(&tile), nullptr, &out);
    for (int64_t r = 0; r < kTileRows; ++r) {
      for (int64_t k = 0; k < kTileCols; ++k) {
        const int exponent = static_cast<int>(first + r);
        const uint32_t code = static_cast<uint32_t>((k * 5 + r) % 16);
        if (exponent == 255) {
          ASSERT_TRUE(std::isnan(out.w[r][k])) << "code " << code;
          continue;
        }
        const double exact = std::ldexp(E2m1(code), exponent - 127);
        ASSERT_EQ(Bits(out.w[r][k]), Bits(static_cast<float>(exact))) << "code " << code << " exponent " << exponent;
        if (exponent <= kMxfp4LargestExponent) {
          ASSERT_EQ(static_cast<double>(out.w[r][k]), exact) << "code " << code << " exponent " << exponent;
        }
      }
    }
  }
}

TEST(Nvfp4, EveryCodeTimesEveryScaleIsRoundedOnce) {
  // Multipliers and divisors as producers write them, powers of two, and one that makes subnormals.
  const std::vector<std::pair<float, float>> sides = {{1.0f, 1.0f},          {0x1p-9f, 1.0f},  {1.0f, 0x1p11f},
                                                      {3.1415927e-4f, 1.0f}, {1.0f, 2907.73f}, {1.3e-40f, 1.0f},
                                                      {1.0f, 3e38f}};
  for (const auto& [multiplier, divisor] : sides) {
    const float side[2] = {multiplier, divisor};
    for (int first = 0; first < 256; first += 16) {
      Nvfp4Tile tile = {};
      for (int64_t r = 0; r < kTileRows; ++r) {
        tile.scales[0][r] = static_cast<uint8_t>(first + r);
        tile.scales[1][r] = static_cast<uint8_t>(255 - first - r);
        for (int64_t k = 0; k < kTileCols; ++k) SetNibble(tile.codes, r, k, static_cast<uint8_t>((k * 5 + r) % 16));
      }
      DecodedTile out;
      FormatOf(FormatId::kNvfp4).decode_tile(reinterpret_cast<const uint8_t*>(&tile), side, &out);
      for (int64_t r = 0; r < kTileRows; ++r) {
        for (int64_t k = 0; k < kTileCols; ++k) {
          const uint32_t code = static_cast<uint32_t>((k * 5 + r) % 16);
          const auto scale = static_cast<uint32_t>(k < 16 ? first + r : 255 - first - r);
          if ((scale & 0x7f) == 0x7f) {
            ASSERT_TRUE(std::isnan(out.w[r][k])) << "scale " << scale;
            continue;
          }
          // Exact in double: 2 + 4 significant bits, then 24 more.
          const double product = E2m1(code) * ValueOf(scale, 4, 3);
          ASSERT_EQ(static_cast<double>(static_cast<float>(product)), product);
          const float expected = divisor == 1.0f ? static_cast<float>(product * static_cast<double>(multiplier))
                                                 : static_cast<float>(product) / divisor;
          ASSERT_EQ(Bits(out.w[r][k]), Bits(expected))
              << "code " << code << " scale " << scale << " * " << multiplier << " / " << divisor;
        }
      }
    }
  }
}

// d * integer rounded once: the double product of a float and a 16-bit integer is exact.
float OneProduct(float d, int integer) { return static_cast<float>(static_cast<double>(d) * integer); }

constexpr float kRowScales[] = {1.0f, 1e-3f, 3.14159274f, -0.7f, 0.0f, 1.17549435e-38f, 1e-42f, 1e30f};

TEST(Q8G32, EveryCodeTimesEveryScaleIsOneProduct) {
  for (const float d : kRowScales) {
    float side[kTileRows];
    for (float& scale : side) scale = d;
    for (int first = 0; first < 256; first += 16) {
      for (int base = 0; base < 256; base += 32) {
        Q8G32Tile tile;
        for (int r = 0; r < kTileRows; ++r) {
          tile.groups[r] = static_cast<uint8_t>(first + r);
          for (int k = 0; k < kTileCols; ++k) tile.codes[k / 4][r][k % 4] = static_cast<uint8_t>(base + k);
        }
        DecodedTile out;
        FormatOf(FormatId::kQ8G32).decode_tile(reinterpret_cast<const uint8_t*>(&tile), side, &out);
        for (int r = 0; r < kTileRows; ++r) {
          for (int k = 0; k < kTileCols; ++k) {
            ASSERT_EQ(Bits(out.w[r][k]), Bits(OneProduct(d, (first + r) * (base + k - 128))))
                << "d " << d << " s " << first + r << " code " << base + k;
          }
        }
      }
    }
  }
}

// Where document and layout put the bits of a code, spelled out: the reference that TableTile is compared with.
struct PlacedBits {
  int64_t byte;
  int bit;
  int n;
};
std::vector<PlacedBits> PlacesOf(int code_bits, int64_t r, int64_t k) {
  switch (code_bits) {
    case 2:
      return {{k / 16 * 64 + r * 4 + k % 4, static_cast<int>(k % 16 / 4 * 2), 2}};
    case 3:
      return {{k / 16 * 64 + r * 4 + k % 4, static_cast<int>(k % 16 / 4 * 2), 2},
              {128 + r * 4 + k % 4, static_cast<int>(k / 4), 1}};
    case 4:
      return {{k / 8 * 64 + r * 4 + k % 4, static_cast<int>(k % 8 / 4 * 4), 4}};
    case 5:
      return {{k / 8 * 64 + r * 4 + k % 4, static_cast<int>(k % 8 / 4 * 4), 4},
              {256 + r * 4 + k % 4, static_cast<int>(k / 4), 1}};
    default:
      return {{k / 8 * 64 + r * 4 + k % 4, static_cast<int>(k % 8 / 4 * 4), 4},
              {256 + k / 16 * 64 + r * 4 + k % 4, static_cast<int>(k % 16 / 4 * 2), 2}};
  }
}

TEST(TableFormats, EveryCodeScaleAndShiftIsOneProduct) {
  for (const TableSpec& spec : {kQ2G32, kQ2G16, kQ3G32, kQ3G16, kQ4G32, kQ4G16, kQ5G32, kQ6G32}) {
    const BlockFormat& format = FormatOf(spec.id);
    ASSERT_EQ(format.tile_bytes, spec.tile_bytes());
    for (const float d : kRowScales) {
      float side[kTileRows];
      for (float& scale : side) scale = d;
      const int group_bytes = 2 << spec.scale_bits;
      for (int first = 0; first < group_bytes; first += 16) {  // all group bytes, a second group with its own
        // Two tiles hold all 64 codes of six bits.
        for (int add = 0; add < spec.n_values(); add += 32) {
          std::vector<uint8_t> tile(format.tile_bytes, 0);
          const auto group_of = [&](int r, int k) {
            return k / spec.group_cols == 0 ? first + r : group_bytes - 1 - first - r;
          };
          const auto code_of = [&](int r, int k) { return (k * 3 + r + add) % spec.n_values(); };
          for (int r = 0; r < kTileRows; ++r) {
            for (int k = 0; k < kTileCols; ++k) {
              int code = code_of(r, k);
              for (const PlacedBits& place : PlacesOf(spec.code_bits, r, k)) {
                const int bits = (code & ((1 << place.n) - 1)) << place.bit;
                tile[static_cast<size_t>(place.byte)] |= static_cast<uint8_t>(bits);
                code >>= place.n;
              }
              const size_t group_byte = spec.code_bytes() + static_cast<size_t>(k / spec.group_cols * 16 + r);
              tile[group_byte] = static_cast<uint8_t>(group_of(r, k));
            }
          }
          DecodedTile out;
          format.decode_tile(tile.data(), side, &out);
          for (int r = 0; r < kTileRows; ++r) {
            for (int k = 0; k < kTileCols; ++k) {
              const int group = group_of(r, k);
              const int half = 1 << spec.scale_bits;
              const int s = group % half - half / 2;
              const int value = spec.values[code_of(r, k)] + (group >= half ? spec.shift : 0);
              ASSERT_EQ(Bits(out.w[r][k]), Bits(OneProduct(d, s * value)))
                  << format.name << ": d " << d << " group byte " << group << " code " << code_of(r, k);
            }
          }
        }
      }
    }
  }
}

// Codes in the encoders' order -> planes -> the same codes.
template <const TableSpec& kSpec>
void ExpectCodesComeBack() {
  std::mt19937 rng(5);
  uint8_t words[kTileElements];
  for (uint8_t& code : words) code = static_cast<uint8_t>(rng() % static_cast<unsigned>(kSpec.n_values()));
  TileOf<kSpec> tile = {};
  PackTableCodes<kSpec>(words, reinterpret_cast<uint8_t*>(&tile));
  TileOf<kSpec> set = {};
  for (int64_t r = 0; r < kTileRows; ++r) {
    for (int64_t k = 0; k < kTileCols; ++k) {
      const int code = words[k / 4 * 64 + r * 4 + k % 4];
      EXPECT_EQ(tile.CodeAt(r, k), code) << FormatOf(kSpec.id).name << " row " << r << " column " << k;
      set.SetCode(r, k, code);
    }
  }
  EXPECT_EQ(std::memcmp(&tile, &set, sizeof(tile)), 0) << FormatOf(kSpec.id).name;
}

TEST(TableFormats, CodesComeBackFromTheirPlanes) {
  ExpectCodesComeBack<kQ2G32>();
  ExpectCodesComeBack<kQ3G32>();
  ExpectCodesComeBack<kQ4G16>();
  ExpectCodesComeBack<kQ5G32>();
  ExpectCodesComeBack<kQ6G32>();
}

TEST(TableFormats, ValuesAscendOddAndEvenInTurnAndStayInt8WithTheirShift) {
  for (const TableSpec& spec : {kQ2G32, kQ3G32, kQ4G32, kQ5G32, kQ6G32}) {
    for (int code = 0; code < spec.n_values(); ++code) {
      const int value = spec.values[code];
      if (code > 0) {
        EXPECT_GT(value, spec.values[code - 1]) << spec.code_bits << " bits, code " << code;
        EXPECT_NE((value + spec.values[code - 1]) % 2, 0) << spec.code_bits << " bits, code " << code;
      }
      EXPECT_LE(value + spec.shift, 127) << spec.code_bits << " bits, code " << code;
    }
  }
}

TEST(NibbleCodes, WordsHoldEightConsecutiveColumns) {
  // Low nibbles k..k+3, high nibbles k+4..k+7: the layout that kernels load.
  NibbleCodes codes = {};
  for (int64_t k = 0; k < kTileCols; ++k) SetNibble(codes, 3, k, static_cast<uint8_t>(k % 16));
  for (int64_t word = 0; word < 4; ++word) {
    for (int64_t byte = 0; byte < 4; ++byte) {
      const int64_t low = (word * 8 + byte) % 16;
      const int64_t high = (word * 8 + 4 + byte) % 16;
      EXPECT_EQ(codes[word][3][byte], low | (high << 4)) << word << "," << byte;
      EXPECT_EQ(codes[word][2][byte], 0);
    }
  }
  for (int64_t k = 0; k < kTileCols; ++k) EXPECT_EQ(NibbleAt(codes, 3, k), k % 16) << k;
}

}  // namespace
}  // namespace kompakt
