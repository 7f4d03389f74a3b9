// CudaKernels: what a device offers, as host functions that queue kernels. There is one table per backend, from the
// same sources: kernels/cuda/kernels.cu.
//
// Every function takes a plain structure of device pointers and counts (shapes beside them, as in kernel_set.h), and
// the stream (DeviceStream of kernels/device.h). It checks nothing but what it needs to launch, and returns 0 or a code
// for Device::LaunchStatus. This header is read by nvcc: no Abseil here, nor in what it includes.
#pragma once

#include <cstdint>

#include "kernels/cuda/elementwise_params.h"

namespace kompakt {

struct CudaKernels {
  int (*add)(const cuda::AddParams& p, void* stream);
};

}  // namespace kompakt
