// Rows of random values in the caches of a layer, for measuring: how long attention takes does not depend on them.
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/layer.h"

namespace kompakt {

// So many rows differ, and then come again. Prime, so that blocks of rows differ.
inline constexpr int64_t kRandomRows = 61;

// kRandomRows rows of `width` values, the same in every run.
std::vector<float> RandomRows(int64_t width);

// Rows [position, position + tokens) of a cache in host memory, of its index keys too where it has them.
void StoreRandomRows(const LayerCache& cache, int64_t position, int64_t tokens, KernelContext& context);

}  // namespace kompakt
