// How long a conversion will take, from encoding a little of it.
#pragma once

#include "absl/status/statusor.h"
#include "format/file_system.h"
#include "format/tensor_source.h"
#include "quant/convert.h"

namespace kompakt {

struct SpeedEstimate {
  double encode_seconds = 0;          // reading and encoding all tensors on one thread
  double write_bytes_per_second = 0;  // to the destination's disk, synced; 0: no destination was named
  // Of the whole conversion on `threads` threads: reading and encoding while writing, then verifying.
  double total_seconds = 0;
};

// Encodes bands of every kind of tensor of the plan, and writes a file DESTINATION.probe that it removes again, for
// about a second in all. `destination` may be empty. Fails with whatever reading the tensors or writing fails with.
absl::StatusOr<SpeedEstimate> EstimateSpeed(const TensorSource& source, const ConversionPlan& plan, int threads,
                                            const std::string& destination, FileSystem& fs);

}  // namespace kompakt
