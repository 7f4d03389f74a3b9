// The table of kernel sets, and the one place that reads KOMPAKT_ISA.
#include <array>
#include <cstdlib>
#include <string>

#include "absl/strings/str_join.h"
#include "format/status.h"
#include "kernels/kernel_set.h"
#include "kernels/portable/portable_ops.h"
#include "kernels/reference/reference_ops.h"

namespace kompakt {

absl::Span<const KernelSet* const> AllKernelSets() {
  static const std::array<const KernelSet*, 2> kTable = {&reference::kReferenceSet, &portable::kPortableSet};
  return kTable;
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
  const KernelSet* best = nullptr;
  for (const KernelSet* set : AllKernelSets()) {
    if (set->available()) best = set;
  }
  return best;
}

}  // namespace kompakt
