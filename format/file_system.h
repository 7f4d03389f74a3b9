// FileSystem: the few file operations a writer needs, behind an interface so that tests can make each of them fail.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

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
  // Reserves blocks for [0, bytes) and sets the size.
  virtual absl::Status Allocate(uint64_t bytes) = 0;
  virtual absl::Status Truncate(uint64_t bytes) = 0;
  virtual absl::Status Sync() = 0;
  // Exclusive advisory lock; kUnavailable when another process has it.
  virtual absl::Status Lock() = 0;
};

class FileSystem {
 public:
  virtual ~FileSystem() = default;
  // Opens for reading and writing, creating it where absent.
  virtual absl::StatusOr<std::unique_ptr<File>> OpenForWrite(const std::string& path) = 0;
  virtual absl::StatusOr<std::unique_ptr<File>> OpenForRead(const std::string& path) = 0;
  virtual bool Exists(const std::string& path) = 0;
  // Atomic replacement, then a sync of the folder.
  virtual absl::Status Rename(const std::string& from, const std::string& to) = 0;
  virtual absl::Status Remove(const std::string& path) = 0;
};

// The operating system's files.
FileSystem& PosixFileSystem();

}  // namespace kompakt
