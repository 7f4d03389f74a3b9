// The energy counter of an NVIDIA GPU, from its driver's management library (NVML): total joules of the board since the
// driver was loaded. The library is looked for when it is asked for; nothing here needs it to build or to start.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "validate/energy.h"

namespace kompakt {

// NVML brings its counter up to date some tens of times a second, and what the board's sensors say is a few percent:
// with less work than this a figure would be noise.
inline constexpr double kNvmlLeastSeconds = 20;

// `uuid`: of the GPU, as DeviceProperties::uuid; empty: the first one. kUnavailable saying what is missing: the
// library, a function of it, the GPU, a counter (there since Volta). `library`: what dlopen is given; tests have one of
// their own.
absl::StatusOr<std::unique_ptr<EnergyMeter>> OpenNvml(const std::string& uuid,
                                                      const std::string& library = "libnvidia-ml.so.1");

}  // namespace kompakt
