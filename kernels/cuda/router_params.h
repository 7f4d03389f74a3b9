// Parameters of the router (router.cu): logits and the choice of experts, by the rule of kernels/router.h.
#pragma once

#include <cstdint>

#include "kernels/cuda/matrix_params.h"
#include "kernels/router.h"

namespace kompakt::cuda {

inline constexpr int64_t kMaxExperts = 1024;
inline constexpr int64_t kMaxExpertGroups = 32;
inline constexpr int64_t kMaxChosen = 32;

// Blocks that have a part of the columns each, of few tokens: a warp has one pair of column tiles of V2-Lite, two of
// V3.
inline constexpr int kMaxRouteParts = 16;
constexpr int RouteParts(int cols) {
  const int parts = (cols + 255) / 256;
  return parts < kMaxRouteParts ? parts : kMaxRouteParts;
}

// One launch of up to 8 tokens, else two. For the same logits the same choice as ChooseExperts.
struct RouteParams {
  RouterRule rule = {};         // within the limits above
  Matrix w = {};                // [E, x.cols]
  const float* bias = nullptr;  // [E], or null
  Activations x = {};           // x.x is read
  int64_t tokens = 0;
  float* parts = nullptr;    // [kMaxRouteParts, min(T, 8), E]: scratch
  float* logits = nullptr;   // [T, E]
  int32_t* ids = nullptr;    // [T, K] ascending
  float* weights = nullptr;  // [T, K]
  float* scores = nullptr;   // [T, E], or null: s of every expert
  // One word, zero before its first use; left so.
  uint32_t* done = nullptr;
};

}  // namespace kompakt::cuda
