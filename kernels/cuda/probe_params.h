// Parameters of the kernel that bandwidth is measured with (kernels/cuda/probe.cu). Pointers are device memory.
#pragma once

#include <cstdint>

namespace kompakt::cuda {

// Reads all of `data` once. The words of all threads together are the exclusive or of its 32-bit words.
struct ReadParams {
  const uint8_t* data = nullptr;
  int64_t bytes = 0;  // a multiple of 16
  int32_t blocks = 0;
  uint32_t* words = nullptr;  // [blocks * kReadThreads]
};
inline constexpr int kReadThreads = 256;

}  // namespace kompakt::cuda
