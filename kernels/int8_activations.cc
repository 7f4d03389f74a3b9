#include "kernels/int8_activations.h"

#include <algorithm>
#include <cmath>

#include "format/status.h"
#include "kernels/portable/portable_ops.h"
#include "kernels/reference/reference_ops.h"

namespace kompakt {
namespace {

float Silu(float x) { return x / (1.0f + std::exp(-x)); }

// A rounded copy of x: [tokens, width].
absl::StatusOr<float*> Rounded(const float* x, int64_t x_stride, int64_t tokens, int64_t width,
                               KernelContext& context) {
  KOMPAKT_ASSIGN_OR_RETURN(float* const copy, context.workspace->Floats(tokens * width));
  for (int64_t t = 0; t < tokens; ++t) {
    std::copy_n(x + t * x_stride, width, copy + t * width);
    RoundToInt8(copy + t * width, width);
  }
  return copy;
}

absl::Status Linear(const LinearParams& p, KernelContext& context) {
  Workspace::Scope scope(*context.workspace);
  LinearParams rounded = p;
  KOMPAKT_ASSIGN_OR_RETURN(rounded.x, Rounded(p.x, p.x_stride, p.tokens, p.w.shape.cols, context));
  rounded.x_stride = p.w.shape.cols;
  return portable::Linear(rounded, context);
}

absl::Status GatedFfn(const FfnWeights& w, const float* x, int64_t tokens, float* y, KernelContext& context) {
  const int64_t hidden = w.gate.shape.cols;
  const int64_t inter = w.gate.shape.rows;
  Workspace::Scope scope(*context.workspace);
  KOMPAKT_ASSIGN_OR_RETURN(float* const gate, context.workspace->Floats(tokens * inter));
  KOMPAKT_ASSIGN_OR_RETURN(float* const up, context.workspace->Floats(tokens * inter));
  KOMPAKT_ASSIGN_OR_RETURN(float* const rounded, Rounded(x, hidden, tokens, hidden, context));
  const LinearParams to_gate{
      .w = w.gate, .x = rounded, .x_stride = hidden, .tokens = tokens, .y = gate, .y_stride = inter};
  const LinearParams to_up{.w = w.up, .x = rounded, .x_stride = hidden, .tokens = tokens, .y = up, .y_stride = inter};
  const LinearParams to_down{.w = w.down, .x = gate, .x_stride = inter, .tokens = tokens, .y = y, .y_stride = hidden};
  KOMPAKT_RETURN_IF_ERROR(portable::Linear(to_gate, context));
  KOMPAKT_RETURN_IF_ERROR(portable::Linear(to_up, context));
  for (int64_t i = 0; i < tokens * inter; ++i) gate[i] = Silu(gate[i]) * up[i];
  return Linear(to_down, context);
}

absl::Status Ffn(const FfnParams& p, KernelContext& context) { return reference::FfnBy(GatedFfn, p, context); }

absl::Status ExpertFfn(const ExpertFfnParams& p, KernelContext& context) {
  return reference::ExpertFfnBy(GatedFfn, p, context);
}

KernelSet MakeSet() {
  KernelSet set = portable::kPortableSet;
  set.name = "int8-activations";
  set.description = "portable, activations rounded to int8 per 32 columns";
  set.linear = Linear;
  set.ffn = Ffn;
  set.expert_ffn = ExpertFfn;
  return set;
}

}  // namespace

void RoundToInt8(float* x, int64_t n) {
  for (int64_t begin = 0; begin < n; begin += kInt8Group) {
    const int64_t end = std::min(n, begin + kInt8Group);
    float largest = 0;
    for (int64_t i = begin; i < end; ++i) largest = std::max(largest, std::abs(x[i]));
    const float scale = largest / 127.0f;
    if (!(scale > 0) || !std::isfinite(scale)) continue;
    for (int64_t i = begin; i < end; ++i) x[i] = std::nearbyint(x[i] / scale) * scale;
  }
}

const KernelSet& Int8ActivationSet() {
  static const KernelSet set = MakeSet();
  return set;
}

}  // namespace kompakt
