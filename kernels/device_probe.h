// How fast a device reads its memory at most, measured in the same minute as what is compared with it.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "kernels/device.h"

namespace kompakt {

class DeviceReadProbe {
 public:
  // An array of its own in device memory: eight times its last cache and 256 MiB at least, or a quarter of what is
  // free. A DeviceError.
  static absl::StatusOr<DeviceReadProbe> Create(Device& device);

  // Reads the array a few times. Bytes per second, by the device's own clock.
  absl::StatusOr<double> Run();

 private:
  explicit DeviceReadProbe(Device& device) : device_(&device) {}

  Device* device_;
  DeviceBuffer array_, words_;
  int32_t blocks_ = 0;
};

}  // namespace kompakt
