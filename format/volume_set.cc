#include "format/volume_set.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_join.h"
#include "format/status.h"
#include "format/volume_name.h"
#include "format/volume_plan.h"

namespace kompakt {
namespace {

class JoinedFile : public File {
 public:
  JoinedFile(std::vector<std::unique_ptr<File>> files, Volumes volumes)
      : files_(std::move(files)), volumes_(std::move(volumes)) {}

  absl::Status WriteAt(uint64_t offset, absl::Span<const uint8_t> bytes) override {
    return ForEachPiece(offset, bytes.size(), [&](File& file, uint64_t at, uint64_t first, uint64_t count) {
      return file.WriteAt(at, bytes.subspan(first, count));
    });
  }
  absl::Status ReadAt(uint64_t offset, absl::Span<uint8_t> bytes) const override {
    return ForEachPiece(offset, bytes.size(), [&](const File& file, uint64_t at, uint64_t first, uint64_t count) {
      return file.ReadAt(at, bytes.subspan(first, count));
    });
  }
  absl::StatusOr<uint64_t> Size() const override { return End(); }
  absl::StatusOr<absl::Span<const uint8_t>> Map(uint64_t offset, uint64_t bytes) override {
    if (offset >= End() || bytes > SpanOfVolume(volumes_, VolumeOf(volumes_, offset)).end - offset) {
      return absl::InternalError(absl::StrCat("volumes: ", bytes, " bytes at ", offset, " do not lie in one volume"));
    }
    const int volume = VolumeOf(volumes_, offset);
    return files_[static_cast<size_t>(volume - 1)]->Map(OffsetInVolume(volumes_, volume, offset), bytes);
  }
  absl::Status Allocate(uint64_t) override { return SizeIsFixed(); }
  absl::Status Truncate(uint64_t) override { return SizeIsFixed(); }
  absl::Status Sync() override {
    for (const auto& file : files_) KOMPAKT_RETURN_IF_ERROR(file->Sync());
    return absl::OkStatus();
  }
  void WillNeed(uint64_t offset, uint64_t bytes) const override {
    (void)ForEachPiece(offset, bytes, [](const File& file, uint64_t at, uint64_t, uint64_t count) {
      file.WillNeed(at, count);
      return absl::OkStatus();
    });
  }
  void Drop(uint64_t offset, uint64_t bytes) const override {
    (void)ForEachPiece(offset, bytes, [](const File& file, uint64_t at, uint64_t, uint64_t count) {
      file.Drop(at, count);
      return absl::OkStatus();
    });
  }
  void StartWriteBack(uint64_t offset, uint64_t bytes) override {
    (void)ForEachPiece(offset, bytes, [](File& file, uint64_t at, uint64_t, uint64_t count) {
      file.StartWriteBack(at, count);
      return absl::OkStatus();
    });
  }
  absl::Status FinishWriteBack(uint64_t offset, uint64_t bytes) override {
    return ForEachPiece(offset, bytes, [](File& file, uint64_t at, uint64_t, uint64_t count) {
      return file.FinishWriteBack(at, count);
    });
  }
  absl::StatusOr<bool> IsLocked() const override { return false; }
  absl::Status Lock() override { return absl::InternalError("volumes: a set has no lock of its own"); }

 private:
  uint64_t End() const { return volumes_.ends().rbegin()[0]; }
  static absl::Status SizeIsFixed() { return absl::InternalError("volumes: sizes are set file by file"); }

  // Calls what(file, offset in it, first byte of ours, count) for each volume that [offset, offset + bytes) touches.
  template <typename What>
  absl::Status ForEachPiece(uint64_t offset, uint64_t bytes, const What& what) const {
    if (offset > End() || bytes > End() - offset) {
      return CorruptError("the volumes end at byte ", End(), ", expected ", bytes, " bytes at ", offset);
    }
    for (uint64_t done = 0; done < bytes;) {
      const int volume = VolumeOf(volumes_, offset + done);
      const uint64_t count = std::min(bytes - done, SpanOfVolume(volumes_, volume).end - (offset + done));
      KOMPAKT_RETURN_IF_ERROR(
          what(*files_[static_cast<size_t>(volume - 1)], OffsetInVolume(volumes_, volume, offset + done), done, count));
      done += count;
    }
    return absl::OkStatus();
  }

  std::vector<std::unique_ptr<File>> files_;
  Volumes volumes_;
};

absl::Status CheckPagePadding(const File& file, const std::string& path) {
  std::vector<uint8_t> padding(kPageBytes - kHeaderBytes);
  KOMPAKT_RETURN_IF_ERROR(file.ReadAt(kHeaderBytes, absl::MakeSpan(padding)));
  const auto bad = std::find_if(padding.begin(), padding.end(), [](uint8_t b) { return b != 0; });
  if (bad == padding.end()) return absl::OkStatus();
  return CorruptError(path, ": padding byte at ", kHeaderBytes + static_cast<uint64_t>(bad - padding.begin()), " is ",
                      static_cast<int>(*bad), ", expected 0");
}

// A later volume: is it the one that `first` expects as its volume `index`?
absl::Status CheckBelongs(const PackedIndex& first, const std::string& first_path, const PackedFrame& volume,
                          const std::string& path, int index) {
  const Volumes& expected = first.manifest.volumes();
  if (!volume.manifest.has_volumes()) {
    return CorruptError(path, ": a whole packed file, expected volume ", index, " of the set of ", first_path);
  }
  const Volumes& found = volume.manifest.volumes();
  if (found.set_id() != expected.set_id()) {
    return CorruptError(path, ": a volume of another set: expected set id ",
                        absl::Hex(expected.set_id(), absl::kZeroPad16), ", that of ", first_path, ", found ",
                        absl::Hex(found.set_id(), absl::kZeroPad16));
  }
  if (found.index() != static_cast<uint32_t>(index)) {
    return CorruptError(path, ": holds volume ", found.index(), " of its set, its name says ", index);
  }
  if (!std::equal(found.ends().begin(), found.ends().end(), expected.ends().begin(), expected.ends().end())) {
    return CorruptError(path, ": is cut at other places than ", first_path, " says");
  }
  return absl::OkStatus();
}

absl::Status CheckNoneMissing(FileSystem& fs, const std::vector<std::string>& paths, const PackedIndex& index) {
  constexpr size_t kMaxNamed = 8;
  std::vector<std::string> missing;
  for (size_t v = 1; v < paths.size(); ++v) {
    if (fs.Exists(paths[v])) continue;
    missing.push_back(absl::StrCat(
        paths[v], " (", ContentOfVolume(index.layout, SpanOfVolume(index.manifest.volumes(), static_cast<int>(v) + 1)),
        ")"));
  }
  if (missing.empty()) return absl::OkStatus();
  const size_t count = missing.size();
  if (count > kMaxNamed) missing.resize(kMaxNamed);
  return absl::NotFoundError(absl::StrCat(paths[0], ": ", count, " of its ", paths.size(),
                                          count == 1 ? " volumes is missing: " : " volumes are missing: ",
                                          absl::StrJoin(missing, ", "), count > kMaxNamed ? ", and more" : ""));
}

// The rest of a set whose first volume is opened already.
absl::StatusOr<OpenedPacked> OpenSet(FileSystem& fs, const std::vector<std::string>& paths,
                                     std::unique_ptr<File> first_file, PackedFrame first_frame) {
  OpenedPacked opened;
  opened.path = paths[0];
  KOMPAKT_ASSIGN_OR_RETURN(opened.index, IndexOfFrame(std::move(first_frame), opened.path));
  opened.file_bytes = opened.index.header.file_bytes;
  opened.files.push_back({opened.path, opened.file_bytes, opened.index.footer.manifest_xxh3});
  if (!opened.index.manifest.has_volumes()) {
    opened.data = std::move(first_file);
    return opened;
  }
  const Volumes& volumes = opened.index.manifest.volumes();
  if (static_cast<int>(paths.size()) != volumes.ends_size()) {
    return CorruptError(opened.path, ": volume 1 of ", volumes.ends_size(), ", its name says of ", paths.size());
  }
  KOMPAKT_RETURN_IF_ERROR(CheckNoneMissing(fs, paths, opened.index));
  std::vector<std::unique_ptr<File>> files;
  files.push_back(std::move(first_file));
  for (size_t v = 1; v < paths.size(); ++v) {
    KOMPAKT_ASSIGN_OR_RETURN(std::unique_ptr<File> file, fs.OpenForRead(paths[v]));
    KOMPAKT_ASSIGN_OR_RETURN(const PackedFrame frame, ReadPackedFrame(*file, paths[v]));
    KOMPAKT_RETURN_IF_ERROR(CheckBelongs(opened.index, opened.path, frame, paths[v], static_cast<int>(v) + 1));
    KOMPAKT_RETURN_IF_ERROR(CheckPagePadding(*file, paths[v]));
    opened.file_bytes += frame.header.file_bytes;
    opened.files.push_back({paths[v], frame.header.file_bytes, frame.footer.manifest_xxh3});
    files.push_back(std::move(file));
  }
  opened.data = JoinVolumes(std::move(files), volumes);
  opened.index.volume_paths = paths;
  return opened;
}

}  // namespace

std::unique_ptr<File> JoinVolumes(std::vector<std::unique_ptr<File>> files, const Volumes& volumes) {
  return std::make_unique<JoinedFile>(std::move(files), volumes);
}

absl::StatusOr<OpenedPacked> OpenPackedFiles(FileSystem& fs, const std::vector<std::string>& paths) {
  KOMPAKT_ASSIGN_OR_RETURN(std::unique_ptr<File> file, fs.OpenForRead(paths[0]));
  KOMPAKT_ASSIGN_OR_RETURN(PackedFrame frame, ReadPackedFrame(*file, paths[0]));
  return OpenSet(fs, paths, std::move(file), std::move(frame));
}

absl::StatusOr<OpenedPacked> OpenPacked(FileSystem& fs, const std::string& path) {
  KOMPAKT_ASSIGN_OR_RETURN(const std::string found, ResolvePackedPath(fs, path));
  KOMPAKT_ASSIGN_OR_RETURN(std::unique_ptr<File> file, fs.OpenForRead(found));
  KOMPAKT_ASSIGN_OR_RETURN(PackedFrame frame, ReadPackedFrame(*file, found));
  if (!frame.manifest.has_volumes()) return OpenSet(fs, {found}, std::move(file), std::move(frame));

  const Volumes& volumes = frame.manifest.volumes();
  const auto count = static_cast<uint32_t>(volumes.ends_size());
  const absl::optional<VolumeName> name = ParseVolumePath(found);
  const std::string needed = VolumePath("NAME", volumes.index(), count);
  if (!name.has_value()) {
    return absl::FailedPreconditionError(absl::StrCat(found, ": volume ", volumes.index(), " of ", count,
                                                      ", expected under a name like ", needed,
                                                      ", by which the other volumes are found"));
  }
  if (name->index != volumes.index() || name->count != count) {
    return CorruptError(found, ": holds volume ", volumes.index(), " of ", count, ", its name says ", name->index,
                        " of ", name->count);
  }
  const std::vector<std::string> paths = VolumePaths(name->whole, count);
  if (volumes.index() == 1) return OpenSet(fs, paths, std::move(file), std::move(frame));
  if (!fs.Exists(paths[0])) {
    return absl::NotFoundError(absl::StrCat(found, ": volume ", volumes.index(), " of ", count, "; the first volume, ",
                                            paths[0], ", which holds the manifest, is missing"));
  }
  return OpenPackedFiles(fs, paths);
}

}  // namespace kompakt
