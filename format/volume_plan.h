// Volumes: one packed file cut into several files of a bounded size.
//
// The layout does not change: offsets stay logical, as if there were one file. The data [0, data_end) are cut at
// offsets of records that are multiples of 4096, so that no record lies in two volumes.
//   volume 1       header, data [64, ends[0]) at their own offsets, the whole manifest, footer
//   volume k > 1   header, zeros up to 4096, data [ends[k-2], ends[k-1]), a small manifest, footer
// Every volume is framed as a packed file is (format/packed_frame.h), with the required feature "volumes", so that a
// reader that does not know volumes says so, whichever of them it is given. docs/format.md, section 11.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "format/manifest.pb.h"
#include "format/packed_frame.h"
#include "format/packed_layout.h"
#include "format/packed_writer.h"

namespace kompakt {

// Each volume is an open file.
inline constexpr int kMaxVolumes = 999;

// Logical bytes of volume `index` (from 1).
struct VolumeSpan {
  uint64_t begin = 0;
  uint64_t end = 0;
};
VolumeSpan SpanOfVolume(const Volumes& volumes, int index);
// Where the volume's file has the logical `offset`, which lies in it.
uint64_t OffsetInVolume(const Volumes& volumes, int index, uint64_t offset);
// Which volume (from 1) holds the logical `offset`, which is below the last end.
int VolumeOf(const Volumes& volumes, uint64_t offset);

// Cuts the file of `plan` into volumes of at most `volume_bytes` each, every one as large as that allows, by filling in
// plan.manifest's volumes and feature. One volume is enough: the plan stays that of a single file. kInvalidArgument
// naming the least size that works when a record is larger, or there would be more than kMaxVolumes.
absl::Status CutIntoVolumes(WritePlan& plan, uint64_t volume_bytes);

// Sizes of the finished files, one per volume; of a single file, one.
absl::StatusOr<std::vector<uint64_t>> VolumeFileBytes(const WritePlan& plan);

// The manifest that volume `index` (from 1) of the file with manifest `first` carries.
Manifest ManifestOfVolume(const Manifest& first, int index);

// XXH3 of the manifest with set_id 0: another recipe, source or weight makes another set.
uint64_t SetIdOf(Manifest first);

// What a volume holds, for people: "model.embed_tokens.weight to layer 3 expert 17".
std::string ContentOfVolume(const PackedLayout& layout, VolumeSpan span);

// The feature bit and the manifest's volumes belong together, the numbers are sane, and the data of this volume end at
// manifest_offset. kDataLoss; messages carry no file name.
absl::Status CheckVolumes(const PackedHeader& header, const Manifest& manifest, uint64_t manifest_offset);

// Every end but the last is the offset of a record; the last is where the layout ends.
absl::Status CheckCuts(const Volumes& volumes, const PackedLayout& layout);

}  // namespace kompakt
