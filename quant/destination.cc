#include "quant/destination.h"

#include "format/packed_target.h"
#include "format/status.h"
#include "format/volume_name.h"

namespace kompakt {

std::string ExistingDestination(FileSystem& fs, const std::string& destination, const std::vector<std::string>& paths) {
  const std::string& first = paths.size() == 1 ? destination : paths[0];
  return fs.Exists(first) ? first : "";
}

absl::Status CheckNamesFree(FileSystem& fs, const std::string& destination, const std::vector<std::string>& paths) {
  if (paths.size() == 1) return absl::OkStatus();
  const bool interrupted = AnyPartial(fs, paths);
  for (const std::string& path : paths) {
    if (!fs.Exists(path)) continue;
    KOMPAKT_RETURN_IF_ERROR(CheckReplaceable(fs, path));
    // One that has been renamed, of a run that was cut off between two renames, has no .partial any more.
    if (interrupted && !fs.Exists(PartialPath(path))) continue;
    return InTheWay(path, "is not of this conversion");
  }
  // A set of the same name in another number of volumes.
  for (const std::string& first : fs.ListPrefix(FirstVolumePrefix(destination))) {
    const absl::optional<VolumeName> volume = ParseVolumePath(first);
    if (volume.has_value() && first != paths[0]) return InTheWay(first, "is of another set of that name");
  }
  if (!fs.Exists(destination)) return absl::OkStatus();
  KOMPAKT_RETURN_IF_ERROR(CheckReplaceable(fs, destination));
  return InTheWay(destination, "would be opened in place of the volumes");
}

absl::Status CheckReplaceable(FileSystem& fs, const std::string& path) {
  const absl::Status status = fs.OpenForRead(path).status();
  return absl::IsFailedPrecondition(status) ? UsageError(status.message()) : status;
}

absl::Status CheckRoom(FileSystem& fs, const std::string& destination, const std::vector<std::string>& paths,
                       uint64_t file_bytes) {
  if (AnyPartial(fs, paths)) return absl::OkStatus();  // allocated already
  KOMPAKT_ASSIGN_OR_RETURN(const uint64_t free_bytes, fs.FreeBytes(destination));
  if (free_bytes >= file_bytes) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat(destination, " needs ", file_bytes, " bytes, the disk has ", free_bytes, " free"));
}

absl::Status InTheWay(const std::string& path, absl::string_view why) {
  return absl::AlreadyExistsError(
      absl::StrCat(path, " exists and ", why, "; --force replaces it, another name keeps it"));
}

}  // namespace kompakt
