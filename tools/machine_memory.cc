#include "tools/machine_memory.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <limits>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "format/status.h"
#include "tools/byte_size.h"
#include "tools/terminal.h"

namespace kompakt {
namespace {

constexpr uint64_t kUnknown = std::numeric_limits<uint64_t>::max();
constexpr uint64_t kDefaultWhereUnknown = uint64_t{2} << 30;

// The number in a file of one number; kUnknown for "max" and where there is none.
uint64_t NumberIn(const std::string& path) {
  std::ifstream in(path);
  std::string word;
  uint64_t number = 0;
  if (!(in >> word) || !absl::SimpleAtoi(word, &number)) return kUnknown;
  return number;
}

uint64_t FreeOfMachine() {
  std::ifstream in("/proc/meminfo");
  std::string name;
  uint64_t kib = 0;
  std::string unit;
  while (in >> name >> kib) {
    std::getline(in, unit);
    if (name == "MemAvailable:") return kib * 1024;
  }
  return kUnknown;
}

// The least that a control group above this process leaves. Page cache counts as used there, but is given back.
uint64_t FreeOfControlGroups() {
  uint64_t least = kUnknown;
  std::ifstream in("/proc/self/cgroup");
  std::string line;
  while (std::getline(in, line)) {
    if (!absl::StartsWith(line, "0::")) continue;  // the unified hierarchy
    std::string path = "/sys/fs/cgroup" + line.substr(3);
    while (path.size() > std::string("/sys/fs/cgroup").size()) {
      const uint64_t most = NumberIn(path + "/memory.max");
      if (most != kUnknown) {
        const uint64_t used = NumberIn(path + "/memory.current");
        std::ifstream stat(path + "/memory.stat");
        std::string name;
        uint64_t value = 0, cache = 0;
        while (stat >> name >> value) {
          if (name == "inactive_file" || name == "active_file") cache += value;
        }
        const uint64_t taken = used == kUnknown ? 0 : used - std::min(used, cache);
        least = std::min(least, most - std::min(most, taken));
      }
      path.resize(path.rfind('/'));
    }
  }
  // The older hierarchy, as it looks inside a container.
  const uint64_t most = NumberIn("/sys/fs/cgroup/memory/memory.limit_in_bytes");
  return std::min(least, most);
}

}  // namespace

uint64_t AvailableMemoryBytes() {
  const uint64_t least = std::min(FreeOfMachine(), FreeOfControlGroups());
  return least == kUnknown ? 0 : least;
}

uint64_t ProcessMemoryBytes() {
  std::ifstream in("/proc/self/statm");
  uint64_t pages = 0;
  uint64_t resident_pages = 0;
  if (!(in >> pages >> resident_pages)) return 0;
  return resident_pages * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

void DeclareRamFlag(CLI::App& app, std::string& flag) {
  app.add_option("--ram", flag,
                 "Memory that the conversion may take, for example 2GiB (default: half of what is free)");
}

absl::StatusOr<RamLimit> ChooseRam(const std::string& flag) {
  RamLimit limit;
  if (!flag.empty()) {
    KOMPAKT_ASSIGN_OR_RETURN(limit.bytes, ParseByteSize("--ram", flag));
    limit.why = "--ram";
    return limit;
  }
  const uint64_t free_bytes = AvailableMemoryBytes();
  limit.bytes = free_bytes != 0 ? free_bytes / 2 : kDefaultWhereUnknown;
  limit.why = free_bytes != 0 ? absl::StrCat("half of the ", HumanBytes(free_bytes), " that are free")
                              : "the system does not say how much is free";
  return limit;
}

}  // namespace kompakt
