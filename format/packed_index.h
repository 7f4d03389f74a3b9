// PackedIndex: everything of a packed file that is not weight bytes, read and checked: header, footer, manifest, and
// that the manifest describes exactly the file that its ArchSpec demands (docs/format.md, section 9).
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "format/file_system.h"
#include "format/manifest.pb.h"
#include "format/model_schema.h"
#include "format/packed_frame.h"
#include "format/packed_layout.h"

namespace kompakt {

struct PackedIndex {
  PackedHeader header;
  PackedFooter footer;
  Manifest manifest;
  ModelSchema schema;
  PackedLayout layout;
};

// Reads header, footer and manifest of `file`; no weight bytes. Messages begin with `path`.
//   kFailedPrecondition  not a packed file at all, or an unfinished one
//   kDataLoss            a packed file that is damaged or contradicts itself
//   kUnimplemented       another major version, or a feature, role or number format that this program does not know
absl::StatusOr<PackedIndex> ReadPackedIndex(const File& file, const std::string& path);

// The part of the checks that needs no file: `manifest` against the schema of its ArchSpec, with the extents ending
// before `manifest_offset`. Returns the layout, recomputed.
struct CheckedManifest {
  ModelSchema schema;
  PackedLayout layout;
};
absl::StatusOr<CheckedManifest> CheckManifest(const Manifest& manifest, uint64_t manifest_offset);

}  // namespace kompakt
