// RecordTable: which records of a packed file are written, and what only writing them told. From it comes the finished
// manifest.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "format/journal.h"
#include "format/manifest.pb.h"
#include "format/packed_layout.h"
#include "format/packed_writer.h"

namespace kompakt {

struct RecordState {
  enum Progress : int { kOpen, kWriting, kDone };
  std::atomic<int> progress{kOpen};
  uint64_t xxh3 = 0;
  std::vector<ErrorStats> stats;      // one per part
  std::vector<uint64_t> source_xxh3;  // one per part
};

class RecordTable {
 public:
  using Place = std::pair<uint64_t, uint64_t>;  // (extent, record)
  using Entries = std::map<Place, const JournalEntry*>;

  // `plan` must outlive the table.
  explicit RecordTable(const WritePlan& plan);

  RecordState& At(int64_t extent, int64_t record) {
    return records_[static_cast<size_t>(extent)][static_cast<size_t>(record)];
  }
  const RecordState& At(int64_t extent, int64_t record) const {
    return records_[static_cast<size_t>(extent)][static_cast<size_t>(record)];
  }

  // What the journal says is done.
  void Take(const JournalEntry& entry);

  // Adds the last entry of every record to `last`; those that the layout has no room for are left out. A record that
  // was damaged and written again has two.
  void AddLastEntries(const std::vector<JournalEntry>& entries, Entries* last) const;

  // The manifest of the finished file. kInternal when a record is not done; messages begin with `path`.
  absl::StatusOr<Manifest> FinishedManifest(const std::string& path) const;
  // The same from what a journal says. Every record must be in `entries`: see IsComplete.
  Manifest ManifestOf(const Entries& entries) const;
  bool IsComplete(const Entries& entries) const { return entries.size() == count_; }

 private:
  template <typename RecordOf>
  Manifest ManifestWith(const RecordOf& record_of) const;

  const WritePlan& plan_;
  std::vector<std::vector<RecordState>> records_;  // [extent][record]
  size_t count_ = 0;
};

}  // namespace kompakt
