// Names of volumes: NAME.kpk cut into 12 volumes is NAME-00001-of-00012.kpk to NAME-00012-of-00012.kpk, in one folder.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "format/file_system.h"

namespace kompakt {

struct VolumeName {
  std::string whole;  // NAME.kpk, with its folder
  uint32_t index = 0;
  uint32_t count = 0;
};

// None when `path` has no such form, or its index is not in [1, count].
absl::optional<VolumeName> ParseVolumePath(const std::string& path);

// `whole` is NAME.kpk; a name without .kpk is taken as it is, and gets .kpk behind the numbers.
std::string VolumePath(const std::string& whole, uint32_t index, uint32_t count);
// What the paths of first volumes of sets of that name begin with.
std::string FirstVolumePrefix(const std::string& whole);
std::vector<std::string> VolumePaths(const std::string& whole, uint32_t count);

// What to open when the user says `path`: `path` itself where it exists or nothing better does; the first volume of its
// set for NAME.kpk of which only volumes exist. kFailedPrecondition when several sets have that name.
absl::StatusOr<std::string> ResolvePackedPath(FileSystem& fs, const std::string& path);

}  // namespace kompakt
