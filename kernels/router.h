// The choice of routed experts from router logits, for one token. DeepSeek-V2 report, section 2.2.2 (device-limited
// routing), and DeepSeek-V3 report, section 2.1.2 (auxiliary-loss-free balancing, node-limited routing).
//
//     s    = softmax(logits) or sigmoid(logits)
//     s^   = s + bias, for selection only
//     G_k  = best s^ of group k, or the sum of its two best
//     keep the topk_group best groups; s^ <- -infinity outside
//     T    = the K largest s^ ; a tie goes to the lower index, for groups and for experts
//     w_e  = s_e for e in T, normalised and scaled as the rule says
#pragma once

#include <cstdint>

namespace kompakt {

enum class GroupScore : uint8_t { kNone, kBest, kSumOfTwoBest };

struct RouterRule {
  bool sigmoid = false;  // else softmax
  int64_t n_experts = 0;
  int64_t experts_per_token = 0;
  GroupScore group_score = GroupScore::kNone;
  int64_t n_group = 1;
  int64_t topk_group = 1;
  bool normalize = false;  // w <- w / (sum w + 1e-20)
  float factor = 1;        // applied last
};

// `scores`: scratch of 2 * n_experts + n_group floats; afterwards the first n_experts are s. NaN logits give an
// arbitrary valid choice.
void ChooseExperts(const RouterRule& rule, const float* logits, const float* bias, float* scores, int32_t* ids,
                   float* weights);

}  // namespace kompakt
