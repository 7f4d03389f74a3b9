// ThreadTeam: threads that work through the tasks of one op together, for many short ops in a row.
//
// Workers spin for some ten microseconds between ops and then sleep. The caller works too, and never waits for a worker
// that has not begun: on a machine with other work to do, an op takes as long as the threads that did get a processor
// need. (OpenMP's barriers wait for every thread, spinning for milliseconds; docs/decisions/002-thread-team.md has
// numbers.)
//
// Every thread begins with tasks that follow one another, and takes half of what another has left when it has no more:
// weights that lie one after the other are read in one stream, which the processor's prefetching needs, and by the same
// thread each time.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace kompakt {

class ThreadTeam {
 public:
  // `threads` counts the caller. Fewer are made when the system gives no more.
  explicit ThreadTeam(int threads);
  ~ThreadTeam();
  ThreadTeam(const ThreadTeam&) = delete;
  ThreadTeam& operator=(const ThreadTeam&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls body(task, thread) once for every task in [0, tasks), in any order and from any of the threads, numbered
  // [0, threads()), each of which mostly takes task + 1 after task; returns when all are done. body must not throw. One
  // Run at a time. At most 2^32 - 1 tasks.
  template <typename Body>
  void Run(int64_t tasks, const Body& body) {
    const auto call = [](const void* context, int64_t task, int thread) {
      (*static_cast<const Body*>(context))(task, thread);
    };
    RunTasks({.call = call, .context = &body, .tasks = tasks});
  }

 private:
  struct Job {
    void (*call)(const void* context, int64_t task, int thread) = nullptr;
    const void* context = nullptr;
    int64_t tasks = 0;
  };

  // Tasks [begin, end) that a thread has before it: begin in the low half, end in the high one.
  struct alignas(64) Range {
    std::atomic<uint64_t> tasks{0};
  };

  void RunTasks(const Job& job);
  void Work(int thread);
  void TakeTasks(int thread);
  bool TakeHalfOfAnother(int thread);

  Job job_;                              // valid while entry_ is open
  std::vector<Range> ranges_;            // [threads]
  std::atomic<uint32_t> entry_;          // workers inside; kClosed is set while there is no job
  std::atomic<uint32_t> generation_{0};  // counts jobs: what sleeping workers wait on
  std::atomic<bool> stop_{false};
  std::vector<std::thread> workers_;
};

}  // namespace kompakt
