#include "kernels/quantized/operand.h"

#include <algorithm>

#include "format/status.h"
#include "kernels/portable/row_tiles.h"

namespace kompakt::quantized {

using portable::CeilDiv;

BlockPlan::BlockPlan(int64_t n_tokens, int64_t most) : tokens(n_tokens) {
  blocks = n_tokens <= kFewTokens ? 1 : CeilDiv(n_tokens, most);
  smallest = n_tokens / blocks;
  larger = n_tokens % blocks;
}

BlockBuffer::Slot BlockBuffer::SlotOf(int64_t t) const {
  const int64_t block = plan.BlockOf(t);
  const int64_t begin = plan.Begin(block);
  const size_t bytes = GroupBytes(act);
  return {groups + static_cast<size_t>(begin * col_tiles + t - begin) * bytes,
          static_cast<size_t>(plan.Tokens(block)) * bytes, scales + t};
}

absl::StatusOr<BlockBuffer> MakeBlocks(int64_t tokens, int64_t cols, ActPrecision act, Workspace& workspace) {
  BlockBuffer buffer{.plan = BlockPlan(tokens),
                     .act = act,
                     .col_tiles = CeilDiv(cols, kActGroup),
                     .groups = nullptr,
                     .scales = nullptr,
                     .blocks = nullptr};
  const auto group_bytes = static_cast<int64_t>(GroupBytes(act));
  KOMPAKT_ASSIGN_OR_RETURN(buffer.groups, workspace.RawBytes(tokens * buffer.col_tiles * group_bytes));
  KOMPAKT_ASSIGN_OR_RETURN(buffer.scales, workspace.Floats(tokens));
  KOMPAKT_ASSIGN_OR_RETURN(uint8_t* const blocks,
                           workspace.RawBytes(buffer.plan.blocks * static_cast<int64_t>(sizeof(ActBlock))));
  buffer.blocks = reinterpret_cast<ActBlock*>(blocks);
  for (int64_t b = 0; b < buffer.plan.blocks; ++b) {
    const int64_t begin = buffer.plan.Begin(b);
    buffer.blocks[b] = {.groups = buffer.groups + begin * buffer.col_tiles * group_bytes,
                        .scales = buffer.scales + begin,
                        .tokens = buffer.plan.Tokens(b)};
  }
  return buffer;
}

absl::StatusOr<RaisedRows> MakeRaisedRows(const IntegerIsa& isa, const float* const* rows, int64_t tokens, int64_t cols,
                                          KernelContext& context) {
  const int64_t padded = CeilDiv(cols, kTileCols) * kTileCols;
  const int64_t stride = FloatRowStride(padded);
  KOMPAKT_ASSIGN_OR_RETURN(float* const values, context.workspace->Floats(tokens * stride));
  KOMPAKT_ASSIGN_OR_RETURN(float* const scales, context.workspace->Floats(tokens));
  KOMPAKT_ASSIGN_OR_RETURN(const float** const raised,
                           portable::RowPointers(*context.workspace, values, tokens, stride));
  context.Run(
      tokens, [&](int64_t t, int) { isa.floats->raise(rows[t], cols, padded, values + t * stride, scales + t); },
      portable::WorthThreads(tokens * cols / 4));
  return RaisedRows{.rows = raised, .scales = scales};
}

absl::StatusOr<Operand> MakeOperand(const IntegerIsa& isa, const float* const* rows, int64_t tokens, int64_t cols,
                                    ActPrecision act, Forms forms, KernelContext& context) {
  Operand operand{.act = act, .tokens = tokens, .rows = rows};
  if (forms.raised) {
    KOMPAKT_ASSIGN_OR_RETURN(operand.raised, MakeRaisedRows(isa, rows, tokens, cols, context));
  }
  if (!forms.codes) return operand;
  KOMPAKT_ASSIGN_OR_RETURN(const BlockBuffer buffer, MakeBlocks(tokens, cols, act, *context.workspace));
  const auto body = [&](int64_t t, int) {
    const BlockBuffer::Slot slot = buffer.SlotOf(t);
    isa.quantize[PrecisionIndex(act)](rows[t], cols, slot.groups, slot.stride_bytes, slot.scale);
  };
  context.Run(tokens, body, portable::WorthThreads(tokens * cols / 4));
  operand.blocks = buffer.blocks;
  operand.n_blocks = buffer.plan.blocks;
  return operand;
}

}  // namespace kompakt::quantized
