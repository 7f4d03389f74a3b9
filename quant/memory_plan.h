// How much memory a conversion takes, and how many workers fit into what it may take.
//
// The promise: the process' resident memory (its peak, as the system counts it; the page cache is not part of it) stays
// below `peak_bytes` + kMemorySlack, whatever the model. It is the sum of
//     the program            code, libraries, stacks
//     the index              headers of the source, schema, choices: per tensor
//     the manifest           as plan, finished, serialized, read back; assets included
//     the calibration        its directory and the means of its layers; with error feedback the factors of one input
//     the workers            each: source bytes, F32 rows and scratch of a band, the importance of its columns, with
//                            error feedback the factors of its input while they are made, and kBandsPerWorker results
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "format/packed_writer.h"
#include "format/tensor_source.h"
#include "quant/feedback_plan.h"
#include "quant/importance.h"
#include "quant/recipe.h"

namespace kompakt {

// What the C library's allocator may hold beyond the sum, and the promise allows.
inline constexpr uint64_t kMemorySlack = uint64_t{64} << 20;

struct MemoryPlan {
  int workers = 1;
  uint64_t peak_bytes = 0;
  uint64_t least_bytes = 0;       // with one worker
  uint64_t read_ahead_bytes = 0;  // of the page cache, not part of peak_bytes
};

// At most `threads` workers, as many as fit into `ram_bytes` (0: all). kInvalidArgument when not even one fits.
absl::StatusOr<MemoryPlan> PlanMemory(const TensorSource& source, const std::vector<QuantRecipe::Choice>& choices,
                                      const WritePlan& write, int threads, uint64_t ram_bytes,
                                      const Importance* importance, const FeedbackPlan* feedback);

}  // namespace kompakt
