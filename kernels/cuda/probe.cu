#include "kernels/cuda/probe.cuh"
#include "kernels/cuda/ptx.cuh"

namespace kompakt::KOMPAKT_BACKEND {
namespace {

constexpr int kAhead = 8;  // loads of a thread on their way

__global__ void __launch_bounds__(cuda::kReadThreads) ReadKernel(const cuda::ReadParams p) {
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * cuda::kReadThreads + threadIdx.x;
  const int64_t threads = static_cast<int64_t>(p.blocks) * cuda::kReadThreads;
  const int64_t pieces = p.bytes / 16;
  uint32_t word = 0;
  for (int64_t first = thread; first < pieces; first += threads * kAhead) {
    uint4 v[kAhead];
    KOMPAKT_UNROLL
    for (int i = 0; i < kAhead; ++i) {
      const int64_t at = first + i * threads;
      v[i] = at < pieces ? LoadStreaming<uint4>(p.data + at * 16) : make_uint4(0, 0, 0, 0);
    }
    KOMPAKT_UNROLL
    for (int i = 0; i < kAhead; ++i) word ^= v[i].x ^ v[i].y ^ v[i].z ^ v[i].w;
  }
  p.words[thread] = word;
}

}  // namespace

int Read(const cuda::ReadParams& p, void* stream) {
  return Launch({.name = "read",
                 .grid = dim3(static_cast<unsigned>(p.blocks)),
                 .block = dim3(cuda::kReadThreads),
                 .stream = stream},
                ReadKernel, p);
}

}  // namespace kompakt::KOMPAKT_BACKEND
