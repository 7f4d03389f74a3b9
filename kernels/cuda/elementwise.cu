#include "kernels/cuda/elementwise.cuh"
#include "kernels/cuda/ptx.cuh"

namespace kompakt::KOMPAKT_BACKEND {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) AddKernel(const cuda::AddParams p) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < p.n) p.y[i] += LoadCached(p.x + i);
}

}  // namespace

int Add(const cuda::AddParams& p, void* stream) {
  const auto blocks = static_cast<unsigned>((p.n + kThreads - 1) / kThreads);
  return Launch({.name = "add", .grid = dim3(blocks), .block = dim3(kThreads), .stream = stream}, AddKernel, p);
}

}  // namespace kompakt::KOMPAKT_BACKEND
