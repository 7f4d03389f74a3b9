// The inner loops of the probes in the instructions of ARM.
#include "kernels/probe.h"

#if defined(__aarch64__)

#include <arm_neon.h>

#include "kernels/arm/cpu.h"

namespace kompakt::probe {
namespace {

constexpr uint64_t kAhead = 2048;  // bytes between what is read and what is prefetched

uint64_t ReadNeon(const uint8_t* p, uint64_t n) {
  uint64x2_t sums[8];
  for (uint64x2_t& sum : sums) sum = vdupq_n_u64(0);
  for (uint64_t i = 0; i < n; i += 128) {
    __builtin_prefetch(p + i + kAhead);
    __builtin_prefetch(p + i + kAhead + 64);
#pragma GCC unroll 8
    for (uint64_t j = 0; j < 8; ++j) {
      sums[j] = veorq_u64(sums[j], vreinterpretq_u64_u8(vld1q_u8(p + i + j * 16)));
    }
  }
  for (int j = 1; j < 8; ++j) sums[0] = veorq_u64(sums[0], sums[j]);
  return vgetq_lane_u64(sums[0], 0) ^ vgetq_lane_u64(sums[0], 1);
}

// Sixteen independent sums hide a latency of four cycles at four a cycle. The empty asm makes every step new work.
constexpr int kSums = 16;

#define KOMPAKT_PRODUCT_LOOP(NAME, TARGET, VECTOR, LANES, STEP)     \
  TARGET uint64_t NAME(int64_t rounds, uint64_t* products) {        \
    VECTOR sums[kSums] = {};                                        \
    int8x16_t a = vdupq_n_s8(1), b = vdupq_n_s8(2);                 \
    for (int64_t i = 0; i < rounds; ++i) {                          \
      _Pragma("GCC unroll 16") for (int j = 0; j < kSums; ++j) {    \
        asm volatile("" : "+w"(a), "+w"(b));                        \
        STEP;                                                       \
      }                                                             \
    }                                                               \
    *products += static_cast<uint64_t>(rounds) * kSums * (LANES)*2; \
    for (int j = 1; j < kSums; ++j) sums[0] = sums[0] + sums[j];    \
    return static_cast<uint64_t>(sums[0][0]);                       \
  }

KOMPAKT_PRODUCT_LOOP(F32Products, , float32x4_t, 4,
                     sums[j] = vfmaq_f32(sums[j], vreinterpretq_f32_s8(a), vreinterpretq_f32_s8(b)))
KOMPAKT_PRODUCT_LOOP(NeonProducts, , int32x4_t, 16,
                     sums[j] = vpadalq_s16(vpadalq_s16(sums[j], vmull_s8(vget_low_s8(a), vget_low_s8(b))),
                                           vmull_high_s8(a, b)))
KOMPAKT_PRODUCT_LOOP(SdotProducts, __attribute__((target("arch=armv8.2-a+dotprod"))), int32x4_t, 16,
                     sums[j] = vdotq_s32(sums[j], a, b))
KOMPAKT_PRODUCT_LOOP(SmmlaProducts, __attribute__((target("arch=armv8.2-a+i8mm"))), int32x4_t, 32,
                     sums[j] = vmmlaq_s32(sums[j], a, b))

#undef KOMPAKT_PRODUCT_LOOP

}  // namespace

Loops ArmLoops() {
  Loops loops{};
  const auto products = [&](ProductKind kind) -> auto& { return loops.products[static_cast<size_t>(kind)]; };
  loops.read = ReadNeon;
  products(ProductKind::kF32) = F32Products;
  products(ProductKind::kNeon) = NeonProducts;
  if (arm::HasDotprod()) products(ProductKind::kDotprod) = SdotProducts;
  if (arm::HasI8mm()) products(ProductKind::kI8mm) = SmmlaProducts;
  return loops;
}

}  // namespace kompakt::probe

#endif  // __aarch64__
