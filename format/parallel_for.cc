#include "format/parallel_for.h"

#include <algorithm>
#include <atomic>
#include <system_error>
#include <thread>
#include <vector>

namespace kompakt {

void ParallelFor(int threads, int64_t n, const std::function<void(int64_t i, int worker)>& work) {
  std::atomic<int64_t> next{0};
  const auto run = [&](int worker) {
    for (int64_t i = next.fetch_add(1); i < n; i = next.fetch_add(1)) work(i, worker);
  };
  const int64_t workers = std::clamp<int64_t>(threads, 1, std::max<int64_t>(n, 1));
  std::vector<std::thread> others;
  others.reserve(static_cast<size_t>(workers - 1));
  try {
    for (int worker = 1; worker < workers; ++worker) others.emplace_back(run, worker);
  } catch (const std::system_error&) {
    // The system gives no more threads: those that run, and this one, do the rest.
  }
  run(0);
  for (std::thread& thread : others) thread.join();
}

}  // namespace kompakt
