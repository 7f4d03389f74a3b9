#include "kernels/device.h"

#include <charconv>

#include "absl/strings/strip.h"
#include "format/device_error.h"
#include "format/status.h"
#include "kernels/cuda/sim/sim_device.h"
#if KOMPAKT_CUDA
#include "kernels/cuda/runtime/cuda_device.h"
#endif

namespace kompakt {
namespace {

constexpr uint64_t kSimBytes = uint64_t{24} << 30;

}  // namespace

absl::StatusOr<std::unique_ptr<Device>> OpenDevice(absl::string_view name) {
  if (name == "cuda-sim") return cuda_sim::OpenSimDevice(kSimBytes);
  absl::string_view rest = name;
  if (!absl::ConsumePrefix(&rest, "cuda")) {
    return UsageError("unknown device \"", name, "\"; known are cuda, cuda:N, cuda-sim");
  }
  int index = 0;
  if (!rest.empty()) {
    const bool colon = absl::ConsumePrefix(&rest, ":");
    const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), index);
    if (!colon || error != std::errc() || end != rest.data() + rest.size() || index < 0) {
      return UsageError("unknown device \"", name, "\"; known are cuda, cuda:N, cuda-sim");
    }
  }
#if KOMPAKT_CUDA
  return cuda_runtime::OpenCudaDevice(index);
#else
  return DeviceError("device ", name, ": this program was built without CUDA (KOMPAKT_CUDA)");
#endif
}

std::vector<std::string> AvailableDevices() {
  std::vector<std::string> names;
#if KOMPAKT_CUDA
  for (int i = 0; i < cuda_runtime::CountCudaDevices(); ++i) names.push_back(absl::StrCat("cuda:", i));
#endif
  names.emplace_back("cuda-sim");
  return names;
}

absl::string_view CudaArchitectures() {
#if KOMPAKT_CUDA
  return KOMPAKT_CUDA_ARCHITECTURES;
#else
  return "";
#endif
}

absl::StatusOr<DeviceBuffer> DeviceBuffer::Create(Device& device, uint64_t bytes, absl::string_view what) {
  KOMPAKT_ASSIGN_OR_RETURN(void* const data, device.Allocate(bytes, what));
  DeviceBuffer buffer;
  buffer.device_ = &device;
  buffer.data_ = data;
  buffer.bytes_ = bytes;
  return buffer;
}

}  // namespace kompakt
