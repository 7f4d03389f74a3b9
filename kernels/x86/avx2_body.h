// Products of integers in vectors of 256 bits: a line of a tile, 16 rows x 4 columns of bytes, is two registers.
// Compiled into avx2.cc and avx_vnni.cc, which define
//     KOMPAKT_TARGET  the target attribute of every function here
//     KOMPAKT_VNNI    whether there is vpdpbusd, which multiplies unsigned bytes with signed ones. Without it, weights
//                     are signed: kInt8 multiplies their magnitude with the activation that has taken over their sign
//                     (vpmaddubsw would saturate with larger ones), kInt16 multiplies words of 16 bits (vpmaddwd)

// GCC 12 takes the deliberately undefined operand of some intrinsics for a mistake.
#pragma GCC diagnostic push
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>
#pragma GCC diagnostic pop

#include <algorithm>
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

constexpr bool kVnni = KOMPAKT_VNNI != 0;
constexpr int kLines = 8;       // of 4 columns in a tile
constexpr int kLineBytes = 64;  // of bytes
constexpr int kHalfRows = 8;    // rows of one register
constexpr int kHalfBytes = 32;  // of a line

// The group scales of half a tile.
struct Scales {
  __m256i ints[2];     // only where kIntScales
  __m256 floats[2];    // only where not
  __m256i shifted[2];  // all ones where the shift bit of that row and group is set; only where kShift
};

KOMPAKT_INLINE __m256i Load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
KOMPAKT_INLINE __m128i LoadHalfRows(const uint8_t* p) { return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)); }
KOMPAKT_INLINE __m256i Word(const void* words, int i) {
  int32_t word;
  std::memcpy(&word, static_cast<const uint8_t*>(words) + 4 * i, sizeof(word));
  return _mm256_set1_epi32(word);
}

// 16 entries of a table in both lanes, as the products of this set want them: value + 128, or the value itself.
KOMPAKT_INLINE __m256i Entries(const CodeTable& table, int first) {
  const __m256i bytes =
      _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(table.bytes + first)));
  return kVnni ? bytes : _mm256_xor_si256(bytes, _mm256_set1_epi8(static_cast<char>(0x80)));
}

// The bytes that hold half of line `j` in the plane of kBits bits per code at `plane`, shifted to the right, or left
// where that is negative; bits that cross into other bytes are to be masked away.
template <int kBits>
KOMPAKT_INLINE __m256i PlaneLine(const uint8_t* plane, int j, int half, int shift) {
  const __m256i line = Load(plane + j / (8 / kBits) * kLineBytes + half * kHalfBytes);
  if (shift == 0) return line;
  return shift > 0 ? _mm256_srli_epi16(line, shift) : _mm256_slli_epi16(line, -shift);
}

// Bits [first, first + bits) of every byte.
KOMPAKT_INLINE __m256i Bits(__m256i line, int first, int bits) {
  return _mm256_and_si256(line, _mm256_set1_epi8(static_cast<char>(((1 << bits) - 1) << first)));
}

// How a format's tile becomes bytes and scales. kNegatable: no byte is -128.
template <const TableSpec& kSpec>
struct TableCodes : quantized::TableTileCodes<kSpec> {
  static constexpr bool kNegatable =
      std::all_of(kSpec.values, kSpec.values + kSpec.n_values(), [](int8_t v) { return v > -128; });

  KOMPAKT_INLINE static __m256i Line(const uint8_t* tile, int j, int half) {
    const uint8_t* const high_plane = tile + kSpec.low_bytes();
    if constexpr (kSpec.code_bits <= 4) {
      using Index = quantized::SharedIndex<kSpec, 4>;
      __m256i index = Bits(PlaneLine<kSpec.low_bits()>(tile, j, half, Index::LowShift(j)), 0, Index::kHighAt);
      if constexpr (kSpec.high_bits() > 0) {
        const __m256i high = PlaneLine<kSpec.high_bits()>(high_plane, j, half, Index::HighShift(j));
        index = _mm256_or_si256(index, Bits(high, Index::kHighAt, 4 - Index::kHighAt));
      }
      return _mm256_shuffle_epi8(Entries(Index::Table(j), 0), index);
    } else {
      // Quarters of the table are looked up apart; bits 4 and 5 of the code, moved to the sign, choose between them.
      const CodeTable& table = quantized::kTableOf<kSpec>;
      const __m256i low = Bits(PlaneLine<4>(tile, j, half, 4 * (j % 2)), 0, 4);
      const __m256i first = _mm256_shuffle_epi8(Entries(table, 0), low);
      const __m256i second = _mm256_shuffle_epi8(Entries(table, 16), low);
      if constexpr (kSpec.code_bits == 5) {
        return _mm256_blendv_epi8(first, second, PlaneLine<1>(high_plane, j, half, j - 7));
      } else {
        const __m256i bit5 = PlaneLine<2>(high_plane, j, half, 2 * (j % 4) - 6);
        const __m256i bit4 = _mm256_slli_epi16(bit5, 1);
        const __m256i third = _mm256_shuffle_epi8(Entries(table, 32), low);
        const __m256i fourth = _mm256_shuffle_epi8(Entries(table, 48), low);
        return _mm256_blendv_epi8(_mm256_blendv_epi8(first, second, bit4), _mm256_blendv_epi8(third, fourth, bit4),
                                  bit5);
      }
    }
  }

  KOMPAKT_INLINE static void LoadScales(const uint8_t* tile, int half, Scales& s) {
    constexpr auto kBit = 1 << kSpec.scale_bits;
    for (int g = 0; g < TableCodes::kGroups; ++g) {
      const __m256i bytes =
          _mm256_cvtepu8_epi32(LoadHalfRows(tile + kSpec.code_bytes() + g * kTileRows + half * kHalfRows));
      s.ints[g] =
          _mm256_sub_epi32(_mm256_and_si256(bytes, _mm256_set1_epi32(kBit - 1)), _mm256_set1_epi32(kSpec.scale_bias()));
      s.shifted[g] = _mm256_cmpeq_epi32(_mm256_and_si256(bytes, _mm256_set1_epi32(kBit)), _mm256_set1_epi32(kBit));
    }
  }
};

struct Q8Codes : quantized::Q8TileCodes {
  static constexpr bool kNegatable = false;
  KOMPAKT_INLINE static __m256i Line(const uint8_t* tile, int j, int half) {
    const __m256i line = Load(tile + j * kLineBytes + half * kHalfBytes);
    return kVnni ? line : _mm256_xor_si256(line, _mm256_set1_epi8(static_cast<char>(0x80)));
  }
  KOMPAKT_INLINE static void LoadScales(const uint8_t* tile, int half, Scales& s) {
    s.ints[0] = _mm256_cvtepu8_epi32(LoadHalfRows(tile + offsetof(Q8G32Tile, groups) + half * kHalfRows));
  }
};

// The upstream 4-bit formats.
template <class Tile, const CodeTable& kTable>
struct NibbleCodesOf : Tile {
  static constexpr bool kNegatable = true;
  KOMPAKT_INLINE static __m256i Line(const uint8_t* tile, int j, int half) {
    return _mm256_shuffle_epi8(Entries(kTable, 0), Bits(PlaneLine<4>(tile, j, half, 4 * (j % 2)), 0, 4));
  }
};

struct Int4Codes : NibbleCodesOf<quantized::Int4TileCodes, quantized::kInt4Table> {
  KOMPAKT_INLINE static void LoadScales(const uint8_t* tile, int half, Scales& s) {
    const __m128i bf16 =
        _mm_loadu_si128(reinterpret_cast<const __m128i*>(tile + offsetof(Int4G32Tile, scales) + half * kHalfRows * 2));
    s.floats[0] = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bf16), 16));
  }
};

struct Mxfp4Codes : NibbleCodesOf<quantized::Mxfp4TileCodes, quantized::kE2m1Table> {
  KOMPAKT_INLINE static void LoadScales(const uint8_t* tile, int half, Scales& s) {
    const __m256i e = _mm256_cvtepu8_epi32(LoadHalfRows(tile + offsetof(Mxfp4Tile, exponents) + half * kHalfRows));
    __m256i bits = _mm256_slli_epi32(e, 23);
    bits = _mm256_blendv_epi8(bits, _mm256_set1_epi32(0x00400000), _mm256_cmpeq_epi32(e, _mm256_setzero_si256()));
    bits = _mm256_blendv_epi8(bits, _mm256_set1_epi32(0x7fc00000), _mm256_cmpeq_epi32(e, _mm256_set1_epi32(255)));
    s.floats[0] = _mm256_castsi256_ps(bits);
  }
};

struct Nvfp4Codes : NibbleCodesOf<quantized::Nvfp4TileCodes, quantized::kE2m1Table> {
  // E4M3 moved into the fields of F16 is 2^-8 times its value, subnormals included.
  KOMPAKT_INLINE static __m256 FromE4m3(__m128i bytes) {
    const __m128i half = _mm_cvtepu8_epi16(bytes);
    const __m128i magnitude = _mm_and_si128(half, _mm_set1_epi16(0x7f));
    const __m128i sign = _mm_slli_epi16(_mm_and_si128(half, _mm_set1_epi16(0x80)), 8);
    const __m256i nan = _mm256_cvtepi16_epi32(_mm_cmpeq_epi16(magnitude, _mm_set1_epi16(0x7f)));
    const __m256 value = _mm256_cvtph_ps(_mm_or_si128(_mm_slli_epi16(magnitude, 7), sign));
    return _mm256_blendv_ps(_mm256_mul_ps(value, _mm256_set1_ps(256.0f)),
                            _mm256_castsi256_ps(_mm256_set1_epi32(0x7fc00000)), _mm256_castsi256_ps(nan));
  }
  KOMPAKT_INLINE static void LoadScales(const uint8_t* tile, int half, Scales& s) {
    const uint8_t* const scales = tile + offsetof(Nvfp4Tile, scales) + half * kHalfRows;
    s.floats[0] = FromE4m3(LoadHalfRows(scales));
    s.floats[1] = FromE4m3(LoadHalfRows(scales + kTileRows));
  }
};

// What the activations of one precision are multiplied by: a line, made ready once for all tokens.
template <int kPlanes>
struct Factor {
  __m256i a;
  __m256i b;
};

template <int kPlanes>
KOMPAKT_INLINE Factor<kPlanes> MakeFactor(__m256i line) {
  if constexpr (kVnni) {
    return {line, line};
  } else if constexpr (kPlanes == 1) {
    return {_mm256_abs_epi8(line), line};
  } else {
    // Columns k and k + 2, then k + 1 and k + 3, as words.
    return {_mm256_srai_epi16(_mm256_slli_epi16(line, 8), 8), _mm256_srai_epi16(line, 8)};
  }
}

// dot += unsigned bytes times signed ones, without vpdpbusd.
KOMPAKT_INLINE __m256i AddBytes(__m256i dot, __m256i magnitudes, __m256i factors) {
  return _mm256_add_epi32(dot, _mm256_madd_epi16(_mm256_maddubs_epi16(magnitudes, factors), _mm256_set1_epi16(1)));
}

// dot += line j of a token's group. With vpdpbusd and two planes: of the plane `plane`.
template <int kPlanes>
KOMPAKT_INLINE __m256i AddLine(__m256i dot, const Factor<kPlanes>& f, const ActGroup<kPlanes>& group, int j,
                               [[maybe_unused]] int plane) {
  if constexpr (kVnni) {
    return _mm256_dpbusd_avx_epi32(dot, f.a, Word(group.codes + plane * kActGroup, j));
  } else if constexpr (kPlanes == 1) {
    return AddBytes(dot, f.a, _mm256_sign_epi8(Word(group.codes, j), f.b));
  } else {
    const __m256i even = _mm256_madd_epi16(f.a, Word(group.codes, 2 * j));
    const __m256i odd = _mm256_madd_epi16(f.b, Word(group.codes, 2 * j + 1));
    return _mm256_add_epi32(dot, _mm256_add_epi32(even, odd));
  }
}

// Planes that are summed one after the other.
template <int kPlanes>
constexpr int kPasses = kVnni ? kPlanes : 1;

// What a dot product starts from: the correction of value + 128, nothing where weights are signed.
KOMPAKT_INLINE __m256i StartOf(__m256i offset) { return kVnni ? offset : _mm256_setzero_si256(); }

// acc += the groups' dot products times scales, in the order that integer_isa.h gives.
template <bool kInt, int kGroups>
KOMPAKT_INLINE __m256 AddGroups(__m256 acc, const __m256i* dot, const __m256i* ints, const __m256* floats, float d) {
  if constexpr (kInt) {
    __m256i sum = _mm256_mullo_epi32(dot[0], ints[0]);
    if constexpr (kGroups == 2) sum = _mm256_add_epi32(sum, _mm256_mullo_epi32(dot[1], ints[1]));
    return _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), _mm256_set1_ps(d), acc);
  } else {
    acc = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot[0]), _mm256_mul_ps(floats[0], _mm256_set1_ps(d)), acc);
    if constexpr (kGroups == 2) {
      acc = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot[1]), _mm256_mul_ps(floats[1], _mm256_set1_ps(d)), acc);
    }
    return acc;
  }
}

// sum + shift * the sum of a group's codes, which is offset / -128, in rows with the shift bit.
template <class Codes>
KOMPAKT_INLINE __m256i AddShift(__m256i sum, __m256i offset, [[maybe_unused]] __m256i shifted) {
  if constexpr (Codes::kShift == 0) return sum;
  const __m256i shift = _mm256_srai_epi32(_mm256_mullo_epi32(offset, _mm256_set1_epi32(-Codes::kShift)), 7);
  return _mm256_add_epi32(sum, _mm256_and_si256(shift, shifted));
}

// FewTokens for one, where there is no vpdpbusd: its magnitudes are made once for all rows, and weights take over its
// signs.
template <class Codes>
KOMPAKT_INLINE void OneToken(const uint8_t* tile, int64_t col_tiles, const ActBlock& x, float* c) {
  constexpr int kGroups = Codes::kGroups;
  constexpr int kGroupLines = kLines / kGroups;
  const auto* group = reinterpret_cast<const ActGroup<1>*>(x.groups);
  __m256 acc[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
  for (int64_t i = 0; i < col_tiles; ++i, tile += Codes::kTileBytes, ++group) {
    PrefetchAfter<Codes::kTileBytes>(tile);
    alignas(32) int8_t magnitudes[kActGroup];
    _mm256_store_si256(reinterpret_cast<__m256i*>(magnitudes), _mm256_abs_epi8(Load(group->codes)));
    asm("" : "+m"(magnitudes));  // four bytes of it are broadcast from memory, not picked out of the register
    __m256i dot[2][kGroups];
#pragma GCC unroll 2
    for (int g = 0; g < kGroups; ++g) {
      __m256i sum[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
#pragma GCC unroll 8
      for (int j = g * kGroupLines; j < (g + 1) * kGroupLines; ++j) {
        const __m256i codes = Word(group->codes, j);
        const __m256i magnitude = Word(magnitudes, j);
#pragma GCC unroll 2
        for (int half = 0; half < 2; ++half) {
          sum[half] = AddBytes(sum[half], magnitude, _mm256_sign_epi8(Codes::Line(tile, j, half), codes));
          asm("" : "+x"(sum[half]));  // or GCC adds all lines at the end, and has no registers for them
        }
      }
      dot[0][g] = sum[0];
      dot[1][g] = sum[1];
    }
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      Scales s;
      Codes::LoadScales(tile, half, s);
#pragma GCC unroll 2
      for (int g = 0; g < kGroups; ++g) {
        const __m256i offset = _mm256_set1_epi32(kGroups == 2 ? group->half_offset[g] : group->offset);
        dot[half][g] = AddShift<Codes>(dot[half][g], offset, s.shifted[g]);
      }
      acc[half] = AddGroups<kIntProduct<Codes, 1>, kGroups>(acc[half], dot[half], s.ints, s.floats, group->scale);
    }
  }
  _mm256_storeu_ps(c, acc[0]);
  _mm256_storeu_ps(c + kHalfRows, acc[1]);
}

template <class Codes, int kTokens, int kPlanes>
KOMPAKT_INLINE void FewTokens(const uint8_t* tiles, int64_t col_tiles, const ActBlock& x, float* c, int64_t c_stride) {
  if constexpr (!kVnni && kTokens * kPlanes == 1 && Codes::kNegatable) return OneToken<Codes>(tiles, col_tiles, x, c);
  constexpr int kGroups = Codes::kGroups;
  constexpr int kGroupLines = kLines / kGroups;
  constexpr bool kInt = kIntProduct<Codes, kPlanes>;
  const auto* group = reinterpret_cast<const ActGroup<kPlanes>*>(x.groups);
  const uint8_t* tile = tiles;
  __m256 acc[2][kTokens];
#pragma GCC unroll 4
  for (int t = 0; t < kTokens; ++t) acc[0][t] = acc[1][t] = _mm256_setzero_ps();
  for (int64_t i = 0; i < col_tiles; ++i, tile += Codes::kTileBytes, group += kTokens) {
    PrefetchAfter<Codes::kTileBytes>(tile);
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      Scales s;
      Codes::LoadScales(tile, half, s);
      if constexpr (Codes::kIntScales && !kInt) {
        for (int g = 0; g < kGroups; ++g) s.floats[g] = _mm256_cvtepi32_ps(s.ints[g]);
      }
      __m256i dot[kTokens][kGroups];
#pragma GCC unroll 2
      for (int g = 0; g < kGroups; ++g) {
        __m256i high[kTokens];
#pragma GCC unroll 4
        for (int t = 0; t < kTokens; ++t) {
          const __m256i offset = _mm256_set1_epi32(kGroups == 2 ? group[t].half_offset[g] : group[t].offset);
          dot[t][g] = AddShift<Codes>(StartOf(offset), offset, s.shifted[g]);
          high[t] = _mm256_setzero_si256();
        }
#pragma GCC unroll 8
        for (int j = g * kGroupLines; j < (g + 1) * kGroupLines; ++j) {
          const Factor<kPlanes> factor = MakeFactor<kPlanes>(Codes::Line(tile, j, half));
#pragma GCC unroll 4
          for (int t = 0; t < kTokens; ++t) {
            if constexpr (kPasses<kPlanes> == 2) high[t] = AddLine<kPlanes>(high[t], factor, group[t], j, 0);
            dot[t][g] = AddLine<kPlanes>(dot[t][g], factor, group[t], j, kPasses<kPlanes> - 1);
          }
        }
        if constexpr (kPasses<kPlanes> == 2) {
#pragma GCC unroll 4
          for (int t = 0; t < kTokens; ++t) dot[t][g] = _mm256_add_epi32(dot[t][g], _mm256_slli_epi32(high[t], 8));
        }
      }
#pragma GCC unroll 4
      for (int t = 0; t < kTokens; ++t) {
        acc[half][t] = AddGroups<kInt, kGroups>(acc[half][t], dot[t], s.ints, s.floats, group[t].scale);
      }
    }
  }
#pragma GCC unroll 4
  for (int t = 0; t < kTokens; ++t) {
    _mm256_storeu_ps(c + t * c_stride, acc[0][t]);
    _mm256_storeu_ps(c + t * c_stride + kHalfRows, acc[1][t]);
  }
}

// Panels hold bytes as Entries gives them, the shift included.
template <class Codes, int kPlanes>
KOMPAKT_TARGET void Unpack(const uint8_t* tile, int64_t col_tiles, PanelTile* panel) {
  constexpr int kGroups = Codes::kGroups;
  constexpr int kGroupLines = kLines / kGroups;
  for (int64_t i = 0; i < col_tiles; ++i, tile += Codes::kTileBytes, ++panel) {
    PrefetchAfter<Codes::kTileBytes>(tile);
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      Scales s;
      Codes::LoadScales(tile, half, s);
#pragma GCC unroll 2
      for (int g = 0; g < kGroups; ++g) {
        __m256i shift = _mm256_setzero_si256();
        if constexpr (Codes::kShift != 0) {
          shift = _mm256_and_si256(s.shifted[g], _mm256_set1_epi8(static_cast<char>(Codes::kShift)));
        }
#pragma GCC unroll 8
        for (int line = 0; line < kGroupLines; ++line) {
          const int j = g * kGroupLines + line;
          _mm256_store_si256(reinterpret_cast<__m256i*>(panel->codes[j][half * kHalfRows]),
                             _mm256_add_epi8(Codes::Line(tile, j, half), shift));
        }
        auto* const scales = reinterpret_cast<float*>(panel->scales[g][half * kHalfRows]);
        if constexpr (kIntProduct<Codes, kPlanes>) {
          _mm256_store_ps(scales, _mm256_castsi256_ps(s.ints[g]));
        } else if constexpr (Codes::kIntScales) {
          _mm256_store_ps(scales, _mm256_cvtepi32_ps(s.ints[g]));
        } else {
          _mm256_store_ps(scales, s.floats[g]);
        }
      }
    }
  }
}

// kTokens of a block's tokens, from `token` on, and one half of the rows: as many as the registers hold.
template <int kTokens, int kPlanes, bool kInt, int kGroups>
KOMPAKT_TARGET void ManyTokens(const PanelTile* panel, int64_t first, int64_t col_tiles, const ActBlock& x,
                               int64_t token, int half, float* c, int64_t c_stride) {
  constexpr int kGroupLines = kLines / kGroups;
  const auto* group = reinterpret_cast<const ActGroup<kPlanes>*>(x.groups) + first * x.tokens + token;
  c += token * c_stride + half * kHalfRows;
  __m256 acc[kTokens];
#pragma GCC unroll 6
  for (int t = 0; t < kTokens; ++t) acc[t] = first == 0 ? _mm256_setzero_ps() : _mm256_loadu_ps(c + t * c_stride);
  for (int64_t i = 0; i < col_tiles; ++i, ++panel, group += x.tokens) {
    __m256i sum[kTokens];  // of the groups before, where scales are integers
#pragma GCC unroll 2
    for (int g = 0; g < kGroups; ++g) {
      __m256i dot[kTokens];
#pragma GCC unroll 6
      for (int t = 0; t < kTokens; ++t) dot[t] = _mm256_setzero_si256();
#pragma GCC unroll 2
      for (int plane = 0; plane < kPasses<kPlanes>; ++plane) {
        if constexpr (kVnni) {
          const bool last = plane == kPasses<kPlanes> - 1;
#pragma GCC unroll 6
          for (int t = 0; t < kTokens; ++t) {
            if (plane == 1) dot[t] = _mm256_slli_epi32(dot[t], 8);
            const int32_t offset = kGroups == 2 ? group[t].half_offset[g] : group[t].offset;
            if (last) dot[t] = _mm256_add_epi32(dot[t], _mm256_set1_epi32(offset));
          }
        }
#pragma GCC unroll 8
        for (int j = g * kGroupLines; j < (g + 1) * kGroupLines; ++j) {
          const Factor<kPlanes> factor = MakeFactor<kPlanes>(Load(panel->codes[j][half * kHalfRows]));
#pragma GCC unroll 6
          for (int t = 0; t < kTokens; ++t) dot[t] = AddLine<kPlanes>(dot[t], factor, group[t], j, plane);
        }
      }
      const uint8_t* const scales = panel->scales[g][half * kHalfRows];
#pragma GCC unroll 6
      for (int t = 0; t < kTokens; ++t) {
        if constexpr (kInt) {
          dot[t] = _mm256_mullo_epi32(dot[t], Load(scales));
          sum[t] = g == 0 ? dot[t] : _mm256_add_epi32(sum[t], dot[t]);
          if (g == kGroups - 1) {
            acc[t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[t]), _mm256_set1_ps(group[t].scale), acc[t]);
          }
        } else {
          const __m256 factor =
              _mm256_mul_ps(_mm256_load_ps(reinterpret_cast<const float*>(scales)), _mm256_set1_ps(group[t].scale));
          acc[t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot[t]), factor, acc[t]);
        }
      }
    }
  }
#pragma GCC unroll 6
  for (int t = 0; t < kTokens; ++t) _mm256_storeu_ps(c + t * c_stride, acc[t]);
}

template <int kPlanes, bool kInt, int kGroups>
void Many(const PanelTile* panel, int64_t first, int64_t col_tiles, const ActBlock& x, float* c, int64_t c_stride) {
  constexpr quantized::Piece kTable[] = {
    ManyTokens<1, kPlanes, kInt, kGroups>,
    ManyTokens<2, kPlanes, kInt, kGroups>,
    ManyTokens<3, kPlanes, kInt, kGroups>,
    ManyTokens<4, kPlanes, kInt, kGroups>,
#if KOMPAKT_VNNI
    ManyTokens<5, kPlanes, kInt, kGroups>,
    ManyTokens<6, kPlanes, kInt, kGroups>,
#endif
  };
  quantized::ManyInPieces(kTable, panel, first, col_tiles, x, c, c_stride);
}

KOMPAKT_TARGET void Finish(const float* factors, const ActBlock& x, float* acc, int64_t acc_stride) {
  for (int64_t t = 0; t < x.tokens; ++t, acc += acc_stride) {
    for (int half = 0; half < 2; ++half) {
      float* const a = acc + half * kHalfRows;
      const __m256 scaled = _mm256_mul_ps(_mm256_loadu_ps(a), _mm256_loadu_ps(factors + half * kHalfRows));
      _mm256_storeu_ps(a, _mm256_mul_ps(scaled, _mm256_set1_ps(x.scales[t])));
    }
  }
}

KOMPAKT_INLINE __m256i Magnitude(__m256 x) {
  return _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0x7fffffff));
}

KOMPAKT_INLINE int32_t Sum(__m256i x) {
  __m128i s = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}

KOMPAKT_INLINE uint32_t Largest(__m256i x) {
  __m128i m = _mm_max_epu32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
  m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0x4e));
  return static_cast<uint32_t>(_mm_cvtsi128_si32(_mm_max_epu32(m, _mm_shuffle_epi32(m, 0xb1))));
}

// 32 values as bytes, in order.
KOMPAKT_INLINE __m256i PackBytes(const __m256i* codes) {
  const __m256i words =
      _mm256_packs_epi16(_mm256_packs_epi32(codes[0], codes[1]), _mm256_packs_epi32(codes[2], codes[3]));
  return _mm256_permutevar8x32_epi32(words, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

template <int kPlanes>
KOMPAKT_INLINE void StoreCodes(const __m256i* codes, int8_t* to) {
  auto* const out = reinterpret_cast<__m256i*>(to);
  if constexpr (kPlanes == 1) {
    _mm256_storeu_si256(out, PackBytes(codes));
  } else if constexpr (kVnni) {
    __m256i high[4];
    __m256i low[4];
    for (int i = 0; i < 4; ++i) {
      high[i] = _mm256_srai_epi32(_mm256_add_epi32(codes[i], _mm256_set1_epi32(128)), 8);
      low[i] = _mm256_sub_epi32(codes[i], _mm256_slli_epi32(high[i], 8));
    }
    _mm256_storeu_si256(out, PackBytes(high));
    _mm256_storeu_si256(out + 1, PackBytes(low));
  } else {
    // Words in the order of columns k, k + 2, k + 1, k + 3.
    for (int i = 0; i < 2; ++i) {
      const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(codes[2 * i], codes[2 * i + 1]), 0xd8);
      _mm256_storeu_si256(out + i, _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(words, 0xd8), 0xd8));
    }
  }
}

template <int kPlanes>
KOMPAKT_TARGET void Quantize(const float* x, int64_t n, uint8_t* groups, size_t stride_bytes, float* scale) {
  constexpr float kLargest = kPlanes == 1 ? kInt8Largest : kInt16Largest;
  uint32_t most_bits = 0;
  for (int64_t k = 0; k < n; k += kActGroup, groups += stride_bytes) {
    ActGroup<kPlanes>& group = *reinterpret_cast<ActGroup<kPlanes>*>(groups);
    float tail[kActGroup] = {};
    const float* from = x + k;
    if (n - k < kActGroup) {
      std::memcpy(tail, from, static_cast<size_t>(n - k) * sizeof(float));
      from = tail;
    }
    __m256 v[4];
    for (int i = 0; i < 4; ++i) v[i] = _mm256_loadu_ps(from + 8 * i);
    const uint32_t bits = Largest(_mm256_max_epu32(_mm256_max_epu32(Magnitude(v[0]), Magnitude(v[1])),
                                                   _mm256_max_epu32(Magnitude(v[2]), Magnitude(v[3]))));
    most_bits = bits > most_bits ? bits : most_bits;
    const quantized::GroupScale d = quantized::ScaleOfGroup(bits, kLargest);
    // What is not finite must not be converted.
    const __m256i some = _mm256_set1_epi32(d.inverse > 0 ? -1 : 0);
    __m256i codes[4];
    for (int i = 0; i < 4; ++i) {
      codes[i] = _mm256_and_si256(_mm256_cvtps_epi32(_mm256_mul_ps(v[i], _mm256_set1_ps(d.inverse))), some);
    }
    StoreCodes<kPlanes>(codes, group.codes);
    group.scale = d.scale;
    group.half_offset[0] = -128 * Sum(_mm256_add_epi32(codes[0], codes[1]));
    group.half_offset[1] = -128 * Sum(_mm256_add_epi32(codes[2], codes[3]));
    group.offset = group.half_offset[0] + group.half_offset[1];
  }
  *scale = quantized::ScaleToken<kPlanes>(most_bits, n, groups, stride_bytes);
}

// Needs all above it.
#include "kernels/quantized/region_loops.h"

}  // namespace
}  // namespace kompakt::x86
