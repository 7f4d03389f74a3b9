// Several processes may write one packed file together, each its share of the records, each with a journal of its own.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "format/file_system.h"
#include "format/journal.h"
#include "format/packed_layout.h"

namespace kompakt {

// Share number `index` (from 0) of `count`.
struct WriteShare {
  int64_t index = 0;
  int64_t count = 1;

  bool is_whole() const { return count == 1; }
};

// Which share writes each record: [extent][record]. Shares are runs of records in file order with about equally many
// bytes.
std::vector<std::vector<int64_t>> ShareOfRecords(const PackedLayout& layout, int64_t count);

// DST.partial.journal; of a share DST.partial.journal.2-of-4.
std::string JournalPath(const std::string& destination, const WriteShare& share = {});
// Every journal of the destination that there is.
std::vector<std::string> JournalPaths(FileSystem& fs, const std::string& destination);
// The share of a path that JournalPath gave; none for another name.
absl::optional<WriteShare> ShareOfJournal(const std::string& destination, const std::string& path);

// How far an unfinished file is.
struct UnfinishedFile {
  int64_t records = 0;
  int64_t finished = 0;
  // Of each number of shares whose journals lie there: the shares (from 0) that are not finished.
  struct Split {
    int64_t count = 1;
    std::vector<int64_t> unfinished;
  };
  std::vector<Split> splits;
};
// kNotFound when no unfinished file lies beside `destination`. Reads journals only.
absl::StatusOr<UnfinishedFile> InspectUnfinished(FileSystem& fs, const std::string& destination);

}  // namespace kompakt
