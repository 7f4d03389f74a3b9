// The table of kernels of one backend.
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/elementwise.cuh"
#include "kernels/cuda/ffn.cuh"
#include "kernels/cuda/linear.cuh"

namespace kompakt::KOMPAKT_BACKEND {

extern const CudaKernels kCudaKernels;
const CudaKernels kCudaKernels = {
    .add = Add,
    .quantize = Quantize,
    .embed = Embed,
    .linear = Linear,
    .route = Route,
    .ffn = Ffn,
    .expert_ffn = ExpertFfn,
    .head = Head,
};

}  // namespace kompakt::KOMPAKT_BACKEND
