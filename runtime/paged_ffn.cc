#include "runtime/paged_ffn.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "format/status.h"
#include "runtime/expert_cache.h"

namespace kompakt {
namespace {

// The last tokens of a call stand for all of it.
constexpr int64_t kMostTokens = 32;

}  // namespace

absl::Status GuessExperts(const ModelBinding& model, const LayerBinding& next, const KernelSet& kernels,
                          KernelContext& context, const float* x, int64_t tokens) {
  if (model.expert_cache == nullptr || !next.moe) return absl::OkStatus();
  const int64_t most = model.expert_cache->MostGuesses(next.number);
  if (most == 0) return absl::OkStatus();
  const int64_t width = model.arch.hidden_size();
  const int64_t k = model.router_rule.experts_per_token;
  const int64_t last = std::min(tokens, kMostTokens);
  Workspace::Scope scope(*context.workspace);
  KOMPAKT_ASSIGN_OR_RETURN(float* const normed, context.workspace->Floats(last * width));
  KOMPAKT_ASSIGN_OR_RETURN(int32_t* const ids, context.workspace->Ints(last * k));
  KOMPAKT_ASSIGN_OR_RETURN(float* const weights, context.workspace->Floats(last * k));
  KOMPAKT_RETURN_IF_ERROR(kernels.rms_norm({.x = x + (tokens - last) * width,
                                            .x_stride = width,
                                            .weight = next.post_attention_norm.data(),
                                            .eps = model.arch.rms_norm_eps(),
                                            .tokens = last,
                                            .width = width,
                                            .y = normed,
                                            .y_stride = width},
                                           context));
  KOMPAKT_RETURN_IF_ERROR(kernels.route({.rule = model.router_rule,
                                         .w = next.router,
                                         .bias = next.router_bias.empty() ? nullptr : next.router_bias.data(),
                                         .x = normed,
                                         .tokens = last,
                                         .ids = ids,
                                         .weights = weights},
                                        context));
  // Most wanted first; of these, in the order in which they will be multiplied.
  std::vector<float> wanted(next.experts.size(), 0.0f);
  for (int64_t i = 0; i < last * k; ++i) wanted[static_cast<size_t>(ids[i])] += weights[i];
  std::vector<int32_t> order(wanted.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return wanted[static_cast<size_t>(a)] > wanted[static_cast<size_t>(b)];
  });
  while (!order.empty() && !(wanted[static_cast<size_t>(order.back())] > 0)) order.pop_back();
  order.resize(std::min<size_t>(order.size(), static_cast<size_t>(std::max(most, k))));
  std::sort(order.begin(), order.end());
  model.expert_cache->Guess(next.number, order);
  return absl::OkStatus();
}

}  // namespace kompakt
