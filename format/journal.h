// Journal: which records of DST.partial are finished. An append-only file; every entry carries its own checksum, so
// that the torn end of a write that a crash cut short is recognised and ignored.
//
//     head    8 bytes "KPKJRNL2", u32 n, n bytes PlanIdentity, u64 XXH3 of all before
//     entry   u32 n, n bytes payload, u64 XXH3 of (head's XXH3, payload)
//     payload u8 1: a finished record: u64 extent, u64 record, u64 XXH3 of the record, then per part f64, f64, f32,
//     u64:
//                   its ErrorStats, u64: XXH3 of its source bytes
//             u8 2: the state of the source files, per file u32 n, n bytes name, u32 n, n bytes state. All records
//             before
//                   it were made from the files in this state, or have been compared with them
//
// An entry is a hint, not a promise: whoever resumes re-reads the record and compares the XXH3.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "format/file_system.h"
#include "format/manifest.pb.h"
#include "format/tensor_source.h"

namespace kompakt {

struct JournalEntry {
  uint64_t extent = 0;
  uint64_t record = 0;
  uint64_t xxh3 = 0;
  std::vector<ErrorStats> stats;      // one per part
  std::vector<uint64_t> source_xxh3;  // one per part
};

class Journal {
 public:
  // Opens or creates the file and takes its lock. kAborted when another process has it.
  static absl::StatusOr<std::unique_ptr<Journal>> Open(FileSystem& fs, const std::string& path);
  // Does another process have it? No when there is none.
  static absl::StatusOr<bool> IsHeld(FileSystem& fs, const std::string& path);

  struct Content {
    absl::optional<Manifest> identity;  // none: the file is new, or its head was never completed
    std::vector<JournalEntry> entries;  // in the order of writing
    std::vector<SourceState> sources;   // the last that were written
  };
  // Reads everything up to the first torn entry and drops what follows.
  absl::StatusOr<Content> Load();
  // The same of a journal that another process may be writing, or removing: without a lock and without changing it, and
  // nothing when there is none.
  static absl::StatusOr<Content> Peek(FileSystem& fs, const std::string& path);

  // Empties the file and writes the head.
  absl::Status Start(const Manifest& identity);

  // Both are safe from several threads.
  absl::Status Append(const JournalEntry& entry);
  absl::Status AppendSources(absl::Span<const SourceState> sources);

  // Everything appended is on the device.
  absl::Status Sync() { return file_->Sync(); }

 private:
  struct Parsed {
    Content content;
    uint64_t end = 0;
    uint64_t head_xxh3 = 0;
  };
  static absl::StatusOr<Parsed> Parse(const File& file, const std::string& path);
  Journal(std::unique_ptr<File> file, std::string path) : file_(std::move(file)), path_(std::move(path)) {}
  absl::Status AppendPayload(absl::Span<const uint8_t> payload);

  std::unique_ptr<File> file_;
  std::string path_;
  std::mutex mutex_;
  uint64_t end_ = 0;        // where the next entry goes
  uint64_t head_xxh3_ = 0;  // ties entries to their plan
};

}  // namespace kompakt
