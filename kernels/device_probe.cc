#include "kernels/device_probe.h"

#include <algorithm>

#include "format/status.h"

namespace kompakt {
namespace {

constexpr uint64_t kLeastBytes = uint64_t{256} << 20;
constexpr int kBlocksPerMultiprocessor = 8;
constexpr int kRounds = 4;

}  // namespace

absl::StatusOr<DeviceReadProbe> DeviceReadProbe::Create(Device& device) {
  DeviceReadProbe probe(device);
  KOMPAKT_ASSIGN_OR_RETURN(const uint64_t free, device.FreeBytes());
  const uint64_t bytes = std::min(std::max(8 * device.properties().l2_bytes, kLeastBytes), free / 4) / 16 * 16;
  probe.blocks_ = kBlocksPerMultiprocessor * device.properties().multiprocessors;
  KOMPAKT_ASSIGN_OR_RETURN(probe.array_, DeviceBuffer::Create(device, bytes, "the probe of memory bandwidth"));
  KOMPAKT_ASSIGN_OR_RETURN(probe.words_,
                           DeviceBuffer::Create(device, static_cast<uint64_t>(probe.blocks_) * cuda::kReadThreads * 4,
                                                "results of the probe"));
  KOMPAKT_RETURN_IF_ERROR(device.Fill(probe.array_.as<void>(), 0, bytes, nullptr));
  return probe;
}

absl::StatusOr<double> DeviceReadProbe::Run() {
  const cuda::ReadParams params{.data = array_.as<uint8_t>(),
                                .bytes = static_cast<int64_t>(array_.bytes()),
                                .blocks = blocks_,
                                .words = words_.as<uint32_t>()};
  KOMPAKT_ASSIGN_OR_RETURN(const DeviceEvent begin, device_->CreateEvent());
  KOMPAKT_ASSIGN_OR_RETURN(const DeviceEvent end, device_->CreateEvent());
  const auto measure = [&]() -> absl::StatusOr<double> {
    // The first one only wakes the clocks up.
    KOMPAKT_RETURN_IF_ERROR(device_->LaunchStatus(device_->kernels().read(params, nullptr), "read"));
    KOMPAKT_RETURN_IF_ERROR(device_->Record(begin, nullptr));
    for (int i = 0; i < kRounds; ++i) {
      KOMPAKT_RETURN_IF_ERROR(device_->LaunchStatus(device_->kernels().read(params, nullptr), "read"));
    }
    KOMPAKT_RETURN_IF_ERROR(device_->Record(end, nullptr));
    return device_->SecondsBetween(begin, end);
  };
  const absl::StatusOr<double> seconds = measure();
  device_->DestroyEvent(begin);
  device_->DestroyEvent(end);
  KOMPAKT_RETURN_IF_ERROR(seconds.status());
  return kRounds * static_cast<double>(array_.bytes()) / *seconds;
}

}  // namespace kompakt
