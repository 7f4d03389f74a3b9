// Runs the blocks of a CUDA kernel on the calling thread, one block after the other, each CUDA thread as a fiber.
//
// A thread runs until it has to wait: at a barrier of the block, or at an operation of its warp. The next one then
// goes on, in the order of the Schedule. So between two synchronisation points threads do not interleave, and what a
// real device might do in another order is found by the checks instead:
//   * a barrier or a warp operation that some of its threads do not come to, or come to in another place
//   * an access of shared memory that is misaligned, out of bounds, or reads what nobody has written
//   * a race: two threads access the same byte of shared memory, one of them writes, and no barrier lies between
//     (__syncthreads, or __syncwarp within a warp; warp shuffles and the like do not order memory)
//   * a read of what cp.async has not brought yet, as far as the waits of the code say
// The first error ends the launch; its text names kernel, block, thread, and source line. Blocks must not wait for each
// other: the simulator would never return.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <source_location>
#include <string>

namespace kompakt::cuda_sim {

using Site = std::source_location;

struct Uint3 {
  unsigned x = 0, y = 0, z = 0;
};

// CUDA's dim3.
struct Dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr Dim3() = default;
  // NOLINTNEXTLINE(google-explicit-constructor): CUDA sources count on it.
  constexpr Dim3(unsigned x_, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
  constexpr uint64_t count() const { return uint64_t{x} * y * z; }
};

// In which order the threads of a block take turns, and the blocks of a grid. A correct kernel gives the same result
// in all of them.
struct Schedule {
  enum class Order : uint8_t { kForward, kBackward, kShuffled } order = Order::kForward;
  uint64_t seed = 1;  // of kShuffled
};
// Of the launches that the calling thread makes from now on.
void SetSchedule(Schedule schedule);

inline constexpr unsigned kWarpSize = 32;
inline constexpr unsigned kMaxThreads = 1024;
inline constexpr size_t kMaxSharedBytes = 227 << 10;  // sm_90, the largest of those we compile for

// Runs `body` once per thread. Empty: it went well. Else what went wrong.
std::string RunGrid(const char* kernel, Dim3 grid, Dim3 block, size_t dynamic_shared_bytes,
                    const std::function<void()>& body);

// ---- What follows is called by a kernel that runs.

struct ThreadPlace {
  Uint3 thread_idx;
  Uint3 block_idx;
  Dim3 block_dim;
  Dim3 grid_dim;
  unsigned linear = 0;  // thread index within the block
  unsigned lane() const { return linear % kWarpSize; }
};
extern constinit thread_local const ThreadPlace* current_place;

// Ends the launch with an error. Does not return.
[[noreturn]] void Fail(const std::string& what, Site site);

// Waits for all threads of the block. Returns how many came with `predicate` true.
unsigned SyncThreads(bool predicate, const char* name, Site site);

// An operation that the lanes of `mask` do together, each with its `io`. The last one to come calls
// combine(lanes, mask), lanes[i] being the io of lane i, null where it is not in the mask.
using WarpCombine = void (*)(void* const* lanes, uint32_t mask);
void WarpOperation(const char* name, uint32_t mask, void* io, WarpCombine combine, Site site);
// __syncwarp: the same, and it orders memory.
void SyncWarp(uint32_t mask, Site site);

// Shared memory. `slot` stands for a declaration in the source; every thread of the block gets the same bytes for it.
struct SharedSlot {
  uint64_t launch = 0;
  size_t offset = 0;
};
uint8_t* StaticShared(SharedSlot& slot, size_t bytes, size_t align, Site site);
struct DynamicBytes {
  uint8_t* data;
  size_t bytes;
};
DynamicBytes DynamicShared();

void CheckSharedRead(const void* p, size_t bytes, Site site);
void CheckSharedWrite(const void* p, size_t bytes, Site site);
// An atomic read-modify-write.
void CheckSharedAtomic(const void* p, size_t bytes, Site site);

// cp.async of `bytes` bytes (4, 8 or 16), of which `valid` are read from `from`, the rest is zero.
void AsyncCopy(uint8_t* to, const void* from, size_t bytes, size_t valid, Site site);
void AsyncCommit();
// All but the last `pending` committed groups of this thread have arrived.
void AsyncWait(size_t pending);
// ... and what is not committed as well.
void AsyncWaitAll();

// Global memory that launches may touch through checked accesses; kept by the device's allocator.
void RegisterGlobal(const void* begin, uint64_t bytes);
void UnregisterGlobal(const void* begin);
// Fails when [p, p + bytes) does not lie within one allocation, or p is not a multiple of `align`.
void CheckGlobal(const void* p, size_t bytes, size_t align, const char* what, Site site);

}  // namespace kompakt::cuda_sim
