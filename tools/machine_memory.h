// How much memory this machine, and the control group that the process runs in, has to give.
#pragma once

#include <cstdint>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/status/statusor.h"

namespace kompakt {

// What could be taken now without swapping, within the limits of the control groups; 0 where the system does not say.
uint64_t AvailableMemoryBytes();

// What this process has in memory now; 0 where the system does not say.
uint64_t ProcessMemoryBytes();

// --ram of convert and plan.
struct RamLimit {
  uint64_t bytes = 0;
  std::string why;  // "--ram", "half of the 12.3 GB that are free"
};
void DeclareRamFlag(CLI::App& app, std::string& flag);
// The flag as given, or a default for this machine when it is empty.
absl::StatusOr<RamLimit> ChooseRam(const std::string& flag);

}  // namespace kompakt
