// WriteBehind: keeps what a long write leaves in the page cache small. Written ranges are sent to the device a few MiB
// at a time while the work goes on, waited for some MiB later, and dropped from the cache, so that dirty pages neither
// crowd out what is read ahead nor pile up for the fsync at the end.
#pragma once

#include <cstdint>
#include <deque>
#include <mutex>
#include <utility>

#include "absl/status/status.h"
#include "format/file_system.h"

namespace kompakt {

class WriteBehind {
 public:
  // `file` must outlive it.
  explicit WriteBehind(File& file) : file_(file) {}

  // [offset, + bytes) was written. Safe from several threads; ranges come roughly in ascending order. May wait for the
  // device; fails when it reports a failed write.
  absl::Status Wrote(uint64_t offset, uint64_t bytes);

 private:
  File& file_;
  std::mutex mutex_;
  uint64_t begin_ = ~uint64_t{0};  // the span that was written since the last start
  uint64_t end_ = 0;
  uint64_t written_bytes_ = 0;
  std::deque<std::pair<uint64_t, uint64_t>> started_;  // (offset, bytes)
};

}  // namespace kompakt
