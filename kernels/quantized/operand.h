// Operand: the tokens of one product, in the forms that the weights want them in. Integer products take groups of
// codes, cut into blocks; products with floats take rows that are raised (float_isa.h); everything else takes the rows
// as they are.
#pragma once

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/kernel_set.h"
#include "kernels/quantized/integer_isa.h"

namespace kompakt::quantized {

// Scratch stays bounded whatever T is: the drivers take at most so many tokens at a time.
inline constexpr int64_t kSliceTokens = 512;

struct RaisedRows {
  const float* const* rows = nullptr;  // [tokens], of FloatRowStride floats
  const float* scales = nullptr;       // [tokens]
};

struct Operand {
  ActPrecision act = ActPrecision::kF32;
  int64_t tokens = 0;
  const float* const* rows = nullptr;  // [tokens]
  RaisedRows raised = {};              // empty where no weights are floats
  // Token t is in block b at place i where t = (sizes of the blocks before b) + i. Null where nothing was quantized.
  const ActBlock* blocks = nullptr;
  int64_t n_blocks = 0;
};

// Has the instruction set an integer product for weights of that format and activations of that precision?
inline bool HasIntegerProduct(const IntegerIsa& isa, const BlockFormat& format, ActPrecision act) {
  return act != ActPrecision::kF32 && isa.few[PrecisionIndex(act)][static_cast<size_t>(format.id)] != nullptr;
}

// One for weights that are floats, whatever the precision?
inline bool HasFloatProduct(const IntegerIsa& isa, const BlockFormat& format) {
  return isa.floats != nullptr && isa.floats->product[static_cast<size_t>(format.id)] != nullptr;
}

// The forms that some weights want their tokens in.
struct Forms {
  bool codes = false;
  bool raised = false;

  void Add(const IntegerIsa& isa, const MatrixView& w, ActPrecision act) {
    codes |= HasIntegerProduct(isa, *w.format, act);
    raised |= HasFloatProduct(isa, *w.format);
  }
};

// Blocks for so many tokens: one up to kFewTokens, else as few of at most `most` as there can be, of nearly equal
// size.
struct BlockPlan {
  explicit BlockPlan(int64_t n_tokens, int64_t most = kBlockTokens);
  int64_t Begin(int64_t block) const { return block * smallest + (block < larger ? block : larger); }
  int64_t Tokens(int64_t block) const { return smallest + (block < larger ? 1 : 0); }
  // The block that token t is in.
  int64_t BlockOf(int64_t t) const {
    const int64_t in_larger = larger * (smallest + 1);
    return t < in_larger ? t / (smallest + 1) : larger + (t - in_larger) / smallest;
  }

  int64_t tokens;
  int64_t blocks;
  int64_t smallest;  // tokens of a block
  int64_t larger;    // so many blocks, the first ones, have one more
};

// Memory for the blocks of a plan, not filled: groups of token t go to slot(t), `stride_bytes` apart, and its scale to
// scales[t].
struct BlockBuffer {
  BlockPlan plan;
  ActPrecision act;
  int64_t col_tiles;
  uint8_t* groups;
  float* scales;
  ActBlock* blocks;

  struct Slot {
    uint8_t* groups;
    size_t stride_bytes;
    float* scale;
  };
  Slot SlotOf(int64_t t) const;
};
absl::StatusOr<BlockBuffer> MakeBlocks(int64_t tokens, int64_t cols, ActPrecision act, Workspace& workspace);

// Rows of `cols` values, raised. Memory is the workspace's.
absl::StatusOr<RaisedRows> MakeRaisedRows(const IntegerIsa& isa, const float* const* rows, int64_t tokens, int64_t cols,
                                          KernelContext& context);

// Rows of `cols` values as an operand in those forms. Memory is the workspace's.
absl::StatusOr<Operand> MakeOperand(const IntegerIsa& isa, const float* const* rows, int64_t tokens, int64_t cols,
                                    ActPrecision act, Forms forms, KernelContext& context);

}  // namespace kompakt::quantized
