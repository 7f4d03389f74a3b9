// Products of many tokens over tensor cores, for matrices of integer codes and activations of codes: prefill.
#pragma once

#include "kernels/cuda/ffn_params.h"
#include "kernels/cuda/language.cuh"
#include "kernels/cuda/linear_params.h"

namespace kompakt::KOMPAKT_BACKEND {

// Jobs of integer formats only.
int LinearOfMany(const cuda::LinearParams& p, void* stream);
// p.inner = silu(gate x) * (up x).
int GateUpOfMany(const cuda::FfnParams& p, void* stream);
// All of p but the shared expert, whose results are `shared`: [T, h], or null.
int ExpertFfnOfMany(const cuda::ExpertFfnParams& p, const float* shared, void* stream);
// Where in p.scratch the shared expert's results are kept: behind those of the routed ones.
float* SharedResults(const cuda::ExpertFfnParams& p);

}  // namespace kompakt::KOMPAKT_BACKEND
