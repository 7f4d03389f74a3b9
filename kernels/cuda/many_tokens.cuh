// Products of many tokens over tensor cores: prefill. `codes`: by the integer codes of weights and activations; else in
// F32, of matrices of any format.
#pragma once

#include "kernels/cuda/ffn_params.h"
#include "kernels/cuda/language.cuh"
#include "kernels/cuda/linear_params.h"

namespace kompakt::KOMPAKT_BACKEND {

int LinearOfMany(const cuda::LinearParams& p, bool codes, void* stream);
// p.inner = silu(gate x) * (up x).
int GateUpOfMany(const cuda::FfnParams& p, bool codes, void* stream);
// All of p but the shared expert, whose results are `shared`: [T, h], or null. `codes`: of gate and up.
int ExpertFfnOfMany(const cuda::ExpertFfnParams& p, bool codes, bool down_codes, const float* shared, void* stream);
// Where in p.scratch the shared expert's results are kept: behind those of the routed ones.
float* SharedResults(const cuda::ExpertFfnParams& p);

}  // namespace kompakt::KOMPAKT_BACKEND
