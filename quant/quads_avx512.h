// Part of the region of encode_avx512.cc: quads in 512-bit registers. What the functions mean: quads_portable.h.
#pragma once

#include <cstdint>
#include <cstring>

struct Quad {
  __m512i high, low;  // of the 16-bit integers, as bytes in the order of I: the upper signed, the lower unsigned
};

// The masked forms of some intrinsics, because GCC 12 warns about the undefined operand of the others.
KOMPAKT_INLINE __m512i Bits(const I& a) { return reinterpret_cast<__m512i>(a.p[0]); }
KOMPAKT_INLINE I Lane(const __m512i& a) { return {{reinterpret_cast<I::Part>(a)}}; }
KOMPAKT_INLINE F SquareRoot(const F& a) {
  return {{reinterpret_cast<F::Part>(_mm512_maskz_sqrt_ps(0xffff, reinterpret_cast<__m512>(a.p[0])))}};
}
KOMPAKT_INLINE __m512i Integers(const F& a) {
  return _mm512_maskz_cvtps_epi32(0xffff, reinterpret_cast<__m512>(a.p[0]));
}
KOMPAKT_INLINE __m512i UnpackLow(const __m512i& a, const __m512i& b) {
  return _mm512_maskz_unpacklo_epi32(0xffff, a, b);
}
KOMPAKT_INLINE __m512i UnpackHigh(const __m512i& a, const __m512i& b) {
  return _mm512_maskz_unpackhi_epi32(0xffff, a, b);
}
// Columns side by side -> their bytes, [row][column]: the words of rows 0 and 1, and of rows 2 and 3 of each 128 bits.
KOMPAKT_INLINE void Interleave(const F& v0, const F& v1, const F& v2, const F& v3, __m512i* a, __m512i* b) {
  const __m512i p = _mm512_packs_epi32(Integers(v0), Integers(v1));
  const __m512i q = _mm512_packs_epi32(Integers(v2), Integers(v3));
  const __m512i even = _mm512_unpacklo_epi16(p, q);
  const __m512i odd = _mm512_unpackhi_epi16(p, q);
  *a = _mm512_unpacklo_epi16(even, odd);
  *b = _mm512_unpackhi_epi16(even, odd);
}

KOMPAKT_INLINE void MakeQuad(const F& v0, const F& v1, const F& v2, const F& v3, Quad* quad) {
  __m512i a, b;
  Interleave(v0, v1, v2, v3, &a, &b);
  const __m512i byte = _mm512_set1_epi16(255);
  quad->high = _mm512_packs_epi16(_mm512_srai_epi16(a, 8), _mm512_srai_epi16(b, 8));
  quad->low = _mm512_packus_epi16(_mm512_and_si512(a, byte), _mm512_and_si512(b, byte));
}
KOMPAKT_INLINE I RoundToBytes(const F& v0, const F& v1, const F& v2, const F& v3) {
  __m512i a, b;
  Interleave(v0, v1, v2, v3, &a, &b);
  return Lane(_mm512_packs_epi16(a, b));
}

struct Multiplier {
  __m512i a, b;
};
KOMPAKT_INLINE void MakeMultiplier(const I& m, Multiplier* out) {
  const __m512i pair = Bits((m & Splat(0xffff)) | ShiftLeft(m, 16));
  out->a = UnpackLow(pair, pair);
  out->b = UnpackHigh(pair, pair);
}

struct NearestTable {
  __m512i part[4];
  explicit KOMPAKT_INLINE NearestTable(const CodeTable& table) { std::memcpy(part, table.nearest, sizeof(part)); }
};
KOMPAKT_INLINE __m512i LookUp(const __m512i* part, const __m512i& y) {
  const __m512i up = _mm512_permutex2var_epi8(part[0], y, part[1]);
  const __m512i down = _mm512_permutex2var_epi8(part[2], y, part[3]);
  return _mm512_mask_blend_epi8(_mm512_movepi8_mask(y), up, down);
}
KOMPAKT_INLINE I Nearest(const NearestTable& table, const CodeTable&, const I& y) {
  return Lane(LookUp(table.part, Bits(y)));
}
KOMPAKT_INLINE I CodeOf(const NearestTable&, const CodeTable& table, const I& y) {
  __m512i part[4];
  std::memcpy(part, table.code, sizeof(part));
  return Lane(LookUp(part, Bits(y)));
}

KOMPAKT_INLINE I AddBytes(const I& a, const I& b) { return Lane(_mm512_add_epi8(Bits(a), Bits(b))); }
KOMPAKT_INLINE I SubtractBytes(const I& a, const I& b) {
  return Lane(_mm512_maskz_subs_epi8(~__mmask64{0}, Bits(a), Bits(b)));
}

// dpbusd multiplies unsigned by signed bytes: q is made unsigned by + 128, which Sums takes back.
struct Products {
  __m512i low, high, squares, sum;
};
KOMPAKT_INLINE void Clear(Products* sums) {
  sums->low = sums->high = sums->squares = sums->sum = _mm512_setzero_si512();
}
KOMPAKT_INLINE void AddProducts(const Quad& u, const I& values, Products* sums) {
  const __m512i q = Bits(values);
  const __m512i biased = _mm512_xor_si512(q, _mm512_set1_epi8(-128));
  sums->low = _mm512_dpbusd_epi32(sums->low, u.low, q);
  sums->high = _mm512_dpbusd_epi32(sums->high, biased, u.high);
  sums->squares = _mm512_dpbusd_epi32(sums->squares, biased, q);
  sums->sum = _mm512_dpbusd_epi32(sums->sum, _mm512_set1_epi8(1), q);
}
// 128 times the sum of the high bytes.
struct GroupBias {
  __m512i high;
};
KOMPAKT_INLINE void MakeBias(const Quad* u, int quads, GroupBias* out) {
  out->high = _mm512_setzero_si512();
  for (int i = 0; i < quads; ++i) out->high = _mm512_dpbusd_epi32(out->high, _mm512_set1_epi8(-128), u[i].high);
}
KOMPAKT_INLINE void Sums(const Products& sums, const GroupBias& bias, I* uq, I* qq) {
  *uq = ShiftLeft(Lane(_mm512_sub_epi32(sums.high, bias.high)), 8) + Lane(sums.low);
  *qq = Lane(sums.squares) - ShiftLeft(Lane(sums.sum), 7);
}

KOMPAKT_INLINE I ScaleToBytes(const Quad& u, const Multiplier& m) {
  const __m512i a = _mm512_mulhrs_epi16(_mm512_unpacklo_epi8(u.low, u.high), m.a);
  const __m512i b = _mm512_mulhrs_epi16(_mm512_unpackhi_epi8(u.low, u.high), m.b);
  return Lane(_mm512_packs_epi16(a, b));
}

// y in units of 1/32, q its nearest integer in -128..127, halves upwards: adds (y - 32 q)^2 of the four columns.
struct Residuals {
  __m512i a, b;
};
KOMPAKT_INLINE void Clear(Residuals* sums) { sums->a = sums->b = _mm512_setzero_si512(); }
KOMPAKT_INLINE __m512i Residual(const __m512i& y) {
  __m512i q = _mm512_srai_epi16(_mm512_add_epi16(y, _mm512_set1_epi16(16)), 5);
  q = _mm512_min_epi16(_mm512_max_epi16(q, _mm512_set1_epi16(-128)), _mm512_set1_epi16(127));
  return _mm512_sub_epi16(y, _mm512_slli_epi16(q, 5));
}
KOMPAKT_INLINE void AddResiduals(const Quad& u, const Multiplier& m, Residuals* sums) {
  const __m512i a = Residual(_mm512_mulhrs_epi16(_mm512_unpacklo_epi8(u.low, u.high), m.a));
  const __m512i b = Residual(_mm512_mulhrs_epi16(_mm512_unpackhi_epi8(u.low, u.high), m.b));
  sums->a = _mm512_dpwssd_epi32(sums->a, a, a);
  sums->b = _mm512_dpwssd_epi32(sums->b, b, b);
}
KOMPAKT_INLINE void Sum(const Residuals& sums, I* total) {
  const __m512i even = UnpackLow(sums.a, sums.b);  // (row 0, row 2) of both pairs, and so on
  const __m512i odd = UnpackHigh(sums.a, sums.b);
  // a: r0 r0 r1 r1, b: r2 r2 r3 r3 -> even: r0 r2 r0 r2, odd: r1 r3 r1 r3
  const __m512i low = UnpackLow(even, odd);    // r0 r1 r2 r3
  const __m512i high = UnpackHigh(even, odd);  // r0 r1 r2 r3
  *total = Lane(_mm512_add_epi32(low, high));
}
