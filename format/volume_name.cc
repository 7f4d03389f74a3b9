#include "format/volume_name.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "format/status.h"

namespace kompakt {
namespace {

constexpr absl::string_view kSuffix = ".kpk";
constexpr size_t kDigits = 5;
constexpr size_t kNumbersBytes = sizeof("-00001-of-00002.kpk") - 1;

// Five decimal digits; -1 for anything else.
int64_t ParseNumber(absl::string_view text) {
  int64_t value = 0;
  for (const char c : text.substr(0, kDigits)) {
    if (c < '0' || c > '9') return -1;
    value = 10 * value + (c - '0');
  }
  return text.size() < kDigits ? -1 : value;
}

absl::string_view StemOf(const std::string& whole) {
  absl::string_view stem = whole;
  if (absl::EndsWith(stem, kSuffix)) stem.remove_suffix(kSuffix.size());
  return stem;
}

}  // namespace

absl::optional<VolumeName> ParseVolumePath(const std::string& path) {
  if (path.size() < kNumbersBytes) return absl::nullopt;
  const absl::string_view numbers = absl::string_view(path).substr(path.size() - kNumbersBytes);
  const int64_t index = ParseNumber(numbers.substr(1));
  const int64_t count = ParseNumber(numbers.substr(10));
  if (index < 1 || count < index || numbers[0] != '-' || numbers.substr(6, 4) != "-of-" ||
      numbers.substr(15) != kSuffix) {
    return absl::nullopt;
  }
  return VolumeName{absl::StrCat(path.substr(0, path.size() - kNumbersBytes), kSuffix), static_cast<uint32_t>(index),
                    static_cast<uint32_t>(count)};
}

std::string VolumePath(const std::string& whole, uint32_t index, uint32_t count) {
  return absl::StrFormat("%s-%05d-of-%05d%s", StemOf(whole), index, count, kSuffix);
}

std::string FirstVolumePrefix(const std::string& whole) { return absl::StrCat(StemOf(whole), "-00001-of-"); }

std::vector<std::string> VolumePaths(const std::string& whole, uint32_t count) {
  std::vector<std::string> paths;
  paths.reserve(count);
  for (uint32_t index = 1; index <= count; ++index) paths.push_back(VolumePath(whole, index, count));
  return paths;
}

absl::StatusOr<std::string> ResolvePackedPath(FileSystem& fs, const std::string& path) {
  if (fs.Exists(path) || !absl::EndsWith(path, kSuffix)) return path;
  std::vector<std::string> first;
  for (const std::string& found : fs.ListPrefix(FirstVolumePrefix(path))) {
    const absl::optional<VolumeName> volume = ParseVolumePath(found);
    if (volume.has_value() && volume->whole == path) first.push_back(found);
  }
  if (first.empty()) return path;
  if (first.size() == 1) return first[0];
  return absl::FailedPreconditionError(
      absl::StrCat(path, ": there are volumes of several sets of that name; open one of ", absl::StrJoin(first, ", ")));
}

}  // namespace kompakt
