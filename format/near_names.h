// "Did you mean": the nearest of a list of known names, for error messages.
#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace kompakt {

// " (did you mean \"q4_g32\"?)" when some name is near `given` in edit distance, else
// " (known: a, b, c)"; empty when there are no names.
std::string DidYouMean(absl::string_view given, absl::Span<const absl::string_view> names);

}  // namespace kompakt
