#include "format/near_names.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace kompakt {
namespace {

// Levenshtein distance; inputs are short names.
size_t EditDistance(absl::string_view a, absl::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t substituted = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substituted});
    }
  }
  return row[b.size()];
}

}  // namespace

std::string DidYouMean(absl::string_view given, absl::Span<const absl::string_view> names) {
  if (names.empty()) return "";
  absl::string_view best;
  size_t best_distance = 0;
  for (const absl::string_view name : names) {
    const size_t distance = EditDistance(given.substr(0, 64), name);
    if (best.empty() || distance < best_distance) {
      best = name;
      best_distance = distance;
    }
  }
  if (best_distance <= std::max<size_t>(2, best.size() / 3)) return absl::StrCat(" (did you mean \"", best, "\"?)");
  return absl::StrCat(" (known: ", absl::StrJoin(names, ", "), ")");
}

}  // namespace kompakt
