// The choice of experts for one token by one warp: ChooseExperts of kernels/router.cc, step by step, with the same
// result for the same logits. (Softmax sums in another order, in F64, and rounds to F32.) Every step is run through
// once a launch, so that fetching its code is most of its time: no loop is unrolled.
#pragma once

#include "kernels/cuda/last_block.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/router_params.h"

namespace kompakt::KOMPAKT_BACKEND {

KOMPAKT_DEVICE float Taken() { return __int_as_float(0x7fc00000); }
KOMPAKT_DEVICE float Lowest() { return __int_as_float(static_cast<int>(0xff800000u)); }

// A number and where it was; index < 0: none.
struct Candidate {
  float value;
  int index;
};

// Is b to be chosen before a? The larger one, a tie goes to the lower index.
KOMPAKT_DEVICE bool Before(const Candidate& b, const Candidate& a) {
  if (b.index < 0) return false;
  return a.index < 0 || b.value > a.value || (b.value == a.value && b.index < a.index);
}

// The best of all lanes, in every lane.
KOMPAKT_DEVICE Candidate WarpBest(Candidate mine) {
  KOMPAKT_UNROLL
  for (int offset = 16; offset > 0; offset /= 2) {
    const Candidate other{__shfl_xor_sync(kFullWarp, mine.value, offset),
                          __shfl_xor_sync(kFullWarp, mine.index, offset)};
    if (Before(other, mine)) mine = other;
  }
  return mine;
}

KOMPAKT_DEVICE double WarpSumF64(double v) {
  KOMPAKT_UNROLL
  for (int offset = 16; offset > 0; offset /= 2) v += __shfl_xor_sync(kFullWarp, v, offset);
  return v;
}

// s[e] of every expert; lane takes e = lane, lane + 32, ...
KOMPAKT_DEVICE void ScoreExperts(const RouterRule& rule, const float* logits, SharedPtr<float> s) {
  const int lane = static_cast<int>(threadIdx.x) % 32, n = static_cast<int>(rule.n_experts);
  if (rule.sigmoid) {
    KOMPAKT_ROLLED
    for (int e = lane; e < n; e += 32) {
      s[e] = static_cast<float>(1.0 / (1.0 + exp(-static_cast<double>(LoadFresh(logits + e)))));
    }
    return;
  }
  float largest = Lowest();
  KOMPAKT_ROLLED
  for (int e = lane; e < n; e += 32) largest = fmaxf(largest, LoadFresh(logits + e));
  largest = WarpMax(largest);
  double sum = 0;
  KOMPAKT_ROLLED
  for (int e = lane; e < n; e += 32)
    sum += exp(static_cast<double>(LoadFresh(logits + e)) - static_cast<double>(largest));
  sum = WarpSumF64(sum);
  KOMPAKT_ROLLED
  for (int e = lane; e < n; e += 32) {
    s[e] = static_cast<float>(exp(static_cast<double>(LoadFresh(logits + e)) - static_cast<double>(largest)) / sum);
  }
}

// Leaves the best topk_group groups; lane = group.
KOMPAKT_DEVICE void MaskExpertGroups(const RouterRule& rule, SharedPtr<float> biased) {
  const int lane = static_cast<int>(threadIdx.x) % 32, n_group = static_cast<int>(rule.n_group);
  const int size = static_cast<int>(rule.n_experts) / n_group;
  float first = Lowest(), second = Lowest();
  if (lane < n_group) {
    KOMPAKT_ROLLED
    for (int e = lane * size; e < (lane + 1) * size; ++e) {
      const float v = biased[e];
      if (v > first) {
        second = first;
        first = v;
      } else if (v > second) {
        second = v;
      }
    }
  }
  float score = rule.group_score == GroupScore::kSumOfTwoBest && size > 1 ? first + second : first;
  KOMPAKT_ROLLED
  for (int i = 0; i < static_cast<int>(rule.topk_group); ++i) {
    const Candidate best = WarpBest({score, lane < n_group && score == score ? lane : -1});
    if (best.index == lane) score = Taken();
  }
  const unsigned dropped = __ballot_sync(kFullWarp, lane < n_group && score == score);
  __syncwarp();
  KOMPAKT_ROLLED
  for (int e = lane; e < static_cast<int>(rule.n_experts); e += 32) {
    if ((dropped >> (e / size) & 1u) != 0) biased[e] = Lowest();
  }
  __syncwarp();
}

// The warp's choice for `token`. `s`, `biased`: n_experts each, the warp's own.
KOMPAKT_DEVICE void ChooseForToken(const cuda::RouteParams& p, int64_t token, SharedPtr<float> s,
                                   SharedPtr<float> biased) {
  const RouterRule& rule = p.rule;
  const int lane = static_cast<int>(threadIdx.x) % 32, n = static_cast<int>(rule.n_experts);
  const int k = static_cast<int>(rule.experts_per_token);
  ScoreExperts(rule, p.logits + token * n, s);
  KOMPAKT_ROLLED
  for (int e = lane; e < n; e += 32) {
    const float score = s[e];
    if (p.scores != nullptr) p.scores[token * n + e] = score;
    const float v = score + (p.bias != nullptr ? LoadCached(p.bias + e) : 0.0f);
    biased[e] = v == v ? v : Lowest();
  }
  __syncwarp();
  if (rule.group_score != GroupScore::kNone && rule.topk_group < rule.n_group) MaskExpertGroups(rule, biased);
  int chosen = 0;  // the lane-th choice
  KOMPAKT_ROLLED
  for (int i = 0; i < k; ++i) {
    Candidate mine{0, -1};
    KOMPAKT_ROLLED
    for (int e = lane; e < n; e += 32) {
      const float v = biased[e];
      if (v == v && Before({v, e}, mine)) mine = {v, e};
    }
    const Candidate best = WarpBest(mine);
    __syncwarp();
    if (best.index % 32 == lane) biased[best.index] = Taken();
    if (lane == i) chosen = best.index;
  }
  // Ascending: lane i gets the choice that i others are below.
  int rank = 0;
  KOMPAKT_ROLLED
  for (int i = 0; i < k; ++i) {
    if (__shfl_sync(kFullWarp, chosen, i) < chosen) ++rank;
  }
  int id = 0;
  KOMPAKT_ROLLED
  for (int i = 0; i < k; ++i) {
    const int other = __shfl_sync(kFullWarp, chosen, i), place = __shfl_sync(kFullWarp, rank, i);
    if (place == lane) id = other;
  }
  __syncwarp();
  float weight = 0;
  if (lane < k) weight = s[id];
  if (rule.normalize) {
    float sum = 0;
    KOMPAKT_ROLLED
    for (int i = 0; i < k; ++i) sum += __shfl_sync(kFullWarp, weight, i);
    weight /= sum + 1e-20f;
  }
  if (lane >= k) return;
  p.ids[token * k + lane] = id;
  p.weights[token * k + lane] = weight * rule.factor;
}

}  // namespace kompakt::KOMPAKT_BACKEND
