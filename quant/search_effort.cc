#include "quant/search_effort.h"

#include <iterator>

#include "format/near_names.h"
#include "format/status.h"

namespace kompakt {
namespace {

constexpr absl::string_view kNames[] = {"fast", "default", "best"};

}  // namespace

absl::string_view EffortName(SearchEffort effort) { return kNames[static_cast<size_t>(effort)]; }

absl::Span<const absl::string_view> EffortNames() { return kNames; }

absl::StatusOr<SearchEffort> EffortFromName(absl::string_view name) {
  for (size_t i = 0; i < std::size(kNames); ++i) {
    if (kNames[i] == name) return static_cast<SearchEffort>(i);
  }
  return UsageError("unknown scale search \"", name, "\"", DidYouMean(name, kNames));
}

}  // namespace kompakt
