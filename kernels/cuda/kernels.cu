// The table of kernels of one backend.
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/elementwise.cuh"

namespace kompakt::KOMPAKT_BACKEND {

extern const CudaKernels kCudaKernels;
const CudaKernels kCudaKernels = {
    .add = Add,
};

}  // namespace kompakt::KOMPAKT_BACKEND
