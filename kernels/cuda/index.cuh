// The kernels of an indexer; kernels/cuda/index_params.h says what they compute.
#pragma once

#include "kernels/cuda/index_params.h"
#include "kernels/cuda/language.cuh"

namespace kompakt::KOMPAKT_BACKEND {

int IndexAppend(const cuda::IndexAppendParams& p, void* stream);
int IndexScores(const cuda::IndexScoresParams& p, void* stream);
int IndexSelect(const cuda::IndexSelectParams& p, void* stream);

}  // namespace kompakt::KOMPAKT_BACKEND
