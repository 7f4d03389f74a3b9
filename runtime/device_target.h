// DeviceTarget: the device on which the sessions of a model are to run, and how much of it they may take.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "kernels/device.h"

namespace kompakt {

class DeviceModel;
class Model;

struct DeviceTarget {
  std::unique_ptr<Device> device;
  uint64_t memory_bytes = 0;  // at most; 0: what is free when the first session is made, less a reserve
  int64_t gpu_layers = -1;    // as in PlacementRequest
  // Called instead of an error when the device turns out to have too little memory: the session then runs on the CPU.
  // Null: the error is returned.
  std::function<void(const absl::Status&)> on_unusable;
  // Called with one line when a model was placed; may be null.
  std::function<void(const std::string&)> on_placed;

  // Weights that are on the device already, for the sessions of one model to share.
  std::mutex mutex;
  std::map<const Model*, std::weak_ptr<DeviceModel>> models;
};

// Does this machine have an NVIDIA GPU, whether or not anything can use it? `sys`: where sysfs is mounted.
bool NvidiaGpuIsPresent(const std::string& sys = "/sys");

}  // namespace kompakt
