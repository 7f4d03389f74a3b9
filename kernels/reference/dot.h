// Dot product of F32 vectors in F64: four running sums, added pairwise.
#pragma once

#include <cstdint>

namespace kompakt::reference {

inline double Dot(const float* a, const float* b, int64_t n) {
  double sum[4] = {0, 0, 0, 0};
  int64_t i = 0;
  for (; i + 4 <= n; i += 4) {
    for (int64_t j = 0; j < 4; ++j) sum[j] += static_cast<double>(a[i + j]) * static_cast<double>(b[i + j]);
  }
  for (; i < n; ++i) sum[0] += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return (sum[0] + sum[2]) + (sum[1] + sum[3]);
}

}  // namespace kompakt::reference
