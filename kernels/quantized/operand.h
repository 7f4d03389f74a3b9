// Operand: the tokens of one product, in the form that the weights want them in. Integer products take groups of codes,
// cut into blocks; everything else takes the rows of F32 as they are.
#pragma once

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/kernel_set.h"
#include "kernels/quantized/integer_isa.h"

namespace kompakt::quantized {

// Scratch stays bounded whatever T is: the drivers take at most so many tokens at a time.
inline constexpr int64_t kSliceTokens = 512;

struct Operand {
  ActPrecision act = ActPrecision::kF32;
  int64_t tokens = 0;
  const float* const* rows = nullptr;  // [tokens]
  // Token t is in block b at place i where t = (sizes of the blocks before b) + i. Null where nothing was quantized.
  const ActBlock* blocks = nullptr;
  int64_t n_blocks = 0;
};

// Has the instruction set an integer product for weights of that format and activations of that precision?
inline bool HasIntegerProduct(const IntegerIsa& isa, const BlockFormat& format, ActPrecision act) {
  return act != ActPrecision::kF32 && isa.few[PrecisionIndex(act)][static_cast<size_t>(format.id)] != nullptr;
}

// Blocks for so many tokens: one up to kFewTokens, else as few of at most kBlockTokens as there can be, of nearly equal
// size.
struct BlockPlan {
  explicit BlockPlan(int64_t n_tokens);
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

// Rows of `cols` values as an operand; the codes are only made where `quantize`. Memory is the workspace's.
absl::StatusOr<Operand> MakeOperand(const IntegerIsa& isa, const float* const* rows, int64_t tokens, int64_t cols,
                                    ActPrecision act, bool quantize, KernelContext& context);

}  // namespace kompakt::quantized
