#include "kernels/portable/panel_table_x86.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include "format/block_q2_g16.h"
#include "format/block_q2_g32.h"
#include "format/block_q3_g16.h"
#include "format/block_q3_g32.h"
#include "format/block_q4_g16.h"
#include "format/block_q4_g32.h"
#include "format/block_q5_g32.h"
#include "format/block_q6_g32.h"

namespace kompakt::portable {
namespace {

// As floats; a table of 8 twice, so that 16 lanes can be looked up in it.
struct FloatTable {
  alignas(64) float values[64];
};

template <const TableSpec& kSpec>
constexpr FloatTable kFloatTable = [] {
  FloatTable table{};
  for (int i = 0; i < 64; ++i) table.values[i] = static_cast<float>(kSpec.values[i % kSpec.n_values()]);
  return table;
}();

// Group scale times shifted table entry is an integer below 2^24: exact in F32, so the order of these products is free,
// and only the last one, by the row scale, rounds.

typedef float F16 __attribute__((vector_size(64)));
typedef int32_t I16 __attribute__((vector_size(64)));

// Where the codes of eight columns from `k` on lie in a plane of kBits bits per code: the line of words, and the bits
// to shift them by. Then column i is at bit 8 (i % 4) + kBits (i / 4).
template <int kBits>
struct PlanePlace {
  explicit constexpr PlanePlace(int64_t k)
      : byte(k * kBits / 32 * kTileRows * 4), shift(static_cast<int>(k % (32 / kBits) / 4 * kBits)) {}
  int64_t byte;
  int shift;
};
template <int kBits>
constexpr int BitOfColumn(int i) {
  return 8 * (i % 4) + kBits * (i / 4);
}

// The masked forms of the intrinsics, because GCC 12 warns about the undefined operand of the others.
template <int kCodeBits>
__attribute__((target("avx512f"))) inline __m512 LookUp16(const float* table, const __m512i& index) {
  const __m512 first = _mm512_load_ps(table);
  if constexpr (kCodeBits <= 4) {
    // vpermps looks at the low four bits of an index only.
    return _mm512_maskz_permutexvar_ps(0xffff, index, first);
  } else {
    const __m512 low = _mm512_permutex2var_ps(first, index, _mm512_load_ps(table + 16));
    if constexpr (kCodeBits == 5) {
      return low;
    } else {
      const __m512 high = _mm512_permutex2var_ps(_mm512_load_ps(table + 32), index, _mm512_load_ps(table + 48));
      return _mm512_mask_blend_ps(_mm512_test_epi32_mask(index, _mm512_set1_epi32(32)), low, high);
    }
  }
}

// Eight columns of 16 rows.
template <const TableSpec& kSpec>
__attribute__((target("avx512f"))) inline void Columns16(const uint8_t* tile, int64_t k, const float* row_scales,
                                                         float* panel) {
  const uint8_t* groups = tile + kSpec.code_bytes() + k / kSpec.group_cols * kTileRows;
  const auto group = reinterpret_cast<I16>(
      _mm512_maskz_cvtepu8_epi32(0xffff, _mm_loadu_si128(reinterpret_cast<const __m128i*>(groups))));
  const F16 scale = __builtin_convertvector((group & ((1 << kSpec.scale_bits) - 1)) - kSpec.scale_bias(), F16);
  const F16 shift = __builtin_convertvector((group >> kSpec.scale_bits & 1) * kSpec.shift, F16);
  const auto row_scale = reinterpret_cast<F16>(_mm512_loadu_ps(row_scales));
  constexpr int kLow = kSpec.low_bits();
  constexpr int kHigh = kSpec.high_bits();
  const PlanePlace<kLow> low_place(k);
  const auto low = reinterpret_cast<I16>(_mm512_loadu_si512(tile + low_place.byte)) >> low_place.shift;
  I16 high = {};
  if constexpr (kHigh > 0) {
    const PlanePlace<kHigh> high_place(k);
    high = reinterpret_cast<I16>(_mm512_loadu_si512(tile + kSpec.low_bytes() + high_place.byte)) >> high_place.shift;
  }
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    I16 index = low >> BitOfColumn<kLow>(i);
    if constexpr (kHigh > 0) {
      index = (index & ((1 << kLow) - 1)) | (high >> BitOfColumn<kHigh>(i) & ((1 << kHigh) - 1)) << kLow;
    }
    const auto value =
        reinterpret_cast<F16>(LookUp16<kSpec.code_bits>(kFloatTable<kSpec>.values, reinterpret_cast<__m512i>(index)));
    const F16 w = (value + shift) * scale * row_scale;
    _mm512_storeu_ps(panel + (k + i) * kTileRows, reinterpret_cast<__m512>(w));
  }
}

// The values of eight codes: the halves of the table are looked up apart, and bit 3 of the code, then bit 4 and bit 5,
// moved to the sign, choose between them.
template <int kCodeBits>
__attribute__((target("avx2"))) inline __m256 LookUp8(const float* table, const __m256i& index) {
  if constexpr (kCodeBits <= 3) {
    return _mm256_permutevar8x32_ps(_mm256_load_ps(table), index);
  } else {
    constexpr int kBit = kCodeBits - 1;
    const __m256 half = _mm256_castsi256_ps(_mm256_slli_epi32(index, 31 - kBit));
    return _mm256_blendv_ps(LookUp8<kBit>(table, index), LookUp8<kBit>(table + (1 << kBit), index), half);
  }
}

// Eight columns of 8 rows from `r` on.
template <const TableSpec& kSpec>
__attribute__((target("avx2"))) inline void Columns8(const uint8_t* tile, int64_t r, int64_t k, const float* row_scales,
                                                     float* panel) {
  const uint8_t* groups = tile + kSpec.code_bytes() + k / kSpec.group_cols * kTileRows + r;
  const __m256i group = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(groups)));
  const __m256 scale = _mm256_cvtepi32_ps(_mm256_sub_epi32(
      _mm256_and_si256(group, _mm256_set1_epi32((1 << kSpec.scale_bits) - 1)), _mm256_set1_epi32(kSpec.scale_bias())));
  const __m256i one = _mm256_and_si256(_mm256_srli_epi32(group, kSpec.scale_bits), _mm256_set1_epi32(1));
  const __m256 shift = _mm256_mul_ps(_mm256_cvtepi32_ps(one), _mm256_set1_ps(static_cast<float>(kSpec.shift)));
  const __m256 row_scale = _mm256_loadu_ps(row_scales + r);
  constexpr int kLow = kSpec.low_bits();
  constexpr int kHigh = kSpec.high_bits();
  const PlanePlace<kLow> low_place(k);
  const __m256i low =
      _mm256_srl_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(tile + low_place.byte + r * 4)),
                       _mm_cvtsi32_si128(low_place.shift));
  __m256i high = _mm256_setzero_si256();
  if constexpr (kHigh > 0) {
    const PlanePlace<kHigh> high_place(k);
    high = _mm256_srl_epi32(
        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(tile + kSpec.low_bytes() + high_place.byte + r * 4)),
        _mm_cvtsi32_si128(high_place.shift));
  }
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    __m256i index = _mm256_srl_epi32(low, _mm_cvtsi32_si128(BitOfColumn<kLow>(i)));
    if constexpr (kHigh > 0) {
      const __m256i upper = _mm256_and_si256(_mm256_srl_epi32(high, _mm_cvtsi32_si128(BitOfColumn<kHigh>(i))),
                                             _mm256_set1_epi32((1 << kHigh) - 1));
      index =
          _mm256_or_si256(_mm256_and_si256(index, _mm256_set1_epi32((1 << kLow) - 1)), _mm256_slli_epi32(upper, kLow));
    }
    const __m256 value = LookUp8<kSpec.code_bits>(kFloatTable<kSpec>.values, index);
    const __m256 w = _mm256_mul_ps(_mm256_mul_ps(_mm256_add_ps(value, shift), scale), row_scale);
    _mm256_storeu_ps(panel + (k + i) * kTileRows + r, w);
  }
}

}  // namespace

#define KOMPAKT_TABLE_DECODER(NAME)                                                                                    \
  __attribute__((target("avx512f"))) void Decode##NAME##Avx512(const uint8_t* tile, const float* side, float* panel) { \
    for (int64_t k = 0; k < kTileCols; k += 8) Columns16<k##NAME>(tile, k, side, panel);                               \
  }                                                                                                                    \
  __attribute__((target("avx2"))) void Decode##NAME##Avx2(const uint8_t* tile, const float* side, float* panel) {      \
    for (int64_t r = 0; r < kTileRows; r += 8) {                                                                       \
      for (int64_t k = 0; k < kTileCols; k += 8) Columns8<k##NAME>(tile, r, k, side, panel);                           \
    }                                                                                                                  \
  }
KOMPAKT_TABLE_DECODER(Q2G32)
KOMPAKT_TABLE_DECODER(Q2G16)
KOMPAKT_TABLE_DECODER(Q3G32)
KOMPAKT_TABLE_DECODER(Q3G16)
KOMPAKT_TABLE_DECODER(Q4G32)
KOMPAKT_TABLE_DECODER(Q4G16)
KOMPAKT_TABLE_DECODER(Q5G32)
KOMPAKT_TABLE_DECODER(Q6G32)
#undef KOMPAKT_TABLE_DECODER

}  // namespace kompakt::portable

#endif
