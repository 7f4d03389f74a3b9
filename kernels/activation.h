// Activations as integers: what x becomes in a product of integers with packed weights.
//
// A row x[K] is cut into groups of 32 columns, the width of a tile; the last one may be short. A group has one scale d
// and integer codes c, so that x is close to d * c:
//     kInt8   d = max |x| / 127,    c = x / d to the nearest integer, ties to even
//     kInt16  d = max |x| / 32512,  c likewise; c = 256 high + low, high in [-127, 127] and low in [-128, 127], so that
//             two products of int8 make one of int16
// x / d is computed as x * (1 / d), all in F32, so that every instruction set finds the same codes. A group whose d is
// below the least normal F32 is zeros. One that holds a NaN or an infinity has d = NaN: the product is not finite, and
// the runtime's check of hidden states names the layer.
//
// The product of row r is then
//     y[r] = sum over groups g of d_g * sum over k in g of w[r, k] c[k]
// whose inner sum is an exact integer times the scales of the weights: there is no rounding but that of x, and F32's.
#pragma once

#include <cstdint>

namespace kompakt {

enum class ActPrecision : uint8_t {
  kF32,    // as they are
  kInt8,   // one plane of int8
  kInt16,  // two planes: high and low byte
};

inline constexpr int64_t kActGroup = 32;
inline constexpr float kInt8Largest = 127;
inline constexpr float kInt16Largest = 127 * 256;

}  // namespace kompakt
