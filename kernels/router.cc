#include "kernels/router.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace kompakt {
namespace {

constexpr float kNegInf = -std::numeric_limits<float>::infinity();

void Scores(const RouterRule& rule, const float* logits, float* s) {
  const int64_t n = rule.n_experts;
  // F64 inside, so that every C library gives the same F32.
  if (rule.sigmoid) {
    for (int64_t e = 0; e < n; ++e) s[e] = static_cast<float>(1.0 / (1.0 + std::exp(-static_cast<double>(logits[e]))));
    return;
  }
  float largest = logits[0];
  for (int64_t e = 1; e < n; ++e) largest = std::max(largest, logits[e]);
  double sum = 0;
  for (int64_t e = 0; e < n; ++e) sum += std::exp(static_cast<double>(logits[e]) - static_cast<double>(largest));
  for (int64_t e = 0; e < n; ++e) {
    s[e] = static_cast<float>(std::exp(static_cast<double>(logits[e]) - static_cast<double>(largest)) / sum);
  }
}

// Index of the largest of x[0..n) that is not NaN-marked as taken; ties to the lower index. -1 when all are taken.
int64_t TakeLargest(float* x, int64_t n) {
  int64_t best = -1;
  for (int64_t i = 0; i < n; ++i) {
    if (std::isnan(x[i])) continue;
    if (best < 0 || x[i] > x[best]) best = i;
  }
  if (best >= 0) x[best] = std::numeric_limits<float>::quiet_NaN();
  return best;
}

void MaskGroups(const RouterRule& rule, float* biased, float* group_scores) {
  const int64_t size = rule.n_experts / rule.n_group;
  for (int64_t g = 0; g < rule.n_group; ++g) {
    float first = kNegInf;
    float second = kNegInf;
    for (int64_t i = g * size; i < (g + 1) * size; ++i) {
      if (biased[i] > first) {
        second = first;
        first = biased[i];
      } else if (biased[i] > second) {
        second = biased[i];
      }
    }
    const bool two = rule.group_score == GroupScore::kSumOfTwoBest && size > 1;
    group_scores[g] = two ? first + second : first;
  }
  for (int64_t i = 0; i < rule.topk_group; ++i) TakeLargest(group_scores, rule.n_group);
  for (int64_t g = 0; g < rule.n_group; ++g) {
    if (!std::isnan(group_scores[g])) std::fill(biased + g * size, biased + (g + 1) * size, kNegInf);
  }
}

}  // namespace

void ChooseExperts(const RouterRule& rule, const float* logits, const float* bias, float* scores, int32_t* ids,
                   float* weights) {
  const int64_t n = rule.n_experts;
  const int64_t k = rule.experts_per_token;
  float* const s = scores;
  float* const biased = scores + n;
  Scores(rule, logits, s);
  for (int64_t e = 0; e < n; ++e) {
    biased[e] = s[e] + (bias != nullptr ? bias[e] : 0.0f);
    // NaN marks an expert as taken; a NaN score must still leave k experts to choose from.
    if (std::isnan(biased[e])) biased[e] = kNegInf;
  }
  if (rule.group_score != GroupScore::kNone && rule.topk_group < rule.n_group) MaskGroups(rule, biased, scores + 2 * n);
  for (int64_t i = 0; i < k; ++i) ids[i] = static_cast<int32_t>(TakeLargest(biased, n));
  std::sort(ids, ids + k);
  for (int64_t i = 0; i < k; ++i) weights[i] = s[ids[i]];
  if (rule.normalize) {
    float sum = 0;
    for (int64_t i = 0; i < k; ++i) sum += weights[i];
    for (int64_t i = 0; i < k; ++i) weights[i] /= sum + 1e-20f;
  }
  for (int64_t i = 0; i < k; ++i) weights[i] *= rule.factor;
}

}  // namespace kompakt
