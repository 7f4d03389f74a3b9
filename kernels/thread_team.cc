#include "kernels/thread_team.h"

#include <system_error>

namespace kompakt {
namespace {

constexpr uint32_t kClosed = uint32_t{1} << 31;

// About ten to thirty microseconds: longer than the gaps between the ops of a layer, shorter than anyone minds.
constexpr int kSpins = 1000;

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Returns when value differs from `old`: at once, after spinning, or after sleeping.
void AwaitChange(const std::atomic<uint32_t>& value, uint32_t old) {
  for (int i = 0; i < kSpins; ++i) {
    if (value.load(std::memory_order_acquire) != old) return;
    Pause();
  }
  value.wait(old, std::memory_order_acquire);
}

}  // namespace

ThreadTeam::ThreadTeam(int threads) : entry_(kClosed) {
  for (int thread = 1; thread < threads; ++thread) {
    try {
      workers_.emplace_back([this, thread] { Work(thread); });
    } catch (const std::system_error&) {
      break;
    }
  }
}

ThreadTeam::~ThreadTeam() {
  stop_.store(true, std::memory_order_release);
  generation_.fetch_add(1, std::memory_order_acq_rel);
  generation_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadTeam::TakeTasks(int thread) {
  while (true) {
    const int64_t task = next_.fetch_add(1, std::memory_order_relaxed);
    if (task >= job_.tasks) return;
    job_.call(job_.context, task, thread);
  }
}

void ThreadTeam::RunTasks(const Job& job) {
  if (workers_.empty() || job.tasks <= 1) {
    for (int64_t task = 0; task < job.tasks; ++task) job.call(job.context, task, 0);
    return;
  }
  job_ = job;
  next_.store(0, std::memory_order_relaxed);
  entry_.store(0, std::memory_order_release);
  generation_.fetch_add(1, std::memory_order_acq_rel);
  generation_.notify_all();
  TakeTasks(0);
  // Nobody may enter any more; those inside are finishing their last task.
  uint32_t entry = entry_.fetch_or(kClosed, std::memory_order_acq_rel) | kClosed;
  while (entry != kClosed) {
    AwaitChange(entry_, entry);
    entry = entry_.load(std::memory_order_acquire);
  }
}

void ThreadTeam::Work(int thread) {
  uint32_t seen = 0;
  while (true) {
    AwaitChange(generation_, seen);
    seen = generation_.load(std::memory_order_acquire);
    if (stop_.load(std::memory_order_acquire)) return;
    uint32_t entry = entry_.load(std::memory_order_relaxed);
    while ((entry & kClosed) == 0 &&
           !entry_.compare_exchange_weak(entry, entry + 1, std::memory_order_acquire, std::memory_order_relaxed)) {
    }
    if ((entry & kClosed) != 0) continue;  // the job was over before this thread came
    TakeTasks(thread);
    entry_.fetch_sub(1, std::memory_order_release);
    entry_.notify_one();
  }
}

}  // namespace kompakt
