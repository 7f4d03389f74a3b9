// The values of the nonlinear formats' codes, and the constant that a group's shift bit adds to all of them.
// Derivation: docs/quantization.md, "Shifted tables".
//
// Ascending, odd and even in turn: the middle between two neighbours is never an integer, so that a weight in units of
// the table may be rounded to an integer before it is compared. Every entry, shifted or not, fits int8.
#pragma once

#include <cstdint>

namespace kompakt {

inline constexpr int8_t kQ2Table[4] = {-79, -20, 31, 104};
inline constexpr int kQ2Shift = 19;

inline constexpr int8_t kQ3Table[8] = {-95, -62, -37, -14, 7, 30, 59, 106};
inline constexpr int kQ3Shift = 12;

inline constexpr int8_t kQ4Table[16] = {-119, -82, -63, -48, -37, -26, -17, -8, 1, 10, 19, 30, 41, 54, 69, 86};
inline constexpr int kQ4Shift = 5;

inline constexpr int8_t kQ5Table[32] = {
    -124, -97, -88, -79, -68, -59, -52, -45, -38, -33, -28, -23, -18, -13, -8,  -3,
    2,    7,   12,  17,  22,  27,  32,  39,  46,  53,  60,  67,  76,  85,  102, 119,
};
inline constexpr int kQ5Shift = 2;

inline constexpr int8_t kQ6Table[64] = {
    -124, -115, -110, -101, -94, -89, -84, -79, -74, -69, -64, -61, -58, -55, -52, -49, -46, -43, -40, -37, -34, -31,
    -28,  -25,  -22,  -19,  -16, -13, -10, -7,  -4,  -1,  2,   5,   8,   11,  14,  17,  20,  23,  26,  29,  32,  35,
    38,   41,   44,   47,   50,  53,  56,  59,  62,  65,  70,  75,  78,  83,  88,  95,  106, 111, 116, 125,
};
inline constexpr int kQ6Shift = 1;

}  // namespace kompakt
