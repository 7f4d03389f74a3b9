// The table of kernels of one backend.
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/elementwise.cuh"
#include "kernels/cuda/ffn.cuh"
#include "kernels/cuda/index.cuh"
#include "kernels/cuda/linear.cuh"
#include "kernels/cuda/mla.cuh"
#include "kernels/cuda/probe.cuh"

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
    .mla_append = MlaAppend,
    .mla_absorb = MlaAbsorb,
    .mla_decode = MlaDecode,
    .mla_combine = MlaCombine,
    .mla_decompress = MlaDecompress,
    .mla_prefill = MlaPrefill,
    .index_append = IndexAppend,
    .index_scores = IndexScores,
    .index_select = IndexSelect,
    .read = Read,
};

}  // namespace kompakt::KOMPAKT_BACKEND
