// Element-wise kernels; kernels/cuda/elementwise_params.h says what they compute.
#pragma once

#include "kernels/cuda/elementwise_params.h"
#include "kernels/cuda/language.cuh"

namespace kompakt::KOMPAKT_BACKEND {

int Add(const cuda::AddParams& p, void* stream);

}  // namespace kompakt::KOMPAKT_BACKEND
