// Exit codes of the program, in one place.
#pragma once

#include "absl/status/status.h"

namespace kompakt {

enum ExitCode : int {
  kExitYes = 0,
  kExitNo = 1,  // ran fine, the answer is no: verify found damage
  kExitUsage = 2,
  kExitInput = 3,  // input corrupt or unsupported
  kExitIo = 4,     // I/O, disk or memory
  kExitDevice = 5,
  kExitBug = 70,
  kExitInterrupted = 130,
};

// By the table in format/status.h.
ExitCode ExitCodeOf(const absl::Status& status);

}  // namespace kompakt
