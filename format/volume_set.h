// A packed file of one or of several volumes, opened: its data as one File with logical offsets.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "format/file_system.h"
#include "format/packed_index.h"

namespace kompakt {

struct OpenedPacked {
  PackedIndex index;
  // The data at logical offsets. Of a set its size is where the data end. A range that is mapped must lie in one
  // volume, as every record does.
  std::unique_ptr<File> data;
  std::string path;         // of the file, or of the first volume
  uint64_t file_bytes = 0;  // of all volumes together
  struct OneFile {
    std::string path;
    uint64_t bytes = 0;
    // Of its stored manifest. That of the first holds a checksum of every record, so it stands for the whole set.
    uint64_t manifest_xxh3 = 0;
  };
  std::vector<OneFile> files;  // one, or one per volume
};

// Opens `path`: a packed file, any volume of a set, or NAME.kpk where only volumes of that name exist. Checks header,
// footer and manifest of every volume, and that they belong together. Reads no weights. What ReadPackedIndex returns,
// and for a set, naming the volume's file:
//   kNotFound   volumes are missing; says what they hold
//   kDataLoss   a volume is damaged, of another set, or under the name of another one
absl::StatusOr<OpenedPacked> OpenPacked(FileSystem& fs, const std::string& path);

// The same for the files of a set that lie elsewhere than their names say; one path: a single file.
absl::StatusOr<OpenedPacked> OpenPackedFiles(FileSystem& fs, const std::vector<std::string>& paths);

// Files of volumes as one File, for writing: WriteAt and Sync reach all of them. Sizes are set file by file.
std::unique_ptr<File> JoinVolumes(std::vector<std::unique_ptr<File>> files, const Volumes& volumes);

}  // namespace kompakt
