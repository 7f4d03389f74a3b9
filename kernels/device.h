// Device: memory, streams, events and graphs of one accelerator, and the kernels that run on it. Two backends: `cuda`,
// the CUDA runtime, in builds that have it; `cuda-sim`, the same kernels on the CPU (kernels/cuda/sim/), always there.
//
// Work is queued on streams in order; streams are independent of each other. Copies from and to host memory wait for
// nothing when the host memory is pinned. Errors of queued work appear in a later call on the device.
//
// All failures are DeviceErrors (format/device_error.h): no device, no driver, too little of its memory, a launch that
// went wrong. A Device is used by one thread at a time and outlives everything it made.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/cuda/cuda_kernels.h"

namespace kompakt {

struct DeviceProperties {
  std::string name;       // of the card
  int index = 0;          // among the devices of the backend
  int compute_major = 0;  // 8.6: 8 and 6
  int compute_minor = 0;
  int multiprocessors = 0;
  uint64_t total_bytes = 0;
  uint64_t shared_bytes_per_block = 0;  // the most that a block can ask for
  uint64_t l2_bytes = 0;
  std::string uuid;  // as NVML spells it ("GPU-..."); empty: unknown
};

// Opaque handles. Null stream: the default one.
using DeviceStream = void*;
using DeviceEvent = void*;
using DeviceGraph = void*;

class Device {
 public:
  virtual ~Device() = default;

  virtual absl::string_view backend() const = 0;  // "cuda", "cuda-sim"
  virtual const DeviceProperties& properties() const = 0;
  virtual const CudaKernels& kernels() const = 0;
  virtual absl::StatusOr<uint64_t> FreeBytes() = 0;

  // 256-byte aligned, not initialised. `what` appears in the error. Prefer DeviceBuffer.
  virtual absl::StatusOr<void*> Allocate(uint64_t bytes, absl::string_view what) = 0;
  virtual void Free(void* p) = 0;
  // Host memory that copies need not wait for.
  virtual absl::StatusOr<void*> AllocatePinned(uint64_t bytes, absl::string_view what) = 0;
  virtual void FreePinned(void* p) = 0;

  // Either side may be host or device memory. Host memory must stay until the copy is done.
  virtual absl::Status Copy(void* to, const void* from, uint64_t bytes, DeviceStream stream) = 0;
  virtual absl::Status Fill(void* to, uint8_t value, uint64_t bytes, DeviceStream stream) = 0;

  virtual absl::StatusOr<DeviceStream> CreateStream() = 0;
  virtual void DestroyStream(DeviceStream stream) = 0;
  // Returns when all that was queued on the stream is done, with its first error.
  virtual absl::Status Synchronize(DeviceStream stream) = 0;

  virtual absl::StatusOr<DeviceEvent> CreateEvent() = 0;
  virtual void DestroyEvent(DeviceEvent event) = 0;
  virtual absl::Status Record(DeviceEvent event, DeviceStream stream) = 0;
  // What is queued on `stream` from now on waits for the event's last record.
  virtual absl::Status Wait(DeviceStream stream, DeviceEvent event) = 0;
  // Seconds between two recorded events; waits for both.
  virtual absl::StatusOr<double> SecondsBetween(DeviceEvent begin, DeviceEvent end) = 0;

  // Between BeginCapture and EndCapture what is queued on `stream` is kept as a graph instead of being run.
  virtual absl::Status BeginCapture(DeviceStream stream) = 0;
  virtual absl::StatusOr<DeviceGraph> EndCapture(DeviceStream stream) = 0;
  virtual absl::Status LaunchGraph(DeviceGraph graph, DeviceStream stream) = 0;
  virtual void DestroyGraph(DeviceGraph graph) = 0;

  // What a function of kernels() returned, as a status: 0 is OK.
  virtual absl::Status LaunchStatus(int code, absl::string_view what) = 0;
};

// "cuda", "cuda:1", "cuda-sim". A DeviceError names what is missing: a build with CUDA, a driver, a device, a device
// that the kernels are compiled for. kInvalidArgument when there is no such backend.
absl::StatusOr<std::unique_ptr<Device>> OpenDevice(absl::string_view name);
// Every device that OpenDevice would give, "cuda-sim" last.
std::vector<std::string> AvailableDevices();
// Was this program built with the CUDA backend, and for which architectures ("80 90a"; empty: it was not)?
absl::string_view CudaArchitectures();

// Device memory that is freed with its owner.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  static absl::StatusOr<DeviceBuffer> Create(Device& device, uint64_t bytes, absl::string_view what);
  DeviceBuffer(DeviceBuffer&& other) noexcept { *this = std::move(other); }
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    std::swap(device_, other.device_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~DeviceBuffer() {
    if (data_ != nullptr) device_->Free(data_);
  }

  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  uint64_t bytes() const { return bytes_; }

 private:
  Device* device_ = nullptr;
  void* data_ = nullptr;
  uint64_t bytes_ = 0;
};

}  // namespace kompakt
