// Products of integers in vectors of 512 bits: one register is a line of a tile, 16 rows x 4 columns of bytes, and
// vpdpbusd multiplies it with the same 4 columns of a token. Compiled into avx512.cc and avx512_vbmi.cc, which define
//     KOMPAKT_TARGET  the target attribute of every function here
//     KOMPAKT_VBMI    whether vpermb may look codes up: it takes the low six bits of a byte and ignores the rest, so
//                     that tables repeat and nothing has to be masked

// GCC 12 takes the deliberately undefined operand of some intrinsics for a mistake.
#pragma GCC diagnostic push
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>
#pragma GCC diagnostic pop

#include <cstring>

#include "kernels/quantized/code_tables.h"
#include "kernels/quantized/integer_isa.h"
#include "kernels/quantized/make_isa.h"
#include "kernels/quantized/quantize_scale.h"
#include "kernels/quantized/tile_codes.h"
#include "kernels/x86/prefetch.h"

#define KOMPAKT_INLINE KOMPAKT_TARGET __attribute__((always_inline)) inline

namespace kompakt::x86 {
namespace {

using quantized::ActBlock;
using quantized::ActGroup;
using quantized::CodeTable;
using quantized::kIntProduct;
using quantized::PanelTile;

constexpr bool kVbmi = KOMPAKT_VBMI != 0;
constexpr int kLines = 8;       // of 4 columns in a tile
constexpr int kLineBytes = 64;  // of bytes

// The group scales of a tile.
struct Scales {
  __m512i ints[2];    // only where kIntScales
  __m512 floats[2];   // only where not
  __mmask32 shifted;  // bit 16 g + row: the shift bit of that group
};

KOMPAKT_INLINE __m512i LoadLine(const uint8_t* p) { return _mm512_loadu_si512(p); }
KOMPAKT_INLINE __m128i LoadRows(const uint8_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
KOMPAKT_INLINE __m512i Widen(__m128i bytes) { return _mm512_cvtepi8_epi32(bytes); }
KOMPAKT_INLINE __m512i WidenUnsigned(__m128i bytes) { return _mm512_cvtepu8_epi32(bytes); }
KOMPAKT_INLINE __m512 ToFloat(__m512i x) { return _mm512_cvtepi32_ps(x); }
KOMPAKT_INLINE __m512i Word(const int8_t* codes, int line) {
  int32_t word;
  std::memcpy(&word, codes + 4 * line, sizeof(word));
  return _mm512_set1_epi32(word);
}

// sum + the products of a line with 4 columns of a token, broadcast from memory: as intrinsics, GCC makes two
// instructions of it.
KOMPAKT_INLINE __m512i AddProducts(__m512i sum, __m512i line, const int8_t* codes, int j) {
  asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(line), "m"(*reinterpret_cast<const int32_t*>(codes + 4 * j)));
  return sum;
}

// 16 entries of a table in every lane of 128 bits.
KOMPAKT_INLINE __m512i Entries(const CodeTable& table, int first) {
  return _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(table.bytes + first)));
}

// value + 128 of 64 codes of kBits bits, whose indices may hold anything in the bits that the table ignores; bit
// `high_at` holds the fifth bit of a code of five.
template <int kBits>
KOMPAKT_INLINE __m512i LookUp(const CodeTable& table, __m512i index, [[maybe_unused]] int high_at = 4) {
  if constexpr (kVbmi) {
    return _mm512_permutexvar_epi8(index, _mm512_load_si512(table.bytes));
  } else {
    const __m512i low = _mm512_and_si512(index, _mm512_set1_epi8(15));
    __m512i value = _mm512_shuffle_epi8(Entries(table, 0), low);
    if constexpr (kBits == 5) {
      const __mmask64 bit4 = _mm512_test_epi8_mask(index, _mm512_set1_epi8(static_cast<char>(1 << high_at)));
      value = _mm512_mask_shuffle_epi8(value, bit4, Entries(table, 1 << high_at), low);
    } else if constexpr (kBits == 6) {
      const __mmask64 bit4 = _mm512_test_epi8_mask(index, _mm512_set1_epi8(16));
      const __mmask64 bit5 = _mm512_test_epi8_mask(index, _mm512_set1_epi8(32));
      value = _mm512_mask_shuffle_epi8(value, bit4, Entries(table, 16), low);
      value = _mm512_mask_shuffle_epi8(value, bit5 & ~bit4, Entries(table, 32), low);
      value = _mm512_mask_shuffle_epi8(value, bit5 & bit4, Entries(table, 48), low);
    }
    return value;
  }
}

// The plane of kBits bits per code of a tile, in registers: left alone, compilers load a line again for each of its
// codes, and of lines that cross the cache's, as most do, two take three cycles.
template <int kBits>
struct Plane {
  __m512i lines[kBits];

  KOMPAKT_INLINE explicit Plane(const uint8_t* plane) {
#pragma GCC unroll 4
    for (int i = 0; i < kBits; ++i) {
      __m512i line = LoadLine(plane + i * kLineBytes);
      asm("" : "+v"(line));
      lines[i] = line;
    }
  }

  // The bytes that hold the codes of line `j` of the tile, shifted to the right, or left where that is negative. Bits
  // that cross into other bytes are none of those that the look-up heeds.
  KOMPAKT_INLINE __m512i Line(int j, int shift) const {
    const __m512i line = lines[j / (8 / kBits)];
    if (shift == 0) return line;
    return shift > 0 ? _mm512_srli_epi16(line, static_cast<unsigned>(shift))
                     : _mm512_slli_epi16(line, static_cast<unsigned>(-shift));
  }
};
template <>
struct Plane<0> {
  KOMPAKT_INLINE explicit Plane(const uint8_t* /*plane*/) {}
};

// How a format's tile becomes bytes and scales.
template <const TableSpec& kSpec>
struct TableCodes : quantized::TableTileCodes<kSpec> {
  using Index = quantized::SharedIndex<kSpec, (kVbmi || kSpec.code_bits > 4) ? 6 : 4>;

  struct Lines {
    Plane<kSpec.low_bits()> low;
    Plane<kSpec.high_bits()> high;
    KOMPAKT_INLINE explicit Lines(const uint8_t* tile) : low(tile), high(tile + kSpec.low_bytes()) {}

    KOMPAKT_INLINE __m512i At(int j) const {
      __m512i index = low.Line(j, Index::LowShift(j));
      if constexpr (kSpec.high_bits() > 0) {
        // The low bits of one, all others of the other.
        index = _mm512_ternarylogic_epi32(_mm512_set1_epi8((1 << Index::kHighAt) - 1), index,
                                          high.Line(j, Index::HighShift(j)), 0xca);
      }
      return LookUp<kSpec.code_bits>(Index::Table(j), index, Index::kHighAt + Index::TableOf(j));
    }
  };

  KOMPAKT_INLINE static void LoadScales(const uint8_t* tile, Scales& s) {
    constexpr auto kMask = static_cast<char>((1 << kSpec.scale_bits) - 1);
    constexpr auto kBit = static_cast<char>(1 << kSpec.scale_bits);
    const uint8_t* const groups = tile + kSpec.code_bytes();
    if constexpr (TableCodes::kGroups == 2) {
      const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(groups));
      s.shifted = _mm256_test_epi8_mask(bytes, _mm256_set1_epi8(kBit));
      const __m256i scales =
          _mm256_sub_epi8(_mm256_and_si256(bytes, _mm256_set1_epi8(kMask)), _mm256_set1_epi8(kSpec.scale_bias()));
      s.ints[0] = Widen(_mm256_castsi256_si128(scales));
      s.ints[1] = Widen(_mm256_extracti128_si256(scales, 1));
    } else {
      const __m128i bytes = LoadRows(groups);
      s.shifted = _mm_test_epi8_mask(bytes, _mm_set1_epi8(kBit));
      s.ints[0] = Widen(_mm_sub_epi8(_mm_and_si128(bytes, _mm_set1_epi8(kMask)), _mm_set1_epi8(kSpec.scale_bias())));
    }
  }
};

struct Q8Codes : quantized::Q8TileCodes {
  struct Lines {
    const uint8_t* tile;
    KOMPAKT_INLINE explicit Lines(const uint8_t* of) : tile(of) {}
    KOMPAKT_INLINE __m512i At(int j) const { return LoadLine(tile + j * kLineBytes); }
  };

  KOMPAKT_INLINE static void LoadScales(const uint8_t* tile, Scales& s) {
    s.ints[0] = WidenUnsigned(LoadRows(tile + offsetof(Q8G32Tile, groups)));
  }
};

// The upstream 4-bit formats.
template <class Tile, const CodeTable& kTable>
struct NibbleCodesOf : Tile {
  struct Lines {
    Plane<4> codes;
    KOMPAKT_INLINE explicit Lines(const uint8_t* tile) : codes(tile) {}
    KOMPAKT_INLINE __m512i At(int j) const { return LookUp<4>(kTable, codes.Line(j, 4 * (j % 2))); }
  };
};

struct Int4Codes : NibbleCodesOf<quantized::Int4TileCodes, quantized::kInt4Table> {
  KOMPAKT_INLINE static void LoadScales(const uint8_t* tile, Scales& s) {
    const __m256i bf16 = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(tile + offsetof(Int4G32Tile, scales)));
    s.floats[0] = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bf16), 16));
  }
};

struct Mxfp4Codes : NibbleCodesOf<quantized::Mxfp4TileCodes, quantized::kE2m1Table> {
  KOMPAKT_INLINE static void LoadScales(const uint8_t* tile, Scales& s) {
    const __m512i e = WidenUnsigned(LoadRows(tile + offsetof(Mxfp4Tile, exponents)));
    __m512i bits = _mm512_slli_epi32(e, 23);
    bits = _mm512_mask_mov_epi32(bits, _mm512_testn_epi32_mask(e, e), _mm512_set1_epi32(0x00400000));
    bits =
        _mm512_mask_mov_epi32(bits, _mm512_cmpeq_epi32_mask(e, _mm512_set1_epi32(255)), _mm512_set1_epi32(0x7fc00000));
    s.floats[0] = _mm512_castsi512_ps(bits);
  }
};

struct Nvfp4Codes : NibbleCodesOf<quantized::Nvfp4TileCodes, quantized::kE2m1Table> {
  // E4M3 moved into the fields of F16 is 2^-8 times its value, subnormals included.
  KOMPAKT_INLINE static __m512 FromE4m3(__m128i bytes) {
    const __m256i half = _mm256_cvtepu8_epi16(bytes);
    const __m256i magnitude = _mm256_and_si256(half, _mm256_set1_epi16(0x7f));
    const __m256i sign = _mm256_slli_epi16(_mm256_and_si256(half, _mm256_set1_epi16(0x80)), 8);
    const __mmask16 nan = _mm256_cmpeq_epi16_mask(magnitude, _mm256_set1_epi16(0x7f));
    const __m512 value = _mm512_cvtph_ps(_mm256_or_si256(_mm256_slli_epi16(magnitude, 7), sign));
    return _mm512_mask_mov_ps(_mm512_mul_ps(value, _mm512_set1_ps(256.0f)), nan,
                              _mm512_castsi512_ps(_mm512_set1_epi32(0x7fc00000)));
  }
  KOMPAKT_INLINE static void LoadScales(const uint8_t* tile, Scales& s) {
    const uint8_t* const scales = tile + offsetof(Nvfp4Tile, scales);
    s.floats[0] = FromE4m3(LoadRows(scales));
    s.floats[1] = FromE4m3(LoadRows(scales + kTileRows));
  }
};

// acc += the groups' dot products times scales, in the order that integer_isa.h gives.
template <bool kInt, int kGroups>
KOMPAKT_INLINE __m512 AddGroups(__m512 acc, const __m512i* dot, const __m512i* ints, const __m512* floats, float d) {
  if constexpr (kInt) {
    __m512i sum = _mm512_mullo_epi32(dot[0], ints[0]);
    if constexpr (kGroups == 2) sum = _mm512_add_epi32(sum, _mm512_mullo_epi32(dot[1], ints[1]));
    return _mm512_fmadd_ps(ToFloat(sum), _mm512_set1_ps(d), acc);
  } else {
    acc = _mm512_fmadd_ps(ToFloat(dot[0]), _mm512_mul_ps(floats[0], _mm512_set1_ps(d)), acc);
    if constexpr (kGroups == 2) {
      acc = _mm512_fmadd_ps(ToFloat(dot[1]), _mm512_mul_ps(floats[1], _mm512_set1_ps(d)), acc);
    }
    return acc;
  }
}

template <class Codes, int kTokens, int kPlanes>
KOMPAKT_INLINE void FewTokens(const uint8_t* tiles, int64_t col_tiles, const ActBlock& x, float* c, int64_t c_stride) {
  constexpr int kGroups = Codes::kGroups;
  constexpr int kGroupLines = kLines / kGroups;
  constexpr bool kInt = kIntProduct<Codes, kPlanes>;
  // A single chain of additions would leave multipliers waiting.
  constexpr bool kByTurns = kTokens * kPlanes * kGroups == 1;
  const auto* group = reinterpret_cast<const ActGroup<kPlanes>*>(x.groups);
  const uint8_t* tile = tiles;
  __m512 acc[kTokens];
#pragma GCC unroll 4
  for (int t = 0; t < kTokens; ++t) acc[t] = _mm512_setzero_ps();
  for (int64_t i = 0; i < col_tiles; ++i, tile += Codes::kTileBytes, group += kTokens) {
    PrefetchAfter<Codes::kTileBytes>(tile);
    const typename Codes::Lines lines(tile);
    Scales s;
    Codes::LoadScales(tile, s);
    if constexpr (Codes::kIntScales && !kInt) {
      for (int g = 0; g < kGroups; ++g) s.floats[g] = ToFloat(s.ints[g]);
    }
    __m512i dot[kTokens][kGroups];
#pragma GCC unroll 2
    for (int g = 0; g < kGroups; ++g) {
      __m512i beside[kTokens];  // sums of the high plane, or of every other line
      [[maybe_unused]] __m512i factor;
      if constexpr (Codes::kShift != 0) {
        factor = _mm512_mask_mov_epi32(_mm512_set1_epi32(128), static_cast<__mmask16>(s.shifted >> 16 * g),
                                       _mm512_set1_epi32(128 - Codes::kShift));
      }
#pragma GCC unroll 4
      for (int t = 0; t < kTokens; ++t) {
        // -128 times the sum of the codes; in rows with the shift bit, shift - 128 times.
        dot[t][g] = _mm512_set1_epi32(kGroups == 2 ? group[t].half_offset[g] : group[t].offset);
        if constexpr (Codes::kShift != 0) {
          dot[t][g] = _mm512_mullo_epi32(_mm512_srai_epi32(dot[t][g], 7), factor);
        }
        beside[t] = _mm512_setzero_si512();
      }
#pragma GCC unroll 8
      for (int j = g * kGroupLines; j < (g + 1) * kGroupLines; ++j) {
        const __m512i line = lines.At(j);
#pragma GCC unroll 4
        for (int t = 0; t < kTokens; ++t) {
          if constexpr (kPlanes == 2) beside[t] = AddProducts(beside[t], line, group[t].codes, j);
          __m512i& sum = kByTurns && j % 2 == 1 ? beside[t] : dot[t][g];
          sum = AddProducts(sum, line, group[t].codes + (kPlanes - 1) * kActGroup, j);
        }
      }
      if constexpr (kPlanes == 2) {
#pragma GCC unroll 4
        for (int t = 0; t < kTokens; ++t) dot[t][g] = _mm512_add_epi32(dot[t][g], _mm512_slli_epi32(beside[t], 8));
      }
      if constexpr (kByTurns) dot[0][g] = _mm512_add_epi32(dot[0][g], beside[0]);
    }
#pragma GCC unroll 4
    for (int t = 0; t < kTokens; ++t) {
      acc[t] = AddGroups<kInt, kGroups>(acc[t], dot[t], s.ints, s.floats, group[t].scale);
    }
  }
#pragma GCC unroll 4
  for (int t = 0; t < kTokens; ++t) _mm512_storeu_ps(c + t * c_stride, acc[t]);
}

template <class Codes, int kPlanes>
KOMPAKT_TARGET void Unpack(const uint8_t* tile, int64_t col_tiles, PanelTile* panel) {
  constexpr int kGroups = Codes::kGroups;
  constexpr int kGroupLines = kLines / kGroups;
  for (int64_t i = 0; i < col_tiles; ++i, tile += Codes::kTileBytes, ++panel) {
    PrefetchAfter<Codes::kTileBytes>(tile);
    const typename Codes::Lines lines(tile);
    Scales s;
    Codes::LoadScales(tile, s);
#pragma GCC unroll 2
    for (int g = 0; g < kGroups; ++g) {
      __m512i shift = _mm512_setzero_si512();
      if constexpr (Codes::kShift != 0) {
        const auto rows = static_cast<__mmask16>(s.shifted >> 16 * g);
        shift = _mm512_maskz_mov_epi32(rows, _mm512_set1_epi8(Codes::kShift));
      }
#pragma GCC unroll 8
      for (int line = 0; line < kGroupLines; ++line) {
        const int j = g * kGroupLines + line;
        _mm512_store_si512(panel->codes[j], _mm512_add_epi8(lines.At(j), shift));
      }
      if constexpr (kIntProduct<Codes, kPlanes>) {
        _mm512_store_si512(panel->scales[g], s.ints[g]);
      } else if constexpr (Codes::kIntScales) {
        _mm512_store_ps(panel->scales[g], ToFloat(s.ints[g]));
      } else {
        _mm512_store_ps(panel->scales[g], s.floats[g]);
      }
    }
  }
}

template <int kTokens, int kPlanes, bool kInt, int kGroups>
KOMPAKT_TARGET void ManyTokens(const PanelTile* panel, int64_t first, int64_t col_tiles, const ActBlock& x, float* c,
                               int64_t c_stride) {
  const auto* group = reinterpret_cast<const ActGroup<kPlanes>*>(x.groups) + first * kTokens;
  __m512 acc[kTokens];
#pragma GCC unroll 12
  for (int t = 0; t < kTokens; ++t) acc[t] = first == 0 ? _mm512_setzero_ps() : _mm512_loadu_ps(c + t * c_stride);
  for (int64_t i = 0; i < col_tiles; ++i, ++panel, group += kTokens) {
    __m512i sum[kTokens];  // of the groups before, where scales are integers
#pragma GCC unroll 2
    for (int g = 0; g < kGroups; ++g) {
      constexpr int kGroupLines = kLines / kGroups;
      __m512i dot[kTokens];
#pragma GCC unroll 12
      for (int t = 0; t < kTokens; ++t) {
        dot[t] = kPlanes == 2 ? _mm512_setzero_si512()
                              : _mm512_set1_epi32(kGroups == 2 ? group[t].half_offset[g] : group[t].offset);
      }
      if constexpr (kPlanes == 2) {
#pragma GCC unroll 8
        for (int j = g * kGroupLines; j < (g + 1) * kGroupLines; ++j) {
          const __m512i line = _mm512_load_si512(panel->codes[j]);
#pragma GCC unroll 12
          for (int t = 0; t < kTokens; ++t) dot[t] = AddProducts(dot[t], line, group[t].codes, j);
        }
#pragma GCC unroll 12
        for (int t = 0; t < kTokens; ++t) {
          const int32_t offset = kGroups == 2 ? group[t].half_offset[g] : group[t].offset;
          dot[t] = _mm512_add_epi32(_mm512_slli_epi32(dot[t], 8), _mm512_set1_epi32(offset));
        }
      }
#pragma GCC unroll 8
      for (int j = g * kGroupLines; j < (g + 1) * kGroupLines; ++j) {
        const __m512i line = _mm512_load_si512(panel->codes[j]);
#pragma GCC unroll 12
        for (int t = 0; t < kTokens; ++t) {
          dot[t] = AddProducts(dot[t], line, group[t].codes + (kPlanes - 1) * kActGroup, j);
        }
      }
      if constexpr (kInt) {
        const __m512i scales = _mm512_load_si512(panel->scales[g]);
#pragma GCC unroll 12
        for (int t = 0; t < kTokens; ++t) {
          dot[t] = _mm512_mullo_epi32(dot[t], scales);
          sum[t] = g == 0 ? dot[t] : _mm512_add_epi32(sum[t], dot[t]);
          if (g == kGroups - 1) acc[t] = _mm512_fmadd_ps(ToFloat(sum[t]), _mm512_set1_ps(group[t].scale), acc[t]);
        }
      } else {
        const __m512 scales = _mm512_load_ps(panel->scales[g]);
#pragma GCC unroll 12
        for (int t = 0; t < kTokens; ++t) {
          acc[t] = _mm512_fmadd_ps(ToFloat(dot[t]), _mm512_mul_ps(scales, _mm512_set1_ps(group[t].scale)), acc[t]);
        }
      }
    }
  }
#pragma GCC unroll 12
  for (int t = 0; t < kTokens; ++t) _mm512_storeu_ps(c + t * c_stride, acc[t]);
}

template <int kPlanes, bool kInt, int kGroups>
void Many(const PanelTile* panel, int64_t first, int64_t col_tiles, const ActBlock& x, float* c, int64_t c_stride) {
  // Blocks of more than kFewTokens.
  constexpr quantized::IntegerIsa::Many kTable[] = {
      ManyTokens<5, kPlanes, kInt, kGroups>,  ManyTokens<6, kPlanes, kInt, kGroups>,
      ManyTokens<7, kPlanes, kInt, kGroups>,  ManyTokens<8, kPlanes, kInt, kGroups>,
      ManyTokens<9, kPlanes, kInt, kGroups>,  ManyTokens<10, kPlanes, kInt, kGroups>,
      ManyTokens<11, kPlanes, kInt, kGroups>, ManyTokens<12, kPlanes, kInt, kGroups>,
  };
  static_assert(quantized::kFewTokens == 4 && quantized::kBlockTokens == 12);
  kTable[x.tokens - 5](panel, first, col_tiles, x, c, c_stride);
}

KOMPAKT_TARGET void Finish(const float* factors, const ActBlock& x, float* acc, int64_t acc_stride) {
  const __m512 f = _mm512_loadu_ps(factors);
  for (int64_t t = 0; t < x.tokens; ++t, acc += acc_stride) {
    _mm512_storeu_ps(acc, _mm512_mul_ps(_mm512_mul_ps(_mm512_loadu_ps(acc), f), _mm512_set1_ps(x.scales[t])));
  }
}

// Codes of 16 values as int32 into the planes of a group; returns their sum.
template <int kPlanes>
KOMPAKT_INLINE int32_t StoreCodes(__m512i codes, int8_t* to) {
  if constexpr (kPlanes == 1) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(codes));
  } else {
    const __m512i high = _mm512_srai_epi32(_mm512_add_epi32(codes, _mm512_set1_epi32(128)), 8);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(high));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + kActGroup), _mm512_cvtepi32_epi8(codes));
  }
  return _mm512_reduce_add_epi32(codes);
}

template <int kPlanes>
KOMPAKT_TARGET void Quantize(const float* x, int64_t n, uint8_t* groups, size_t stride_bytes, float* scale) {
  constexpr float kLargest = kPlanes == 1 ? kInt8Largest : kInt16Largest;
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  uint32_t most_bits = 0;
  for (int64_t k = 0; k < n; k += kActGroup, groups += stride_bytes) {
    ActGroup<kPlanes>& group = *reinterpret_cast<ActGroup<kPlanes>*>(groups);
    const int64_t rest = n - k;
    const auto mask = static_cast<__mmask32>(rest >= 32 ? 0xffffffffu : (1u << rest) - 1);
    const __m512 a = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), x + k);
    const __m512 b = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask >> 16), x + k + 16);
    const __m512i larger = _mm512_max_epu32(_mm512_and_si512(_mm512_castps_si512(a), magnitude),
                                            _mm512_and_si512(_mm512_castps_si512(b), magnitude));
    const auto bits = static_cast<uint32_t>(_mm512_reduce_max_epu32(larger));
    most_bits = bits > most_bits ? bits : most_bits;
    const quantized::GroupScale d = quantized::ScaleOfGroup(bits, kLargest);
    const __m512 inverse = _mm512_set1_ps(d.inverse);
    // Zero times the inverse of a group without codes is zero, and what is not finite must not be converted.
    const __mmask16 some = d.inverse > 0 ? 0xffff : 0;
    const int32_t sum0 = StoreCodes<kPlanes>(_mm512_maskz_cvtps_epi32(some, _mm512_mul_ps(a, inverse)), group.codes);
    const int32_t sum1 =
        StoreCodes<kPlanes>(_mm512_maskz_cvtps_epi32(some, _mm512_mul_ps(b, inverse)), group.codes + 16);
    group.scale = d.scale;
    group.half_offset[0] = -128 * sum0;
    group.half_offset[1] = -128 * sum1;
    group.offset = group.half_offset[0] + group.half_offset[1];
  }
  *scale = quantized::ScaleToken<kPlanes>(most_bits, n, groups, stride_bytes);
}

// Needs all above it.
#include "kernels/quantized/region_loops.h"

}  // namespace
}  // namespace kompakt::x86
