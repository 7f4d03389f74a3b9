#include "kernels/cuda/decode_block.cuh"
#include "kernels/cuda/ffn.cuh"
#include "kernels/cuda/gated.cuh"
#include "kernels/cuda/last_block.cuh"
#include "kernels/cuda/linear.cuh"
#include "kernels/cuda/many_tokens.cuh"

namespace kompakt::KOMPAKT_BACKEND {
namespace {

// Of one of the chosen experts, or of the shared one.
struct Chosen {
  cuda::Matrix gate = {}, up = {};
  cuda::Activations inner = {};
  int64_t inner_row = 0;  // of the block's first token
  int block = 0;          // of 32 rows
  bool here = true;
};

// The work of block `y` of a token: first the routed experts, then the shared one.
KOMPAKT_DEVICE Chosen Choose(const cuda::ExpertFfnParams& p, int y, int64_t token) {
  const int routed_blocks = static_cast<int>(cuda::Groups(p.routed.gate.rows));
  const int slot = routed_blocks == 0 ? p.k : y / routed_blocks;
  if (slot >= p.k) {
    return {.gate = p.shared.gate,
            .up = p.shared.up,
            .inner = p.shared_inner,
            .inner_row = token,
            .block = y - p.k * routed_blocks};
  }
  const uint8_t* const record = RecordOf(p, LoadCached(p.ids + token * p.k + slot));
  Chosen c{.gate = p.routed.gate,
           .up = p.routed.up,
           .inner = p.inner,
           .inner_row = token * p.k + slot,
           .block = y - slot * routed_blocks,
           .here = record != nullptr};
  if (!c.here) return c;
  c.gate.data = record + p.gate_offset;
  c.up.data = record + p.up_offset;
  return c;
}

// silu(gate x) * (up x) of 32 rows: warps 0 to 3 multiply by gate, the others by up, each half of the columns of one of
// two row tiles. Grid: x token chunk, y block. kTokens > 1 only where there are no routed experts.
template <int kTokens>
__global__ void __launch_bounds__(kDecodeThreads, kDecodeBlocks) GateUpKernel(const cuda::ExpertFfnParams p) {
  KOMPAKT_SHARED(float, partial, PartialFloats(kTokens));
  const auto chunk = static_cast<int64_t>(blockIdx.x);
  const Chosen c = Choose(p, static_cast<int>(blockIdx.y), chunk * kTokens);
  if (!c.here) return;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int64_t token = chunk * kTokens + warp;
  const bool mine = warp < kTokens && token < p.tokens;
  const float factor = mine ? NormFactor(p.x, token) : 0;
  const int rows = c.gate.rows;
  const int row_tile = c.block * 2 + warp % 2;
  RowSums<kTokens> sums;
  if (row_tile * 16 < rows) {
    sums = MultiplyRowTile<kTokens>(Either(warp < 4, c.gate, c.up), row_tile, warp / 2 % 2, 2, p.x,
                                    RowsOfChunk<kTokens>(chunk, p.tokens));
  }
  StorePartial(sums, partial);
  __syncthreads();
  if (!mine) return;
  const float gate = Collect<2>(partial, warp, 0) * factor;
  const float up = Collect<2>(partial, warp, 4) * factor;
  FinishRows({.next = c.inner}, c.inner_row + warp, c.block, rows, Silu(gate) * up);
}

// Grid: x token, y block of 32 rows, z which of the token's experts. The block that comes last of those of a token and
// its 32 rows adds up what all have left in p.scratch, [T, slots, h].
__global__ void __launch_bounds__(kDecodeThreads, kDecodeBlocks) ExpertDownKernel(const cuda::ExpertFfnParams p) {
  KOMPAKT_SHARED(float, partial, PartialFloats(1));
  const auto token = static_cast<int64_t>(blockIdx.x);
  const auto block = static_cast<int>(blockIdx.y);
  const auto slot = static_cast<int>(blockIdx.z);
  const int rows = p.routed.down.rows;
  const bool routed = slot < p.k;
  const int64_t at = token * p.k + slot;
  cuda::Matrix down = Either(routed, p.routed.down, p.shared.down);
  const uint8_t* const record = routed ? RecordOf(p, LoadCached(p.ids + at)) : down.data;
  if (routed && record != nullptr) down.data = record + p.down_offset;
  float* const results = static_cast<float*>(p.scratch);
  const int row = block * 32 + static_cast<int>(threadIdx.x) % 32;
  if (record != nullptr) {
    const TokenRows<1> x_row{{static_cast<int>(routed ? at : token)}};
    const float v = MultiplyBlock<1>(down, block, Either(routed, p.inner, p.shared_inner), x_row, partial);
    if (threadIdx.x < 32 && row < rows) results[(token * gridDim.z + slot) * rows + row] = v;
  }
  if (!IsLastBlock(p.done + token * gridDim.y + block, gridDim.z) || threadIdx.x >= 32) return;
  float v = 0;
  if (row < rows) {
    const float* const of_token = results + token * gridDim.z * rows + row;
    for (int i = 0; i < p.k; ++i) {
      if (RecordOf(p, LoadCached(p.ids + token * p.k + i)) == nullptr) continue;
      v = fmaf(LoadCached(p.weights + token * p.k + i), LoadFresh(of_token + static_cast<int64_t>(i) * rows), v);
    }
    if (p.shared.gate.rows > 0) v += LoadFresh(of_token + static_cast<int64_t>(p.k) * rows);
    if (p.host_part != nullptr) v += LoadCached(p.host_part + token * rows + row);
  }
  FinishRows(p.out, token, block, rows, v);
}

template <int kTokens>
int LaunchGateUp(const cuda::ExpertFfnParams& p, void* stream) {
  const int64_t blocks = p.k * cuda::Groups(p.routed.gate.rows) + cuda::Groups(p.shared.gate.rows);
  const auto chunks = static_cast<unsigned>((p.tokens + kTokens - 1) / kTokens);
  return Launch({.name = "gate_up",
                 .grid = dim3(chunks, static_cast<unsigned>(blocks)),
                 .block = dim3(kDecodeThreads),
                 .stream = stream},
                GateUpKernel<kTokens>, p);
}

// The rule of LinearParams. Gate and up by different rules are left to the kernels of few tokens.
bool TakesCodes(const cuda::Matrix& w, const cuda::Activations& x) {
  return x.planes > 0 && DeviceFormats::IsInteger(w.format);
}

}  // namespace

int Ffn(const cuda::FfnParams& p, void* stream) {
  const bool codes = TakesCodes(p.w.gate, p.x);
  int code = 0;
  if (p.tokens > cuda::kDecodeTokens && codes == TakesCodes(p.w.up, p.x)) {
    code = GateUpOfMany(p, codes, stream);
  } else {
    // A dense FFN is a shared expert without routed ones.
    const cuda::ExpertFfnParams dense{.shared = p.w, .x = p.x, .tokens = p.tokens, .shared_inner = p.inner};
    code = p.tokens == 1 ? LaunchGateUp<1>(dense, stream) : LaunchGateUp<kChunk>(dense, stream);
  }
  if (code != 0) return code;
  cuda::LinearParams down{.n_jobs = 1, .x = p.inner, .tokens = p.tokens, .blocks = p.blocks};
  down.jobs[0] = {.w = p.w.down, .out = p.out};
  return Linear(down, stream);
}

int ExpertFfn(const cuda::ExpertFfnParams& p, void* stream) {
  const bool codes = TakesCodes(p.routed.gate, p.x);
  if (p.tokens > cuda::kDecodeTokens && codes == TakesCodes(p.routed.up, p.x)) {
    float* shared = nullptr;
    if (p.shared.gate.rows > 0) {
      shared = SharedResults(p);
      const cuda::FfnParams ffn{.w = p.shared,
                                .x = p.x,
                                .tokens = p.tokens,
                                .blocks = p.blocks,
                                .inner = p.shared_inner,
                                .out = {.y = shared, .y_stride = p.shared.down.rows}};
      if (const int code = Ffn(ffn, stream); code != 0) return code;
    }
    return ExpertFfnOfMany(p, codes, TakesCodes(p.routed.down, p.inner), shared, stream);
  }
  if (const int code = LaunchGateUp<1>(p, stream); code != 0) return code;
  const unsigned slots = static_cast<unsigned>(p.k) + (p.shared.gate.rows > 0 ? 1 : 0);
  const auto row_blocks = static_cast<unsigned>(cuda::Groups(p.routed.down.rows));
  return Launch({.name = "expert_down",
                 .grid = dim3(static_cast<unsigned>(p.tokens), row_blocks, slots),
                 .block = dim3(kDecodeThreads),
                 .stream = stream},
                ExpertDownKernel, p);
}

}  // namespace kompakt::KOMPAKT_BACKEND
