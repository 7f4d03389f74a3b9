// What every device source includes first: CUDA's own language where nvcc compiles it, the simulator's elsewhere, and
// the few spellings that differ.
//
// A device source (kernels/cuda/*.cu) is compiled twice, by nvcc for the backend `cuda` and by the C++ compiler for
// `cuda-sim`. It is C++20 that both accept, without Abseil and without exceptions, in namespace
// kompakt::KOMPAKT_BACKEND, and keeps to this:
//
//   SharedPtr<T>                       a pointer into shared memory: T* on a device; checked in the simulator
//   KOMPAKT_SHARED(T, name, n)         declares `SharedPtr<T> name`, n elements, 16-byte aligned
//   KOMPAKT_DYNAMIC_SHARED(name)       declares the launch's dynamic shared memory
//   SharedSlice<T>(name, at, n)        n elements from byte `at` on of the dynamic shared memory
//   SharedCast<V>(p)                   the same place as V (uint4, ...); must be aligned for V
//   KOMPAKT_SITE, KOMPAKT_HERE         last parameter and argument of a function that reports the line of its caller
//   KOMPAKT_UNROLL                     before a loop
//   KOMPAKT_ROLLED                     before a loop that shall stay one: its code is fetched once
//   Launch(config, kernel, args...)    starts kernel<<<...>>>(args...); 0, or a code for Device::LaunchStatus
//
// Elements of shared memory are read into variables of their type (`const float v = p[i];`, not `auto`): in the
// simulator p[i] stands for the element and checks each access. Atomics take pointers into global memory or SharedPtr.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__CUDACC__)
#define KOMPAKT_BACKEND cuda_device
#define KOMPAKT_CUDA_SIM 0
#include <cuda_runtime.h>
#else
#define KOMPAKT_BACKEND cuda_sim
#define KOMPAKT_CUDA_SIM 1
#include "kernels/cuda/sim/language.h"  // IWYU pragma: export
#endif

#define KOMPAKT_DEVICE __device__ __forceinline__

namespace kompakt::KOMPAKT_BACKEND {

// Blocks, threads per block, and where the kernel is queued. `name` appears in errors.
struct LaunchConfig {
  const char* name;
  dim3 grid;
  dim3 block;
  size_t shared_bytes = 0;
  void* stream = nullptr;  // a DeviceStream (kernels/device.h)
};

#if !KOMPAKT_CUDA_SIM

#define KOMPAKT_SITE
#define KOMPAKT_HERE
#define KOMPAKT_UNROLL _Pragma("unroll")
#define KOMPAKT_ROLLED _Pragma("unroll 1")

template <typename T>
using SharedPtr = T*;

#define KOMPAKT_SHARED(T, name, n)              \
  __shared__ __align__(16) T name##_storage[n]; \
  T* const name = name##_storage

#define KOMPAKT_DYNAMIC_SHARED(name) extern __shared__ __align__(1024) unsigned char name[]

template <typename T>
KOMPAKT_DEVICE T* SharedSlice(unsigned char* base, size_t at, size_t) {
  return reinterpret_cast<T*>(base + at);
}
template <typename V, typename T>
KOMPAKT_DEVICE V* SharedCast(T* p) {
  return reinterpret_cast<V*>(p);
}

template <typename... Params, typename... Args>
int Launch(const LaunchConfig& config, void (*kernel)(Params...), Args... args) {
  // Up to 48 KiB need no permission, what kernels declare themselves included.
  if (config.shared_bytes > (40u << 10)) {
    const cudaError_t error =
        cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(config.shared_bytes));
    if (error != cudaSuccess) return static_cast<int>(error);
  }
  cudaLaunchConfig_t launch{};
  launch.gridDim = config.grid;
  launch.blockDim = config.block;
  launch.dynamicSmemBytes = config.shared_bytes;
  launch.stream = static_cast<cudaStream_t>(config.stream);
  return static_cast<int>(cudaLaunchKernelEx(&launch, kernel, static_cast<Params>(args)...));
}

#else

template <typename... Params, typename... Args>
int Launch(const LaunchConfig& config, void (*kernel)(Params...), Args... args) {
  return Enqueue(config.name, config.grid, config.block, config.shared_bytes, config.stream,
                 [=] { kernel(static_cast<Params>(args)...); });
}

#endif

}  // namespace kompakt::KOMPAKT_BACKEND
