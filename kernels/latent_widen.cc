#include "kernels/latent_widen.h"

#include <cstring>

#include "format/float_formats.h"
#include "kernels/latent_cache.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace kompakt {
namespace {

#define KOMPAKT_WIDEN_INLINE [[gnu::always_inline]] inline

// Plain loops over whole groups, for the compiler to vectorize.
KOMPAKT_WIDEN_INLINE void Bf16ToF32Body(const uint8_t* values, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) {
    uint16_t bits;
    std::memcpy(&bits, values + 2 * i, sizeof(bits));
    const uint32_t wide = static_cast<uint32_t>(bits) << 16;
    std::memcpy(out + i, &wide, sizeof(wide));
  }
}

KOMPAKT_WIDEN_INLINE float ScaleOf(const uint8_t* scales, int64_t group) {
  uint16_t bits;
  std::memcpy(&bits, scales + 2 * group, sizeof(bits));
  return Bf16ToF32(bits);
}

KOMPAKT_WIDEN_INLINE void Int8ToF32Body(const uint8_t* codes, const uint8_t* scales, int64_t n, float* out) {
  int64_t begin = 0;
  for (; begin + kInt8CacheGroup <= n; begin += kInt8CacheGroup) {
    const float scale = ScaleOf(scales, begin / kInt8CacheGroup);
    for (int64_t i = 0; i < kInt8CacheGroup; ++i) {
      out[begin + i] = static_cast<float>(static_cast<int8_t>(codes[begin + i])) * scale;
    }
  }
  for (int64_t i = begin; i < n; ++i) {
    out[i] = static_cast<float>(static_cast<int8_t>(codes[i])) * ScaleOf(scales, i / kInt8CacheGroup);
  }
}

// Rounds as F32ToBf16 does; a NaN of int8 rows comes from its scale and has no low bits that could carry.
KOMPAKT_WIDEN_INLINE uint16_t RoundToBf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

KOMPAKT_WIDEN_INLINE void Int8ToBf16Body(const uint8_t* codes, const uint8_t* scales, int64_t n, uint16_t* out) {
  int64_t begin = 0;
  for (; begin + kInt8CacheGroup <= n; begin += kInt8CacheGroup) {
    const float scale = ScaleOf(scales, begin / kInt8CacheGroup);
    for (int64_t i = 0; i < kInt8CacheGroup; ++i) {
      out[begin + i] = RoundToBf16(static_cast<float>(static_cast<int8_t>(codes[begin + i])) * scale);
    }
  }
  for (int64_t i = begin; i < n; ++i) {
    out[i] = RoundToBf16(static_cast<float>(static_cast<int8_t>(codes[i])) * ScaleOf(scales, i / kInt8CacheGroup));
  }
}

#define KOMPAKT_LATENT_WIDEN(NAME, TARGET)                                                                     \
  TARGET void NAME##Bf16ToF32(const uint8_t* values, int64_t n, float* out) { Bf16ToF32Body(values, n, out); } \
  TARGET void NAME##Int8ToF32(const uint8_t* codes, const uint8_t* scales, int64_t n, float* out) {            \
    Int8ToF32Body(codes, scales, n, out);                                                                      \
  }                                                                                                            \
  TARGET void NAME##Int8ToBf16(const uint8_t* codes, const uint8_t* scales, int64_t n, uint16_t* out) {        \
    Int8ToBf16Body(codes, scales, n, out);                                                                     \
  }                                                                                                            \
  constexpr LatentWiden k##NAME = {                                                                            \
      .bf16_to_f32 = NAME##Bf16ToF32, .int8_to_f32 = NAME##Int8ToF32, .int8_to_bf16 = NAME##Int8ToBf16};

KOMPAKT_LATENT_WIDEN(Baseline, )
#if defined(__x86_64__)
KOMPAKT_LATENT_WIDEN(Avx2, __attribute__((target("avx2"))))
KOMPAKT_LATENT_WIDEN(Avx512, __attribute__((target("avx512f,avx512bw,avx512vl"))))

// Rounded by the processor, which takes subnormal values for zero.
__attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16"))) void Bf16Int8ToBf16(const uint8_t* codes,
                                                                                    const uint8_t* scales, int64_t n,
                                                                                    uint16_t* out) {
  int64_t i = 0;
  for (; i + kInt8CacheGroup <= n; i += kInt8CacheGroup) {
    const __m512 scale = _mm512_set1_ps(ScaleOf(scales, i / kInt8CacheGroup));
    __m512 half[2];
    for (int j = 0; j < 2; ++j) {
      const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + i + 16 * j));
      half[j] = _mm512_mul_ps(_mm512_maskz_cvtepi32_ps(0xffff, _mm512_maskz_cvtepi8_epi32(0xffff, bytes)), scale);
    }
    _mm512_storeu_si512(out + i, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(half[1], half[0])));
  }
  if (i < n) Int8ToBf16Body(codes + i, scales + i / kInt8CacheGroup * 2, n - i, out + i);
}
constexpr LatentWiden kAvx512Bf16 = {
    .bf16_to_f32 = Avx512Bf16ToF32, .int8_to_f32 = Avx512Int8ToF32, .int8_to_bf16 = Bf16Int8ToBf16};
#endif

}  // namespace

const LatentWiden& BestLatentWiden() {
#if defined(__x86_64__)
  static const LatentWiden& best = []() -> const LatentWiden& {
    if (__builtin_cpu_supports("avx512bf16") != 0 && __builtin_cpu_supports("avx512bw") != 0) return kAvx512Bf16;
    if (__builtin_cpu_supports("avx512bw") != 0 && __builtin_cpu_supports("avx512vl") != 0) return kAvx512;
    return __builtin_cpu_supports("avx2") != 0 ? kAvx2 : kBaseline;
  }();
  return best;
#else
  return kBaseline;
#endif
}

}  // namespace kompakt
