#include "runtime/device_target.h"

#include <filesystem>
#include <fstream>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace kompakt {
namespace {

std::string FirstWord(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::string word;
  file >> word;
  return word;
}

}  // namespace

bool NvidiaGpuIsPresent(const std::string& sys) {
  std::error_code error;
  const std::filesystem::path devices = absl::StrCat(sys, "/bus/pci/devices");
  for (std::filesystem::directory_iterator i(devices, error), end; !error && i != end; i.increment(error)) {
    // Class 0x03....: a display controller, with or without a display.
    if (FirstWord(i->path() / "vendor") == "0x10de" && absl::StartsWith(FirstWord(i->path() / "class"), "0x03")) {
      return true;
    }
  }
  return false;
}

}  // namespace kompakt
