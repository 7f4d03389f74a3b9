#include "validate/nvml_energy.h"

#include <dlfcn.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "format/status.h"

namespace kompakt {
namespace {

// What of nvml.h is needed (NVIDIA's NVML API reference, "Device Queries"); results are 0 for success.
using NvmlDevice = void*;
struct NvmlFunctions {
  int (*init)();
  int (*shutdown)();
  const char* (*error_string)(int);
  int (*handle_by_uuid)(const char*, NvmlDevice*);
  int (*handle_by_index)(unsigned, NvmlDevice*);
  int (*total_energy)(NvmlDevice, unsigned long long*);  // millijoules
  int (*name)(NvmlDevice, char*, unsigned);
};

class Library {
 public:
  static absl::StatusOr<std::unique_ptr<Library>> Open(const std::string& path) {
    void* const handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) return absl::UnavailableError(absl::StrCat("NVML: ", dlerror()));
    auto library = std::unique_ptr<Library>(new Library(handle));
    NvmlFunctions& f = library->functions_;
    KOMPAKT_RETURN_IF_ERROR(library->Find("nvmlInit_v2", &f.init));
    KOMPAKT_RETURN_IF_ERROR(library->Find("nvmlShutdown", &f.shutdown));
    KOMPAKT_RETURN_IF_ERROR(library->Find("nvmlErrorString", &f.error_string));
    KOMPAKT_RETURN_IF_ERROR(library->Find("nvmlDeviceGetHandleByUUID", &f.handle_by_uuid));
    KOMPAKT_RETURN_IF_ERROR(library->Find("nvmlDeviceGetHandleByIndex_v2", &f.handle_by_index));
    KOMPAKT_RETURN_IF_ERROR(library->Find("nvmlDeviceGetTotalEnergyConsumption", &f.total_energy));
    KOMPAKT_RETURN_IF_ERROR(library->Find("nvmlDeviceGetName", &f.name));
    KOMPAKT_RETURN_IF_ERROR(library->Check(f.init(), "starting"));
    library->started_ = true;
    return library;
  }
  ~Library() {
    if (started_) (void)functions_.shutdown();
    (void)dlclose(handle_);
  }
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;

  const NvmlFunctions& functions() const { return functions_; }
  absl::Status Check(int code, absl::string_view what) const {
    if (code == 0) return absl::OkStatus();
    const char* const text = functions_.error_string(code);
    return absl::UnavailableError(absl::StrCat("NVML: ", what, ": ", text != nullptr ? text : "unknown error"));
  }

 private:
  explicit Library(void* handle) : handle_(handle) {}

  template <typename Function>
  absl::Status Find(const char* name, Function* function) const {
    *function = reinterpret_cast<Function>(dlsym(handle_, name));
    if (*function != nullptr) return absl::OkStatus();
    return absl::UnavailableError(absl::StrCat("NVML: the driver's library has no ", name));
  }

  void* handle_;
  NvmlFunctions functions_{};
  bool started_ = false;
};

class Nvml : public EnergyMeter {
 public:
  Nvml(std::unique_ptr<Library> library, NvmlDevice device, const std::string& name)
      : library_(std::move(library)), device_(device), what_(absl::StrCat("NVML: ", name)) {}

  const std::string& what() const override { return what_; }
  double least_seconds() const override { return kNvmlLeastSeconds; }

  absl::StatusOr<double> Joules() override {
    unsigned long long millijoules = 0;
    KOMPAKT_RETURN_IF_ERROR(
        library_->Check(library_->functions().total_energy(device_, &millijoules), "reading the energy counter"));
    if (!started_) {
      start_ = millijoules;
      started_ = true;
    }
    return static_cast<double>(millijoules - start_) * 1e-3;
  }

 private:
  std::unique_ptr<Library> library_;
  NvmlDevice device_;
  std::string what_;
  bool started_ = false;
  unsigned long long start_ = 0;
};

}  // namespace

absl::StatusOr<std::unique_ptr<EnergyMeter>> OpenNvml(const std::string& uuid, const std::string& library_path) {
  KOMPAKT_ASSIGN_OR_RETURN(std::unique_ptr<Library> library, Library::Open(library_path));
  const NvmlFunctions& f = library->functions();
  NvmlDevice device = nullptr;
  const int found = uuid.empty() ? f.handle_by_index(0, &device) : f.handle_by_uuid(uuid.c_str(), &device);
  KOMPAKT_RETURN_IF_ERROR(library->Check(found, absl::StrCat("looking for ", uuid.empty() ? "a GPU" : uuid)));
  char name[96] = "";
  KOMPAKT_RETURN_IF_ERROR(library->Check(f.name(device, name, sizeof(name)), "the GPU's name"));
  auto meter = std::make_unique<Nvml>(std::move(library), device, name);
  KOMPAKT_RETURN_IF_ERROR(meter->Joules().status());  // fails now where there is no counter
  return meter;
}

}  // namespace kompakt
