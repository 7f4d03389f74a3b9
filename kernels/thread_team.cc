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

constexpr uint64_t Pack(uint64_t begin, uint64_t end) { return end << 32 | begin; }
constexpr uint64_t BeginOf(uint64_t range) { return range & 0xffffffffu; }
constexpr uint64_t EndOf(uint64_t range) { return range >> 32; }

}  // namespace

ThreadTeam::ThreadTeam(int threads) : ranges_(static_cast<size_t>(threads > 1 ? threads : 1)), entry_(kClosed) {
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
  std::atomic<uint64_t>& own = ranges_[static_cast<size_t>(thread)].tasks;
  do {
    uint64_t range = own.load(std::memory_order_relaxed);
    while (BeginOf(range) < EndOf(range)) {
      if (!own.compare_exchange_weak(range, Pack(BeginOf(range) + 1, EndOf(range)), std::memory_order_relaxed))
        continue;
      job_.call(job_.context, static_cast<int64_t>(BeginOf(range)), thread);
      range = own.load(std::memory_order_relaxed);
    }
  } while (TakeHalfOfAnother(thread));
}

// False when nobody has any left, but for tasks that are on their way from one thread to another, which does them.
bool ThreadTeam::TakeHalfOfAnother(int thread) {
  const size_t own = static_cast<size_t>(thread);
  for (size_t i = 1; i < ranges_.size(); ++i) {
    std::atomic<uint64_t>& other = ranges_[(own + i) % ranges_.size()].tasks;
    uint64_t range = other.load(std::memory_order_relaxed);
    while (BeginOf(range) < EndOf(range)) {
      const uint64_t middle = BeginOf(range) + (EndOf(range) - BeginOf(range)) / 2;
      if (!other.compare_exchange_weak(range, Pack(BeginOf(range), middle), std::memory_order_relaxed)) continue;
      ranges_[own].tasks.store(Pack(middle, EndOf(range)), std::memory_order_relaxed);
      return true;
    }
  }
  return false;
}

void ThreadTeam::RunTasks(const Job& job) {
  if (workers_.empty() || job.tasks <= 1) {
    for (int64_t task = 0; task < job.tasks; ++task) job.call(job.context, task, 0);
    return;
  }
  job_ = job;
  const auto tasks = static_cast<uint64_t>(job.tasks);
  for (size_t i = 0; i < ranges_.size(); ++i) {
    const uint64_t range = Pack(tasks * i / ranges_.size(), tasks * (i + 1) / ranges_.size());
    ranges_[i].tasks.store(range, std::memory_order_relaxed);
  }
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
