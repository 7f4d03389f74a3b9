#include "converters/input_file.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "format/file_system.h"
#include "format/read_fully.h"
#include "format/status.h"

namespace kompakt {

absl::StatusOr<InputFile> InputFile::Open(const std::string& path) {
  InputFile file;
  file.path_ = path;
  // Without O_NONBLOCK a named pipe would block here until somebody writes to it.
  file.fd_ = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file.fd_ < 0) return IoError(errno, "open", path);
  struct stat info {};
  if (fstat(file.fd_, &info) != 0) return IoError(errno, "stat", path);
  if (!S_ISREG(info.st_mode)) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, ": expected a regular file, found a ", S_ISDIR(info.st_mode) ? "folder" : "device or pipe"));
  }
  file.size_bytes_ = static_cast<uint64_t>(info.st_size);
  return file;
}

InputFile::InputFile(InputFile&& other) noexcept { *this = std::move(other); }

InputFile& InputFile::operator=(InputFile&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(size_bytes_, other.size_bytes_);
  std::swap(path_, other.path_);
  return *this;
}

InputFile::~InputFile() {
  if (fd_ >= 0) close(fd_);
}

absl::Status InputFile::ReadAt(uint64_t offset, absl::Span<uint8_t> bytes) const {
  if (offset > size_bytes_ || bytes.size() > size_bytes_ - offset) {
    return CorruptError(path_, ": expected ", bytes.size(), " bytes at byte ", offset, ", the file has only ",
                        size_bytes_, " bytes");
  }
  KOMPAKT_ASSIGN_OR_RETURN(const uint64_t done, ReadFully(fd_, offset, bytes, path_));
  if (done == bytes.size()) return absl::OkStatus();
  return CorruptError(path_, ": the file shrank while it was read: expected ", size_bytes_, " bytes, it ends at ",
                      offset + done);
}

absl::StatusOr<std::string> InputFile::ReadAll(uint64_t max_bytes) const {
  if (size_bytes_ > max_bytes) {
    return absl::FailedPreconditionError(
        absl::StrCat(path_, ": expected at most ", max_bytes, " bytes, found ", size_bytes_));
  }
  std::string content(static_cast<size_t>(size_bytes_), '\0');
  KOMPAKT_RETURN_IF_ERROR(ReadAt(0, {reinterpret_cast<uint8_t*>(content.data()), content.size()}));
  return content;
}

void InputFile::WillNeed(uint64_t offset, uint64_t bytes) const { AdviseWillNeed(fd_, offset, bytes); }
void InputFile::Drop(uint64_t offset, uint64_t bytes) const { AdviseDrop(fd_, offset, bytes); }

absl::StatusOr<std::string> InputFile::State() const {
  struct stat info {};
  if (fstat(fd_, &info) != 0) return IoError(errno, "examine", path_);
  return FileState(info);
}

bool PathExists(const std::string& path) {
  struct stat info {};
  return stat(path.c_str(), &info) == 0;
}

bool IsFolder(const std::string& path) {
  struct stat info {};
  return stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
}

std::vector<std::string> ListFolder(const std::string& folder) {
  std::vector<std::string> names;
  DIR* dir = opendir(folder.c_str());
  if (dir == nullptr) return names;
  while (const dirent* entry = readdir(dir)) {
    const absl::string_view name = entry->d_name;
    if (name != "." && name != "..") names.emplace_back(name);
  }
  closedir(dir);
  std::sort(names.begin(), names.end());
  return names;
}

std::string JoinPath(const std::string& folder, absl::string_view name) {
  return absl::StrCat(folder, absl::EndsWith(folder, "/") ? "" : "/", name);
}

std::string ForeignContent(absl::string_view first_bytes) {
  if (absl::StartsWith(first_bytes, "version https://git-lfs")) {
    return "a Git LFS pointer instead of the file itself: run \"git lfs pull\" in the repository";
  }
  const absl::string_view text = absl::StripLeadingAsciiWhitespace(first_bytes);
  if (absl::StartsWithIgnoreCase(text, "<!doctype") || absl::StartsWithIgnoreCase(text, "<html") ||
      absl::StartsWithIgnoreCase(text, "<head") || absl::StartsWithIgnoreCase(text, "<?xml")) {
    return "an HTML page instead of the file itself: the download was answered by a web page, fetch it again";
  }
  if (absl::StartsWith(first_bytes, "GGUF")) return "a GGUF file: convert the original safetensors checkpoint instead";
  if (absl::StartsWith(first_bytes, absl::string_view("PK\x03\x04", 4))) {
    return "a zip archive, as torch.save writes: save the model as safetensors instead";
  }
  return "";
}

}  // namespace kompakt
