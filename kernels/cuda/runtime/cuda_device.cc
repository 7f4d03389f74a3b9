#include "kernels/cuda/runtime/cuda_device.h"

#include <cuda_runtime_api.h>

#include <string>
#include <utility>

#include "absl/strings/str_format.h"
#include "format/device_error.h"
#include "format/status.h"

namespace kompakt::cuda_device {
extern const CudaKernels kCudaKernels;  // kernels/cuda/kernels.cu, as nvcc compiled it
}  // namespace kompakt::cuda_device

namespace kompakt::cuda_runtime {
namespace {

absl::Status Check(cudaError_t error, absl::string_view what) {
  if (error == cudaSuccess) return absl::OkStatus();
  // An error that does not spoil the context is kept until it is asked for.
  (void)cudaGetLastError();
  return DeviceError("cuda: ", what, ": ", cudaGetErrorString(error), " (", cudaGetErrorName(error), ")");
}

std::string UuidText(const cudaUUID_t& uuid) {
  std::string text = "GPU";
  for (int i = 0; i < 16; ++i) {
    if (i == 0 || i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    absl::StrAppendFormat(&text, "%02x", static_cast<uint8_t>(uuid.bytes[i]));
  }
  return text;
}

cudaStream_t StreamOf(DeviceStream stream) { return static_cast<cudaStream_t>(stream); }
cudaEvent_t EventOf(DeviceEvent event) { return static_cast<cudaEvent_t>(event); }

class CudaDevice : public Device {
 public:
  explicit CudaDevice(DeviceProperties properties) : properties_(std::move(properties)) {}

  absl::string_view backend() const override { return "cuda"; }
  const DeviceProperties& properties() const override { return properties_; }
  const CudaKernels& kernels() const override { return cuda_device::kCudaKernels; }
  absl::StatusOr<uint64_t> FreeBytes() override {
    size_t free = 0;
    size_t total = 0;
    KOMPAKT_RETURN_IF_ERROR(Check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo"));
    return free;
  }

  absl::StatusOr<void*> Allocate(uint64_t bytes, absl::string_view what) override {
    void* p = nullptr;
    const cudaError_t error = cudaMalloc(&p, bytes > 0 ? bytes : 1);
    if (error == cudaErrorMemoryAllocation) {
      (void)cudaGetLastError();
      KOMPAKT_ASSIGN_OR_RETURN(const uint64_t free, FreeBytes());
      return DeviceError("cuda: ", what, " needs ", bytes, " bytes of device memory; ", free, " of ",
                         properties_.total_bytes, " are free");
    }
    KOMPAKT_RETURN_IF_ERROR(Check(error, what));
    return p;
  }
  void Free(void* p) override { (void)cudaFree(p); }
  absl::StatusOr<void*> AllocatePinned(uint64_t bytes, absl::string_view what) override {
    void* p = nullptr;
    KOMPAKT_RETURN_IF_ERROR(Check(cudaMallocHost(&p, bytes > 0 ? bytes : 1), what));
    return p;
  }
  void FreePinned(void* p) override { (void)cudaFreeHost(p); }

  absl::Status Copy(void* to, const void* from, uint64_t bytes, DeviceStream stream) override {
    return Check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, StreamOf(stream)), "copy");
  }
  absl::Status Fill(void* to, uint8_t value, uint64_t bytes, DeviceStream stream) override {
    return Check(cudaMemsetAsync(to, value, bytes, StreamOf(stream)), "fill");
  }

  absl::StatusOr<DeviceStream> CreateStream() override {
    cudaStream_t stream = nullptr;
    KOMPAKT_RETURN_IF_ERROR(Check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream"));
    return stream;
  }
  void DestroyStream(DeviceStream stream) override { (void)cudaStreamDestroy(StreamOf(stream)); }
  absl::Status Synchronize(DeviceStream stream) override {
    return Check(cudaStreamSynchronize(StreamOf(stream)), "synchronize");
  }

  absl::StatusOr<DeviceEvent> CreateEvent() override {
    cudaEvent_t event = nullptr;
    KOMPAKT_RETURN_IF_ERROR(Check(cudaEventCreate(&event), "event"));
    return event;
  }
  void DestroyEvent(DeviceEvent event) override { (void)cudaEventDestroy(EventOf(event)); }
  absl::Status Record(DeviceEvent event, DeviceStream stream) override {
    return Check(cudaEventRecord(EventOf(event), StreamOf(stream)), "record");
  }
  absl::Status Wait(DeviceStream stream, DeviceEvent event) override {
    return Check(cudaStreamWaitEvent(StreamOf(stream), EventOf(event), 0), "wait");
  }
  absl::StatusOr<double> SecondsBetween(DeviceEvent begin, DeviceEvent end) override {
    KOMPAKT_RETURN_IF_ERROR(Check(cudaEventSynchronize(EventOf(begin)), "event"));
    KOMPAKT_RETURN_IF_ERROR(Check(cudaEventSynchronize(EventOf(end)), "event"));
    float milliseconds = 0;
    KOMPAKT_RETURN_IF_ERROR(Check(cudaEventElapsedTime(&milliseconds, EventOf(begin), EventOf(end)), "event"));
    return static_cast<double>(milliseconds) / 1000;
  }

  absl::Status BeginCapture(DeviceStream stream) override {
    return Check(cudaStreamBeginCapture(StreamOf(stream), cudaStreamCaptureModeThreadLocal), "capture");
  }
  absl::StatusOr<DeviceGraph> EndCapture(DeviceStream stream) override {
    cudaGraph_t graph = nullptr;
    KOMPAKT_RETURN_IF_ERROR(Check(cudaStreamEndCapture(StreamOf(stream), &graph), "capture"));
    cudaGraphExec_t executable = nullptr;
    const absl::Status status = Check(cudaGraphInstantiate(&executable, graph, 0), "graph");
    (void)cudaGraphDestroy(graph);
    KOMPAKT_RETURN_IF_ERROR(status);
    return executable;
  }
  absl::Status LaunchGraph(DeviceGraph graph, DeviceStream stream) override {
    return Check(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph), StreamOf(stream)), "graph");
  }
  void DestroyGraph(DeviceGraph graph) override { (void)cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph)); }

  absl::Status LaunchStatus(int code, absl::string_view what) override {
    return Check(static_cast<cudaError_t>(code), what);
  }

 private:
  DeviceProperties properties_;
};

}  // namespace

int CountCudaDevices() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    (void)cudaGetLastError();
    return 0;
  }
  return count;
}

absl::StatusOr<std::unique_ptr<Device>> OpenCudaDevice(int index) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaErrorInsufficientDriver) {
    int driver = 0;
    (void)cudaGetLastError();
    (void)cudaDriverGetVersion(&driver);
    return driver == 0 ? DeviceError("cuda: no NVIDIA driver is installed")
                       : DeviceError("cuda: the driver supports CUDA ", driver / 1000, ".", driver % 1000 / 10,
                                     ", this program needs ", CUDART_VERSION / 1000, ".", CUDART_VERSION % 1000 / 10);
  }
  KOMPAKT_RETURN_IF_ERROR(Check(error, "looking for devices"));
  if (index >= count) return DeviceError("cuda: device ", index, " of ", count, " devices");
  KOMPAKT_RETURN_IF_ERROR(Check(cudaSetDevice(index), "device"));
  cudaDeviceProp found{};
  KOMPAKT_RETURN_IF_ERROR(Check(cudaGetDeviceProperties(&found, index), "properties"));
  if (found.major < 8) {
    return DeviceError("cuda: device ", index, ", ", found.name, ", has compute capability ", found.major, ".",
                       found.minor, ", the kernels need 8.0");
  }
  DeviceProperties properties{.name = found.name,
                              .index = index,
                              .compute_major = found.major,
                              .compute_minor = found.minor,
                              .multiprocessors = found.multiProcessorCount,
                              .total_bytes = found.totalGlobalMem,
                              .shared_bytes_per_block = found.sharedMemPerBlockOptin,
                              .l2_bytes = static_cast<uint64_t>(found.l2CacheSize),
                              .uuid = UuidText(found.uuid)};
  return std::make_unique<CudaDevice>(std::move(properties));
}

}  // namespace kompakt::cuda_runtime
