// PackedTarget: the file, or the volumes, that a PackedWriter fills, from the first allocation to the rename.
//
// Each is written as PATH.partial; the data of all are one File with logical offsets. One conversion has one journal,
// DST.partial.journal, whatever it is cut into.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "format/file_system.h"
#include "format/manifest.pb.h"
#include "format/packed_writer.h"
#include "format/volume_set.h"

namespace kompakt {

// Names of the finished files that `plan`, a manifest or a PlanIdentity, makes of DST: DST itself, or its volumes.
std::vector<std::string> TargetPaths(const std::string& destination, const Manifest& plan);
std::string PartialPath(const std::string& path);

// "a.kpk.partial", or of several "A.partial to Z.partial": for messages.
std::string PartialNames(const std::vector<std::string>& paths);
bool AnyPartial(FileSystem& fs, const std::vector<std::string>& paths);
void RemovePartials(FileSystem& fs, const std::vector<std::string>& paths);

class PackedTarget {
 public:
  // The sizes of all files are known from here on; nothing is opened. `layout` and `fs` outlive the target.
  static absl::StatusOr<std::unique_ptr<PackedTarget>> Create(FileSystem& fs, const std::string& destination,
                                                              const WritePlan& plan);

  const std::vector<std::string>& paths() const { return paths_; }

  // What becomes of a file that lies there already and may not be resumed: it is emptied, or, where other processes may
  // be writing to it, only brought to its size.
  enum Leftover { kEmptied, kShared };

  // Files of their full sizes, zero where nobody wrote. kResourceExhausted on a full disk.
  absl::Status Allocate(Leftover leftover);

  // Opens what an interrupted run left. A volume that is not there, or has not its size, is allocated anew. `finished`,
  // when not null, is the manifest that the journal would make of it: the run may have been cut off between two
  // renames, and a volume that already has its final name is recognised by its bytes and only read.
  // That takes a while; `interrupted` (may be null) set: kCancelled.
  absl::Status Resume(const Manifest* finished, Leftover leftover, const std::atomic<bool>* interrupted);
  // Is the volume of this logical offset one of those?
  bool IsPublished(uint64_t offset) const;

  // The data at logical offsets; after Allocate or Resume.
  File& data() { return *data_; }

  // What makes every file a packed one comes in two steps: manifest and footer, then, when all else is known to be
  // right, the header. `manifest` has its set id (WithSetId). ClearHeaders takes the second step back.
  absl::Status WriteEnds(const Manifest& manifest);
  absl::Status WriteHeaders(const Manifest& manifest);
  absl::Status ClearHeaders();

  // The files opened anew, for reading: as if they had their headers, with `manifest` in the place of what they hold.
  absl::StatusOr<OpenedPacked> OpenWithoutHeaders(const Manifest& manifest) const;
  // As a stranger would.
  absl::StatusOr<OpenedPacked> Reopen() const;

  // Renames all, the first volume, which makes a set of them, last. Files are closed. An older first volume, and a
  // whole file of the set's name, are removed before, so that at no moment an older volume passes for one of these.
  absl::Status Publish();

  void RemovePartials() { kompakt::RemovePartials(fs_, paths_); }
  // Closes all files.
  void Close() { data_.reset(); }

 private:
  PackedTarget(FileSystem& fs, std::string destination, const WritePlan& plan, std::vector<uint64_t> bytes);

  int count() const { return static_cast<int>(paths_.size()); }
  // Opens every file as `published_` says and joins them.
  absl::Status OpenAll();
  absl::Status AllocateOne(size_t v, Leftover leftover);
  absl::StatusOr<bool> HoldsFinished(int index, const Manifest& finished, const std::atomic<bool>* interrupted) const;
  // Where the files are now.
  std::vector<std::string> PresentPaths() const;

  FileSystem& fs_;
  std::string destination_;
  const PackedLayout& layout_;
  Volumes volumes_;  // no ends: a single file
  std::vector<std::string> paths_;
  std::vector<uint64_t> bytes_;  // of each file
  std::vector<bool> published_;  // has its final name already
  std::unique_ptr<File> data_;
};

// `manifest` with the set id that belongs to it, where it has volumes.
Manifest WithSetId(Manifest manifest);

}  // namespace kompakt
