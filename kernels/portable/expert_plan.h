// Which tokens go to which expert: the routed choices of a call that count, sorted by expert.
#pragma once

#include "absl/status/statusor.h"
#include "kernels/kernel_set.h"

namespace kompakt::portable {

struct ExpertPlan {
  int64_t active = 0;             // experts that have tokens
  int32_t* experts = nullptr;     // [active] ascending
  int32_t* slot_begin = nullptr;  // [active + 1]: slots of expert i are [slot_begin[i], slot_begin[i + 1])
  int32_t* slots = nullptr;       // [choices]: t * K + k, ordered by expert, then token
  int64_t choices = 0;            // those that count
  int32_t most_tokens = 0;        // of one expert

  int64_t begin(int64_t i) const { return slot_begin[i]; }
  int64_t tokens(int64_t i) const { return slot_begin[i + 1] - slot_begin[i]; }
};

// Memory is the workspace's.
absl::StatusOr<ExpertPlan> PlanExperts(const ExpertFfnParams& p, Workspace& workspace);

}  // namespace kompakt::portable
