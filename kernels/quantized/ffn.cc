// The FFNs: gate and up of all tokens first, each row tile of both by the same task; then their product is made an
// operand of its own, and the down matrix multiplies it.
#include <cstring>

#include "format/status.h"
#include "kernels/portable/expert_plan.h"
#include "kernels/portable/row_tiles.h"
#include "kernels/quantized/quantized_ops.h"
#include "kernels/quantized/row_product.h"

namespace kompakt::quantized {
namespace {

using portable::CeilDiv;
using portable::ExpertPlan;
using portable::WorthThreads;

// act[t] = silu(gate x[t]) * (up x[t]) for rows of the given tiles. act: [tokens, inter].
void GateAndUp(const IntegerIsa& isa, const FfnWeights& w, int64_t first, int64_t tiles, const Operand& x,
               const ThreadScratch& scratch, const Upcoming& next, float* act) {
  const int64_t inter = w.gate.shape.rows;
  const int64_t row = first * kTileRows;
  const int64_t rows = std::min(tiles * kTileRows, inter - row);
  const auto keep = [&](int64_t token, int64_t n, const float* gate) {
    std::copy_n(gate, n * kGroupRows, scratch.spare + token * kGroupRows);
  };
  const auto activate = [&](int64_t token, int64_t n, const float* up) {
    for (int64_t t = token; t < token + n; ++t, up += kGroupRows) {
      float* const gate = scratch.spare + t * kGroupRows;
      portable::BestPanelIsa().silu_times(gate, up, tiles * kTileRows);
      std::copy_n(gate, rows, act + t * inter + row);
    }
  };
  MultiplyRowTiles(isa, w.gate, first, tiles, x, scratch, Upcoming(w.up, first, tiles), keep);
  MultiplyRowTiles(isa, w.up, first, tiles, x, scratch, next, activate);
}

absl::Status FfnSlice(const IntegerIsa& isa, const FfnParams& p, KernelContext& context) {
  const int64_t hidden = p.w.gate.shape.cols;
  const int64_t inter = p.w.gate.shape.rows;
  Workspace& workspace = *context.workspace;
  Workspace::Scope scope(workspace);
  KOMPAKT_ASSIGN_OR_RETURN(const float** const rows, portable::RowPointers(workspace, p.x, p.tokens, hidden));
  KOMPAKT_ASSIGN_OR_RETURN(float* const act, workspace.Floats(p.tokens * inter));
  {
    Workspace::Scope gate_scope(workspace);
    Forms forms;
    forms.Add(isa, p.w.gate, p.act);
    forms.Add(isa, p.w.up, p.act);
    KOMPAKT_ASSIGN_OR_RETURN(const Operand x, MakeOperand(isa, rows, p.tokens, hidden, p.act, forms, context));
    KOMPAKT_ASSIGN_OR_RETURN(const TeamScratch team, TeamScratch::Create(p.tokens, context));
    const int64_t row_tiles = p.w.gate.layout.row_tiles;
    const int64_t per_task = portable::TilesPerTask(row_tiles, context.threads());
    context.Run(
        CeilDiv(row_tiles, per_task),
        [&](int64_t task, int thread) {
          const int64_t first = task * per_task;
          const int64_t tiles = std::min(per_task, row_tiles - first);
          // The next task is mostly the same thread's.
          const int64_t next = first + tiles;
          const Upcoming upcoming(p.w.gate, next, std::min(per_task, row_tiles - next));
          GateAndUp(isa, p.w, first, tiles, x, team.Of(thread), upcoming, act);
        },
        WorthThreads(2 * inter * hidden * p.tokens));
  }
  KOMPAKT_ASSIGN_OR_RETURN(const float** const act_rows, portable::RowPointers(workspace, act, p.tokens, inter));
  Forms forms;
  forms.Add(isa, p.w.down, p.down_act);
  KOMPAKT_ASSIGN_OR_RETURN(const Operand x, MakeOperand(isa, act_rows, p.tokens, inter, p.down_act, forms, context));
  return Multiply(isa, p.w.down, x, p.y, hidden, p.accumulate, context);
}

// The operands of all experts of a plan, one after the other: those of expert i are slots
// [plan.begin(i), plan.begin(i) + plan.tokens(i)).
struct ExpertOperands {
  ActPrecision act = ActPrecision::kF32;
  const float* const* rows = nullptr;  // [slots]
  RaisedRows raised = {};              // [slots]
  // Null where nothing is quantized.
  ActBlock* blocks = nullptr;
  int32_t* block_begin = nullptr;  // [active + 1] blocks of expert i are [block_begin[i], block_begin[i + 1])
  int32_t* block_slot = nullptr;   // [blocks] first slot
  uint8_t* groups = nullptr;
  float* scales = nullptr;
  int64_t n_blocks = 0;

  Operand Of(const ExpertPlan& plan, int64_t i) const {
    Operand x{.act = act, .tokens = plan.tokens(i), .rows = rows + plan.begin(i)};
    if (raised.rows != nullptr) x.raised = {raised.rows + plan.begin(i), raised.scales + plan.begin(i)};
    if (blocks == nullptr) return x;
    x.blocks = blocks + block_begin[i];
    x.n_blocks = block_begin[i + 1] - block_begin[i];
    return x;
  }
  // Where the groups of the token at `place` of a block go, and the bytes from one to the next.
  uint8_t* GroupsOf(int64_t block, int64_t place) const {
    return groups + (blocks[block].groups - groups) + place * static_cast<int64_t>(GroupBytes(act));
  }
  size_t StrideOf(int64_t block) const { return static_cast<size_t>(blocks[block].tokens) * GroupBytes(act); }
};

// Without codes yet; `rows`: [slots], in the order of the plan.
absl::StatusOr<ExpertOperands> MakeExpertOperands(const ExpertPlan& plan, const float* const* rows, int64_t cols,
                                                  ActPrecision act, bool quantize, Workspace& workspace) {
  ExpertOperands x{.act = act, .rows = rows};
  if (!quantize) return x;
  const int64_t slots = plan.choices;
  const auto group_bytes = static_cast<int64_t>(GroupBytes(act));
  const int64_t row_bytes = CeilDiv(cols, kActGroup) * group_bytes;
  KOMPAKT_ASSIGN_OR_RETURN(x.block_begin, workspace.Ints(plan.active + 1));
  for (int64_t i = 0; i < plan.active; ++i) {
    x.block_begin[i] = static_cast<int32_t>(x.n_blocks);
    x.n_blocks += BlockPlan(plan.tokens(i)).blocks;
  }
  x.block_begin[plan.active] = static_cast<int32_t>(x.n_blocks);
  KOMPAKT_ASSIGN_OR_RETURN(x.block_slot, workspace.Ints(x.n_blocks));
  KOMPAKT_ASSIGN_OR_RETURN(x.groups, workspace.RawBytes(slots * row_bytes));
  KOMPAKT_ASSIGN_OR_RETURN(x.scales, workspace.Floats(slots));
  KOMPAKT_ASSIGN_OR_RETURN(uint8_t* const blocks,
                           workspace.RawBytes(x.n_blocks * static_cast<int64_t>(sizeof(ActBlock))));
  x.blocks = reinterpret_cast<ActBlock*>(blocks);
  for (int64_t i = 0; i < plan.active; ++i) {
    const BlockPlan block_plan(plan.tokens(i));
    for (int64_t b = 0; b < block_plan.blocks; ++b) {
      const int64_t slot = plan.begin(i) + block_plan.Begin(b);
      x.block_slot[x.block_begin[i] + b] = static_cast<int32_t>(slot);
      x.blocks[x.block_begin[i] + b] = {
          .groups = x.groups + slot * row_bytes, .scales = x.scales + slot, .tokens = block_plan.Tokens(b)};
    }
  }
  return x;
}

// Every token is quantized once, and copied to each of its experts.
absl::Status QuantizeTokens(const IntegerIsa& isa, const ExpertFfnParams& p, const ExpertPlan& plan,
                            const ExpertOperands& x, KernelContext& context) {
  const int64_t hidden = p.experts[0].gate.shape.cols;
  const int64_t col_tiles = CeilDiv(hidden, kActGroup);
  const size_t bytes = GroupBytes(x.act);
  const int64_t row_bytes = col_tiles * static_cast<int64_t>(bytes);
  Workspace::Scope scope(*context.workspace);
  KOMPAKT_ASSIGN_OR_RETURN(uint8_t* const once, context.workspace->RawBytes(p.tokens * row_bytes));
  KOMPAKT_ASSIGN_OR_RETURN(float* const scales, context.workspace->Floats(p.tokens));
  context.Run(
      p.tokens,
      [&](int64_t t, int) {
        isa.quantize[PrecisionIndex(x.act)](p.x + t * hidden, hidden, once + t * row_bytes, bytes, scales + t);
      },
      WorthThreads(p.tokens * hidden / 4));
  context.Run(
      x.n_blocks,
      [&](int64_t b, int) {
        const size_t stride = x.StrideOf(b);
        for (int64_t i = 0; i < x.blocks[b].tokens; ++i) {
          const int64_t t = plan.slots[x.block_slot[b] + i] / p.k;
          const uint8_t* from = once + t * row_bytes;
          uint8_t* to = x.GroupsOf(b, i);
          for (int64_t g = 0; g < col_tiles; ++g, from += bytes, to += stride) std::memcpy(to, from, bytes);
          x.scales[x.block_slot[b] + i] = scales[t];
        }
      },
      WorthThreads(plan.choices * hidden / 16));
  return absl::OkStatus();
}

// Every token is raised once; the rows of its experts are the same.
absl::StatusOr<RaisedRows> RaiseTokens(const IntegerIsa& isa, const ExpertFfnParams& p, const ExpertPlan& plan,
                                       KernelContext& context) {
  const int64_t hidden = p.experts[0].gate.shape.cols;
  Workspace& workspace = *context.workspace;
  KOMPAKT_ASSIGN_OR_RETURN(const float** const x, portable::RowPointers(workspace, p.x, p.tokens, hidden));
  KOMPAKT_ASSIGN_OR_RETURN(const RaisedRows once, MakeRaisedRows(isa, x, p.tokens, hidden, context));
  KOMPAKT_ASSIGN_OR_RETURN(const float** const rows, workspace.Pointers(plan.choices));
  KOMPAKT_ASSIGN_OR_RETURN(float* const scales, workspace.Floats(plan.choices));
  for (int64_t i = 0; i < plan.choices; ++i) {
    rows[i] = once.rows[plan.slots[i] / p.k];
    scales[i] = once.scales[plan.slots[i] / p.k];
  }
  return RaisedRows{.rows = rows, .scales = scales};
}

absl::Status ExpertFfnSlice(const IntegerIsa& isa, const ExpertFfnParams& p, KernelContext& context) {
  const int64_t hidden = p.experts[0].gate.shape.cols;
  const int64_t inter = p.experts[0].gate.shape.rows;
  Workspace& workspace = *context.workspace;
  Workspace::Scope scope(workspace);
  KOMPAKT_ASSIGN_OR_RETURN(const ExpertPlan plan, portable::PlanExperts(p, workspace));
  Forms forms;
  Forms down_forms;
  for (int64_t i = 0; i < plan.active; ++i) {
    const FfnWeights& w = p.experts[plan.experts[i]];
    forms.Add(isa, w.gate, p.act);
    forms.Add(isa, w.up, p.act);
    down_forms.Add(isa, w.down, p.down_act);
  }
  const int64_t choices = plan.choices;
  KOMPAKT_ASSIGN_OR_RETURN(float* const act, workspace.Floats(choices * inter));
  KOMPAKT_ASSIGN_OR_RETURN(const TeamScratch team, TeamScratch::Create(plan.most_tokens, context));
  const bool parallel = WorthThreads(inter * hidden * choices);
  {
    Workspace::Scope gate_scope(workspace);
    KOMPAKT_ASSIGN_OR_RETURN(const float** const rows, workspace.Pointers(choices));
    for (int64_t i = 0; i < choices; ++i) rows[i] = p.x + plan.slots[i] / p.k * hidden;
    KOMPAKT_ASSIGN_OR_RETURN(ExpertOperands x, MakeExpertOperands(plan, rows, hidden, p.act, forms.codes, workspace));
    if (forms.codes) KOMPAKT_RETURN_IF_ERROR(QuantizeTokens(isa, p, plan, x, context));
    if (forms.raised) {
      KOMPAKT_ASSIGN_OR_RETURN(x.raised, RaiseTokens(isa, p, plan, context));
    }
    const int64_t row_tiles = p.experts[0].gate.layout.row_tiles;
    const int64_t tasks = CeilDiv(row_tiles, kGroupTiles);
    context.Run(
        plan.active * tasks,
        [&](int64_t task, int thread) {
          const int64_t i = task / tasks;
          const int64_t first = task % tasks * kGroupTiles;
          // The next task is mostly the same thread's.
          const int64_t next = task + 1;
          Upcoming upcoming;
          if (next < plan.active * tasks) {
            const int64_t next_first = next % tasks * kGroupTiles;
            upcoming = Upcoming(p.experts[plan.experts[next / tasks]].gate, next_first,
                                std::min(kGroupTiles, row_tiles - next_first));
          }
          GateAndUp(isa, p.experts[plan.experts[i]], first, std::min(kGroupTiles, row_tiles - first), x.Of(plan, i),
                    team.Of(thread), upcoming, act + plan.begin(i) * inter);
        },
        parallel);
  }

  KOMPAKT_ASSIGN_OR_RETURN(const float** const act_rows, portable::RowPointers(workspace, act, choices, inter));
  KOMPAKT_ASSIGN_OR_RETURN(ExpertOperands x,
                           MakeExpertOperands(plan, act_rows, inter, p.down_act, down_forms.codes, workspace));
  if (down_forms.raised) {
    KOMPAKT_ASSIGN_OR_RETURN(x.raised, MakeRaisedRows(isa, act_rows, choices, inter, context));
  }
  context.Run(
      x.n_blocks,
      [&](int64_t b, int) {
        for (int64_t i = 0; i < x.blocks[b].tokens; ++i) {
          const int64_t slot = x.block_slot[b] + i;
          isa.quantize[PrecisionIndex(x.act)](act_rows[slot], inter, x.GroupsOf(b, i), x.StrideOf(b), x.scales + slot);
        }
      },
      WorthThreads(choices * inter / 4));
  // A task owns some rows of the result for all tokens, so that every sum runs over ascending experts.
  const int64_t row_tiles = p.experts[0].down.layout.row_tiles;
  const int64_t per_task = portable::TilesPerTask(row_tiles, context.threads());
  context.Run(
      CeilDiv(row_tiles, per_task),
      [&](int64_t task, int thread) {
        const int64_t first = task * per_task;
        const int64_t tiles = std::min(per_task, row_tiles - first);
        const int64_t row = first * kTileRows;
        const int64_t rows = std::min(tiles * kTileRows, hidden - row);
        for (int64_t t = 0; !p.accumulate && t < p.tokens; ++t) std::fill_n(p.y + t * hidden + row, rows, 0.0f);
        for (int64_t i = 0; i < plan.active; ++i) {
          const auto add = [&](int64_t token, int64_t n, const float* c) {
            for (int64_t j = token; j < token + n; ++j, c += kGroupRows) {
              const int32_t slot = plan.slots[plan.begin(i) + j];
              const float weight = p.weights[slot];
              float* const y = p.y + slot / p.k * hidden + row;
              for (int64_t r = 0; r < rows; ++r) y[r] += weight * c[r];
            }
          };
          Upcoming next;
          if (i + 1 < plan.active) next = Upcoming(p.experts[plan.experts[i + 1]].down, first, tiles);
          MultiplyRowTiles(isa, p.experts[plan.experts[i]].down, first, tiles, x.Of(plan, i), team.Of(thread), next,
                           add);
        }
      },
      parallel);
  return absl::OkStatus();
}

}  // namespace

absl::Status Ffn(const IntegerIsa& isa, const FfnParams& p, KernelContext& context) {
  const int64_t hidden = p.w.gate.shape.cols;
  for (int64_t begin = 0; begin < p.tokens; begin += kSliceTokens) {
    FfnParams slice = p;
    slice.x += begin * hidden;
    slice.y += begin * hidden;
    slice.tokens = std::min(kSliceTokens, p.tokens - begin);
    KOMPAKT_RETURN_IF_ERROR(FfnSlice(isa, slice, context));
  }
  return absl::OkStatus();
}

absl::Status ExpertFfn(const IntegerIsa& isa, const ExpertFfnParams& p, KernelContext& context) {
  const int64_t hidden = p.experts[0].gate.shape.cols;
  for (int64_t begin = 0; begin < p.tokens; begin += kSliceTokens) {
    ExpertFfnParams slice = p;
    slice.ids += begin * p.k;
    slice.weights += begin * p.k;
    slice.x += begin * hidden;
    slice.y += begin * hidden;
    slice.tokens = std::min(kSliceTokens, p.tokens - begin);
    KOMPAKT_RETURN_IF_ERROR(ExpertFfnSlice(isa, slice, context));
  }
  return absl::OkStatus();
}

}  // namespace kompakt::quantized
