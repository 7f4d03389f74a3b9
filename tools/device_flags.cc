#include "tools/device_flags.h"

#include <array>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "format/near_names.h"
#include "format/status.h"
#include "runtime/device_target.h"
#include "tools/byte_size.h"
#include "tools/terminal.h"
#include "validate/nvml_energy.h"

namespace kompakt {

void DeclareDeviceFlags(CLI::App& app, DeviceFlags& flags, const std::string& default_device) {
  flags.device = default_device;
  app.add_option(
         "--device", flags.device,
         "auto (a CUDA device where there is one, else the CPU), cpu, cuda, cuda:N, or cuda-sim, which runs the "
         "kernels of a device on the CPU, slowly")
      ->capture_default_str();
  app.add_option("--gpu-memory", flags.memory, "Device memory to take at most, as 20GiB; default: what is free");
  app.add_option(
         "--ngl,--gpu-layers", flags.gpu_layers,
         "Layers on the device, from the last one down, also as -ngl N; -1: as many as fit, routed experts last")
      ->capture_default_str();
}

absl::StatusOr<std::shared_ptr<DeviceTarget>> ResolveDeviceFlags(const DeviceFlags& flags) {
  static constexpr std::array<absl::string_view, 4> kNames = {"auto", "cpu", "cuda", "cuda-sim"};
  const bool automatic = flags.device == "auto";
  const bool known = automatic || flags.device == "cpu" || flags.device == "cuda-sim" || flags.device == "cuda" ||
                     absl::StartsWith(flags.device, "cuda:");
  if (!known) return UsageError("--device: unknown device \"", flags.device, "\"", DidYouMean(flags.device, kNames));
  auto target = std::make_shared<DeviceTarget>();
  if (!flags.memory.empty()) {
    KOMPAKT_ASSIGN_OR_RETURN(target->memory_bytes, ParseByteSize("--gpu-memory", flags.memory));
  }
  if (flags.gpu_layers < -1) return UsageError("-ngl: expected -1 or more, found ", flags.gpu_layers);
  target->gpu_layers = flags.gpu_layers;
  if (flags.device == "cpu") {
    if (target->memory_bytes > 0) return UsageError("--gpu-memory: --device cpu has none");
    if (flags.gpu_layers > 0) return UsageError("-ngl ", flags.gpu_layers, ": --device cpu takes none");
    return nullptr;
  }
  if (automatic && flags.gpu_layers == 0) return nullptr;
  absl::StatusOr<std::unique_ptr<Device>> device = OpenDevice(automatic ? "cuda" : flags.device);
  if (!device.ok()) {
    if (!automatic) return WithContext(device.status(), absl::StrCat("--device ", flags.device));
    if (NvidiaGpuIsPresent()) PrintNotice(absl::StrCat("note: the GPU is not used: ", device.status().message()));
    return nullptr;
  }
  target->device = *std::move(device);
  if (automatic) {
    target->on_unusable = [](const absl::Status& status) {
      PrintNotice(absl::StrCat("note: the GPU is not used: ", status.message()));
    };
  }
  if (Verbose()) {
    PrintNotice(absl::StrCat("device: ", target->device->properties().name));
    target->on_placed = [](const std::string& line) { PrintNotice(line); };
  }
  return target;
}

absl::StatusOr<std::unique_ptr<EnergyMeter>> OpenEnergyMeter(const DeviceTarget* target) {
  if (target == nullptr) return OpenRapl();
  if (target->device->backend() != "cuda") return absl::UnavailableError("a simulator's joules say nothing of a GPU");
  return OpenNvml(target->device->properties().uuid);
}

}  // namespace kompakt
