// The inner loops of the probes in the instructions of x86.
#include "kernels/probe.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include "kernels/x86/cpu.h"
#include "kernels/x86/prefetch.h"

namespace kompakt::probe {
namespace {

__attribute__((target("avx512f"))) uint64_t Read512(const uint8_t* p, uint64_t n) {
  __m512i sums[8];
  for (__m512i& sum : sums) sum = _mm512_setzero_si512();
  for (uint64_t i = 0; i < n; i += 512) {
#pragma GCC unroll 8
    for (uint64_t j = 0; j < 8; ++j) {
      _mm_prefetch(reinterpret_cast<const char*>(p + i + j * 64 + x86::kAheadBytes), _MM_HINT_T0);
      sums[j] = _mm512_xor_si512(sums[j], _mm512_loadu_si512(p + i + j * 64));
    }
  }
  for (int j = 1; j < 8; ++j) sums[0] = _mm512_xor_si512(sums[0], sums[j]);
  alignas(64) uint64_t words[8];
  _mm512_store_si512(words, sums[0]);
  return words[0] ^ words[1] ^ words[2] ^ words[3] ^ words[4] ^ words[5] ^ words[6] ^ words[7];
}

__attribute__((target("avx2"))) uint64_t Read256(const uint8_t* p, uint64_t n) {
  __m256i sums[8];
  for (__m256i& sum : sums) sum = _mm256_setzero_si256();
  for (uint64_t i = 0; i < n; i += 256) {
#pragma GCC unroll 8
    for (uint64_t j = 0; j < 8; ++j) {
      if (j % 2 == 0) _mm_prefetch(reinterpret_cast<const char*>(p + i + j * 32 + x86::kAheadBytes), _MM_HINT_T0);
      sums[j] = _mm256_xor_si256(sums[j], _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + i + j * 32)));
    }
  }
  for (int j = 1; j < 8; ++j) sums[0] = _mm256_xor_si256(sums[0], sums[j]);
  alignas(32) uint64_t words[4];
  _mm256_store_si256(reinterpret_cast<__m256i*>(words), sums[0]);
  return words[0] ^ words[1] ^ words[2] ^ words[3];
}

// Twelve independent sums hide the latency of five cycles at two a cycle. The empty asm makes every round new work.
constexpr int kSums = 12;

#define KOMPAKT_PRODUCT_LOOP(NAME, TARGET, VECTOR, ELEMENT, LANES, ZERO, STEP)        \
  __attribute__((target(TARGET))) uint64_t NAME(int64_t rounds, uint64_t* products) { \
    VECTOR sums[kSums];                                                               \
    for (VECTOR & sum : sums) sum = ZERO;                                             \
    VECTOR a = ZERO, b = ZERO;                                                        \
    for (int64_t i = 0; i < rounds; ++i) {                                            \
      asm volatile("" : "+x"(a), "+x"(b));                                            \
      _Pragma("GCC unroll 12") for (int j = 0; j < kSums; ++j) STEP;                  \
    }                                                                                 \
    *products += static_cast<uint64_t>(rounds) * kSums * (LANES)*2;                   \
    ELEMENT words[sizeof(VECTOR) / sizeof(ELEMENT)];                                  \
    for (int j = 1; j < kSums; ++j) sums[0] = sums[0] + sums[j];                      \
    __builtin_memcpy(words, &sums[0], sizeof(words));                                 \
    return static_cast<uint64_t>(words[0]);                                           \
  }

KOMPAKT_PRODUCT_LOOP(F32Products512, "avx512f", __m512, float, 16, _mm512_setzero_ps(),
                     sums[j] = _mm512_fmadd_ps(a, b, sums[j]))
KOMPAKT_PRODUCT_LOOP(F32Products256, "avx2,fma", __m256, float, 8, _mm256_setzero_ps(),
                     sums[j] = _mm256_fmadd_ps(a, b, sums[j]))
KOMPAKT_PRODUCT_LOOP(Vnni512, "avx512vnni,avx512f", __m512i, int64_t, 64, _mm512_setzero_si512(),
                     sums[j] = _mm512_dpbusd_epi32(sums[j], a, b))
KOMPAKT_PRODUCT_LOOP(Vnni256, "avx512vnni,avx512vl", __m256i, int64_t, 32, _mm256_setzero_si256(),
                     sums[j] = _mm256_dpbusd_epi32(sums[j], a, b))
KOMPAKT_PRODUCT_LOOP(AvxVnni256, "avxvnni,avx2", __m256i, int64_t, 32, _mm256_setzero_si256(),
                     sums[j] = _mm256_dpbusd_avx_epi32(sums[j], a, b))

// Bytes to pairs, pairs to quads, quads to the sum. Each product must differ from the last, or the compiler makes one.
__attribute__((target("avx2"))) uint64_t Maddubs256(int64_t rounds, uint64_t* products) {
  __m256i sums[kSums];
  for (__m256i& sum : sums) sum = _mm256_setzero_si256();
  __m256i a = _mm256_setzero_si256(), b = a;
  const __m256i ones = _mm256_set1_epi16(1);
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
    for (int j = 0; j < kSums; ++j) {
      asm volatile("" : "+x"(a), "+x"(b));
      sums[j] = _mm256_add_epi32(sums[j], _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), ones));
    }
  }
  *products += static_cast<uint64_t>(rounds) * kSums * 32 * 2;
  for (int j = 1; j < kSums; ++j) sums[0] = _mm256_add_epi32(sums[0], sums[j]);
  return static_cast<uint64_t>(_mm256_extract_epi64(sums[0], 0));
}

#undef KOMPAKT_PRODUCT_LOOP

}  // namespace

Loops X86Loops() {
  Loops loops{};
  const auto products = [&](ProductKind kind) -> auto& { return loops.products[static_cast<size_t>(kind)]; };
  if (x86::HasAvx2()) {
    loops.read = Read256;
    products(ProductKind::kF32) = F32Products256;
    products(ProductKind::kMaddubs256) = Maddubs256;
  }
  if (x86::HasAvxVnni()) products(ProductKind::kVnni256) = AvxVnni256;
  if (x86::HasAvx512()) {
    loops.read = Read512;
    products(ProductKind::kF32) = F32Products512;
  }
  if (x86::HasAvx512Vnni()) {
    products(ProductKind::kVnni256) = Vnni256;
    products(ProductKind::kVnni512) = Vnni512;
  }
  return loops;
}

}  // namespace kompakt::probe

#endif  // __x86_64__
