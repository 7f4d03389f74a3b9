#include "runtime/session_checks.h"

#include <algorithm>
#include <cmath>

#include "format/status.h"

namespace kompakt {

absl::Status CheckRewind(int64_t to, int64_t position) {
  if (to >= 0 && to <= position) return absl::OkStatus();
  return UsageError("rewind to position ", to, ": expected 0 to ", position);
}

absl::Status CheckRoom(int64_t tokens, int64_t position, int64_t max_tokens) {
  if (tokens >= 0 && tokens <= max_tokens - position) return absl::OkStatus();
  return UsageError("no room in the cache: ", tokens, " tokens at position ", position, " of ", max_tokens);
}

absl::Status CheckIds(const Model& model, absl::Span<const int32_t> ids, int64_t position, int64_t max_tokens) {
  KOMPAKT_RETURN_IF_ERROR(CheckRoom(std::ssize(ids), position, max_tokens));
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= model.arch().vocab_size()) {
      return UsageError("token ", i, ": expected an id below the vocabulary's ", model.arch().vocab_size(), ", found ",
                        ids[i]);
    }
  }
  return absl::OkStatus();
}

absl::Status CheckRouting(const Model& model, const ForwardTrace& routing, int64_t tokens) {
  const MoeSpec& moe = model.arch().moe();
  const int64_t choices = model.binding().moe_layers * tokens * moe.num_experts_per_tok();
  const bool known = std::all_of(routing.router_ids.begin(), routing.router_ids.end(),
                                 [&](int32_t id) { return id >= 0 && id < moe.n_routed_experts(); });
  if (std::ssize(routing.router_ids) == choices && std::ssize(routing.router_weights) == choices && known) {
    return absl::OkStatus();
  }
  return UsageError("routing: expected ", choices, " choices of experts below ", moe.n_routed_experts(), ", found ",
                    routing.router_ids.size(), " with ", routing.router_weights.size(), " weights");
}

absl::Status CheckFiniteStates(const Model& model, KernelContext& context, const float* x, int64_t tokens,
                               int64_t position, absl::string_view where) {
  const int64_t width = model.arch().hidden_size();
  bool finite = false;
  const FiniteParams all{.x = x, .n = tokens * width, .finite = &finite};
  KOMPAKT_RETURN_IF_ERROR(model.kernels().all_finite(all, context));
  if (finite) return absl::OkStatus();
  for (int64_t i = 0; i < tokens * width; ++i) {
    if (std::isfinite(x[i])) continue;
    return CorruptError(model.weights().origin(), ": ", where, ": expected finite hidden states, found ", x[i],
                        " in channel ", i % width, " at position ", position + i / width);
  }
  return absl::OkStatus();
}

void ClearTrace(const Model& model, int64_t tokens, ForwardTrace& trace) {
  const ModelBinding& binding = model.binding();
  const int64_t routed = binding.moe_layers * tokens;
  const int64_t choices = routed * binding.arch.moe().num_experts_per_tok();
  trace.hidden.assign(static_cast<size_t>((std::ssize(binding.layers) + 1) * tokens * binding.arch.hidden_size()),
                      0.0f);
  trace.router_ids.assign(static_cast<size_t>(choices), 0);
  trace.router_weights.assign(static_cast<size_t>(choices), 0.0f);
  trace.router_scores.assign(static_cast<size_t>(routed * binding.arch.moe().n_routed_experts()), 0.0f);
}

}  // namespace kompakt
