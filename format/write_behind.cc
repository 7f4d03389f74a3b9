#include "format/write_behind.h"

#include <algorithm>

#include "format/status.h"

namespace kompakt {
namespace {

constexpr uint64_t kStartBytes = 8 << 20;
// How many starts are under way at once. Their product bounds the dirty pages.
constexpr size_t kUnderWay = 4;

}  // namespace

absl::Status WriteBehind::Wrote(uint64_t offset, uint64_t bytes) {
  std::pair<uint64_t, uint64_t> finish = {0, 0};
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    begin_ = std::min(begin_, offset);
    end_ = std::max(end_, offset + bytes);
    written_bytes_ += bytes;
    if (written_bytes_ < kStartBytes) return absl::OkStatus();
    file_.StartWriteBack(begin_, end_ - begin_);
    started_.emplace_back(begin_, end_ - begin_);
    begin_ = ~uint64_t{0};
    end_ = written_bytes_ = 0;
    if (started_.size() <= kUnderWay) return absl::OkStatus();
    finish = started_.front();
    started_.pop_front();
  }
  return file_.FinishWriteBack(finish.first, finish.second);
}

}  // namespace kompakt
