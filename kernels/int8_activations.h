// The portable set with the activations of every linear map but the router's rounded to int8 first, as the fast paths
// of other sets do: per 32 columns the scale max |x| / 127, codes to the nearest integer, ties to even. Sums stay F32.
// It is not in the table of sets: it exists to measure what that rounding alone does to a model (validate/compare.h).
#pragma once

#include <cstdint>

#include "kernels/kernel_set.h"

namespace kompakt {

const KernelSet& Int8ActivationSet();

inline constexpr int64_t kInt8Group = 32;
// In place; the last group may be short. Values that are not finite stay.
void RoundToInt8(float* x, int64_t n);

}  // namespace kompakt
