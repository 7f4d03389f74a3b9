#include <algorithm>

#include "format/status.h"
#include "kernels/portable/expert_plan.h"
#include "kernels/portable/portable_ops.h"
#include "kernels/portable/row_tiles.h"

namespace kompakt::portable {
namespace {

constexpr int64_t kGroupRows = kGroupTiles * kTileRows;

// Scratch of one thread: a panel and two results of up to `tokens` tokens.
struct TaskScratch {
  float* base = nullptr;
  int64_t floats = 0;
  int64_t tokens = 0;

  float* panel(int thread) const { return base + thread * floats; }
  float* c(int thread) const { return panel(thread) + kPanelFloats; }
  float* c2(int thread) const { return c(thread) + tokens * kGroupRows; }
};

absl::StatusOr<TaskScratch> MakeScratch(int64_t tokens, KernelContext& context) {
  TaskScratch s{.floats = kPanelFloats + 2 * tokens * kGroupRows, .tokens = tokens};
  KOMPAKT_ASSIGN_OR_RETURN(s.base, context.workspace->Floats(context.threads() * s.floats));
  return s;
}

// y = x W^T, or y += x W^T. y: [tokens, rows of w], y_stride apart.
absl::Status Multiply(const MatrixView& w, const float* const* x, int64_t tokens, float* y, int64_t y_stride,
                      bool accumulate, KernelContext& context) {
  const PanelIsa& isa = BestPanelIsa();
  Workspace::Scope scope(*context.workspace);
  KOMPAKT_ASSIGN_OR_RETURN(const TaskScratch scratch, MakeScratch(tokens, context));
  const int64_t per_task = TilesPerTask(w.layout.row_tiles, context.threads());
  const bool parallel = WorthThreads(w.shape.rows * w.shape.cols * tokens);
  context.Run(
      CeilDiv(w.layout.row_tiles, per_task),
      [&](int64_t task, int thread) {
        const int64_t first = task * per_task;
        const int64_t tiles = std::min(per_task, w.layout.row_tiles - first);
        const int64_t row = first * kTileRows;
        const int64_t rows = std::min(tiles * kTileRows, w.shape.rows - row);
        float* const c = scratch.c(thread);
        MultiplyRowTiles(isa, w, first, tiles, x, tokens, scratch.panel(thread), c, kGroupRows);
        for (int64_t t = 0; t < tokens; ++t) {
          float* const out = y + t * y_stride + row;
          const float* const in = c + t * kGroupRows;
          if (accumulate) {
            for (int64_t r = 0; r < rows; ++r) out[r] += in[r];
          } else {
            std::copy(in, in + rows, out);
          }
        }
      },
      parallel);
  return absl::OkStatus();
}

// act[t] = silu(gate x[t]) * (up x[t]) for rows of the given tiles. act: [tokens, inter].
void GateAndUp(const PanelIsa& isa, const FfnWeights& w, int64_t first, int64_t tiles, const float* const* x,
               int64_t tokens, const TaskScratch& scratch, int thread, float* act) {
  const int64_t inter = w.gate.shape.rows;
  const int64_t row = first * kTileRows;
  const int64_t rows = std::min(tiles * kTileRows, inter - row);
  float* const gate = scratch.c(thread);
  float* const up = scratch.c2(thread);
  MultiplyRowTiles(isa, w.gate, first, tiles, x, tokens, scratch.panel(thread), gate, kGroupRows);
  MultiplyRowTiles(isa, w.up, first, tiles, x, tokens, scratch.panel(thread), up, kGroupRows);
  for (int64_t t = 0; t < tokens; ++t) {
    isa.silu_times(gate + t * kGroupRows, up + t * kGroupRows, tiles * kTileRows);
    std::copy(gate + t * kGroupRows, gate + t * kGroupRows + rows, act + t * inter + row);
  }
}

}  // namespace

absl::Status Linear(const LinearParams& p, KernelContext& context) {
  Workspace::Scope scope(*context.workspace);
  KOMPAKT_ASSIGN_OR_RETURN(const float** const x, RowPointers(*context.workspace, p.x, p.tokens, p.x_stride));
  return Multiply(p.w, x, p.tokens, p.y, p.y_stride, false, context);
}

absl::Status Route(const RouteParams& p, KernelContext& context) {
  const int64_t n = p.rule.n_experts;
  const int64_t k = p.rule.experts_per_token;
  const int64_t scratch = 2 * n + p.rule.n_group;
  Workspace::Scope scope(*context.workspace);
  KOMPAKT_ASSIGN_OR_RETURN(float* const logits, context.workspace->Floats(p.tokens * n));
  KOMPAKT_ASSIGN_OR_RETURN(float* const scores, context.workspace->Floats(context.threads() * scratch));
  const LinearParams to_logits{
      .w = p.w, .x = p.x, .x_stride = p.w.shape.cols, .tokens = p.tokens, .y = logits, .y_stride = n};
  KOMPAKT_RETURN_IF_ERROR(Linear(to_logits, context));
  context.RunPieces(p.tokens, 64, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t t = begin; t < end; ++t) {
      float* const own = scores + thread * scratch;
      ChooseExperts(p.rule, logits + t * n, p.bias, own, p.ids + t * k, p.weights + t * k);
      if (p.scores != nullptr) std::copy_n(own, n, p.scores + t * n);
    }
  });
  return absl::OkStatus();
}

absl::Status Ffn(const FfnParams& p, KernelContext& context) {
  const int64_t hidden = p.w.gate.shape.cols;
  const int64_t inter = p.w.gate.shape.rows;
  const PanelIsa& isa = BestPanelIsa();
  Workspace::Scope scope(*context.workspace);
  KOMPAKT_ASSIGN_OR_RETURN(const float** const x, RowPointers(*context.workspace, p.x, p.tokens, hidden));
  KOMPAKT_ASSIGN_OR_RETURN(float* const act, context.workspace->Floats(p.tokens * inter));
  KOMPAKT_ASSIGN_OR_RETURN(const float** const act_rows, RowPointers(*context.workspace, act, p.tokens, inter));
  KOMPAKT_ASSIGN_OR_RETURN(const TaskScratch scratch, MakeScratch(p.tokens, context));
  const int64_t row_tiles = p.w.gate.layout.row_tiles;
  const int64_t per_task = TilesPerTask(row_tiles, context.threads());
  const bool parallel = WorthThreads(2 * inter * hidden * p.tokens);
  context.Run(
      CeilDiv(row_tiles, per_task),
      [&](int64_t task, int thread) {
        const int64_t first = task * per_task;
        GateAndUp(isa, p.w, first, std::min(per_task, row_tiles - first), x, p.tokens, scratch, thread, act);
      },
      parallel);
  return Multiply(p.w.down, act_rows, p.tokens, p.y, hidden, p.accumulate, context);
}

absl::Status ExpertFfn(const ExpertFfnParams& p, KernelContext& context) {
  const int64_t hidden = p.experts[0].gate.shape.cols;
  const int64_t inter = p.experts[0].gate.shape.rows;
  const PanelIsa& isa = BestPanelIsa();
  Workspace& workspace = *context.workspace;
  Workspace::Scope scope(workspace);
  KOMPAKT_ASSIGN_OR_RETURN(const ExpertPlan plan, PlanExperts(p, workspace));
  const int64_t choices = plan.choices;
  KOMPAKT_ASSIGN_OR_RETURN(float* const act, workspace.Floats(choices * inter));
  KOMPAKT_ASSIGN_OR_RETURN(const float** const act_rows, RowPointers(workspace, act, choices, inter));
  KOMPAKT_ASSIGN_OR_RETURN(const float** const x, workspace.Pointers(choices));
  for (int64_t i = 0; i < choices; ++i) x[i] = p.x + plan.slots[i] / p.k * hidden;
  KOMPAKT_ASSIGN_OR_RETURN(const TaskScratch scratch, MakeScratch(plan.most_tokens, context));

  const int64_t inter_tiles = p.experts[0].gate.layout.row_tiles;
  const int64_t inter_tasks = CeilDiv(inter_tiles, kGroupTiles);
  const bool parallel = WorthThreads(inter * hidden * choices);
  context.Run(
      plan.active * inter_tasks,
      [&](int64_t task, int thread) {
        const int64_t i = task / inter_tasks;
        const int64_t first = task % inter_tasks * kGroupTiles;
        const int64_t begin = plan.slot_begin[i];
        GateAndUp(isa, p.experts[plan.experts[i]], first, std::min(kGroupTiles, inter_tiles - first), x + begin,
                  plan.slot_begin[i + 1] - begin, scratch, thread, act + begin * inter);
      },
      parallel);

  // A task owns some rows of the result for all tokens, so that every sum runs over ascending experts.
  const int64_t hidden_tiles = p.experts[0].down.layout.row_tiles;
  const int64_t per_task = TilesPerTask(hidden_tiles, context.threads());
  context.Run(
      CeilDiv(hidden_tiles, per_task),
      [&](int64_t task, int thread) {
        const int64_t first = task * per_task;
        const int64_t tiles = std::min(per_task, hidden_tiles - first);
        const int64_t row = first * kTileRows;
        const int64_t rows = std::min(tiles * kTileRows, hidden - row);
        float* const c = scratch.c(thread);
        for (int64_t t = 0; !p.accumulate && t < p.tokens; ++t) std::fill_n(p.y + t * hidden + row, rows, 0.0f);
        for (int64_t i = 0; i < plan.active; ++i) {
          const int64_t begin = plan.slot_begin[i];
          const int64_t n = plan.slot_begin[i + 1] - begin;
          MultiplyRowTiles(isa, p.experts[plan.experts[i]].down, first, tiles, act_rows + begin, n,
                           scratch.panel(thread), c, kGroupRows);
          for (int64_t j = 0; j < n; ++j) {
            const int32_t slot = plan.slots[begin + j];
            const float weight = p.weights[slot];
            float* const y = p.y + slot / p.k * hidden + row;
            for (int64_t r = 0; r < rows; ++r) y[r] += weight * c[j * kGroupRows + r];
          }
        }
      },
      parallel);
  return absl::OkStatus();
}

}  // namespace kompakt::portable
