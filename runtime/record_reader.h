// RecordReader: reads records of a file on a few threads, several at a time, those that somebody waits for first.
//
// A record is read in pieces of kPieceBytes, so that one record alone keeps the device busy too. A record that is only
// guessed to be needed is read when no urgent piece is left, by some of the threads, so that an urgent record never
// waits for more than the few pieces that were under way.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
#include <thread>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "format/file_system.h"

namespace kompakt {

class RecordReader {
 public:
  static constexpr uint64_t kPieceBytes = 1 << 20;
  static constexpr int kThreads = 8;
  static constexpr int kGuessThreads = 4;  // that may read guesses

  using Id = uint64_t;
  struct Record {
    uint64_t offset = 0;
    absl::Span<uint8_t> into;           // filled; untouched by others until the record is done
    std::optional<uint64_t> xxh3 = {};  // that the bytes must have
  };
  struct Counts {
    uint64_t read_bytes = 0;  // of all records
    double busy_seconds = 0;  // time during which some piece was being read
  };

  // `file` must outlive the reader, and its ReadAt be safe from several threads.
  explicit RecordReader(const File& file);
  // Gives up what is not read yet.
  ~RecordReader();
  RecordReader(const RecordReader&) = delete;
  RecordReader& operator=(const RecordReader&) = delete;

  // Every Id that Start returns is ended by one call of Wait.
  Id Start(const Record& record, bool urgent);
  // Somebody waits for it now.
  void Urge(Id id);
  // Nobody wants it any more: no further piece of it is read.
  void GiveUp(Id id);
  // Is Wait going to return at once?
  bool IsDone(Id id) const;
  // Until the record is there. What File::ReadAt fails with; kDataLoss when its checksum is another one, with the two
  // as message; kCancelled after GiveUp, unless it was there before.
  absl::Status Wait(Id id);

  Counts counts() const;

 private:
  struct Work {
    Record record;
    bool urgent = false;
    bool given_up = false;
    uint64_t asked_bytes = 0;  // handed out to threads
    int threads = 0;           // that read a piece of it or check it
    bool done = false;
    absl::Status status;
  };

  void Serve();
  // The work whose next piece is to be read; null when there is none for this thread. Holding mutex_.
  Work* Next();
  void EndIfIdle(Work& work);

  const File& file_;
  mutable std::mutex mutex_;
  std::condition_variable work_came_;
  std::condition_variable work_done_;
  std::unordered_map<Id, Work> works_;
  std::deque<Id> urgent_, guesses_;  // with pieces to hand out; may name works that are over
  Id next_id_ = 1;
  int reading_ = 0;          // threads
  int reading_guesses_ = 0;  // of these
  bool stop_ = false;
  Counts counts_;
  double busy_since_ = 0;
  std::vector<std::thread> threads_;
};

}  // namespace kompakt
