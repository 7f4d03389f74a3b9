#include <algorithm>
#include <cmath>
#include <cstring>

#include "format/status.h"
#include "kernels/reference/dot.h"
#include "kernels/reference/reference_ops.h"

namespace kompakt::reference {
namespace {

float Silu(float x) { return x / (1.0f + std::exp(-x)); }

// y = down(silu(gate x) * (up x)), without opening a scope of its own for the result.
absl::Status GatedFfn(const FfnWeights& w, const float* x, int64_t tokens, float* y, KernelContext& context) {
  const int64_t hidden = w.gate.shape.cols;
  const int64_t inter = w.gate.shape.rows;
  Workspace::Scope scope(*context.workspace);
  KOMPAKT_ASSIGN_OR_RETURN(float* const gate, context.workspace->Floats(tokens * inter));
  KOMPAKT_ASSIGN_OR_RETURN(float* const up, context.workspace->Floats(tokens * inter));
  const LinearParams to_gate{.w = w.gate, .x = x, .x_stride = hidden, .tokens = tokens, .y = gate, .y_stride = inter};
  const LinearParams to_up{.w = w.up, .x = x, .x_stride = hidden, .tokens = tokens, .y = up, .y_stride = inter};
  const LinearParams to_down{.w = w.down, .x = gate, .x_stride = inter, .tokens = tokens, .y = y, .y_stride = hidden};
  KOMPAKT_RETURN_IF_ERROR(Linear(to_gate, context));
  KOMPAKT_RETURN_IF_ERROR(Linear(to_up, context));
  for (int64_t i = 0; i < tokens * inter; ++i) gate[i] = Silu(gate[i]) * up[i];
  return Linear(to_down, context);
}

}  // namespace

absl::Status Linear(const LinearParams& p, KernelContext& context) {
  const int64_t rows = p.w.shape.rows;
  const int64_t cols = p.w.shape.cols;
  Workspace::Scope scope(*context.workspace);
  KOMPAKT_ASSIGN_OR_RETURN(float* const scratch, context.workspace->Floats(context.threads() * kTileRows * cols));
  context.Run(p.w.layout.row_tiles, [&](int64_t row_tile, int thread) {
    const int64_t begin = row_tile * kTileRows;
    const int64_t end = std::min(rows, begin + kTileRows);
    float* const w = scratch + thread * kTileRows * cols;
    DecodeRows(p.w, begin, end, absl::MakeSpan(w, static_cast<size_t>((end - begin) * cols)));
    for (int64_t t = 0; t < p.tokens; ++t) {
      for (int64_t r = begin; r < end; ++r) {
        p.y[t * p.y_stride + r] = static_cast<float>(Dot(p.x + t * p.x_stride, w + (r - begin) * cols, cols));
      }
    }
  });
  return absl::OkStatus();
}

absl::Status Route(const RouteParams& p, KernelContext& context) {
  const int64_t n = p.rule.n_experts;
  Workspace::Scope scope(*context.workspace);
  KOMPAKT_ASSIGN_OR_RETURN(float* const logits, context.workspace->Floats(p.tokens * n));
  KOMPAKT_ASSIGN_OR_RETURN(float* const scores, context.workspace->Floats(2 * n + p.rule.n_group));
  const LinearParams to_logits{
      .w = p.w, .x = p.x, .x_stride = p.w.shape.cols, .tokens = p.tokens, .y = logits, .y_stride = n};
  KOMPAKT_RETURN_IF_ERROR(Linear(to_logits, context));
  const int64_t k = p.rule.experts_per_token;
  for (int64_t t = 0; t < p.tokens; ++t) {
    ChooseExperts(p.rule, logits + t * n, p.bias, scores, p.ids + t * k, p.weights + t * k);
    if (p.scores != nullptr) std::copy_n(scores, n, p.scores + t * n);
  }
  return absl::OkStatus();
}

absl::Status Ffn(const FfnParams& p, KernelContext& context) { return FfnBy(GatedFfn, p, context); }

absl::Status ExpertFfn(const ExpertFfnParams& p, KernelContext& context) { return ExpertFfnBy(GatedFfn, p, context); }

absl::Status FfnBy(GatedFfnOp ffn, const FfnParams& p, KernelContext& context) {
  if (!p.accumulate) return ffn(p.w, p.x, p.tokens, p.y, context);
  const int64_t n = p.tokens * p.w.down.shape.rows;
  Workspace::Scope scope(*context.workspace);
  KOMPAKT_ASSIGN_OR_RETURN(float* const out, context.workspace->Floats(n));
  KOMPAKT_RETURN_IF_ERROR(ffn(p.w, p.x, p.tokens, out, context));
  return Add(AddParams{.x = out, .y = p.y, .n = n}, context);
}

absl::Status ExpertFfnBy(GatedFfnOp ffn, const ExpertFfnParams& p, KernelContext& context) {
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
      std::memcpy(x + n * hidden, p.x + slot / p.k * hidden, static_cast<size_t>(hidden) * sizeof(float));
      slots[n++] = static_cast<int32_t>(slot);
    }
    if (n == 0) continue;
    KOMPAKT_RETURN_IF_ERROR(ffn(p.experts[e], x, n, out, context));
    for (int64_t i = 0; i < n; ++i) {
      float* const y = p.y + slots[i] / p.k * hidden;
      for (int64_t c = 0; c < hidden; ++c) y[c] += p.weights[slots[i]] * out[i * hidden + c];
    }
  }
  return absl::OkStatus();
}

}  // namespace kompakt::reference
