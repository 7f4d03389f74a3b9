#include "kernels/portable/panel_q4_x86.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include <cstddef>

#include "format/block_q4_g16.h"
#include "format/block_q4_g32.h"

namespace kompakt::portable {
namespace {

struct FloatTable {
  alignas(64) float values[16];
};

constexpr FloatTable MakeTable() {
  FloatTable table{};
  for (int i = 0; i < 16; ++i) table.values[i] = static_cast<float>(kQ4Table[i]);
  return table;
}

constexpr FloatTable kTable = MakeTable();

// Group scale times shifted table entry is an integer below 2^24: exact in F32, so the order of these products is free,
// and only the last one, by the row scale, rounds.

typedef float F16 __attribute__((vector_size(64)));
typedef int32_t I16 __attribute__((vector_size(64)));

// Eight columns of 16 rows. `groups`: the group byte of each row.
__attribute__((target("avx512f"))) inline void Columns16(const uint8_t* codes, const uint8_t* groups, int scale_mask,
                                                         int scale_bias, int shift_bit, const float* row_scales,
                                                         float* panel) {
  // The masked forms of the intrinsics, because GCC 12 warns about the undefined operand of the others.
  const auto group = reinterpret_cast<I16>(
      _mm512_maskz_cvtepu8_epi32(0xffff, _mm_loadu_si128(reinterpret_cast<const __m128i*>(groups))));
  const F16 scale = __builtin_convertvector((group & scale_mask) - scale_bias, F16);
  const F16 shift = __builtin_convertvector((group >> shift_bit & 1) * kQ4Shift, F16);
  const auto row_scale = reinterpret_cast<F16>(_mm512_loadu_ps(row_scales));
  const __m512 table = _mm512_load_ps(kTable.values);
  const auto word = reinterpret_cast<I16>(_mm512_loadu_si512(codes));
  for (int i = 0; i < 8; ++i) {
    // vpermps looks at the low four bits of an index only. Nibble i of the word is k: 0, 4, 1, 5, 2, 6, 3, 7.
    const auto index = reinterpret_cast<__m512i>(word >> 4 * i);
    const auto value = reinterpret_cast<F16>(_mm512_maskz_permutexvar_ps(0xffff, index, table));
    const F16 w = (value + shift) * scale * row_scale;
    _mm512_storeu_ps(panel + (i / 2 + i % 2 * 4) * kTileRows, reinterpret_cast<__m512>(w));
  }
}

__attribute__((target("avx2"))) inline void Columns8(const uint8_t* codes, const uint8_t* groups, int scale_mask,
                                                     int scale_bias, int shift_bit, __m256 row_scale, float* panel) {
  const __m256i group = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(groups)));
  const __m256 scale = _mm256_cvtepi32_ps(
      _mm256_sub_epi32(_mm256_and_si256(group, _mm256_set1_epi32(scale_mask)), _mm256_set1_epi32(scale_bias)));
  const __m256i one = _mm256_and_si256(_mm256_srl_epi32(group, _mm_cvtsi32_si128(shift_bit)), _mm256_set1_epi32(1));
  const __m256 shift = _mm256_mul_ps(_mm256_cvtepi32_ps(one), _mm256_set1_ps(static_cast<float>(kQ4Shift)));
  const __m256 low = _mm256_load_ps(kTable.values);
  const __m256 high = _mm256_load_ps(kTable.values + 8);
  const __m256i word = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes));
  for (int i = 0; i < 8; ++i) {
    const __m256i index = _mm256_srl_epi32(word, _mm_cvtsi32_si128(4 * i));
    // Bit 3 of the code, moved to the sign, chooses the half of the table.
    const __m256 half = _mm256_castsi256_ps(_mm256_slli_epi32(index, 28));
    const __m256 value =
        _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, index), _mm256_permutevar8x32_ps(high, index), half);
    const __m256 w = _mm256_mul_ps(_mm256_mul_ps(_mm256_add_ps(value, shift), scale), row_scale);
    const int k = i / 2 + i % 2 * 4;
    _mm256_storeu_ps(panel + k * kTileRows, w);
  }
}

constexpr int64_t kWordsBytes = kTileRows * 4;  // 8 columns of a tile

}  // namespace

__attribute__((target("avx512f"))) void DecodeQ4G32Avx512(const uint8_t* tile, const float* side, float* panel) {
  for (int64_t k = 0; k < kTileCols; k += 8) {
    Columns16(tile + k / 8 * kWordsBytes, tile + offsetof(Q4G32Tile, groups), 0x7f, kQ4G32ScaleBias, kQ4G32ScaleBits,
              side, panel + k * kTileRows);
  }
}

__attribute__((target("avx512f"))) void DecodeQ4G16Avx512(const uint8_t* tile, const float* side, float* panel) {
  for (int64_t k = 0; k < kTileCols; k += 8) {
    Columns16(tile + k / 8 * kWordsBytes, tile + offsetof(Q4G16Tile, groups) + k / 16 * kTileRows, 0x3f,
              kQ4G16ScaleBias, kQ4G16ScaleBits, side, panel + k * kTileRows);
  }
}

__attribute__((target("avx2"))) void DecodeQ4G32Avx2(const uint8_t* tile, const float* side, float* panel) {
  for (int64_t r = 0; r < kTileRows; r += 8) {
    const __m256 row_scale = _mm256_loadu_ps(side + r);
    for (int64_t k = 0; k < kTileCols; k += 8) {
      Columns8(tile + k / 8 * kWordsBytes + r * 4, tile + offsetof(Q4G32Tile, groups) + r, 0x7f, kQ4G32ScaleBias,
               kQ4G32ScaleBits, row_scale, panel + k * kTileRows + r);
    }
  }
}

__attribute__((target("avx2"))) void DecodeQ4G16Avx2(const uint8_t* tile, const float* side, float* panel) {
  for (int64_t r = 0; r < kTileRows; r += 8) {
    const __m256 row_scale = _mm256_loadu_ps(side + r);
    for (int64_t k = 0; k < kTileCols; k += 8) {
      Columns8(tile + k / 8 * kWordsBytes + r * 4, tile + offsetof(Q4G16Tile, groups) + k / 16 * kTileRows + r, 0x3f,
               kQ4G16ScaleBias, kQ4G16ScaleBits, row_scale, panel + k * kTileRows + r);
    }
  }
}

}  // namespace kompakt::portable

#endif
