#include "kernels/portable/expert_plan.h"

#include <algorithm>

#include "format/status.h"

namespace kompakt::portable {

absl::StatusOr<ExpertPlan> PlanExperts(const ExpertFfnParams& p, Workspace& workspace) {
  ExpertPlan plan;
  const int64_t all = p.tokens * p.k;
  KOMPAKT_ASSIGN_OR_RETURN(int32_t* const next, workspace.Ints(p.n_experts));
  KOMPAKT_ASSIGN_OR_RETURN(plan.experts, workspace.Ints(p.n_experts));
  KOMPAKT_ASSIGN_OR_RETURN(plan.slot_begin, workspace.Ints(p.n_experts + 1));
  KOMPAKT_ASSIGN_OR_RETURN(plan.slots, workspace.Ints(all));
  std::fill(next, next + p.n_experts, 0);
  for (int64_t i = 0; i < all; ++i) next[p.ids[i]] += p.Counts(p.ids[i]) ? 1 : 0;
  int32_t sum = 0;
  for (int64_t e = 0; e < p.n_experts; ++e) {
    const int32_t n = next[e];
    next[e] = sum;
    if (n == 0) continue;
    plan.experts[plan.active] = static_cast<int32_t>(e);
    plan.slot_begin[plan.active++] = sum;
    plan.most_tokens = std::max(plan.most_tokens, n);
    sum += n;
  }
  plan.slot_begin[plan.active] = sum;
  plan.choices = sum;
  for (int64_t i = 0; i < all; ++i) {
    if (p.Counts(p.ids[i])) plan.slots[next[p.ids[i]]++] = static_cast<int32_t>(i);
  }
  return plan;
}

}  // namespace kompakt::portable
