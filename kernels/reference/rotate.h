// The rotation of RoPE.
#pragma once

#include <cstdint>

#include "kernels/kernel_set.h"

namespace kompakt::reference {

// x[dim] <- rotated, with cos_sin[dim / 2][2].
inline void RotateRow(const float* cos_sin, int64_t dim, RotaryPairs pairs, float* x) {
  const int64_t step = pairs == RotaryPairs::kAdjacent ? 2 : 1;
  const int64_t other = pairs == RotaryPairs::kAdjacent ? 1 : dim / 2;
  for (int64_t j = 0; j < dim / 2; ++j) {
    const float c = cos_sin[2 * j];
    const float s = cos_sin[2 * j + 1];
    const float a = x[step * j];
    const float b = x[step * j + other];
    x[step * j] = a * c - b * s;
    x[step * j + other] = a * s + b * c;
  }
}

}  // namespace kompakt::reference
