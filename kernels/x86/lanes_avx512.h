// Sixteen lanes of AVX-512, for the bodies that are included after it (attention_body.h, absorb_body.h). Included
// inside of a region.
#pragma once

struct V {
  __m512 v;
};
struct I {
  __m512i v;
};

KOMPAKT_X86_INLINE V Load(const float* p) { return {_mm512_loadu_ps(p)}; }
KOMPAKT_X86_INLINE void Store(float* p, V a) { _mm512_storeu_ps(p, a.v); }
KOMPAKT_X86_INLINE V Zero() { return {_mm512_setzero_ps()}; }
KOMPAKT_X86_INLINE V Set(float x) { return {_mm512_set1_ps(x)}; }
KOMPAKT_X86_INLINE V Add(V a, V b) { return {_mm512_add_ps(a.v, b.v)}; }
KOMPAKT_X86_INLINE V Sub(V a, V b) { return {_mm512_sub_ps(a.v, b.v)}; }
KOMPAKT_X86_INLINE V Mul(V a, V b) { return {_mm512_mul_ps(a.v, b.v)}; }
KOMPAKT_X86_INLINE V Fma(V a, V b, V c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
// b where a is NaN.
KOMPAKT_X86_INLINE V Max(V a, V b) { return {_mm512_maskz_max_ps(0xffff, a.v, b.v)}; }
KOMPAKT_X86_INLINE V Min(V a, V b) { return {_mm512_maskz_min_ps(0xffff, a.v, b.v)}; }
KOMPAKT_X86_INLINE V Round(V a) { return {_mm512_maskz_roundscale_ps(0xffff, a.v, 0x08)}; }
// a * 2^n for an integer n; underflow is gradual.
KOMPAKT_X86_INLINE V Scale2(V a, V n) { return {_mm512_maskz_scalef_ps(0xffff, a.v, n.v)}; }
// where lane l < limit[l]: a, else b.
KOMPAKT_X86_INLINE V Below(I lane, I limit, V a, V b) {
  return {_mm512_mask_blend_ps(_mm512_cmplt_epi32_mask(lane.v, limit.v), b.v, a.v)};
}

KOMPAKT_X86_INLINE I LoadInts(const void* p) { return {_mm512_loadu_si512(p)}; }
KOMPAKT_X86_INLINE I SetInt(int32_t x) { return {_mm512_set1_epi32(x)}; }
KOMPAKT_X86_INLINE I Iota() { return {_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)}; }
KOMPAKT_X86_INLINE I And(I a, I b) { return {_mm512_and_si512(a.v, b.v)}; }
KOMPAKT_X86_INLINE I Or(I a, I b) { return {_mm512_or_si512(a.v, b.v)}; }
KOMPAKT_X86_INLINE I Xor(I a, I b) { return {_mm512_xor_si512(a.v, b.v)}; }
template <int kBits>
KOMPAKT_X86_INLINE I ShiftLeft(I a) {
  return {_mm512_maskz_slli_epi32(0xffff, a.v, kBits)};
}
template <int kBits>
KOMPAKT_X86_INLINE I ShiftRightSigned(I a) {
  return {_mm512_maskz_srai_epi32(0xffff, a.v, kBits)};
}
template <int kBits>
KOMPAKT_X86_INLINE I ShiftLeft16(I a) {
  return {_mm512_slli_epi16(a.v, kBits)};
}
template <int kBits>
KOMPAKT_X86_INLINE I ShiftRightSigned16(I a) {
  return {_mm512_srai_epi16(a.v, kBits)};
}
KOMPAKT_X86_INLINE I MaxBytes(I a, I b) { return {_mm512_max_epu8(a.v, b.v)}; }
KOMPAKT_X86_INLINE I MaxWords(I a, I b) { return {_mm512_max_epu16(a.v, b.v)}; }
KOMPAKT_X86_INLINE void StoreInts(void* p, I a) { _mm512_storeu_si512(p, a.v); }
KOMPAKT_X86_INLINE V ToFloat(I a) { return {_mm512_maskz_cvtepi32_ps(0xffff, a.v)}; }
KOMPAKT_X86_INLINE V AsFloat(I a) { return {_mm512_castsi512_ps(a.v)}; }
// Where a == b: c, else d.
KOMPAKT_X86_INLINE V Equal(I a, I b, V c, V d) {
  return {_mm512_mask_blend_ps(_mm512_cmpeq_epi32_mask(a.v, b.v), d.v, c.v)};
}
KOMPAKT_X86_INLINE V LoadBytes(const uint8_t* p) {
  return {_mm512_maskz_cvtepi32_ps(
      0xffff, _mm512_maskz_cvtepu8_epi32(0xffff, _mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))};
}

// Quarters 0 and 1, then 2 and 3 of x added, then those of y.
KOMPAKT_X86_INLINE __m512 AddQuarters(__m512 x, __m512 y) {
  return _mm512_add_ps(_mm512_maskz_shuffle_f32x4(0xffff, x, y, 0x88), _mm512_maskz_shuffle_f32x4(0xffff, x, y, 0xdd));
}

// The sum of each of 16 vectors: lane i is that of a[i].
KOMPAKT_X86_INLINE V SumEach(const V* a) {
  __m512 fours[4];
  for (int i = 0; i < 4; ++i) {
    const __m512 low = _mm512_add_ps(_mm512_maskz_unpacklo_ps(0xffff, a[4 * i].v, a[4 * i + 1].v),
                                     _mm512_maskz_unpackhi_ps(0xffff, a[4 * i].v, a[4 * i + 1].v));
    const __m512 high = _mm512_add_ps(_mm512_maskz_unpacklo_ps(0xffff, a[4 * i + 2].v, a[4 * i + 3].v),
                                      _mm512_maskz_unpackhi_ps(0xffff, a[4 * i + 2].v, a[4 * i + 3].v));
    const __m512d x = _mm512_castps_pd(low);
    const __m512d y = _mm512_castps_pd(high);
    fours[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_maskz_unpacklo_pd(0xff, x, y)),
                             _mm512_castpd_ps(_mm512_maskz_unpackhi_pd(0xff, x, y)));
  }
  return {AddQuarters(AddQuarters(fours[0], fours[1]), AddQuarters(fours[2], fours[3]))};
}

// b[j][i] = a[i][j], 16 x 16 words.
KOMPAKT_X86_INLINE void Transpose16(const uint32_t* a, int64_t a_row, int64_t rows, uint32_t* b) {
  __m512i r[16];
  for (int i = 0; i < 16; ++i) r[i] = i < rows ? _mm512_loadu_si512(a + i * a_row) : _mm512_setzero_si512();
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_maskz_unpacklo_epi32(0xffff, r[i], r[i + 1]);
    t[i + 1] = _mm512_maskz_unpackhi_epi32(0xffff, r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_maskz_unpacklo_epi64(0xff, t[i], t[i + 2]);
    r[i + 1] = _mm512_maskz_unpackhi_epi64(0xff, t[i], t[i + 2]);
    r[i + 2] = _mm512_maskz_unpacklo_epi64(0xff, t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_maskz_unpackhi_epi64(0xff, t[i + 1], t[i + 3]);
  }
  // r[4 g + j] holds columns j, j + 4, j + 8, j + 12 of rows 4 g .. 4 g + 3.
  for (int j = 0; j < 4; ++j) {
    const __m512i x = _mm512_maskz_shuffle_i32x4(0xffff, r[j], r[4 + j], 0x88);
    const __m512i y = _mm512_maskz_shuffle_i32x4(0xffff, r[8 + j], r[12 + j], 0x88);
    const __m512i z = _mm512_maskz_shuffle_i32x4(0xffff, r[j], r[4 + j], 0xdd);
    const __m512i w = _mm512_maskz_shuffle_i32x4(0xffff, r[8 + j], r[12 + j], 0xdd);
    _mm512_storeu_si512(b + j * 16, _mm512_maskz_shuffle_i32x4(0xffff, x, y, 0x88));
    _mm512_storeu_si512(b + (j + 8) * 16, _mm512_maskz_shuffle_i32x4(0xffff, x, y, 0xdd));
    _mm512_storeu_si512(b + (j + 4) * 16, _mm512_maskz_shuffle_i32x4(0xffff, z, w, 0x88));
    _mm512_storeu_si512(b + (j + 12) * 16, _mm512_maskz_shuffle_i32x4(0xffff, z, w, 0xdd));
  }
}

// How many rows and tiles of sums the registers hold.
constexpr int kRowsAtOnce = 8;
constexpr int kTilesAtOnce = 3;
