// InputFile: a regular file opened for reading. Reads carry their offset, so that many threads may share one.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace kompakt {

class InputFile {
 public:
  // kNotFound, kPermissionDenied or kUnavailable from the system; kFailedPrecondition when `path` is a folder or a
  // device instead of a regular file.
  static absl::StatusOr<InputFile> Open(const std::string& path);

  InputFile(InputFile&& other) noexcept;
  InputFile& operator=(InputFile&& other) noexcept;
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;
  ~InputFile();

  const std::string& path() const { return path_; }
  // As it was when the file was opened.
  uint64_t size_bytes() const { return size_bytes_; }

  // Fills `bytes`; kDataLoss when the file ends before.
  absl::Status ReadAt(uint64_t offset, absl::Span<uint8_t> bytes) const;

  // Advice for the page cache: [offset, + bytes) is read soon; is not read again.
  void WillNeed(uint64_t offset, uint64_t bytes) const;
  void Drop(uint64_t offset, uint64_t bytes) const;

  // FileState of the open file, now.
  absl::StatusOr<std::string> State() const;

  // The whole file; kFailedPrecondition when it is larger than `max_bytes`.
  absl::StatusOr<std::string> ReadAll(uint64_t max_bytes) const;

 private:
  InputFile() = default;

  int fd_ = -1;
  uint64_t size_bytes_ = 0;
  std::string path_;
};

// True when `path` can be opened as a file or listed as a folder, whatever it holds.
bool PathExists(const std::string& path);
bool IsFolder(const std::string& path);
// Names of the entries of `folder` in ascending order, "." and ".." left out; empty when it cannot be read.
std::vector<std::string> ListFolder(const std::string& folder);
// "folder/name", without doubling a slash.
std::string JoinPath(const std::string& folder, absl::string_view name);

// What `first_bytes` of a file are, when they are plainly not what a checkpoint should hold: "a Git LFS pointer ...",
// "an HTML page ...". Each comes with its remedy. Empty when nothing of the kind is recognised.
std::string ForeignContent(absl::string_view first_bytes);

}  // namespace kompakt
