// The scales of kernels/activation.h, as every instruction set computes them.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>

namespace kompakt::quantized {

struct GroupScale {
  float scale;
  float inverse;  // 0 where all codes are 0
};

// `bits`: the largest magnitude of the group as the bits of an F32, which order as the numbers do, NaN last.
inline GroupScale ScaleOfGroup(uint32_t bits, float largest_code) {
  constexpr uint32_t kInfinity = 0x7f800000;
  if (bits >= kInfinity) return {std::numeric_limits<float>::quiet_NaN(), 0};
  const float scale = std::bit_cast<float>(bits) / largest_code;
  if (!(scale >= std::numeric_limits<float>::min())) return {0, 0};
  return {scale, 1.0f / scale};
}

// A token with values of 2^64 and more is multiplied as its 2^64th part: group scales of the weights, up to 2^15, and
// sums over columns would leave F32.
inline float ScaleOfToken(uint32_t bits) {
  constexpr uint32_t kLarge = std::bit_cast<uint32_t>(0x1p64f);
  constexpr uint32_t kInfinity = 0x7f800000;
  return bits >= kLarge && bits < kInfinity ? 0x1p64f : 1.0f;
}

}  // namespace kompakt::quantized
