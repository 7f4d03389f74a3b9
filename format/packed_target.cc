#include "format/packed_target.h"

#include <algorithm>
#include <utility>

#include "format/checksum.h"
#include "format/packed_frame.h"
#include "format/packed_verify.h"
#include "format/status.h"
#include "format/volume_name.h"
#include "format/volume_plan.h"

namespace kompakt {
namespace {

constexpr uint64_t kWritePieceBytes = 1 << 20;

// What surrounds the data of one file.
struct FrameBytes {
  HeaderBytes header = {};
  uint64_t manifest_offset = 0;
  std::vector<uint8_t> end;  // manifest and footer
};

absl::StatusOr<FrameBytes> FrameOf(const Manifest& manifest, const Volumes& volumes, int index, uint64_t data_end) {
  FrameBytes frame;
  const bool single = volumes.ends_size() == 0;
  frame.manifest_offset = single ? data_end : OffsetInVolume(volumes, index, SpanOfVolume(volumes, index).end);
  KOMPAKT_ASSIGN_OR_RETURN(StoredManifest stored,
                           EncodeManifest(index == 1 ? manifest : ManifestOfVolume(manifest, index)));
  frame.header = EncodeHeader({.minor = MinorVersionOf(manifest),
                               .file_bytes = frame.manifest_offset + stored.bytes.size() + kFooterBytes,
                               .required_features = single ? 0 : kVolumesFeature});
  const FooterBytes footer = EncodeFooter({.manifest_offset = frame.manifest_offset,
                                           .manifest_stored_bytes = stored.bytes.size(),
                                           .manifest_bytes = stored.manifest_bytes,
                                           .manifest_xxh3 = Xxh3(stored.bytes),
                                           .whole_header_xxh3 = Xxh3(frame.header)});
  frame.end = std::move(stored.bytes);
  frame.end.insert(frame.end.end(), footer.begin(), footer.end());
  return frame;
}

absl::Status WriteInPieces(File& file, uint64_t offset, absl::Span<const uint8_t> bytes) {
  for (uint64_t done = 0; done < bytes.size(); done += kWritePieceBytes) {
    KOMPAKT_RETURN_IF_ERROR(file.WriteAt(offset + done, bytes.subspan(done, kWritePieceBytes)));
  }
  return absl::OkStatus();
}

}  // namespace

std::vector<std::string> TargetPaths(const std::string& destination, const Manifest& plan) {
  if (!plan.has_volumes()) return {destination};
  return VolumePaths(destination, static_cast<uint32_t>(plan.volumes().ends_size()));
}

std::string PartialPath(const std::string& path) { return path + ".partial"; }

std::string PartialNames(const std::vector<std::string>& paths) {
  if (paths.size() == 1) return PartialPath(paths[0]);
  return absl::StrCat(PartialPath(paths.front()), " to ", PartialPath(paths.back()));
}

bool AnyPartial(FileSystem& fs, const std::vector<std::string>& paths) {
  return std::any_of(paths.begin(), paths.end(), [&](const std::string& p) { return fs.Exists(PartialPath(p)); });
}

void RemovePartials(FileSystem& fs, const std::vector<std::string>& paths) {
  for (const std::string& path : paths) {
    if (fs.Exists(PartialPath(path))) (void)fs.Remove(PartialPath(path));
  }
}

Manifest WithSetId(Manifest manifest) {
  if (manifest.has_volumes()) manifest.mutable_volumes()->set_set_id(SetIdOf(manifest));
  return manifest;
}

PackedTarget::PackedTarget(FileSystem& fs, std::string destination, const WritePlan& plan, std::vector<uint64_t> bytes)
    : fs_(fs),
      destination_(std::move(destination)),
      layout_(plan.layout),
      volumes_(plan.manifest.volumes()),
      paths_(TargetPaths(destination_, plan.manifest)),
      bytes_(std::move(bytes)),
      published_(paths_.size(), false) {}

absl::StatusOr<std::unique_ptr<PackedTarget>> PackedTarget::Create(FileSystem& fs, const std::string& destination,
                                                                   const WritePlan& plan) {
  KOMPAKT_ASSIGN_OR_RETURN(std::vector<uint64_t> bytes, VolumeFileBytes(plan));
  return std::unique_ptr<PackedTarget>(new PackedTarget(fs, destination, plan, std::move(bytes)));
}

absl::Status PackedTarget::OpenAll() {
  std::vector<std::unique_ptr<File>> files;
  for (int v = 0; v < count(); ++v) {
    const std::string& path = paths_[static_cast<size_t>(v)];
    KOMPAKT_ASSIGN_OR_RETURN(std::unique_ptr<File> file, published_[static_cast<size_t>(v)]
                                                             ? fs_.OpenForRead(path)
                                                             : fs_.OpenForWrite(PartialPath(path)));
    files.push_back(std::move(file));
  }
  data_ = count() == 1 && volumes_.ends_size() == 0 ? std::move(files[0]) : JoinVolumes(std::move(files), volumes_);
  return absl::OkStatus();
}

absl::Status PackedTarget::AllocateOne(size_t v, Leftover leftover) {
  KOMPAKT_ASSIGN_OR_RETURN(const std::unique_ptr<File> file, fs_.OpenForWrite(PartialPath(paths_[v])));
  KOMPAKT_ASSIGN_OR_RETURN(const uint64_t size, file->Size());
  if (leftover == kEmptied) {
    KOMPAKT_RETURN_IF_ERROR(file->Truncate(0));
  } else if (size > bytes_[v]) {
    return absl::FailedPreconditionError(absl::StrCat(PartialPath(paths_[v]), ": has ", size, " bytes, expected ",
                                                      bytes_[v],
                                                      "; it belongs to something else: delete it and start again"));
  }
  return file->Allocate(bytes_[v]);
}

absl::Status PackedTarget::Allocate(Leftover leftover) {
  data_.reset();
  published_.assign(paths_.size(), false);
  for (size_t v = 0; v < paths_.size(); ++v) KOMPAKT_RETURN_IF_ERROR(AllocateOne(v, leftover));
  return OpenAll();
}

absl::StatusOr<bool> PackedTarget::HoldsFinished(int index, const Manifest& finished,
                                                 const std::atomic<bool>* interrupted) const {
  const size_t v = static_cast<size_t>(index - 1);
  const absl::StatusOr<std::unique_ptr<File>> opened = fs_.OpenForRead(paths_[v]);
  if (absl::IsFailedPrecondition(opened.status())) return false;  // a folder
  if (!opened.ok()) return opened.status();
  const File& file = **opened;
  KOMPAKT_ASSIGN_OR_RETURN(const uint64_t bytes, file.Size());
  if (bytes != bytes_[v]) return false;
  KOMPAKT_ASSIGN_OR_RETURN(const FrameBytes frame, FrameOf(finished, volumes_, index, layout_.data_end()));
  HeaderBytes header;
  std::vector<uint8_t> end(frame.end.size());
  KOMPAKT_RETURN_IF_ERROR(file.ReadAt(0, absl::MakeSpan(header)));
  KOMPAKT_RETURN_IF_ERROR(file.ReadAt(frame.manifest_offset, absl::MakeSpan(end)));
  if (header != frame.header || end != frame.end) return false;
  const VolumeSpan span = SpanOfVolume(volumes_, index);
  for (size_t e = 0; e < layout_.extents().size(); ++e) {
    const Extent& extent = layout_.extents()[e];
    for (int64_t r = 0; r < extent.record_count; ++r) {
      const uint64_t offset = extent.record_offset(r);
      if (offset < span.begin || offset >= span.end) continue;
      KOMPAKT_ASSIGN_OR_RETURN(const uint64_t xxh3, HashRange(file, OffsetInVolume(volumes_, index, offset),
                                                              extent.record_bytes, interrupted));
      if (xxh3 != finished.extents(static_cast<int>(e)).record_xxh3(static_cast<int>(r))) return false;
    }
  }
  return true;
}

absl::Status PackedTarget::Resume(const Manifest* finished, Leftover leftover, const std::atomic<bool>* interrupted) {
  for (size_t v = 0; v < paths_.size(); ++v) {
    const std::string partial = PartialPath(paths_[v]);
    const bool has_partial = fs_.Exists(partial);
    if (!has_partial && finished != nullptr && fs_.Exists(paths_[v])) {
      KOMPAKT_ASSIGN_OR_RETURN(const bool holds, HoldsFinished(static_cast<int>(v) + 1, *finished, interrupted));
      published_[v] = holds;
      if (holds) continue;
    }
    if (has_partial) {
      KOMPAKT_ASSIGN_OR_RETURN(const std::unique_ptr<File> file, fs_.OpenForRead(partial));
      KOMPAKT_ASSIGN_OR_RETURN(const uint64_t size, file->Size());
      if (size == bytes_[v]) continue;
    }
    KOMPAKT_RETURN_IF_ERROR(AllocateOne(v, leftover));
  }
  return OpenAll();
}

bool PackedTarget::IsPublished(uint64_t offset) const {
  const int index = volumes_.ends_size() == 0 ? 1 : VolumeOf(volumes_, offset);
  return published_[static_cast<size_t>(index - 1)];
}

absl::Status PackedTarget::WriteEnds(const Manifest& manifest) {
  const std::vector<uint8_t> zeros(kPageBytes - kHeaderBytes, 0);
  for (int index = 1; index <= count(); ++index) {
    const size_t v = static_cast<size_t>(index - 1);
    if (published_[v]) continue;
    KOMPAKT_ASSIGN_OR_RETURN(const FrameBytes frame, FrameOf(manifest, volumes_, index, layout_.data_end()));
    if (const uint64_t bytes = frame.manifest_offset + frame.end.size(); bytes != bytes_[v]) {
      return absl::InternalError(
          absl::StrCat(paths_[v], ": planned ", bytes_[v], " bytes, the manifest makes it ", bytes));
    }
    KOMPAKT_ASSIGN_OR_RETURN(const std::unique_ptr<File> file, fs_.OpenForWrite(PartialPath(paths_[v])));
    if (index > 1) KOMPAKT_RETURN_IF_ERROR(file->WriteAt(kHeaderBytes, zeros));
    KOMPAKT_RETURN_IF_ERROR(WriteInPieces(*file, frame.manifest_offset, frame.end));
  }
  return absl::OkStatus();
}

absl::Status PackedTarget::WriteHeaders(const Manifest& manifest) {
  for (int index = 1; index <= count(); ++index) {
    const size_t v = static_cast<size_t>(index - 1);
    if (published_[v]) continue;
    KOMPAKT_ASSIGN_OR_RETURN(const FrameBytes frame, FrameOf(manifest, volumes_, index, layout_.data_end()));
    KOMPAKT_ASSIGN_OR_RETURN(const std::unique_ptr<File> file, fs_.OpenForWrite(PartialPath(paths_[v])));
    KOMPAKT_RETURN_IF_ERROR(file->WriteAt(0, frame.header));
  }
  return absl::OkStatus();
}

absl::Status PackedTarget::ClearHeaders() {
  for (size_t v = 0; v < paths_.size(); ++v) {
    if (published_[v]) continue;
    KOMPAKT_ASSIGN_OR_RETURN(const std::unique_ptr<File> file, fs_.OpenForWrite(PartialPath(paths_[v])));
    KOMPAKT_RETURN_IF_ERROR(file->WriteAt(0, HeaderBytes{}));
  }
  return absl::OkStatus();
}

std::vector<std::string> PackedTarget::PresentPaths() const {
  std::vector<std::string> names;
  for (size_t v = 0; v < paths_.size(); ++v) names.push_back(published_[v] ? paths_[v] : PartialPath(paths_[v]));
  return names;
}

absl::StatusOr<OpenedPacked> PackedTarget::OpenWithoutHeaders(const Manifest& manifest) const {
  OpenedPacked opened;
  const std::vector<std::string> paths = PresentPaths();
  opened.path = paths[0];
  opened.index.manifest = manifest;
  opened.index.layout = layout_;
  std::vector<std::unique_ptr<File>> files;
  for (const std::string& path : paths) {
    KOMPAKT_ASSIGN_OR_RETURN(std::unique_ptr<File> file, fs_.OpenForRead(path));
    files.push_back(std::move(file));
  }
  if (volumes_.ends_size() == 0) {
    opened.data = std::move(files[0]);
  } else {
    opened.data = JoinVolumes(std::move(files), volumes_);
    opened.index.volume_paths = paths;
  }
  return opened;
}

absl::StatusOr<OpenedPacked> PackedTarget::Reopen() const { return OpenPackedFiles(fs_, PresentPaths()); }

absl::Status PackedTarget::Publish() {
  data_.reset();
  if (count() > 1) {
    for (const std::string& old : {paths_[0], destination_}) {
      if (fs_.Exists(old)) KOMPAKT_RETURN_IF_ERROR(fs_.Remove(old));
    }
  }
  for (size_t v = paths_.size(); v-- > 0;) {
    if (published_[v]) continue;
    KOMPAKT_RETURN_IF_ERROR(fs_.Rename(PartialPath(paths_[v]), paths_[v]));
    published_[v] = true;
  }
  return absl::OkStatus();
}

}  // namespace kompakt
