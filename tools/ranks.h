// Ranks: this process as one of several that mpirun started. Each is a part (format/write_share.h) of the same
// conversion; MPI only says which, and who has failed. Built without MPI, or not started by mpirun, there is one rank.
#pragma once

#include <memory>

#include "absl/status/statusor.h"

namespace kompakt {

class Ranks {
 public:
  virtual ~Ranks() = default;
  virtual int index() const = 0;
  virtual int count() const = 0;
  // Waits for all ranks; true when each of them called it with true.
  virtual bool AllGood(bool good) = 0;
};

// kUnimplemented when mpirun started several ranks and this program was built without MPI: each would take itself for
// the only one.
absl::StatusOr<std::unique_ptr<Ranks>> JoinRanks();

}  // namespace kompakt
