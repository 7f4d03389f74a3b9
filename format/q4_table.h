// The 16 code values of the nonlinear 4-bit formats and the constant that a group's shift bit adds to all of them.
// Derivation: docs/quantization.md, "Shifted tables".
#pragma once

#include <cstdint>

namespace kompakt {

// Ascending, odd and even in turn: the middle between two neighbours is never an integer, so that a value may be
// rounded to an integer before it is compared. Every entry + kQ4Shift fits int8.
inline constexpr int8_t kQ4Table[16] = {-119, -82, -63, -48, -37, -26, -17, -8, 1, 10, 19, 30, 41, 54, 69, 86};
inline constexpr int kQ4Shift = 5;

// The value of a code in a group with shift bit `shift` (0 or 1).
constexpr int Q4Value(int code, int shift) { return kQ4Table[code] + shift * kQ4Shift; }

}  // namespace kompakt
