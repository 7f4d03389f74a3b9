// Part of the regions of encode_sse2.cc and encode_avx2.cc: quads in 128- or 256-bit registers. What the functions
// mean: quads_portable.h. The region's register_*.h names the instructions.
#pragma once

#include <cstdint>
#include <cstring>

// The words of rows 0 and 1 of each 128 bits, then those of rows 2 and 3; [row][column].
struct Quad {
  R a[kParts], b[kParts];
};

KOMPAKT_INLINE void Interleave(const I column[4], int i, R* a, R* b) {
  const R p = PackWords(Bits(column[0].p[i]), Bits(column[1].p[i]));
  const R q = PackWords(Bits(column[2].p[i]), Bits(column[3].p[i]));
  const R even = UnpackLowWords(p, q);
  const R odd = UnpackHighWords(p, q);
  *a = UnpackLowWords(even, odd);
  *b = UnpackHighWords(even, odd);
}

KOMPAKT_INLINE void MakeQuad(const F& v0, const F& v1, const F& v2, const F& v3, Quad* quad) {
  const I column[4] = {Integers(v0), Integers(v1), Integers(v2), Integers(v3)};
  for (int i = 0; i < kParts; ++i) Interleave(column, i, &quad->a[i], &quad->b[i]);
}
KOMPAKT_INLINE I RoundToBytes(const F& v0, const F& v1, const F& v2, const F& v3) {
  const I column[4] = {Integers(v0), Integers(v1), Integers(v2), Integers(v3)};
  I out;
  for (int i = 0; i < kParts; ++i) {
    R a, b;
    Interleave(column, i, &a, &b);
    out.p[i] = Part(PackBytes(a, b));
  }
  return out;
}

struct Multiplier {
  R a[kParts], b[kParts];
};
KOMPAKT_INLINE void MakeMultiplier(const I& m, Multiplier* out) {
  const I pair = (m & Splat(0xffff)) | ShiftLeft(m, 16);
  for (int i = 0; i < kParts; ++i) {
    out->a[i] = UnpackLowLongs(Bits(pair.p[i]), Bits(pair.p[i]));
    out->b[i] = UnpackHighLongs(Bits(pair.p[i]), Bits(pair.p[i]));
  }
}

KOMPAKT_INLINE I ScaleToBytes(const Quad& u, const Multiplier& m) {
  I out;
  for (int i = 0; i < kParts; ++i) {
    out.p[i] = Part(PackBytes(MultiplyRound(u.a[i], m.a[i]), MultiplyRound(u.b[i], m.b[i])));
  }
  return out;
}

KOMPAKT_INLINE I AddBytes(const I& a, const I& b) {
  I out;
  for (int i = 0; i < kParts; ++i) out.p[i] = Part(Add(Bits(a.p[i]), Bits(b.p[i])));
  return out;
}
KOMPAKT_INLINE I SubtractBytes(const I& a, const I& b) {
  I out;
  for (int i = 0; i < kParts; ++i) out.p[i] = Part(SubtractSaturated(Bits(a.p[i]), Bits(b.p[i])));
  return out;
}

// Per row two partial sums: columns 0 and 1, columns 2 and 3.
struct Pairs {
  R a[kParts], b[kParts];
};
KOMPAKT_INLINE void Clear(Pairs* sums) {
  for (int i = 0; i < kParts; ++i) sums->a[i] = sums->b[i] = SplatBytes(0);
}
KOMPAKT_INLINE I Total(const Pairs& sums) {
  I out;
  for (int i = 0; i < kParts; ++i) {
    // a: r0 r0 r1 r1, b: r2 r2 r3 r3 -> even: r0 r2 r0 r2, odd: r1 r3 r1 r3
    const R even = UnpackLowLongs(sums.a[i], sums.b[i]);
    const R odd = UnpackHighLongs(sums.a[i], sums.b[i]);
    out.p[i] = Part(UnpackLowLongs(even, odd)) + Part(UnpackHighLongs(even, odd));
  }
  return out;
}

struct Products {
  Pairs uq, qq;
};
KOMPAKT_INLINE void Clear(Products* sums) {
  Clear(&sums->uq);
  Clear(&sums->qq);
}
KOMPAKT_INLINE void AddProducts(const Quad& u, const I& values, Products* sums) {
  for (int i = 0; i < kParts; ++i) {
    R a, b;
    WidenBytes(Bits(values.p[i]), &a, &b);
    sums->uq.a[i] = AddLongs(sums->uq.a[i], MultiplyAddPairs(u.a[i], a));
    sums->uq.b[i] = AddLongs(sums->uq.b[i], MultiplyAddPairs(u.b[i], b));
    sums->qq.a[i] = AddLongs(sums->qq.a[i], MultiplyAddPairs(a, a));
    sums->qq.b[i] = AddLongs(sums->qq.b[i], MultiplyAddPairs(b, b));
  }
}
struct GroupBias {};
KOMPAKT_INLINE void MakeBias(const Quad*, int, GroupBias*) {}
KOMPAKT_INLINE void Sums(const Products& sums, const GroupBias&, I* uq, I* qq) {
  *uq = Total(sums.uq);
  *qq = Total(sums.qq);
}

using Residuals = Pairs;
KOMPAKT_INLINE R Residual(const R& y) {
  const R q = ShiftRightWords5(AddWords(y, SplatWords(16)));
  return SubtractWords(y, ShiftLeftWords5(MinWords(MaxWords(q, SplatWords(-128)), SplatWords(127))));
}
KOMPAKT_INLINE void AddResiduals(const Quad& u, const Multiplier& m, Residuals* sums) {
  for (int i = 0; i < kParts; ++i) {
    const R a = Residual(MultiplyRound(u.a[i], m.a[i]));
    const R b = Residual(MultiplyRound(u.b[i], m.b[i]));
    sums->a[i] = AddLongs(sums->a[i], MultiplyAddPairs(a, a));
    sums->b[i] = AddLongs(sums->b[i], MultiplyAddPairs(b, b));
  }
}
KOMPAKT_INLINE void Sum(const Residuals& sums, I* total) { *total = Total(sums); }
