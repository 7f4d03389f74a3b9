#include "format/packed_index.h"

#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "format/checksum.h"
#include "format/status.h"
#include "format/volume_plan.h"

namespace kompakt {
namespace {

// Says what a file without any of our magic bytes is, as far as its name tells.
absl::Status NotAPackedFile(const std::string& path, uint64_t file_bytes) {
  if (absl::EndsWith(path, ".partial")) {
    return absl::FailedPreconditionError(absl::StrCat(
        path, ": an unfinished conversion; run the same kompakt convert command again and it goes on from here"));
  }
  return absl::FailedPreconditionError(
      absl::StrCat(path, ": not a .kpk file (", file_bytes, " bytes, without its magic bytes)"));
}

struct Ends {
  PackedHeader header;
  PackedFooter footer;
};

absl::StatusOr<Ends> ReadEnds(const File& file, const std::string& path, uint64_t file_bytes) {
  HeaderBytes header_bytes = {};
  FooterBytes footer_bytes = {};
  const bool short_file = file_bytes < kHeaderBytes + kFooterBytes;
  const uint64_t head = std::min<uint64_t>(file_bytes, kHeaderBytes);
  KOMPAKT_RETURN_IF_ERROR(file.ReadAt(0, absl::MakeSpan(header_bytes).first(head)));
  if (!short_file) KOMPAKT_RETURN_IF_ERROR(file.ReadAt(file_bytes - kFooterBytes, absl::MakeSpan(footer_bytes)));
  if (!HasHeaderMagic(header_bytes) && !HasFooterMagic(footer_bytes)) return NotAPackedFile(path, file_bytes);
  if (short_file) {
    return CorruptError(path, ": truncated: ", file_bytes, " bytes, a packed file has at least ",
                        kHeaderBytes + kFooterBytes);
  }
  absl::StatusOr<PackedHeader> header = DecodeHeader(header_bytes);
  if (!header.ok()) return WithContext(header.status(), path);
  // Before the footer: a truncated file is best told by its length.
  if (header->file_bytes != file_bytes) {
    return CorruptError(path, ": ", file_bytes < header->file_bytes ? "truncated" : "has trailing bytes", ": expected ",
                        header->file_bytes, " bytes, found ", file_bytes);
  }
  absl::StatusOr<PackedFooter> footer = DecodeFooter(footer_bytes);
  if (!footer.ok()) return WithContext(footer.status(), path);
  if (footer->whole_header_xxh3 != Xxh3(header_bytes)) {
    return CorruptError(path, ": header and footer belong to different files: expected header XXH3 ",
                        HexOf(footer->whole_header_xxh3), ", found ", HexOf(Xxh3(header_bytes)));
  }
  return Ends{*header, *footer};
}

absl::Status CheckManifestPlace(const PackedFooter& footer, uint64_t file_bytes) {
  const uint64_t room = file_bytes - kFooterBytes;  // at least kHeaderBytes
  if (footer.manifest_offset % kSmallAlign != 0 || footer.manifest_offset < kHeaderBytes ||
      footer.manifest_offset > room) {
    return CorruptError("footer: manifest_offset is ", footer.manifest_offset, ", expected a multiple of ", kSmallAlign,
                        " in [", kHeaderBytes, ", ", room, "]");
  }
  if (footer.manifest_stored_bytes != room - footer.manifest_offset) {
    return CorruptError("footer: manifest_stored_bytes is ", footer.manifest_stored_bytes, ", expected ",
                        room - footer.manifest_offset, ", up to the footer");
  }
  if (footer.manifest_bytes > kMaxManifestBytes || footer.manifest_stored_bytes > kMaxManifestBytes) {
    return CorruptError("footer: the manifest takes ", footer.manifest_stored_bytes, " bytes stored and ",
                        footer.manifest_bytes, " decompressed, the format holds at most ", kMaxManifestBytes);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<PackedFrame> ReadPackedFrame(const File& file, const std::string& path) {
  KOMPAKT_ASSIGN_OR_RETURN(const uint64_t file_bytes, file.Size());
  KOMPAKT_ASSIGN_OR_RETURN(Ends ends, ReadEnds(file, path, file_bytes));
  PackedFrame frame;
  frame.header = ends.header;
  frame.footer = ends.footer;
  const PackedFooter& footer = frame.footer;
  if (absl::Status s = CheckManifestPlace(footer, file_bytes); !s.ok()) return WithContext(s, path);

  std::vector<uint8_t> stored(footer.manifest_stored_bytes);
  KOMPAKT_RETURN_IF_ERROR(file.ReadAt(footer.manifest_offset, absl::MakeSpan(stored)));
  if (const uint64_t found = Xxh3(stored); found != footer.manifest_xxh3) {
    return CorruptError(path, ": manifest at ", footer.manifest_offset, " is damaged: expected XXH3 ",
                        HexOf(footer.manifest_xxh3), ", found ", HexOf(found));
  }
  absl::StatusOr<Manifest> manifest = DecodeManifest(stored, footer.manifest_bytes);
  if (!manifest.ok()) return WithContext(manifest.status(), path);
  frame.manifest = *std::move(manifest);
  absl::Status status = CheckFeatures(frame.header.required_features, frame.manifest);
  if (status.ok()) status = CheckVolumes(frame.header, frame.manifest, footer.manifest_offset);
  if (!status.ok()) return WithContext(status, path);
  return frame;
}

absl::StatusOr<PackedIndex> IndexOfFrame(PackedFrame frame, const std::string& path) {
  PackedIndex index;
  index.header = frame.header;
  index.footer = frame.footer;
  index.manifest = std::move(frame.manifest);
  const bool has_volumes = index.manifest.has_volumes();
  const Volumes& volumes = index.manifest.volumes();
  if (has_volumes && volumes.index() != 1) {
    return absl::FailedPreconditionError(absl::StrCat(path, ": volume ", volumes.index(), " of ", volumes.ends_size(),
                                                      ", expected the first, which holds the manifest"));
  }
  absl::StatusOr<CheckedManifest> checked =
      CheckManifest(index.manifest, has_volumes ? volumes.ends().rbegin()[0] : index.footer.manifest_offset);
  if (!checked.ok()) return WithContext(checked.status(), path);
  index.schema = std::move(checked->schema);
  index.layout = std::move(checked->layout);
  if (has_volumes) {
    if (absl::Status s = CheckCuts(volumes, index.layout); !s.ok()) return WithContext(s, path);
  }
  return index;
}

absl::StatusOr<PackedIndex> ReadPackedIndex(const File& file, const std::string& path) {
  KOMPAKT_ASSIGN_OR_RETURN(PackedFrame frame, ReadPackedFrame(file, path));
  return IndexOfFrame(std::move(frame), path);
}

FilePlace PlaceOf(const PackedIndex& index, const std::string& path, uint64_t logical_offset) {
  if (index.volume_paths.empty()) return {path, logical_offset};
  const Volumes& volumes = index.manifest.volumes();
  const int volume = VolumeOf(volumes, logical_offset);
  return {index.volume_paths[static_cast<size_t>(volume - 1)], OffsetInVolume(volumes, volume, logical_offset)};
}

}  // namespace kompakt
