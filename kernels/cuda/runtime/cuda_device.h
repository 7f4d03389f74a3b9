// The backend cuda of kernels/device.h: the CUDA runtime. Compiled only where the toolkit is (KOMPAKT_CUDA); the
// runtime is linked statically and finds the driver when the program runs, so the program starts where there is none.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/device.h"

namespace kompakt::cuda_runtime {

// 0 where there is no driver.
int CountCudaDevices();
// A DeviceError that names what is missing.
absl::StatusOr<std::unique_ptr<Device>> OpenCudaDevice(int index);

}  // namespace kompakt::cuda_runtime
