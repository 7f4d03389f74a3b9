// The scales of kernels/activation.h, as every instruction set computes them.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "kernels/activation.h"
#include "kernels/quantized/integer_isa.h"

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

// Gives a token of n values its scale, which is returned: the groups end at `end`, `stride_bytes` apart, and
// `most_bits` is the largest magnitude of them all.
template <int kPlanes>
inline float ScaleToken(uint32_t most_bits, int64_t n, uint8_t* end, size_t stride_bytes) {
  const float scale = ScaleOfToken(most_bits);
  if (scale == 1) return scale;
  for (int64_t k = n; k > 0; k -= kActGroup) {
    end -= stride_bytes;
    reinterpret_cast<ActGroup<kPlanes>*>(end)->scale /= scale;
  }
  return scale;
}

}  // namespace kompakt::quantized
