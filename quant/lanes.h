// Part of a region (instruction_set.h): 16 lanes side by side, one per row of a tile, in as many registers as it takes.
// Each lane sees the same operations in the same order whatever the registers, so every set gives the same bits.
//
// GNU vector extensions (g++ and clang++): plain operators. The including file sets kLaneBytes, the register's width.
#pragma once

#include <cstdint>
#include <cstring>

constexpr int kParts = 64 / kLaneBytes;

template <typename T>
struct Lanes {
  typedef T Part __attribute__((vector_size(kLaneBytes)));
  Part p[kParts];
};
using F = Lanes<float>;
using I = Lanes<int32_t>;  // also 16 rows x 4 bytes, and masks: -1 or 0

template <typename T>
KOMPAKT_INLINE Lanes<T> Load(const T* from) {
  Lanes<T> v;
  // Register by register: a copy in pieces of another size would wait for its stores.
  for (int i = 0; i < kParts; ++i) std::memcpy(&v.p[i], from + i * (16 / kParts), sizeof(v.p[i]));
  return v;
}
template <typename T>
KOMPAKT_INLINE void Store(const Lanes<T>& v, T* to) {
  for (int i = 0; i < kParts; ++i) std::memcpy(to + i * (16 / kParts), &v.p[i], sizeof(v.p[i]));
}
KOMPAKT_INLINE F Splat(float value) {
  F v;
  for (int i = 0; i < kParts; ++i) v.p[i] = typename F::Part{} + value;
  return v;
}
KOMPAKT_INLINE I Splat(int32_t value) {
  I v;
  for (int i = 0; i < kParts; ++i) v.p[i] = typename I::Part{} + value;
  return v;
}

#define KOMPAKT_LANES_OPERATOR(OP)                                            \
  template <typename T>                                                       \
  KOMPAKT_INLINE Lanes<T> operator OP(const Lanes<T>& a, const Lanes<T>& b) { \
    Lanes<T> v;                                                               \
    for (int i = 0; i < kParts; ++i) v.p[i] = a.p[i] OP b.p[i];               \
    return v;                                                                 \
  }                                                                           \
  KOMPAKT_INLINE F operator OP(const F& a, float b) {                         \
    F v;                                                                      \
    for (int i = 0; i < kParts; ++i) v.p[i] = a.p[i] OP b;                    \
    return v;                                                                 \
  }
KOMPAKT_LANES_OPERATOR(+)
KOMPAKT_LANES_OPERATOR(-)
KOMPAKT_LANES_OPERATOR(*)
KOMPAKT_LANES_OPERATOR(/)
#undef KOMPAKT_LANES_OPERATOR

KOMPAKT_INLINE I operator&(const I& a, const I& b) {
  I v;
  for (int i = 0; i < kParts; ++i) v.p[i] = a.p[i] & b.p[i];
  return v;
}
KOMPAKT_INLINE I operator|(const I& a, const I& b) {
  I v;
  for (int i = 0; i < kParts; ++i) v.p[i] = a.p[i] | b.p[i];
  return v;
}
KOMPAKT_INLINE I ShiftLeft(const I& a, int bits) {
  I v;
  for (int i = 0; i < kParts; ++i) v.p[i] = a.p[i] << bits;
  return v;
}
KOMPAKT_INLINE I ShiftRight(const I& a, int bits) {
  I v;
  for (int i = 0; i < kParts; ++i) v.p[i] = a.p[i] >> bits;
  return v;
}

#define KOMPAKT_LANES_COMPARISON(NAME, OP)                      \
  template <typename T>                                         \
  KOMPAKT_INLINE I NAME(const Lanes<T>& a, const Lanes<T>& b) { \
    I v;                                                        \
    for (int i = 0; i < kParts; ++i) v.p[i] = a.p[i] OP b.p[i]; \
    return v;                                                   \
  }
KOMPAKT_LANES_COMPARISON(Greater, >)
KOMPAKT_LANES_COMPARISON(Less, <)
KOMPAKT_LANES_COMPARISON(Equal, ==)
#undef KOMPAKT_LANES_COMPARISON

template <typename T>
KOMPAKT_INLINE Lanes<T> Select(const I& mask, const Lanes<T>& yes, const Lanes<T>& no) {
  Lanes<T> v;
  for (int i = 0; i < kParts; ++i) v.p[i] = mask.p[i] ? yes.p[i] : no.p[i];
  return v;
}
template <typename T>
KOMPAKT_INLINE Lanes<T> Max(const Lanes<T>& a, const Lanes<T>& b) {
  return Select(Greater(a, b), a, b);
}
template <typename T>
KOMPAKT_INLINE Lanes<T> Min(const Lanes<T>& a, const Lanes<T>& b) {
  return Select(Less(a, b), a, b);
}

KOMPAKT_INLINE F ToFloat(const I& a) {
  F v;
  for (int i = 0; i < kParts; ++i) v.p[i] = __builtin_convertvector(a.p[i], typename F::Part);
  return v;
}
// The bits of a float, its sign bit cleared: ordered as the magnitudes are; from 0x7f800000 on not finite.
KOMPAKT_INLINE I MagnitudeBits(const F& a) {
  I v;
  for (int i = 0; i < kParts; ++i) v.p[i] = reinterpret_cast<typename I::Part>(a.p[i]) & 0x7fffffff;
  return v;
}
KOMPAKT_INLINE F Magnitude(const F& a) {
  const I bits = MagnitudeBits(a);
  F v;
  for (int i = 0; i < kParts; ++i) v.p[i] = reinterpret_cast<typename F::Part>(bits.p[i]);
  return v;
}
// To the nearest integer, ties to even; |a| < 2^22.
KOMPAKT_INLINE F Round(const F& a) { return (a + 12582912.0f) - 12582912.0f; }
KOMPAKT_INLINE I RoundToInt(const F& a) {
  const F rounded = Round(a);
  I v;
  for (int i = 0; i < kParts; ++i) v.p[i] = __builtin_convertvector(rounded.p[i], typename I::Part);
  return v;
}
// Byte k of each lane, signed.
KOMPAKT_INLINE I SignedByte(const I& bytes, int k) { return ShiftRight(ShiftLeft(bytes, 24 - 8 * k), 24); }
