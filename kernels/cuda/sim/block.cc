#include "kernels/cuda/sim/block.h"

#include <algorithm>
#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "kernels/cuda/sim/fiber.h"
#include "kernels/cuda/sim/shadow.h"

namespace kompakt::cuda_sim {

constinit thread_local const ThreadPlace* current_place = nullptr;

namespace {

std::string Text(Uint3 v) { return absl::StrCat("(", v.x, ", ", v.y, ", ", v.z, ")"); }

std::string Text(Site site) {
  const absl::string_view file = site.file_name();
  const size_t slash = file.rfind('/');
  return absl::StrCat(slash == absl::string_view::npos ? file : file.substr(slash + 1), ":", site.line());
}

enum class Waiting : uint8_t { kNothing, kBlock, kWarp, kDone };

struct AsyncPiece {
  uint8_t* to;
  size_t bytes;
  uint8_t data[16];
  Site site;
};

struct Thread {
  ThreadPlace place;
  Fiber fiber;
  Waiting waiting = Waiting::kNothing;
  // Of what it waits for.
  const char* operation = "";
  Site site;
  uint32_t mask = 0;
  void* io = nullptr;
  // cp.async: groups in order of their commit, the last one open.
  std::vector<std::vector<AsyncPiece>> async{1};
};

struct Warp {
  uint32_t lanes = 0;  // that exist
  uint32_t waiting = 0;
  uint32_t done = 0;
};

class BlockRunner {
 public:
  std::string Run(const char* kernel, Dim3 grid, Dim3 block, size_t dynamic_bytes, const std::function<void()>& body);

  [[noreturn]] void Fail(const std::string& what, Site site);
  unsigned SyncThreads(bool predicate, const char* name, Site site);
  void WarpOperation(const char* name, uint32_t mask, void* io, WarpCombine combine, bool orders_memory, Site site);
  uint8_t* StaticShared(SharedSlot& slot, size_t bytes, size_t align, Site site);
  DynamicBytes dynamic() { return {shadow_.data(), dynamic_bytes_}; }
  void CheckAccess(Access access, const void* p, size_t bytes, Site site);
  void AsyncCopy(uint8_t* to, const void* from, size_t bytes, size_t valid, Site site);
  Thread& current() { return *current_; }
  void AsyncWait(size_t pending);

  Schedule schedule;
  const std::function<void()>* body = nullptr;

 private:
  void RunBlock(Uint3 block_idx);
  void Order(std::vector<unsigned>& order, bool first);
  void Wait(Waiting waiting);
  void ReleaseBlock();
  void FindDivergence();
  std::string ThreadText(const Thread& thread) const;

  std::string kernel_;
  std::string error_;
  size_t dynamic_bytes_ = 0;
  size_t static_end_ = 0;  // dynamic and static bytes so far
  uint64_t launch_ = 0;
  std::vector<std::unique_ptr<Thread>> threads_;
  unsigned n_threads_ = 0;
  std::vector<Warp> warps_;
  std::vector<unsigned> order_;
  Thread* current_ = nullptr;
  Shadow shadow_;
  unsigned at_barrier_ = 0;
  unsigned done_ = 0;
  unsigned predicates_ = 0;
  unsigned released_predicates_ = 0;
  uint64_t random_ = 1;
};

thread_local BlockRunner runner;
std::atomic<uint64_t> launches{0};

// Thrown by Fail and caught below, on the stack of the same fiber: what its frames own is freed.
struct LaunchFailed {};

void ThreadMain() {
  try {
    (*runner.body)();
  } catch (const LaunchFailed&) {
  }
  Thread& thread = runner.current();
  thread.waiting = Waiting::kDone;
  thread.fiber.Leave(true);
}

std::string BlockRunner::ThreadText(const Thread& thread) const {
  return absl::StrCat("thread ", Text(thread.place.thread_idx));
}

void BlockRunner::Fail(const std::string& what, Site site) {
  error_ = absl::StrCat("kernel ", kernel_, ", block ", Text(current_->place.block_idx), ", ", ThreadText(*current_),
                        ", ", Text(site), ": ", what);
  throw LaunchFailed();
}

void BlockRunner::Wait(Waiting waiting) {
  current_->waiting = waiting;
  current_->fiber.Leave(false);
}

unsigned BlockRunner::SyncThreads(bool predicate, const char* name, Site site) {
  Thread& me = *current_;
  me.operation = name;
  me.site = site;
  predicates_ += predicate ? 1 : 0;
  ++at_barrier_;
  if (at_barrier_ == n_threads_) {
    ReleaseBlock();
    // A thread that came from elsewhere fails in its own name only when everybody is there.
  } else {
    Wait(Waiting::kBlock);
  }
  return released_predicates_;
}

void BlockRunner::ReleaseBlock() {
  for (unsigned i = 0; i < n_threads_; ++i) {
    Thread& other = *threads_[i];
    if (other.site.line() != current_->site.line() || other.operation != current_->operation) {
      Fail(absl::StrCat(current_->operation, " meets ", other.operation, " of ", ThreadText(other), " at ",
                        Text(other.site), ": a divergent barrier"),
           current_->site);
    }
  }
  for (unsigned i = 0; i < n_threads_; ++i) threads_[i]->waiting = Waiting::kNothing;
  at_barrier_ = 0;
  released_predicates_ = predicates_;
  predicates_ = 0;
  shadow_.SyncBlock();
}

void BlockRunner::WarpOperation(const char* name, uint32_t mask, void* io, WarpCombine combine, bool orders_memory,
                                Site site) {
  Thread& me = *current_;
  const unsigned lane = me.place.lane();
  const unsigned warp_index = me.place.linear / kWarpSize;
  Warp& warp = warps_[warp_index];
  if ((mask >> lane & 1u) == 0) {
    Fail(absl::StrCat(name, " with mask 0x", absl::Hex(mask), ", which leaves out the lane that calls it, ", lane),
         site);
  }
  if ((mask & ~warp.lanes) != 0) {
    Fail(absl::StrCat(name, " with mask 0x", absl::Hex(mask), " in a warp of lanes 0x", absl::Hex(warp.lanes)), site);
  }
  if ((mask & warp.done) != 0) {
    Fail(absl::StrCat(name, " waits for lanes 0x", absl::Hex(mask & warp.done), ", which have ended"), site);
  }
  me.operation = name;
  me.site = site;
  me.mask = mask;
  me.io = io;
  warp.waiting |= 1u << lane;
  if ((warp.waiting & mask) != mask) {
    Wait(Waiting::kWarp);
    return;
  }
  void* lanes[kWarpSize] = {};
  for (unsigned i = 0; i < kWarpSize; ++i) {
    if ((mask >> i & 1u) == 0) continue;
    Thread& other = *threads_[warp_index * kWarpSize + i];
    if (other.mask != mask || other.operation != name || other.site.line() != site.line()) {
      Fail(absl::StrCat(name, " with mask 0x", absl::Hex(mask), " meets ", other.operation, " with mask 0x",
                        absl::Hex(other.mask), " of ", ThreadText(other), " at ", Text(other.site),
                        ": a divergent warp operation"),
           site);
    }
    lanes[i] = other.io;
  }
  if (combine != nullptr) combine(lanes, mask);
  warp.waiting &= ~mask;
  for (unsigned i = 0; i < kWarpSize; ++i) {
    if ((mask >> i & 1u) != 0) threads_[warp_index * kWarpSize + i]->waiting = Waiting::kNothing;
  }
  // Of a part of the warp it counts for nothing: that can only report a race too many.
  if (orders_memory && mask == warp.lanes) shadow_.SyncWarp(warp_index);
}

uint8_t* BlockRunner::StaticShared(SharedSlot& slot, size_t bytes, size_t align, Site site) {
  if (slot.launch != launch_) {
    const size_t offset = (static_end_ + align - 1) / align * align;
    if (offset + bytes > kMaxSharedBytes) {
      Fail(absl::StrCat("more than ", kMaxSharedBytes, " bytes of shared memory"), site);
    }
    static_end_ = offset + bytes;
    slot = {launch_, offset};
  }
  return shadow_.data() + slot.offset;
}

void BlockRunner::CheckAccess(Access access, const void* p, size_t bytes, Site site) {
  const ShadowError error = shadow_.Check(access, static_cast<const uint8_t*>(p), bytes, current_->place.linear);
  if (error.what == nullptr) return;
  std::string other;
  if (error.other < n_threads_) other = absl::StrCat(" of ", ThreadText(*threads_[error.other]));
  Fail(absl::StrCat(error.what, other, ": byte ", error.offset, " of shared memory"), site);
}

void BlockRunner::AsyncCopy(uint8_t* to, const void* from, size_t bytes, size_t valid, Site site) {
  if (bytes != 4 && bytes != 8 && bytes != 16) Fail(absl::StrCat("cp.async of ", bytes, " bytes"), site);
  if (valid > bytes) Fail(absl::StrCat("cp.async reads ", valid, " of ", bytes, " bytes"), site);
  if (reinterpret_cast<uintptr_t>(to) % bytes != 0) Fail("cp.async to a misaligned address of shared memory", site);
  if (valid > 0) CheckGlobal(from, valid, bytes, "cp.async", site);
  CheckAccess(Access::kAsyncIssue, to, bytes, site);
  AsyncPiece piece{.to = to, .bytes = bytes, .data = {}, .site = site};
  std::copy_n(static_cast<const uint8_t*>(from), valid, piece.data);
  current_->async.back().push_back(piece);
}

void BlockRunner::AsyncWait(size_t pending) {
  auto& groups = current_->async;
  while (groups.size() > pending + 1) {
    for (const AsyncPiece& piece : groups.front()) {
      std::copy_n(piece.data, piece.bytes, piece.to);
      CheckAccess(Access::kAsyncArrive, piece.to, piece.bytes, piece.site);
    }
    groups.erase(groups.begin());
  }
}

void BlockRunner::Order(std::vector<unsigned>& order, bool first) {
  if (schedule.order == Schedule::Order::kShuffled) {
    for (size_t i = order.size(); i > 1; --i) {
      random_ = random_ * 6364136223846793005u + 1442695040888963407u;
      std::swap(order[i - 1], order[(random_ >> 33) % i]);
    }
  } else if (first && schedule.order == Schedule::Order::kBackward) {
    std::reverse(order.begin(), order.end());
  }
}

void BlockRunner::RunBlock(Uint3 block_idx) {
  warps_.assign((n_threads_ + kWarpSize - 1) / kWarpSize, Warp{});
  order_.resize(n_threads_);
  for (unsigned i = 0; i < n_threads_; ++i) {
    Thread& thread = *threads_[i];
    thread.place.block_idx = block_idx;
    thread.waiting = Waiting::kNothing;
    thread.async.assign(1, {});
    warps_[i / kWarpSize].lanes |= 1u << (i % kWarpSize);
    order_[i] = i;
    if (!thread.fiber.Start(&ThreadMain)) {
      error_ = absl::StrCat("kernel ", kernel_, ": no memory for the stacks of ", n_threads_, " threads");
      return;
    }
  }
  at_barrier_ = done_ = predicates_ = 0;
  shadow_.StartBlock();
  Order(order_, true);
  while (done_ < n_threads_) {
    bool progress = false;
    for (const unsigned i : order_) {
      Thread& thread = *threads_[i];
      if (thread.waiting != Waiting::kNothing) continue;
      progress = true;
      current_ = &thread;
      current_place = &thread.place;
      thread.fiber.Resume();
      if (!error_.empty()) return;
      if (thread.waiting == Waiting::kDone) {
        ++done_;
        warps_[i / kWarpSize].done |= 1u << (i % kWarpSize);
      }
    }
    if (!progress) {
      FindDivergence();
      return;
    }
    if (schedule.order == Schedule::Order::kShuffled) Order(order_, false);
  }
}

void BlockRunner::FindDivergence() {
  const Thread* waits = nullptr;
  const Thread* lacks = nullptr;
  // Warp operations first: at a barrier the others only wait for them.
  for (unsigned i = 0; i < n_threads_ && waits == nullptr; ++i) {
    if (threads_[i]->waiting == Waiting::kWarp) waits = threads_[i].get();
  }
  if (waits != nullptr) {
    const unsigned first = waits->place.linear / kWarpSize * kWarpSize;
    for (unsigned i = 0; i < kWarpSize && lacks == nullptr; ++i) {
      if ((waits->mask >> i & 1u) == 0) continue;
      const Thread& other = *threads_[first + i];
      if (other.waiting != Waiting::kWarp || other.mask != waits->mask) lacks = &other;
    }
  } else {
    for (unsigned i = 0; i < n_threads_; ++i) {
      const Thread* const thread = threads_[i].get();
      if (thread->waiting == Waiting::kBlock && waits == nullptr) waits = thread;
      if (thread->waiting == Waiting::kDone && lacks == nullptr) lacks = thread;
    }
  }
  if (waits == nullptr) return;
  const char* const kind = waits->waiting == Waiting::kWarp ? "warp operation" : "barrier";
  std::string other;
  if (lacks != nullptr) {
    other = absl::StrCat(" waits for ", ThreadText(*lacks),
                         lacks->waiting == Waiting::kDone
                             ? ", which has ended"
                             : absl::StrCat(", which is in ", lacks->operation, " at ", Text(lacks->site)));
  }
  error_ = absl::StrCat("kernel ", kernel_, ", block ", Text(waits->place.block_idx), ", ", ThreadText(*waits), ", ",
                        Text(waits->site), ": ", waits->operation, other, ": a divergent ", kind);
}

std::string BlockRunner::Run(const char* kernel, Dim3 grid, Dim3 block, size_t dynamic_bytes,
                             const std::function<void()>& kernel_body) {
  kernel_ = kernel;
  error_.clear();
  n_threads_ = static_cast<unsigned>(block.count());
  if (block.count() < 1 || block.count() > kMaxThreads || grid.count() < 1 || grid.y > 65535 || grid.z > 65535) {
    return absl::StrCat("kernel ", kernel, ": a grid of ", Text({grid.x, grid.y, grid.z}), " blocks of ",
                        Text({block.x, block.y, block.z}), " threads");
  }
  if (dynamic_bytes > kMaxSharedBytes) {
    return absl::StrCat("kernel ", kernel, ": ", dynamic_bytes, " bytes of shared memory, more than ", kMaxSharedBytes);
  }
  dynamic_bytes_ = static_end_ = dynamic_bytes;
  launch_ = ++launches;
  body = &kernel_body;
  random_ = schedule.seed;
  while (threads_.size() < n_threads_) threads_.push_back(std::make_unique<Thread>());
  for (unsigned i = 0; i < n_threads_; ++i) {
    threads_[i]->place.linear = i;
    threads_[i]->place.thread_idx = {i % block.x, i / block.x % block.y, i / block.x / block.y};
    threads_[i]->place.block_dim = block;
    threads_[i]->place.grid_dim = grid;
  }
  std::vector<unsigned> blocks(grid.count());
  for (unsigned i = 0; i < blocks.size(); ++i) blocks[i] = i;
  Order(blocks, true);
  for (const unsigned i : blocks) {
    RunBlock({i % grid.x, i / grid.x % grid.y, i / grid.x / grid.y});
    if (!error_.empty()) break;
  }
  current_place = nullptr;
  return error_;
}

// Global memory: shared by all threads of the program.
struct GlobalMemory {
  std::mutex mutex;
  std::map<uintptr_t, uint64_t> allocations;  // begin, bytes
};
GlobalMemory& Global() {
  static auto* const memory = new GlobalMemory;
  return *memory;
}
std::atomic<uint64_t> global_version{1};

// The allocation that was found last.
struct LastHit {
  uint64_t version;
  uintptr_t begin, end;
};
constinit thread_local LastHit last_hit{};

}  // namespace

void SetSchedule(Schedule schedule) { runner.schedule = schedule; }

std::string RunGrid(const char* kernel, Dim3 grid, Dim3 block, size_t dynamic_shared_bytes,
                    const std::function<void()>& body) {
  return runner.Run(kernel, grid, block, dynamic_shared_bytes, body);
}

void Fail(const std::string& what, Site site) { runner.Fail(what, site); }

unsigned SyncThreads(bool predicate, const char* name, Site site) { return runner.SyncThreads(predicate, name, site); }

void WarpOperation(const char* name, uint32_t mask, void* io, WarpCombine combine, Site site) {
  runner.WarpOperation(name, mask, io, combine, false, site);
}

void SyncWarp(uint32_t mask, Site site) { runner.WarpOperation("__syncwarp", mask, nullptr, nullptr, true, site); }

uint8_t* StaticShared(SharedSlot& slot, size_t bytes, size_t align, Site site) {
  return runner.StaticShared(slot, bytes, align, site);
}
DynamicBytes DynamicShared() { return runner.dynamic(); }

void CheckSharedRead(const void* p, size_t bytes, Site site) { runner.CheckAccess(Access::kRead, p, bytes, site); }
void CheckSharedWrite(const void* p, size_t bytes, Site site) { runner.CheckAccess(Access::kWrite, p, bytes, site); }
void CheckSharedAtomic(const void* p, size_t bytes, Site site) { runner.CheckAccess(Access::kAtomic, p, bytes, site); }

void AsyncCopy(uint8_t* to, const void* from, size_t bytes, size_t valid, Site site) {
  runner.AsyncCopy(to, from, bytes, valid, site);
}
void AsyncCommit() { runner.current().async.emplace_back(); }
void AsyncWait(size_t pending) { runner.AsyncWait(pending); }
void AsyncWaitAll() {
  AsyncCommit();
  runner.AsyncWait(0);
}

void RegisterGlobal(const void* begin, uint64_t bytes) {
  GlobalMemory& memory = Global();
  const std::lock_guard<std::mutex> lock(memory.mutex);
  memory.allocations[reinterpret_cast<uintptr_t>(begin)] = bytes;
}

void UnregisterGlobal(const void* begin) {
  GlobalMemory& memory = Global();
  const std::lock_guard<std::mutex> lock(memory.mutex);
  memory.allocations.erase(reinterpret_cast<uintptr_t>(begin));
  ++global_version;
}

void CheckGlobal(const void* p, size_t bytes, size_t align, const char* what, Site site) {
  const auto address = reinterpret_cast<uintptr_t>(p);
  if (address % align != 0) {
    Fail(absl::StrCat(what, " of ", align, " bytes at a misaligned address of global memory"), site);
  }
  if (last_hit.version == global_version && address >= last_hit.begin && address + bytes <= last_hit.end) return;
  GlobalMemory& memory = Global();
  const std::lock_guard<std::mutex> lock(memory.mutex);
  auto after = memory.allocations.upper_bound(address);
  if (after != memory.allocations.begin()) {
    const auto [begin, size] = *std::prev(after);
    if (address + bytes <= begin + size) {
      last_hit = {global_version, begin, begin + size};
      return;
    }
    if (address < begin + size + 4096) {
      Fail(absl::StrCat(what, " of bytes ", address - begin, " to ", address - begin + bytes, " of an allocation of ",
                        size, " bytes of global memory"),
           site);
    }
  }
  Fail(absl::StrCat(what, " of an address that is not device memory"), site);
}

}  // namespace kompakt::cuda_sim
