// Products with packed matrices; kernels/cuda/linear_params.h and router_params.h say what they compute.
#pragma once

#include "kernels/cuda/language.cuh"
#include "kernels/cuda/linear_params.h"
#include "kernels/cuda/router_params.h"

namespace kompakt::KOMPAKT_BACKEND {

int Linear(const cuda::LinearParams& p, void* stream);
int Quantize(const cuda::QuantizeParams& p, void* stream);
int Embed(const cuda::EmbedParams& p, void* stream);
int Route(const cuda::RouteParams& p, void* stream);
int Head(const cuda::HeadParams& p, void* stream);

}  // namespace kompakt::KOMPAKT_BACKEND
