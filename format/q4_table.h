// The 16 code values of the nonlinear 4-bit formats and the constant that a group's shift bit adds to all of them.
// Derivation: docs/quantization.md, "Shifted tables".
#pragma once

#include <cstdint>

namespace kompakt {

// Ascending; every entry + kQ4Shift fits int8.
inline constexpr int8_t kQ4Table[16] = {-127, -89, -69, -53, -40, -28, -18, -8, 1, 10, 20, 31, 44, 58, 74, 92};
inline constexpr int kQ4Shift = 5;

// The value of a code in a group with shift bit `shift` (0 or 1).
constexpr int Q4Value(int code, int shift) { return kQ4Table[code] + shift * kQ4Shift; }

}  // namespace kompakt
