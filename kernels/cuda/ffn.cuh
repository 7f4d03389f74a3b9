// Gated FFNs, dense and of experts; kernels/cuda/ffn_params.h says what they compute.
#pragma once

#include "kernels/cuda/ffn_params.h"
#include "kernels/cuda/language.cuh"

namespace kompakt::KOMPAKT_BACKEND {

int Ffn(const cuda::FfnParams& p, void* stream);
int ExpertFfn(const cuda::ExpertFfnParams& p, void* stream);

}  // namespace kompakt::KOMPAKT_BACKEND
