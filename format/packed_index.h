// PackedIndex: everything of a packed file that is not weight bytes, read and checked: header, footer, manifest, and
// that the manifest describes exactly the file that its ArchSpec demands (docs/format.md, section 9).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "format/file_system.h"
#include "format/manifest.pb.h"
#include "format/model_schema.h"
#include "format/packed_frame.h"
#include "format/packed_layout.h"

namespace kompakt {

// What every packed file has, and every volume of one.
struct PackedFrame {
  PackedHeader header;
  PackedFooter footer;
  Manifest manifest;
};

struct PackedIndex {
  PackedHeader header;
  PackedFooter footer;
  Manifest manifest;
  ModelSchema schema;
  PackedLayout layout;
  std::vector<std::string> volume_paths;  // one per volume; empty for a single file, and until they are looked for
};

// Reads header, footer and manifest of `file`; no weight bytes. Messages begin with `path`.
//   kFailedPrecondition  not a packed file at all, or an unfinished one; for ReadPackedIndex, a later volume
//   kDataLoss            a packed file that is damaged or contradicts itself
//   kUnimplemented       another major version, or a feature, role or number format that this program does not know
absl::StatusOr<PackedFrame> ReadPackedFrame(const File& file, const std::string& path);
// The same, and that the manifest describes a whole model. A first volume is looked at alone: OpenPacked
// (format/volume_set.h) looks at the others too.
absl::StatusOr<PackedIndex> ReadPackedIndex(const File& file, const std::string& path);
absl::StatusOr<PackedIndex> IndexOfFrame(PackedFrame frame, const std::string& path);

// Where a byte of the data lies, for messages: the file and the offset in it.
struct FilePlace {
  std::string path;
  uint64_t offset = 0;
};
FilePlace PlaceOf(const PackedIndex& index, const std::string& path, uint64_t logical_offset);

// The part of the checks that needs no file: `manifest` against the schema of its ArchSpec, with the extents ending at
// `data_end`. Returns the layout, recomputed.
struct CheckedManifest {
  ModelSchema schema;
  PackedLayout layout;
};
// Of that, only what roles, formats and the ArchSpec say; also of a PlanIdentity.
absl::StatusOr<CheckedManifest> DescribedBy(const Manifest& manifest);
absl::StatusOr<CheckedManifest> CheckManifest(const Manifest& manifest, uint64_t data_end);

}  // namespace kompakt
