#include "format/volume_plan.h"

#include <algorithm>
#include <utility>

#include "absl/types/optional.h"
#include "format/checksum.h"
#include "format/packed_verify.h"
#include "format/status.h"

namespace kompakt {
namespace {

// Offsets at which the data may be cut, ascending; the end of the data is the last.
std::vector<uint64_t> PossibleEnds(const PackedLayout& layout) {
  std::vector<uint64_t> ends;
  for (const Extent& extent : layout.extents()) {
    for (int64_t r = 0; r < extent.record_count; ++r) {
      if (extent.record_offset(r) % kPageBytes == 0) ends.push_back(extent.record_offset(r));
    }
  }
  ends.push_back(layout.data_end());
  return ends;
}

void SetVolumes(Manifest& manifest, const std::vector<uint64_t>& ends) {
  Feature& feature = *manifest.add_features();
  feature.set_bit(0);
  feature.set_required(true);
  feature.set_name(kVolumesFeatureName);
  Volumes& volumes = *manifest.mutable_volumes();
  volumes.set_set_id(0);
  volumes.set_index(1);
  volumes.mutable_ends()->Assign(ends.begin(), ends.end());
}

// Bytes of a file that are not data, for a set of `count` volumes.
struct Overhead {
  uint64_t first = 0;
  uint64_t later = 0;
};

class Cutter {
 public:
  static absl::StatusOr<Cutter> Create(const WritePlan& plan) {
    Cutter cutter;
    cutter.ends_ = PossibleEnds(plan.layout);
    WritePlan framed = plan;
    SetVolumes(framed.manifest, {});
    KOMPAKT_ASSIGN_OR_RETURN(const uint64_t file_bytes, PackedFileBytes(plan));
    cutter.single_bytes_ = file_bytes;
    KOMPAKT_ASSIGN_OR_RETURN(const uint64_t framed_bytes, PackedFileBytes(framed));
    cutter.first_frame_bytes_ = framed_bytes - plan.layout.data_end();
    KOMPAKT_ASSIGN_OR_RETURN(const StoredManifest small, EncodeManifest(ManifestOfVolume(framed.manifest, 1)));
    cutter.later_frame_bytes_ = small.bytes.size() + kFooterBytes;
    return cutter;
  }

  uint64_t single_bytes() const { return single_bytes_; }

  // The ends of the volumes; none when `volume_bytes` is too little.
  absl::optional<std::vector<uint64_t>> Cut(uint64_t volume_bytes) const {
    // The manifest grows with the number of volumes, and that number with the manifest; it never falls.
    for (int count = 2; count <= kMaxVolumes;) {
      absl::optional<std::vector<uint64_t>> ends = CutFor(volume_bytes, OverheadOf(count));
      if (!ends.has_value()) return absl::nullopt;
      if (static_cast<int>(ends->size()) <= count) return ends;
      count = static_cast<int>(ends->size());
    }
    return absl::nullopt;
  }

  uint64_t LeastVolumeBytes() const {
    uint64_t too_little = 0, enough = single_bytes_;
    while (enough - too_little > 1) {
      const uint64_t middle = too_little + (enough - too_little) / 2;
      (Cut(middle).has_value() ? enough : too_little) = middle;  // one file, which is not a set, takes single_bytes_
    }
    return enough;
  }

 private:
  // An upper bound; what a manifest takes for the volumes themselves depends on their number only.
  Overhead OverheadOf(int count) const {
    Manifest empty, full;
    SetVolumes(empty, {});
    SetVolumes(full, std::vector<uint64_t>(static_cast<size_t>(count), 0));
    full.mutable_volumes()->set_index(static_cast<uint32_t>(count));
    const uint64_t more = full.ByteSizeLong() - empty.ByteSizeLong();
    // One block of the raw frame more at the most, for `more` is less than a block.
    const uint64_t block_head = RawFrameBytes(1) - RawFrameBytes(0) + 2;
    return {first_frame_bytes_ + more + block_head, kPageBytes + later_frame_bytes_ + more + block_head};
  }

  absl::optional<std::vector<uint64_t>> CutFor(uint64_t volume_bytes, const Overhead& overhead) const {
    std::vector<uint64_t> ends;
    uint64_t begin = 0;
    while (begin < ends_.back()) {
      const uint64_t frame = ends.empty() ? overhead.first : overhead.later;
      if (volume_bytes < frame) return absl::nullopt;
      const auto behind = std::upper_bound(ends_.begin(), ends_.end(), begin + (volume_bytes - frame));
      if (behind == ends_.begin() || *(behind - 1) <= begin) return absl::nullopt;
      begin = *(behind - 1);
      ends.push_back(begin);
      if (static_cast<int>(ends.size()) > kMaxVolumes) return absl::nullopt;
    }
    return ends;
  }

  std::vector<uint64_t> ends_;
  uint64_t single_bytes_ = 0;
  uint64_t first_frame_bytes_ = 0;
  uint64_t later_frame_bytes_ = 0;
};

}  // namespace

VolumeSpan SpanOfVolume(const Volumes& volumes, int index) {
  return {index == 1 ? 0 : volumes.ends(index - 2), volumes.ends(index - 1)};
}

uint64_t OffsetInVolume(const Volumes& volumes, int index, uint64_t offset) {
  return index == 1 ? offset : kPageBytes + (offset - SpanOfVolume(volumes, index).begin);
}

int VolumeOf(const Volumes& volumes, uint64_t offset) {
  return 1 + static_cast<int>(std::upper_bound(volumes.ends().begin(), volumes.ends().end(), offset) -
                              volumes.ends().begin());
}

absl::Status CutIntoVolumes(WritePlan& plan, uint64_t volume_bytes) {
  KOMPAKT_ASSIGN_OR_RETURN(const Cutter cutter, Cutter::Create(plan));
  if (cutter.single_bytes() <= volume_bytes) return absl::OkStatus();
  const absl::optional<std::vector<uint64_t>> ends = cutter.Cut(volume_bytes);
  if (!ends.has_value()) {
    return UsageError("volumes of at most ", volume_bytes, " bytes are too small for this model; expected at least ",
                      cutter.LeastVolumeBytes(), " (its largest record lies in one volume, the manifest in the first, ",
                      "and there are at most ", kMaxVolumes, " volumes)");
  }
  SetVolumes(plan.manifest, *ends);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<uint64_t>> VolumeFileBytes(const WritePlan& plan) {
  KOMPAKT_ASSIGN_OR_RETURN(const uint64_t whole, PackedFileBytes(plan));
  if (!plan.manifest.has_volumes()) return std::vector<uint64_t>{whole};
  const Volumes& volumes = plan.manifest.volumes();
  std::vector<uint64_t> files = {whole - plan.layout.data_end() + volumes.ends(0)};
  for (int index = 2; index <= volumes.ends_size(); ++index) {
    const VolumeSpan span = SpanOfVolume(volumes, index);
    KOMPAKT_ASSIGN_OR_RETURN(const StoredManifest stored, EncodeManifest(ManifestOfVolume(plan.manifest, index)));
    files.push_back(kPageBytes + (span.end - span.begin) + stored.bytes.size() + kFooterBytes);
  }
  return files;
}

Manifest ManifestOfVolume(const Manifest& first, int index) {
  Manifest manifest;
  *manifest.mutable_features() = first.features();
  *manifest.mutable_volumes() = first.volumes();
  manifest.mutable_volumes()->set_index(static_cast<uint32_t>(index));
  return manifest;
}

uint64_t SetIdOf(Manifest first) {
  first.mutable_volumes()->set_set_id(0);
  return Xxh3(first.SerializeAsString());
}

std::string ContentOfVolume(const PackedLayout& layout, VolumeSpan span) {
  std::string first, last;
  for (const Extent& extent : layout.extents()) {
    for (int64_t r = 0; r < extent.record_count; ++r) {
      if (extent.record_offset(r) < span.begin || extent.record_offset(r) >= span.end) continue;
      if (first.empty()) first = RecordName(extent, r);
      last = RecordName(extent, r);
    }
  }
  return first == last ? first : absl::StrCat(first, " to ", last);
}

absl::Status CheckVolumes(const PackedHeader& header, const Manifest& manifest, uint64_t manifest_offset) {
  const bool has_bit = (header.required_features & kVolumesFeature) != 0;
  if (!has_bit && !manifest.has_volumes()) return absl::OkStatus();
  if (!has_bit || !manifest.has_volumes()) {
    return CorruptError("the header says that this is ", has_bit ? "" : "not ", "a volume, the manifest that it is ",
                        has_bit ? "not" : "one");
  }
  const Volumes& volumes = manifest.volumes();
  const int count = volumes.ends_size();
  if (count < 2 || count > kMaxVolumes) {
    return CorruptError("manifest: ", count, " volumes, expected 2 to ", kMaxVolumes);
  }
  if (volumes.index() < 1 || volumes.index() > static_cast<uint32_t>(count)) {
    return CorruptError("manifest: volume ", volumes.index(), " of ", count);
  }
  uint64_t begin = 0;
  for (int v = 0; v < count; ++v) {
    const uint64_t end = volumes.ends(v);
    const uint64_t alignment = v + 1 < count ? kPageBytes : kSmallAlign;
    if (end <= begin || end % alignment != 0 || end > uint64_t{1} << 62) {
      return CorruptError("manifest: volume ", v + 1, " ends at ", end, ", expected a multiple of ", alignment,
                          " above ", begin);
    }
    begin = end;
  }
  const int index = static_cast<int>(volumes.index());
  const uint64_t expected = OffsetInVolume(volumes, index, SpanOfVolume(volumes, index).end);
  if (manifest_offset != expected) {
    return CorruptError("footer: manifest_offset is ", manifest_offset, ", expected ", expected, " for volume ", index);
  }
  return absl::OkStatus();
}

absl::Status CheckCuts(const Volumes& volumes, const PackedLayout& layout) {
  const std::vector<uint64_t> possible = PossibleEnds(layout);
  for (const uint64_t end : volumes.ends()) {
    if (!std::binary_search(possible.begin(), possible.end(), end)) {
      return CorruptError("manifest: a volume ends at ", end, ", where no record begins");
    }
  }
  if (volumes.ends().rbegin()[0] == layout.data_end()) return absl::OkStatus();
  return CorruptError("manifest: the last volume ends at ", volumes.ends().rbegin()[0], ", expected ",
                      layout.data_end());
}

}  // namespace kompakt
