// Sixteen lanes as two registers of AVX2 with FMA; the functions are those of lanes_avx512.h. Included inside of a
// region.
#pragma once

struct V {
  __m256 low, high;
};
struct I {
  __m256i low, high;
};

KOMPAKT_X86_INLINE V Load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
KOMPAKT_X86_INLINE void Store(float* p, V a) {
  _mm256_storeu_ps(p, a.low);
  _mm256_storeu_ps(p + 8, a.high);
}
KOMPAKT_X86_INLINE V Zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
KOMPAKT_X86_INLINE V Set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
KOMPAKT_X86_INLINE V Add(V a, V b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
KOMPAKT_X86_INLINE V Sub(V a, V b) { return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)}; }
KOMPAKT_X86_INLINE V Mul(V a, V b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
KOMPAKT_X86_INLINE V Fma(V a, V b, V c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
KOMPAKT_X86_INLINE V Max(V a, V b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
KOMPAKT_X86_INLINE V Min(V a, V b) { return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)}; }
KOMPAKT_X86_INLINE V Round(V a) { return {_mm256_round_ps(a.low, 0x08), _mm256_round_ps(a.high, 0x08)}; }

KOMPAKT_X86_INLINE I LoadInts(const void* p) {
  const auto* const words = static_cast<const __m256i*>(p);
  return {_mm256_loadu_si256(words), _mm256_loadu_si256(words + 1)};
}
KOMPAKT_X86_INLINE I SetInt(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
KOMPAKT_X86_INLINE I Iota() {
  return {_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15)};
}
KOMPAKT_X86_INLINE I And(I a, I b) { return {_mm256_and_si256(a.low, b.low), _mm256_and_si256(a.high, b.high)}; }
KOMPAKT_X86_INLINE I Or(I a, I b) { return {_mm256_or_si256(a.low, b.low), _mm256_or_si256(a.high, b.high)}; }
KOMPAKT_X86_INLINE I Xor(I a, I b) { return {_mm256_xor_si256(a.low, b.low), _mm256_xor_si256(a.high, b.high)}; }
template <int kBits>
KOMPAKT_X86_INLINE I ShiftLeft(I a) {
  return {_mm256_slli_epi32(a.low, kBits), _mm256_slli_epi32(a.high, kBits)};
}
template <int kBits>
KOMPAKT_X86_INLINE I ShiftRightSigned(I a) {
  return {_mm256_srai_epi32(a.low, kBits), _mm256_srai_epi32(a.high, kBits)};
}
template <int kBits>
KOMPAKT_X86_INLINE I ShiftLeft16(I a) {
  return {_mm256_slli_epi16(a.low, kBits), _mm256_slli_epi16(a.high, kBits)};
}
template <int kBits>
KOMPAKT_X86_INLINE I ShiftRightSigned16(I a) {
  return {_mm256_srai_epi16(a.low, kBits), _mm256_srai_epi16(a.high, kBits)};
}
KOMPAKT_X86_INLINE I MaxBytes(I a, I b) { return {_mm256_max_epu8(a.low, b.low), _mm256_max_epu8(a.high, b.high)}; }
KOMPAKT_X86_INLINE I MaxWords(I a, I b) { return {_mm256_max_epu16(a.low, b.low), _mm256_max_epu16(a.high, b.high)}; }
KOMPAKT_X86_INLINE void StoreInts(void* p, I a) {
  auto* const words = static_cast<__m256i*>(p);
  _mm256_storeu_si256(words, a.low);
  _mm256_storeu_si256(words + 1, a.high);
}
KOMPAKT_X86_INLINE V ToFloat(I a) { return {_mm256_cvtepi32_ps(a.low), _mm256_cvtepi32_ps(a.high)}; }
KOMPAKT_X86_INLINE V AsFloat(I a) { return {_mm256_castsi256_ps(a.low), _mm256_castsi256_ps(a.high)}; }

// Exponents from -126 on; below, zero. Nothing that is multiplied with these is larger.
KOMPAKT_X86_INLINE __m256 Scale2Half(__m256 a, __m256 n) {
  const __m256i bits = _mm256_slli_epi32(_mm256_cvtps_epi32(_mm256_max_ps(n, _mm256_set1_ps(-126.0f))), 23);
  const __m256 scaled = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a), bits));
  const __m256 scaled_or_nan = _mm256_blendv_ps(scaled, a, _mm256_cmp_ps(a, a, _CMP_UNORD_Q));
  return _mm256_andnot_ps(_mm256_cmp_ps(n, _mm256_set1_ps(-126.0f), _CMP_LT_OQ), scaled_or_nan);
}
KOMPAKT_X86_INLINE V Scale2(V a, V n) { return {Scale2Half(a.low, n.low), Scale2Half(a.high, n.high)}; }
KOMPAKT_X86_INLINE V Below(I lane, I limit, V a, V b) {
  return {_mm256_blendv_ps(b.low, a.low, _mm256_castsi256_ps(_mm256_cmpgt_epi32(limit.low, lane.low))),
          _mm256_blendv_ps(b.high, a.high, _mm256_castsi256_ps(_mm256_cmpgt_epi32(limit.high, lane.high)))};
}
KOMPAKT_X86_INLINE V Equal(I a, I b, V c, V d) {
  return {_mm256_blendv_ps(d.low, c.low, _mm256_castsi256_ps(_mm256_cmpeq_epi32(a.low, b.low))),
          _mm256_blendv_ps(d.high, c.high, _mm256_castsi256_ps(_mm256_cmpeq_epi32(a.high, b.high)))};
}
KOMPAKT_X86_INLINE V LoadBytes(const uint8_t* p) {
  const auto* const bytes = reinterpret_cast<const __m128i*>(p);
  return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(bytes))),
          _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_unpackhi_epi64(_mm_loadu_si128(bytes), _mm_setzero_si128())))};
}

KOMPAKT_X86_INLINE __m256 AddHalves(__m256 x, __m256 y) {
  return _mm256_add_ps(_mm256_permute2f128_ps(x, y, 0x20), _mm256_permute2f128_ps(x, y, 0x31));
}

KOMPAKT_X86_INLINE V SumEach(const V* a) {
  __m256 fours[4];
  for (int i = 0; i < 4; ++i) {
    __m256 both[4];
    for (int j = 0; j < 4; ++j) both[j] = _mm256_add_ps(a[4 * i + j].low, a[4 * i + j].high);
    const __m256d x =
        _mm256_castps_pd(_mm256_add_ps(_mm256_unpacklo_ps(both[0], both[1]), _mm256_unpackhi_ps(both[0], both[1])));
    const __m256d y =
        _mm256_castps_pd(_mm256_add_ps(_mm256_unpacklo_ps(both[2], both[3]), _mm256_unpackhi_ps(both[2], both[3])));
    fours[i] = _mm256_add_ps(_mm256_castpd_ps(_mm256_unpacklo_pd(x, y)), _mm256_castpd_ps(_mm256_unpackhi_pd(x, y)));
  }
  return {AddHalves(fours[0], fours[1]), AddHalves(fours[2], fours[3])};
}

KOMPAKT_X86_INLINE void Transpose8(const uint32_t* a, int64_t a_row, int64_t rows, uint32_t* b) {
  __m256i r[8];
  for (int i = 0; i < 8; ++i) {
    r[i] = i < rows ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(a + i * a_row)) : _mm256_setzero_si256();
  }
  for (int g = 0; g < 8; g += 4) {
    const __m256i t0 = _mm256_unpacklo_epi32(r[g], r[g + 1]);
    const __m256i t1 = _mm256_unpackhi_epi32(r[g], r[g + 1]);
    const __m256i t2 = _mm256_unpacklo_epi32(r[g + 2], r[g + 3]);
    const __m256i t3 = _mm256_unpackhi_epi32(r[g + 2], r[g + 3]);
    r[g] = _mm256_unpacklo_epi64(t0, t2);
    r[g + 1] = _mm256_unpackhi_epi64(t0, t2);
    r[g + 2] = _mm256_unpacklo_epi64(t1, t3);
    r[g + 3] = _mm256_unpackhi_epi64(t1, t3);
  }
  for (int j = 0; j < 4; ++j) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(b + j * 16), _mm256_permute2x128_si256(r[j], r[4 + j], 0x20));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(b + (j + 4) * 16), _mm256_permute2x128_si256(r[j], r[4 + j], 0x31));
  }
}
KOMPAKT_X86_INLINE void Transpose16(const uint32_t* a, int64_t a_row, int64_t rows, uint32_t* b) {
  for (int j = 0; j < 16; j += 8) {
    Transpose8(a + j, a_row, rows, b + j * 16);
    Transpose8(a + j + 8 * a_row, a_row, rows - 8, b + j * 16 + 8);
  }
}

constexpr int kRowsAtOnce = 4;
constexpr int kTilesAtOnce = 1;
