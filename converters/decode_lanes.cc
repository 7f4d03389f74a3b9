#include "converters/decode_lanes.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "format/float_formats.h"

#define KOMPAKT_DECODE_INLINE [[gnu::always_inline]] inline

namespace kompakt {
namespace {

template <int W>
struct Lanes {
  typedef float F __attribute__((vector_size(W * 4)));
  typedef int32_t I __attribute__((vector_size(W * 4)));
  typedef uint16_t H __attribute__((vector_size(W * 2)));
  typedef uint8_t C __attribute__((vector_size(W * 4)));
};

// Vectors go by reference: by value they would need a calling convention of their own on each instruction set.
template <typename V>
KOMPAKT_DECODE_INLINE void Load(V& v, const void* from) {
  std::memcpy(&v, from, sizeof(V));
}
template <typename V>
KOMPAKT_DECODE_INLINE void Store(void* to, const V& v) {
  std::memcpy(to, &v, sizeof(V));
}

template <typename T>
KOMPAKT_DECODE_INLINE T LoadBits(const uint8_t* elements, int64_t i) {
  T bits;
  std::memcpy(&bits, elements + i * static_cast<int64_t>(sizeof(T)), sizeof(T));
  return bits;
}

template <int W>
KOMPAKT_DECODE_INLINE void WidenBf16(const uint8_t* elements, int64_t n, float* out) {
  using I = typename Lanes<W>::I;
  int64_t i = 0;
  for (; i + W <= n; i += W) {
    typename Lanes<W>::H half;
    Load(half, elements + i * 2);
    const I wide = __builtin_convertvector(half, I) << 16;
    Store(out + i, wide);
  }
  for (; i < n; ++i) out[i] = Bf16ToF32(LoadBits<uint16_t>(elements, i));
}

template <int W>
KOMPAKT_DECODE_INLINE void WidenF16(const uint8_t* elements, int64_t n, float* out) {
  using I = typename Lanes<W>::I;
  using F = typename Lanes<W>::F;
  int64_t i = 0;
  for (; i + W <= n; i += W) {
    typename Lanes<W>::H half;
    Load(half, elements + i * 2);
    const I bits = __builtin_convertvector(half, I);
    const I magnitude = bits & 0x7fff;
    const F subnormal = __builtin_convertvector(magnitude, F) * 0x1p-24f;
    const I normal = (magnitude << 13) + (112 << 23);
    const I special = (magnitude << 13) | 0x7f800000;
    const I value = magnitude < 0x400 ? reinterpret_cast<I>(subnormal) : magnitude >= 0x7c00 ? special : normal;
    const I wide = value | ((bits & 0x8000) << 16);
    Store(out + i, wide);
  }
  for (; i < n; ++i) out[i] = F16ToF32(LoadBits<uint16_t>(elements, i));
}

template <int W>
KOMPAKT_DECODE_INLINE bool HasNonfinite16(const uint8_t* elements, int64_t n, uint16_t exponent) {
  typename Lanes<W>::H bad{};
  int64_t i = 0;
  for (; i + W <= n; i += W) {
    typename Lanes<W>::H half;
    Load(half, elements + i * 2);
    bad |= reinterpret_cast<typename Lanes<W>::H>((half & exponent) == exponent);
  }
  bool any = false;
  for (int lane = 0; lane < W; ++lane) any |= bad[lane] != 0;
  for (; i < n; ++i) any |= (LoadBits<uint16_t>(elements, i) & exponent) == exponent;
  return any;
}

template <int W>
KOMPAKT_DECODE_INLINE bool HasNonfinite32(const uint8_t* elements, int64_t n) {
  typename Lanes<W>::I bad{};
  int64_t i = 0;
  for (; i + W <= n; i += W) {
    typename Lanes<W>::I word;
    Load(word, elements + i * 4);
    bad |= (word & 0x7f800000) == 0x7f800000;
  }
  bool any = false;
  for (int lane = 0; lane < W; ++lane) any |= bad[lane] != 0;
  for (; i < n; ++i) any |= (LoadBits<uint32_t>(elements, i) & 0x7f800000u) == 0x7f800000u;
  return any;
}

// Codes become integers in a plain loop, through a buffer: compilers widen bytes better than vector extensions let one
// say.
constexpr int64_t kCodesAtOnce = 64;

KOMPAKT_DECODE_INLINE void WidenCodes(const uint8_t* __restrict codes, int64_t n, int32_t* __restrict wide) {
  for (int64_t i = 0; i < n; ++i) wide[i] = codes[i];
}

template <int W>
KOMPAKT_DECODE_INLINE void Fp8(const uint8_t* codes, int64_t n, float scale, float* out) {
  using I = typename Lanes<W>::I;
  using F = typename Lanes<W>::F;
  alignas(64) int32_t wide[kCodesAtOnce];
  int64_t i = 0;
  for (; i + kCodesAtOnce <= n; i += kCodesAtOnce) {
    WidenCodes(codes + i, kCodesAtOnce, wide);
    for (int64_t k = 0; k < kCodesAtOnce; k += W) {
      I code;
      Load(code, wide + k);
      const I magnitude = code & 0x7f;
      const F subnormal = __builtin_convertvector(magnitude, F) * 0x1p-9f;
      const I normal = (magnitude << 20) + (120 << 23);
      const I bits = (magnitude < 8 ? reinterpret_cast<I>(subnormal) : normal) | ((code & 0x80) << 24);
      const F value = reinterpret_cast<F>(bits) * scale;
      Store(out + i + k, value);
    }
  }
  for (; i < n; ++i) out[i] = kFp8E4m3Values[codes[i]] * scale;
}

template <int W>
KOMPAKT_DECODE_INLINE bool HasFp8Nan(const uint8_t* codes, int64_t n) {
  using C = typename Lanes<W>::C;
  C bad{};
  int64_t i = 0;
  for (; i + W * 4 <= n; i += W * 4) {
    C bytes;
    Load(bytes, codes + i);
    bad |= reinterpret_cast<C>((bytes & 0x7f) == 0x7f);
  }
  bool any = false;
  for (int lane = 0; lane < W * 4; ++lane) any |= bad[lane] != 0;
  for (; i < n; ++i) any |= IsFp8E4m3Nan(codes[i]);
  return any;
}

KOMPAKT_DECODE_INLINE void UnpackNibbles(const uint8_t* __restrict bytes, int64_t n_bytes, uint8_t* __restrict codes) {
  for (int64_t i = 0; i < n_bytes; ++i) {
    codes[2 * i] = bytes[i] & 0xf;
    codes[2 * i + 1] = bytes[i] >> 4;
  }
}

KOMPAKT_DECODE_INLINE void TakeNibbles(const uint32_t* __restrict words, int64_t n, int shift,
                                       uint8_t* __restrict codes) {
  for (int64_t i = 0; i < n; ++i) codes[i] = static_cast<uint8_t>((words[i] >> shift) & 0xf);
}

template <int W>
KOMPAKT_DECODE_INLINE void E2m1(const uint8_t* codes, int64_t n, int64_t group, const float* scales, float* out) {
  using I = typename Lanes<W>::I;
  using F = typename Lanes<W>::F;
  alignas(64) int32_t wide[kCodesAtOnce];
  const int shift = group == 32 ? 5 : 4;
  int64_t i = 0;
  for (; i + kCodesAtOnce <= n; i += kCodesAtOnce) {
    WidenCodes(codes + i, kCodesAtOnce, wide);
    for (int64_t k = 0; k < kCodesAtOnce; k += W) {
      I code;
      Load(code, wide + k);
      const I magnitude = code & 7;
      // 0, 0.5, then 1 and 1.5 times powers of two, whose bits only need to be put in place.
      const I half = (magnitude & 1) * 0x3f000000;
      const I normal = (magnitude << 22) + (126 << 23);
      const I bits = (magnitude < 2 ? half : normal) | ((code & 8) << 28);
      const F value = reinterpret_cast<F>(bits) * scales[(i + k) >> shift];
      Store(out + i + k, value);
    }
  }
  for (; i < n; ++i) out[i] = kE2m1Values[codes[i] & 0xf] * scales[i >> shift];
}

template <int W>
KOMPAKT_DECODE_INLINE void Rescale(float* values, int64_t n, float multiplier, float divisor) {
  using F = typename Lanes<W>::F;
  int64_t i = 0;
  for (; i + W <= n; i += W) {
    F value;
    Load(value, values + i);
    value = value * multiplier;
    if (divisor != 1.0f) value = value / divisor;
    Store(values + i, value);
  }
  for (; i < n; ++i) values[i] = values[i] * multiplier / divisor;
}

KOMPAKT_DECODE_INLINE void IntRun(const uint8_t* __restrict codes, int64_t n, float scale, float zero,
                                  float* __restrict out) {
  for (int64_t i = 0; i < n; ++i) out[i] = (static_cast<float>(codes[i]) - zero) * scale;
}

KOMPAKT_DECODE_INLINE void GroupedInt(const uint8_t* codes, int64_t n, int64_t group, const float* scales,
                                      const float* zeros, float* out) {
  for (int64_t begin = 0; begin < n; begin += group) {
    const float scale = *scales++;
    const float zero = *zeros++;
    const int64_t end = std::min(n, begin + group);
    int64_t i = begin;
    for (; i + 32 <= end; i += 32) IntRun(codes + i, 32, scale, zero, out + i);
    if (i < end) IntRun(codes + i, end - i, scale, zero, out + i);
  }
}

KOMPAKT_DECODE_INLINE void IndexedInt(const uint8_t* __restrict codes, int64_t n, const int32_t* __restrict index,
                                      const float* __restrict scales, const float* __restrict zeros,
                                      float* __restrict out) {
  for (int64_t i = 0; i < n; ++i) out[i] = (static_cast<float>(codes[i]) - zeros[index[i]]) * scales[index[i]];
}

// One instruction set: NAME##Fp8 and so on, with the target attribute that is given.
#define KOMPAKT_DECODE_ISA(NAME, W, TARGET)                                                                            \
  TARGET void NAME##WidenBf16(const uint8_t* e, int64_t n, float* out) { WidenBf16<W>(e, n, out); }                    \
  TARGET void NAME##WidenF16(const uint8_t* e, int64_t n, float* out) { WidenF16<W>(e, n, out); }                      \
  TARGET bool NAME##HasNonfinite16(const uint8_t* e, int64_t n, uint16_t m) { return HasNonfinite16<W>(e, n, m); }     \
  TARGET bool NAME##HasNonfinite32(const uint8_t* e, int64_t n) { return HasNonfinite32<W>(e, n); }                    \
  TARGET void NAME##Fp8(const uint8_t* codes, int64_t n, float scale, float* out) { Fp8<W>(codes, n, scale, out); }    \
  TARGET bool NAME##HasFp8Nan(const uint8_t* codes, int64_t n) { return HasFp8Nan<W>(codes, n); }                      \
  TARGET void NAME##UnpackNibbles(const uint8_t* bytes, int64_t n, uint8_t* codes) { UnpackNibbles(bytes, n, codes); } \
  TARGET void NAME##TakeNibbles(const uint32_t* words, int64_t n, int shift, uint8_t* codes) {                         \
    TakeNibbles(words, n, shift, codes);                                                                               \
  }                                                                                                                    \
  TARGET void NAME##E2m1(const uint8_t* codes, int64_t n, int64_t group, const float* scales, float* out) {            \
    E2m1<W>(codes, n, group, scales, out);                                                                             \
  }                                                                                                                    \
  TARGET void NAME##Rescale(float* values, int64_t n, float multiplier, float divisor) {                               \
    Rescale<W>(values, n, multiplier, divisor);                                                                        \
  }                                                                                                                    \
  TARGET void NAME##GroupedInt(const uint8_t* codes, int64_t n, int64_t group, const float* scales,                    \
                               const float* zeros, float* out) {                                                       \
    GroupedInt(codes, n, group, scales, zeros, out);                                                                   \
  }                                                                                                                    \
  TARGET void NAME##IndexedInt(const uint8_t* codes, int64_t n, const int32_t* index, const float* scales,             \
                               const float* zeros, float* out) {                                                       \
    IndexedInt(codes, n, index, scales, zeros, out);                                                                   \
  }

#define KOMPAKT_DECODE_ROW(NAME, LABEL, AVAILABLE)                                                                 \
  {                                                                                                                \
    .name = LABEL, .available = AVAILABLE, .widen_bf16 = NAME##WidenBf16, .widen_f16 = NAME##WidenF16,             \
    .has_nonfinite16 = NAME##HasNonfinite16, .has_nonfinite32 = NAME##HasNonfinite32, .fp8 = NAME##Fp8,            \
    .has_fp8_nan = NAME##HasFp8Nan, .unpack_nibbles = NAME##UnpackNibbles, .take_nibbles = NAME##TakeNibbles,      \
    .e2m1 = NAME##E2m1, .rescale = NAME##Rescale, .grouped_int = NAME##GroupedInt, .indexed_int = NAME##IndexedInt \
  }

KOMPAKT_DECODE_ISA(Baseline, 4, )
#if defined(__x86_64__)
KOMPAKT_DECODE_ISA(Avx2, 8, __attribute__((target("avx2"))))
#if defined(__clang__)
KOMPAKT_DECODE_ISA(Avx512, 16, __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"))))
#else
KOMPAKT_DECODE_ISA(Avx512, 16, __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512"))))
#endif
#endif

}  // namespace

absl::Span<const DecodeLanes> AllDecodeLanes() {
  static const std::array kTable = {
    DecodeLanes KOMPAKT_DECODE_ROW(Baseline, "baseline", [] { return true; }),
#if defined(__x86_64__)
    DecodeLanes KOMPAKT_DECODE_ROW(Avx2, "avx2", [] { return __builtin_cpu_supports("avx2") != 0; }),
    DecodeLanes KOMPAKT_DECODE_ROW(Avx512, "avx512",
                                   [] {
                                     return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                                            __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
                                   }),
#endif
  };
  return kTable;
}

const DecodeLanes& BestDecodeLanes() {
  static const DecodeLanes& best = []() -> const DecodeLanes& {
    const DecodeLanes* last = nullptr;
    for (const DecodeLanes& lanes : AllDecodeLanes()) {
      if (lanes.available()) last = &lanes;
    }
    return *last;
  }();
  return best;
}

void TransposeWords(const uint32_t* in, int64_t rows, int64_t cols, uint32_t* out) {
  constexpr int64_t kBlock = 16;  // a cache line of words
  for (int64_t r0 = 0; r0 < rows; r0 += kBlock) {
    const int64_t r1 = std::min(rows, r0 + kBlock);
    for (int64_t c0 = 0; c0 < cols; c0 += kBlock) {
      const int64_t c1 = std::min(cols, c0 + kBlock);
      for (int64_t c = c0; c < c1; ++c) {
        for (int64_t r = r0; r < r1; ++r) out[c * rows + r] = in[r * cols + c];
      }
    }
  }
}

}  // namespace kompakt
