#include "quant/read_ahead.h"

#include <algorithm>
#include <system_error>

#include "quant/band_encoder.h"

namespace kompakt {
namespace {

// A transposed form names the same range for every band, and so does a tensor whose rows are reordered; it is found
// again among the last few.
constexpr size_t kLookBack = 8;

}  // namespace

ReadAhead::ReadAhead(const TensorSource& source, BandWalk walk, uint64_t window_bytes, const FeedbackPlan* feedback)
    : source_(source), walk_(std::move(walk)), window_bytes_(window_bytes), feedback_(feedback) {
  if (window_bytes_ == 0) return;
  try {
    thread_ = std::thread([this] { Run(); });
  } catch (const std::system_error&) {
    // Without it a conversion is slower and the same.
  }
}

ReadAhead::~ReadAhead() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void ReadAhead::DoneBelow(int64_t number) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (number <= done_below_) return;
    done_below_ = number;
  }
  changed_.notify_one();
}

void ReadAhead::Run() {
  BandStep step;
  bool more = walk_.Next(&step);
  int64_t seen = 0;
  while (true) {
    {
      std::unique_lock<std::mutex> lock(mutex_);
      const bool full = !more || asked_bytes_ >= window_bytes_;
      changed_.wait(lock, [&] { return stop_ || !full || done_below_ > seen; });
      if (stop_) break;
      seen = done_below_;
    }
    // What a worker has already finished needs no advice, but it too is let go of.
    while (more && step.number < seen) {
      Remember(step, /*ask=*/false);
      more = walk_.Next(&step);
    }
    DropDone(seen);
    if (more && asked_bytes_ < window_bytes_) {
      Remember(step, /*ask=*/true);
      more = walk_.Next(&step);
    }
    if (!more && asked_.empty()) break;
  }
  DropDone(step.number + 1);
}

void ReadAhead::DropDone(int64_t done_below) {
  while (!asked_.empty() && asked_.front().last_step < done_below) {
    source_.Drop(asked_.front().range);
    asked_bytes_ -= asked_.front().range.bytes;
    asked_.pop_front();
  }
}

void ReadAhead::Remember(const BandStep& step, bool ask) {
  const TensorInfo& tensor = source_.schema().tensors()[step.tensor];
  const bool anywhere = feedback_ != nullptr && feedback_->ReordersRows(tensor);
  const int64_t row_begin = anywhere ? 0 : step.band * kBandRows;
  const int64_t row_end = anywhere ? tensor.rows : std::min(tensor.rows, row_begin + kBandRows);
  for (SourceRange& range : source_.Ranges(tensor, row_begin, row_end)) {
    bool known = false;
    for (size_t i = 0; i < std::min(kLookBack, asked_.size()) && !known; ++i) {
      Window& window = asked_[asked_.size() - 1 - i];
      known =
          window.range.offset == range.offset && window.range.bytes == range.bytes && window.range.file == range.file;
      if (known) window.last_step = step.number;
    }
    if (known) continue;
    if (ask) source_.WillNeed(range);
    asked_bytes_ += range.bytes;
    asked_.push_back({std::move(range), step.number});
  }
}

}  // namespace kompakt
