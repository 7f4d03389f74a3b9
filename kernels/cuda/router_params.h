// Parameters of the router (router.cu): logits and the choice of experts, by the rule of kernels/router.h.
#pragma once

#include <cstdint>

#include "kernels/cuda/matrix_params.h"
#include "kernels/router.h"

namespace kompakt::cuda {

inline constexpr int64_t kMaxExperts = 1024;
inline constexpr int64_t kMaxExpertGroups = 32;
inline constexpr int64_t kMaxChosen = 32;

// One launch of up to 8 tokens, else two. For the same logits the same choice as ChooseExperts.
struct RouteParams {
  RouterRule rule = {};         // within the limits above
  Matrix w = {};                // [E, x.cols]
  const float* bias = nullptr;  // [E], or null
  Activations x = {};           // x.x is read
  int64_t tokens = 0;
  float* logits = nullptr;   // [T, E]
  int32_t* ids = nullptr;    // [T, K] ascending
  float* weights = nullptr;  // [T, K]
  float* scores = nullptr;   // [T, E], or null: s of every expert
  // One word, zero before its first use; left so.
  uint32_t* done = nullptr;
};

}  // namespace kompakt::cuda
