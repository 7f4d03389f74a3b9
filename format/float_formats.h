// Conversions between F32 and the narrow floating-point formats that checkpoints and packed files hold. Pure bit work:
// the same result on every machine, whatever the rounding mode, and no subnormal is ever flushed.
//
// Widening is exact. Narrowing rounds to nearest, ties to even; values past the largest finite one become infinity, as
// IEEE 754 says; NaN stays NaN (quiet, sign and leading payload bits kept).
#pragma once

#include <array>
#include <bit>
#include <cstdint>

namespace kompakt {

static_assert(std::endian::native == std::endian::little, "the packed file is mapped, and it is little-endian");

constexpr float Bf16ToF32(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

constexpr uint16_t F32ToBf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

constexpr float F16ToF32(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  const uint32_t exponent = (bits >> 10) & 0x1fu;
  const uint32_t mantissa = bits & 0x3ffu;
  if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  if (exponent != 0) return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
  if (mantissa == 0) return std::bit_cast<float>(sign);
  // Subnormal: mantissa * 2^-24, normal in F32.
  const int leading = std::countl_zero(mantissa) - 22;  // 0 when bit 9 is set
  const uint32_t normal = (mantissa << (leading + 1)) & 0x3ffu;
  return std::bit_cast<float>(sign | (static_cast<uint32_t>(112 - leading) << 23) | (normal << 13));
}

constexpr uint16_t F32ToF16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) {
    return static_cast<uint16_t>(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
  }
  if (magnitude >= 0x47800000u) return static_cast<uint16_t>(sign | 0x7c00u);  // 2^16 and more
  const uint32_t exponent = magnitude >> 23;
  if (exponent >= 113) {  // normal in F16; a carry out of the mantissa moves into the exponent, up to infinity
    const uint32_t rebased = magnitude - (112u << 23);
    return static_cast<uint16_t>(sign | ((rebased + 0xfffu + ((rebased >> 13) & 1u)) >> 13));
  }
  if (exponent < 102) return static_cast<uint16_t>(sign);  // below half of the least subnormal, 2^-25
  const uint32_t mantissa = (magnitude & 0x7fffffu) | 0x800000u;
  const uint32_t shift = 126 - exponent;  // 14..24: the value is mantissa * 2^-shift units of 2^-24
  const uint32_t kept = mantissa >> shift;
  const uint32_t rest = mantissa & ((1u << shift) - 1);
  const uint32_t half = 1u << (shift - 1);
  return static_cast<uint16_t>(sign | (kept + (rest > half || (rest == half && (kept & 1u)) ? 1u : 0u)));
}

// FP8 E4M3FN (OCP OFP8): bias 7, no infinities, 0x7f and 0xff are NaN, largest value 448.
constexpr float Fp8E4m3ToF32(uint8_t code) {
  const uint32_t sign = static_cast<uint32_t>(code & 0x80u) << 24;
  const uint32_t exponent = (code >> 3) & 0xfu;
  const uint32_t mantissa = code & 7u;
  if (exponent == 15 && mantissa == 7) return std::bit_cast<float>(sign | 0x7fc00000u);
  if (exponent != 0) return std::bit_cast<float>(sign | ((exponent + 120) << 23) | (mantissa << 20));
  const float subnormal = static_cast<float>(mantissa) * 0x1p-9f;
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(subnormal));
}

constexpr bool IsFp8E4m3Nan(uint8_t code) { return (code & 0x7fu) == 0x7fu; }

// Fp8E4m3ToF32 of every code.
inline constexpr std::array<float, 256> kFp8E4m3Values = [] {
  std::array<float, 256> values{};
  for (uint32_t code = 0; code < 256; ++code) values[code] = Fp8E4m3ToF32(static_cast<uint8_t>(code));
  return values;
}();

// FP4 E2M1 (OCP MX): sign bit 3, no infinities, no NaN. Indexed by code.
inline constexpr std::array<float, 16> kE2m1Values = {0.0f,  0.5f,  1.0f,  1.5f,  2.0f,  3.0f,  4.0f,  6.0f,
                                                      -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f};

// UE8M0 (OCP MX): 2^(code - 127); 0xff is NaN.
constexpr float E8m0ToF32(uint8_t code) {
  if (code == 0xff) return std::bit_cast<float>(0x7fc00000u);
  if (code == 0) return 0x1p-127f;
  return std::bit_cast<float>(static_cast<uint32_t>(code) << 23);
}

}  // namespace kompakt
