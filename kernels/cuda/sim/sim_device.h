// The backend cuda-sim of kernels/device.h: device memory is host memory, streams run at once, graphs are lists.
//
// What a stream is given runs before the call returns, so an order of streams that only works by chance is not found.
// Memory starts as 0xff bytes, which read as NaN. What a kernel writes right before or behind an allocation is found
// when the allocation is freed, or by the address sanitizer at once, which also finds reads.
#pragma once

#include <cstdint>
#include <memory>

#include "kernels/device.h"

namespace kompakt::cuda_sim {

// `total_bytes`: how much memory the device says it has, and gives.
std::unique_ptr<Device> OpenSimDevice(uint64_t total_bytes);

// Allocations that were found damaged when they were freed, since the program started.
uint64_t DamagedAllocations();

// Kernels that were run since the program started, those of graphs each time.
uint64_t LaunchedKernels();

extern const CudaKernels kCudaKernels;

}  // namespace kompakt::cuda_sim
