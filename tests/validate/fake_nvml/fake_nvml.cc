// The functions of NVML that validate/nvml_energy.cc calls, of a made-up GPU. FAKE_NVML_ENERGY names a file with its
// counter in millijoules; without one it has none, as cards before Volta. FAKE_NVML_NO_DRIVER: as where no driver is
// loaded.
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

constexpr int kSuccess = 0;
constexpr int kNotSupported = 3;
constexpr int kNotFound = 6;
constexpr int kDriverNotLoaded = 9;

int gpu;

}  // namespace

extern "C" {

int nvmlInit_v2() { return std::getenv("FAKE_NVML_NO_DRIVER") != nullptr ? kDriverNotLoaded : kSuccess; }
int nvmlShutdown() { return kSuccess; }
const char* nvmlErrorString(int code) {
  switch (code) {
    case kNotSupported:
      return "Not Supported";
    case kNotFound:
      return "Not Found";
    case kDriverNotLoaded:
      return "Driver Not Loaded";
    default:
      return "Unknown Error";
  }
}
int nvmlDeviceGetHandleByUUID(const char* uuid, void** device) {
  *device = &gpu;
  return std::strcmp(uuid, "GPU-fake") == 0 ? kSuccess : kNotFound;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void** device) {
  *device = &gpu;
  return index == 0 ? kSuccess : kNotFound;
}
int nvmlDeviceGetTotalEnergyConsumption(void* device, unsigned long long* millijoules) {
  const char* const path = std::getenv("FAKE_NVML_ENERGY");
  std::FILE* const file = path == nullptr || device != &gpu ? nullptr : std::fopen(path, "r");
  if (file == nullptr) return kNotSupported;
  const int read = std::fscanf(file, "%llu", millijoules);
  std::fclose(file);
  return read == 1 ? kSuccess : kNotSupported;
}
int nvmlDeviceGetName(void* /*device*/, char* name, unsigned length) {
  std::snprintf(name, length, "Fake GPU");
  return kSuccess;
}

}  // extern "C"
