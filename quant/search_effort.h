// SearchEffort: how much of an encoder's time goes into looking for better scales.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace kompakt {

// What each one tries, and what it gains: docs/quantization.md, "How a tile is encoded".
enum class SearchEffort : uint8_t { kFast, kDefault, kBest };

absl::string_view EffortName(SearchEffort effort);
absl::Span<const absl::string_view> EffortNames();
// kInvalidArgument with "did you mean".
absl::StatusOr<SearchEffort> EffortFromName(absl::string_view name);

}  // namespace kompakt
