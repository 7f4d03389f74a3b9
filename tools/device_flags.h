// --device, --gpu-memory and -ngl: where a model runs.
#pragma once

#include <memory>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/status/statusor.h"
#include "validate/energy.h"

namespace kompakt {

struct DeviceTarget;  // runtime/device_target.h

struct DeviceFlags {
  std::string device = "cpu";  // what a verb without the flags means
  std::string memory;
  int64_t gpu_layers = -1;
};

// Adds the three flags to a verb, and makes `default_device` what it does without them.
void DeclareDeviceFlags(CLI::App& app, DeviceFlags& flags, const std::string& default_device);

// Opens the device; null: the CPU. `auto` is the first CUDA device, or the CPU: silently where there is no GPU, with a
// notice where there is one that cannot be used. For a device that was named, a DeviceError says what is missing.
// kInvalidArgument naming the flag whose value is not one.
absl::StatusOr<std::shared_ptr<DeviceTarget>> ResolveDeviceFlags(const DeviceFlags& flags);

// What counts the joules of a model that runs there: NVML's counter of the board for a CUDA device, RAPL for the CPU
// (null). kUnavailable for the simulator.
absl::StatusOr<std::unique_ptr<EnergyMeter>> OpenEnergyMeter(const DeviceTarget* target);

}  // namespace kompakt
