// What bandwidth is measured with; kernels/cuda/probe_params.h says what it computes.
#pragma once

#include "kernels/cuda/language.cuh"
#include "kernels/cuda/probe_params.h"

namespace kompakt::KOMPAKT_BACKEND {

int Read(const cuda::ReadParams& p, void* stream);

}  // namespace kompakt::KOMPAKT_BACKEND
