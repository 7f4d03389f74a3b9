#include "runtime/observed_ffn.h"

#include <algorithm>
#include <cmath>

#include "format/status.h"

namespace kompakt {
namespace {

struct Roles {
  TensorRole gate;
  TensorRole down;
  int64_t expert;
  ActPrecision act;
  ActPrecision down_act;
};

// y = down(silu(gate x) * (up x)). x: [tokens, h], y: [tokens, h].
absl::Status GatedFfn(const FfnWeights& w, const float* x, int64_t tokens, const Roles& roles, float* y,
                      const KernelSet& kernels, KernelContext& context, LinearObserver& observer) {
  const int64_t hidden = w.gate.shape.cols;
  const int64_t inter = w.gate.shape.rows;
  Workspace::Scope scope(*context.workspace);
  KOMPAKT_ASSIGN_OR_RETURN(float* const gate, context.workspace->Floats(tokens * inter));
  KOMPAKT_ASSIGN_OR_RETURN(float* const up, context.workspace->Floats(tokens * inter));
  const auto linear = [&](const MatrixView& matrix, const float* in, float* out, ActPrecision act) {
    return kernels.linear({.w = matrix,
                           .x = in,
                           .x_stride = matrix.shape.cols,
                           .tokens = tokens,
                           .y = out,
                           .y_stride = matrix.shape.rows,
                           .act = act},
                          context);
  };
  KOMPAKT_RETURN_IF_ERROR(observer.Observe(
      {.role = roles.gate, .expert = roles.expert, .x = x, .x_stride = hidden, .tokens = tokens, .width = hidden}));
  KOMPAKT_RETURN_IF_ERROR(linear(w.gate, x, gate, roles.act));
  KOMPAKT_RETURN_IF_ERROR(linear(w.up, x, up, roles.act));
  context.RunPieces(tokens, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin * inter; i < end * inter; ++i) gate[i] = gate[i] / (1.0f + std::exp(-gate[i])) * up[i];
  });
  KOMPAKT_RETURN_IF_ERROR(observer.Observe(
      {.role = roles.down, .expert = roles.expert, .x = gate, .x_stride = inter, .tokens = tokens, .width = inter}));
  return linear(w.down, gate, y, roles.down_act);
}

}  // namespace

absl::Status ObservedFfn(const FfnParams& p, TensorRole gate, TensorRole down, const KernelSet& kernels,
                         KernelContext& context, LinearObserver& observer) {
  const Roles roles{gate, down, -1, p.act, p.down_act};
  if (!p.accumulate) return GatedFfn(p.w, p.x, p.tokens, roles, p.y, kernels, context, observer);
  const int64_t n = p.tokens * p.w.down.shape.rows;
  Workspace::Scope scope(*context.workspace);
  KOMPAKT_ASSIGN_OR_RETURN(float* const out, context.workspace->Floats(n));
  KOMPAKT_RETURN_IF_ERROR(GatedFfn(p.w, p.x, p.tokens, roles, out, kernels, context, observer));
  return kernels.add({.x = out, .y = p.y, .n = n}, context);
}

absl::Status ObservedExpertFfn(const ExpertFfnParams& p, const KernelSet& kernels, KernelContext& context,
                               LinearObserver& observer) {
  const int64_t hidden = p.experts[0].gate.shape.cols;
  Workspace::Scope scope(*context.workspace);
  KOMPAKT_ASSIGN_OR_RETURN(float* const x, context.workspace->Floats(p.tokens * hidden));
  KOMPAKT_ASSIGN_OR_RETURN(float* const out, context.workspace->Floats(p.tokens * hidden));
  KOMPAKT_ASSIGN_OR_RETURN(int32_t* const slots, context.workspace->Ints(p.tokens));
  if (!p.accumulate) std::fill(p.y, p.y + p.tokens * hidden, 0.0f);
  for (int64_t e = p.expert_begin; e < std::min(p.expert_end, p.n_experts); ++e) {
    int64_t n = 0;  // tokens of this expert; slots[i] = t * k + place of e among the choices of t
    for (int64_t slot = 0; slot < p.tokens * p.k; ++slot) {
      if (p.ids[slot] != e) continue;
      std::copy_n(p.x + slot / p.k * hidden, hidden, x + n * hidden);
      slots[n++] = static_cast<int32_t>(slot);
    }
    if (n == 0) continue;
    const Roles roles{TensorRole::kExpertGate, TensorRole::kExpertDown, e, p.act, p.down_act};
    KOMPAKT_RETURN_IF_ERROR(GatedFfn(p.experts[e], x, n, roles, out, kernels, context, observer));
    for (int64_t i = 0; i < n; ++i) {
      float* const y = p.y + slots[i] / p.k * hidden;
      for (int64_t c = 0; c < hidden; ++c) y[c] += p.weights[slots[i]] * out[i * hidden + c];
    }
  }
  return absl::OkStatus();
}

}  // namespace kompakt
