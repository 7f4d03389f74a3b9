// The middle of some measurements.
#pragma once

#include <algorithm>
#include <vector>

namespace kompakt {

// The mean of the two middle ones where their number is even. `values` is not empty.
inline double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

}  // namespace kompakt
