// FileSystem: the few file operations a writer needs, behind an interface so that tests can make each of them fail.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

struct stat;

namespace kompakt {

// An open file. Reads and writes carry their offset and are safe from several threads.
class File {
 public:
  virtual ~File() = default;
  // Writes all of `bytes` (short writes are continued). kResourceExhausted on ENOSPC or EDQUOT, else kUnavailable.
  virtual absl::Status WriteAt(uint64_t offset, absl::Span<const uint8_t> bytes) = 0;
  // Reads exactly bytes.size(); kDataLoss when the file ends before.
  virtual absl::Status ReadAt(uint64_t offset, absl::Span<uint8_t> bytes) const = 0;
  virtual absl::StatusOr<uint64_t> Size() const = 0;
  // These bytes, mapped for reading; valid as long as this File lives. kDataLoss when the file ends before. A file that
  // another program shortens meanwhile, or a device that fails, ends the process (SIGBUS), as with every mapped file.
  // Not safe from several threads.
  virtual absl::StatusOr<absl::Span<const uint8_t>> Map(uint64_t offset, uint64_t bytes) = 0;
  // Reserves blocks for [0, bytes) and sets the size; new bytes are zero. Where the file system cannot reserve, the
  // free space is compared with what is needed (kResourceExhausted when it is less).
  virtual absl::Status Allocate(uint64_t bytes) = 0;
  virtual absl::Status Truncate(uint64_t bytes) = 0;
  // Everything written is on the device; what is read afterwards comes from there where the system can be told so.
  virtual absl::Status Sync() = 0;
  // What the page cache may do with a range; advice that a system may ignore. WillNeed: it is read soon. Drop: it is
  // not read again.
  virtual void WillNeed(uint64_t /*offset*/, uint64_t /*bytes*/) const {}
  virtual void Drop(uint64_t /*offset*/, uint64_t /*bytes*/) const {}
  // StartWriteBack begins to bring what was written to the device, and does not wait. FinishWriteBack waits and drops
  // it from the page cache. Neither makes it durable: that is Sync.
  virtual void StartWriteBack(uint64_t /*offset*/, uint64_t /*bytes*/) {}
  virtual absl::Status FinishWriteBack(uint64_t /*offset*/, uint64_t /*bytes*/) { return absl::OkStatus(); }
  // Exclusive advisory lock, held until the file is closed; kAborted when another process has it, or when the path
  // no longer leads to this file.
  virtual absl::Status Lock() = 0;
  // Does another process have the lock? Also of a file that is open for reading only.
  virtual absl::StatusOr<bool> IsLocked() const = 0;
};

class FileSystem {
 public:
  virtual ~FileSystem() = default;
  // Opens for reading and writing, creating it where absent; a file that was created is in its folder for good.
  virtual absl::StatusOr<std::unique_ptr<File>> OpenForWrite(const std::string& path) = 0;
  // kFailedPrecondition when it is not a regular file.
  virtual absl::StatusOr<std::unique_ptr<File>> OpenForRead(const std::string& path) = 0;
  // The same for reading much of a large file once: reads go past the page cache (O_DIRECT) where offset, size and
  // memory are multiples of 4096 and the file system takes them, and elsewhere leave nothing behind in it.
  virtual absl::StatusOr<std::unique_ptr<File>> OpenForDirectRead(const std::string& path) { return OpenForRead(path); }
  virtual bool Exists(const std::string& path) = 0;
  // The files whose path begins with `prefix`, ascending; its folder is not searched any deeper.
  virtual std::vector<std::string> ListPrefix(const std::string& prefix) = 0;
  // Atomic replacement, then a sync of the folder.
  virtual absl::Status Rename(const std::string& from, const std::string& to) = 0;
  virtual absl::Status Remove(const std::string& path) = 0;
  // What was created, renamed or removed in the folder of `path` outlives a loss of power.
  virtual absl::Status SyncFolderOf(const std::string& path) = 0;
  // Bytes that this user may still write on the file system that holds `path`, which need not exist itself. Fails where
  // its folder does not exist or may not be written to.
  virtual absl::StatusOr<uint64_t> FreeBytes(const std::string& path) = 0;
  // The largest file that can lie at `path`, by its file system and this process' limit; the largest u64 when neither
  // is known.
  virtual uint64_t MostFileBytes(const std::string& path) = 0;
};

// What the system knows of a file that changes whenever its content may have changed: size, times of change, inode. A
// program can set the time of modification back, but not the other one. Text, to be compared only.
std::string FileState(const struct stat& info);
// Of the file at `path`.
absl::StatusOr<std::string> FileState(const std::string& path);

// WillNeed and Drop of an open file.
void AdviseWillNeed(int fd, uint64_t offset, uint64_t bytes);
void AdviseDrop(int fd, uint64_t offset, uint64_t bytes);

// The operating system's files.
FileSystem& PosixFileSystem();

// Makes `text` the content of `path`, by way of path.partial, so that `path` is never half a file. For small files.
absl::Status ReplaceFile(FileSystem& fs, const std::string& path, const std::string& text);

// Calls write(bytes, count, offset), which behaves like pwrite, until all of `bytes` is written: continues short
// writes, repeats interrupted ones. IoError naming `path` otherwise.
absl::Status WriteFully(const std::function<int64_t(const uint8_t*, uint64_t, uint64_t)>& write, uint64_t offset,
                        absl::Span<const uint8_t> bytes, const std::string& path);

}  // namespace kompakt
