// JournalSet: the journals of one destination as the process that writes it sees them: its own, which it holds, and
// those of other shares (write_share.h).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "format/file_system.h"
#include "format/journal.h"
#include "format/write_share.h"

namespace kompakt {

class JournalSet {
 public:
  // Takes the locks. Who writes the whole file keeps out every share. A share keeps out a second one of its own number,
  // and starts only when nobody writes or commits the whole file. kAborted when another process has one of them.
  static absl::StatusOr<std::unique_ptr<JournalSet>> Lock(FileSystem& fs, const std::string& destination,
                                                          const WriteShare& share);

  Journal& own() { return *own_; }
  const std::string& own_path() const { return own_path_; }

  struct Found {
    std::string path;
    bool own = false;
    Journal::Content content;  // has an identity
  };
  // Reads every journal that has a head; those of other shares as far as they are now. One that a process removes
  // meanwhile, because it has committed the file, counts as none.
  absl::StatusOr<std::vector<Found>> Read();

  // Removes the journals of shares, whose locks this one holds: of who writes the whole file.
  absl::Status RemoveOthers();
  // Removes all; the own one last, by whose lock others wait.
  absl::Status RemoveAll();

 private:
  JournalSet(FileSystem& fs, std::string destination, const WriteShare& share)
      : fs_(fs), destination_(std::move(destination)), own_path_(JournalPath(destination_, share)) {}

  FileSystem& fs_;
  std::string destination_;
  std::string own_path_;
  std::unique_ptr<Journal> own_;
  struct Held {
    std::string path;
    std::unique_ptr<Journal> journal;
  };
  std::vector<Held> others_;  // of shares, while the whole file is written
};

}  // namespace kompakt
