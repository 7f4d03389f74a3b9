// Parameters of the element-wise kernels (kernels/cuda/elementwise.cu). Pointers are device memory.
#pragma once

#include <cstdint>

namespace kompakt::cuda {

// y += x.
struct AddParams {
  const float* x = nullptr;  // [n]
  float* y = nullptr;        // [n]
  int64_t n = 0;
};

}  // namespace kompakt::cuda
