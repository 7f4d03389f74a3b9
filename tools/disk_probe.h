// What the disk below a packed file gives for the reads that an ExpertCache makes.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "format/packed_reader.h"

namespace kompakt {

struct DiskProbe {
  uint64_t read_bytes = 0;
  double bytes_per_second = 0;
};

// Reads expert records all over the file, a few at a time and past the page cache, until `most_bytes` are read or half
// a second has passed. kFailedPrecondition when the model has no routed experts; else what reading fails with.
absl::StatusOr<DiskProbe> ProbeDisk(const PackedReader& file, uint64_t most_bytes);

}  // namespace kompakt
