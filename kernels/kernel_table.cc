// The table of kernel sets, and the one place that reads KOMPAKT_ISA.
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/str_join.h"
#include "format/status.h"
#include "kernels/arm/arm_sets.h"
#include "kernels/kernel_set.h"
#include "kernels/portable/portable_ops.h"
#include "kernels/reference/reference_ops.h"
#include "kernels/x86/x86_sets.h"

namespace kompakt {

absl::Span<const KernelSet* const> AllKernelSets() {
  static const std::vector<const KernelSet*> table = [] {
    std::vector<const KernelSet*> sets = {&reference::kReferenceSet, &portable::kPortableSet};
    for (const KernelSet* set : x86::Sets()) sets.push_back(set);
    for (const KernelSet* set : arm::Sets()) sets.push_back(set);
    return sets;
  }();
  return table;
}

absl::Span<const KernelSet* const> AvailableKernelSets() {
  static const std::vector<const KernelSet*> table = [] {
    std::vector<const KernelSet*> sets;
    for (const KernelSet* set : AllKernelSets()) {
      if (set->available()) sets.push_back(set);
    }
    return sets;
  }();
  return table;
}

absl::StatusOr<const KernelSet*> KernelSetByName(absl::string_view name) {
  for (const KernelSet* set : AllKernelSets()) {
    if (set->name != name) continue;
    if (!set->available()) return UsageError("kernel set \"", name, "\": this machine cannot run it");
    return set;
  }
  const std::string known = absl::StrJoin(AllKernelSets(), ", ", [](std::string* out, const KernelSet* set) {
    out->append(set->name.data(), set->name.size());
  });
  return UsageError("unknown kernel set \"", name, "\"; known are ", known);
}

absl::StatusOr<const KernelSet*> BestKernelSet() {
  const char* const forced = std::getenv("KOMPAKT_ISA");
  if (forced != nullptr && *forced != '\0') {
    absl::StatusOr<const KernelSet*> set = KernelSetByName(forced);
    if (!set.ok()) return WithContext(set.status(), "environment variable KOMPAKT_ISA");
    return set;
  }
  return AvailableKernelSets().back();
}

}  // namespace kompakt
