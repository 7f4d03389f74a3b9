// ParallelFor: independent pieces of work on a few threads.
#pragma once

#include <cstdint>
#include <functional>

namespace kompakt {

// Calls work(i, worker) for every i in [0, n), in ascending order of start, on up to `threads` threads; worker is in
// [0, threads) and belongs to one thread at a time. Returns when all are done. With one thread it runs on the caller's.
void ParallelFor(int threads, int64_t n, const std::function<void(int64_t i, int worker)>& work);

}  // namespace kompakt
