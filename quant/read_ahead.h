// ReadAhead: while workers encode, a thread of its own asks the system for the source bytes that come next, so that the
// disk never waits for the processor, and lets go of those that are done with, so that the page cache holds a window of
// the source and not all of it.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

#include "format/tensor_source.h"
#include "quant/band_walk.h"
#include "quant/feedback_plan.h"

namespace kompakt {

class ReadAhead {
 public:
  // Walks `walk`, at most `window_bytes` of the source ahead of the first step that is not done. Bands of tensors whose
  // rows `feedback` (may be null) reorders read anywhere in theirs. Both must outlive it.
  ReadAhead(const TensorSource& source, BandWalk walk, uint64_t window_bytes, const FeedbackPlan* feedback);
  ~ReadAhead();
  ReadAhead(const ReadAhead&) = delete;
  ReadAhead& operator=(const ReadAhead&) = delete;

  // All steps below `number` are done. Safe from several threads; numbers may come in any order.
  void DoneBelow(int64_t number);

 private:
  struct Window {
    SourceRange range;
    int64_t last_step = 0;  // that reads it
  };

  void Run();
  void DropDone(int64_t done_below);
  // Notes what the step reads, so that it is dropped when the step is done; and asks the system for it.
  void Remember(const BandStep& step, bool ask);

  const TensorSource& source_;
  BandWalk walk_;
  const uint64_t window_bytes_;
  const FeedbackPlan* const feedback_;
  std::deque<Window> asked_;  // of the thread alone
  uint64_t asked_bytes_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;
  int64_t done_below_ = 0;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace kompakt
