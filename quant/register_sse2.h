// Part of the region of encode_sse2.cc: the instructions of quads_sse.h on 128 bits.
#pragma once

using R = __m128i;

KOMPAKT_INLINE R Bits(const I::Part& a) { return reinterpret_cast<R>(a); }
KOMPAKT_INLINE I::Part Part(const R& a) { return reinterpret_cast<I::Part>(a); }
KOMPAKT_INLINE F SquareRoot(const F& a) {
  F out;
  for (int i = 0; i < kParts; ++i) {
    out.p[i] = reinterpret_cast<F::Part>(_mm_sqrt_ps(reinterpret_cast<__m128>(a.p[i])));
  }
  return out;
}
KOMPAKT_INLINE I Integers(const F& v) {
  I out;
  for (int i = 0; i < kParts; ++i) out.p[i] = Part(_mm_cvtps_epi32(reinterpret_cast<__m128>(v.p[i])));
  return out;
}
KOMPAKT_INLINE R SplatBytes(int8_t v) { return _mm_set1_epi8(v); }
KOMPAKT_INLINE R SplatWords(int16_t v) { return _mm_set1_epi16(v); }
KOMPAKT_INLINE R And(const R& a, const R& b) { return _mm_and_si128(a, b); }
KOMPAKT_INLINE R PackWords(const R& a, const R& b) { return _mm_packs_epi32(a, b); }
KOMPAKT_INLINE R PackBytes(const R& a, const R& b) { return _mm_packs_epi16(a, b); }
KOMPAKT_INLINE R UnpackLowWords(const R& a, const R& b) { return _mm_unpacklo_epi16(a, b); }
KOMPAKT_INLINE R UnpackHighWords(const R& a, const R& b) { return _mm_unpackhi_epi16(a, b); }
KOMPAKT_INLINE R UnpackLowLongs(const R& a, const R& b) { return _mm_unpacklo_epi32(a, b); }
KOMPAKT_INLINE R UnpackHighLongs(const R& a, const R& b) { return _mm_unpackhi_epi32(a, b); }
KOMPAKT_INLINE void WidenBytes(const R& bytes, R* a, R* b) {
  *a = _mm_srai_epi16(_mm_unpacklo_epi8(bytes, bytes), 8);
  *b = _mm_srai_epi16(_mm_unpackhi_epi8(bytes, bytes), 8);
}
// (a b + 2^14) >> 15, from the two halves of the product.
KOMPAKT_INLINE R MultiplyRound(const R& a, const R& b) {
  const R low = _mm_mullo_epi16(a, b);
  const R high = _mm_mulhi_epi16(a, b);
  const R floor = _mm_or_si128(_mm_slli_epi16(high, 1), _mm_srli_epi16(low, 15));
  return _mm_add_epi16(floor, _mm_and_si128(_mm_srli_epi16(low, 14), _mm_set1_epi16(1)));
}
KOMPAKT_INLINE R MultiplyAddPairs(const R& a, const R& b) { return _mm_madd_epi16(a, b); }
KOMPAKT_INLINE R Add(const R& a, const R& b) { return _mm_add_epi8(a, b); }
KOMPAKT_INLINE R Subtract(const R& a, const R& b) { return _mm_sub_epi8(a, b); }
KOMPAKT_INLINE R SubtractSaturated(const R& a, const R& b) { return _mm_subs_epi8(a, b); }
KOMPAKT_INLINE R GreaterBytes(const R& a, const R& b) { return _mm_cmpgt_epi8(a, b); }
KOMPAKT_INLINE R AddWords(const R& a, const R& b) { return _mm_add_epi16(a, b); }
KOMPAKT_INLINE R SubtractWords(const R& a, const R& b) { return _mm_sub_epi16(a, b); }
KOMPAKT_INLINE R MinWords(const R& a, const R& b) { return _mm_min_epi16(a, b); }
KOMPAKT_INLINE R MaxWords(const R& a, const R& b) { return _mm_max_epi16(a, b); }
KOMPAKT_INLINE R ShiftRightWords5(const R& a) { return _mm_srai_epi16(a, 5); }
KOMPAKT_INLINE R ShiftLeftWords5(const R& a) { return _mm_slli_epi16(a, 5); }
KOMPAKT_INLINE R AddLongs(const R& a, const R& b) { return _mm_add_epi32(a, b); }
