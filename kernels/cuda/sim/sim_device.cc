#include "kernels/cuda/sim/sim_device.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "format/device_error.h"
#include "format/status.h"
#include "kernels/cuda/sim/block.h"
#include "kernels/cuda/sim/language.h"
#include "kernels/sanitizers.h"

namespace kompakt::cuda_sim {
namespace {

constexpr int kLaunchFailed = 1;
constexpr uint64_t kAlign = 256;
constexpr uint64_t kGuardBytes = 256;  // before and behind every allocation
constexpr uint8_t kGuard = 0xfd;
constexpr uint8_t kFresh = 0xff;

struct Stream {
  bool capturing = false;
  std::vector<std::function<int()>> captured;
};
struct Graph {
  std::vector<std::function<int()>> nodes;
};
struct Event {
  std::chrono::steady_clock::time_point time;
};

// Of the launches of this thread.
thread_local std::string last_error;
std::atomic<uint64_t> damaged{0};
std::atomic<uint64_t> launched{0};

int RunOrCapture(void* stream, std::function<int()> work) {
  auto* const s = static_cast<Stream*>(stream);
  if (s != nullptr && s->capturing) {
    s->captured.push_back(std::move(work));
    return 0;
  }
  return work();
}

class SimDevice : public Device {
 public:
  explicit SimDevice(uint64_t total_bytes) {
    properties_ = {.name = "CUDA simulator",
                   .index = 0,
                   .compute_major = 8,
                   .compute_minor = 0,
                   .multiprocessors = 4,
                   .total_bytes = total_bytes,
                   .shared_bytes_per_block = 163 << 10,
                   .l2_bytes = 4 << 20,
                   .uuid = ""};
  }
  ~SimDevice() override {
    while (!allocations_.empty()) Free(allocations_.begin()->first);
  }

  absl::string_view backend() const override { return "cuda-sim"; }
  const DeviceProperties& properties() const override { return properties_; }
  const CudaKernels& kernels() const override { return kCudaKernels; }
  absl::StatusOr<uint64_t> FreeBytes() override { return properties_.total_bytes - used_; }

  absl::StatusOr<void*> Allocate(uint64_t bytes, absl::string_view what) override;
  void Free(void* p) override;
  absl::StatusOr<void*> AllocatePinned(uint64_t bytes, absl::string_view what) override {
    void* p = nullptr;
    if (posix_memalign(&p, kAlign, std::max<uint64_t>(bytes, 1)) != 0) {
      return DeviceError("no ", bytes, " bytes of host memory for ", what);
    }
    return p;
  }
  void FreePinned(void* p) override { std::free(p); }

  absl::Status Copy(void* to, const void* from, uint64_t bytes, DeviceStream stream) override {
    RunOrCapture(stream, [=] {
      std::memcpy(to, from, bytes);
      return 0;
    });
    return absl::OkStatus();
  }
  absl::Status Fill(void* to, uint8_t value, uint64_t bytes, DeviceStream stream) override {
    RunOrCapture(stream, [=] {
      std::memset(to, value, bytes);
      return 0;
    });
    return absl::OkStatus();
  }

  absl::StatusOr<DeviceStream> CreateStream() override { return new Stream; }
  void DestroyStream(DeviceStream stream) override { delete static_cast<Stream*>(stream); }
  absl::Status Synchronize(DeviceStream /*stream*/) override { return absl::OkStatus(); }

  absl::StatusOr<DeviceEvent> CreateEvent() override { return new Event; }
  void DestroyEvent(DeviceEvent event) override { delete static_cast<Event*>(event); }
  absl::Status Record(DeviceEvent event, DeviceStream stream) override {
    RunOrCapture(stream, [event] {
      static_cast<Event*>(event)->time = std::chrono::steady_clock::now();
      return 0;
    });
    return absl::OkStatus();
  }
  absl::Status Wait(DeviceStream /*stream*/, DeviceEvent /*event*/) override { return absl::OkStatus(); }
  absl::StatusOr<double> SecondsBetween(DeviceEvent begin, DeviceEvent end) override {
    return std::chrono::duration<double>(static_cast<Event*>(end)->time - static_cast<Event*>(begin)->time).count();
  }

  absl::Status BeginCapture(DeviceStream stream) override {
    auto* const s = static_cast<Stream*>(stream);
    if (s == nullptr || s->capturing)
      return DeviceError("cuda-sim: the default stream, or one that is captured, is captured");
    s->capturing = true;
    return absl::OkStatus();
  }
  absl::StatusOr<DeviceGraph> EndCapture(DeviceStream stream) override {
    auto* const s = static_cast<Stream*>(stream);
    if (s == nullptr || !s->capturing) return DeviceError("the end of a capture that did not begin");
    s->capturing = false;
    return new Graph{std::exchange(s->captured, {})};
  }
  absl::Status LaunchGraph(DeviceGraph graph, DeviceStream stream) override {
    for (const auto& node : static_cast<Graph*>(graph)->nodes) {
      KOMPAKT_RETURN_IF_ERROR(LaunchStatus(RunOrCapture(stream, node), "graph"));
    }
    return absl::OkStatus();
  }
  void DestroyGraph(DeviceGraph graph) override { delete static_cast<Graph*>(graph); }

  absl::Status LaunchStatus(int code, absl::string_view what) override {
    if (code == 0) return absl::OkStatus();
    return DeviceError("cuda-sim: ", what, ": ", last_error);
  }

 private:
  DeviceProperties properties_;
  uint64_t used_ = 0;
  std::map<void*, uint64_t> allocations_;
};

absl::StatusOr<void*> SimDevice::Allocate(uint64_t bytes, absl::string_view what) {
  if (bytes > properties_.total_bytes - used_) {
    return DeviceError("cuda-sim: ", what, " needs ", bytes, " bytes of device memory; ",
                       properties_.total_bytes - used_, " of ", properties_.total_bytes, " are free");
  }
  void* memory = nullptr;
  // The sanitizer has its own guards, and they lie right at the ends.
  const uint64_t guards = kAddressSanitized ? 0 : 2 * kGuardBytes;
  if (posix_memalign(&memory, kAlign, std::max<uint64_t>(bytes, 1) + guards) != 0) {
    return DeviceError("cuda-sim: no ", bytes, " bytes of host memory for ", what);
  }
  auto* p = static_cast<uint8_t*>(memory);
  if (!kAddressSanitized) {
    std::memset(p, kGuard, kGuardBytes);
    p += kGuardBytes;
    std::memset(p + bytes, kGuard, kGuardBytes);
  }
  // A large allocation is mostly weights, which are copied at once.
  std::memset(p, kFresh, bytes);
  used_ += bytes;
  allocations_[p] = bytes;
  RegisterGlobal(p, bytes);
  return p;
}

void SimDevice::Free(void* p) {
  const auto found = allocations_.find(p);
  if (found == allocations_.end()) return;
  const uint64_t bytes = found->second;
  allocations_.erase(found);
  used_ -= bytes;
  UnregisterGlobal(p);
  auto* memory = static_cast<uint8_t*>(p);
  if (!kAddressSanitized) {
    const auto intact = [](const uint8_t* guard) {
      return std::all_of(guard, guard + kGuardBytes, [](uint8_t byte) { return byte == kGuard; });
    };
    if (!intact(memory - kGuardBytes) || !intact(memory + bytes)) ++damaged;
    memory -= kGuardBytes;
  }
  std::free(memory);
}

}  // namespace

int Enqueue(const char* name, Dim3 grid, Dim3 block, size_t shared_bytes, void* stream, std::function<void()> body) {
  return RunOrCapture(stream, [=, body = std::move(body)] {
    ++launched;
    std::string error = RunGrid(name, grid, block, shared_bytes, body);
    if (error.empty()) return 0;
    last_error = std::move(error);
    return kLaunchFailed;
  });
}

std::unique_ptr<Device> OpenSimDevice(uint64_t total_bytes) { return std::make_unique<SimDevice>(total_bytes); }

uint64_t DamagedAllocations() { return damaged; }

uint64_t LaunchedKernels() { return launched; }

}  // namespace kompakt::cuda_sim
