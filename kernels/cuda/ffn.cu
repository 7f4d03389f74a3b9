#include "kernels/cuda/decode_block.cuh"
#include "kernels/cuda/ffn.cuh"
#include "kernels/cuda/gated.cuh"
#include "kernels/cuda/last_block.cuh"
#include "kernels/cuda/linear.cuh"
#include "kernels/cuda/many_tokens.cuh"

namespace kompakt::KOMPAKT_BACKEND {
namespace {

// Which of its token's experts this block of gate and up belongs to, first the routed ones, then the shared one, and
// which 32 of its rows it has.
struct BlockOfExpert {
  int slot, block, experts;

  KOMPAKT_DEVICE explicit BlockOfExpert(const cuda::ExpertFfnParams& p) : experts(p.k) {
    const int y = static_cast<int>(blockIdx.y), of_routed = static_cast<int>(cuda::Groups(p.routed.gate.rows));
    slot = of_routed == 0 ? experts : min(y / of_routed, experts);
    block = y - slot * of_routed;
  }
  KOMPAKT_DEVICE bool routed() const { return slot < experts; }
  // Of ids, where it is routed: then a block has one token.
  KOMPAKT_DEVICE int choice() const { return static_cast<int>(blockIdx.x) * experts + slot; }
};

// silu(gate x) * (up x) of 32 rows: warps 0 to 3 multiply by gate, the others by up, each half of the columns of one of
// two row tiles. Grid: x token chunk, y block. kTokens > 1 only where there are no routed experts.
template <int kTokens>
__global__ void __launch_bounds__(kDecodeThreads, DecodeBlocks(kTokens)) GateUpKernel(const cuda::ExpertFfnParams p) {
  KOMPAKT_SHARED(float, partial, PartialFloats(kTokens));
  KOMPAKT_SHARED(float, squares, kTokens * 32);
  const NormInputs<kTokens> norm{squares};
  {
    const BlockOfExpert at(p);
    const uint8_t* const record = at.routed() ? RecordOf(p, LoadCached(p.ids + at.choice())) : nullptr;
    if (at.routed() && record == nullptr) return;
    const auto warp = static_cast<int>(threadIdx.x / 32);
    const bool gates = warp < 4;
    cuda::Matrix w =
        Either(at.routed(), Either(gates, p.routed.gate, p.routed.up), Either(gates, p.shared.gate, p.shared.up));
    if (at.routed()) w.data = record + (gates ? p.gate_offset : p.up_offset);
    StorePartial(MultiplyRowTile<kTokens>(
                     w, at.block * 2 + warp % 2, warp / 2 % 2, 2, p.x,
                     RowsOfChunk<kTokens>(static_cast<int>(blockIdx.x), static_cast<int>(p.tokens)), WarpRing(),
                     [&] {
                       const WarpsToken<kTokens> mine(p.tokens);
                       if (mine.there) norm.Load(p.x, mine.token);
                     }),
                 partial);
  }
  __syncthreads();
  const WarpsToken<kTokens> mine(p.tokens);
  if (!mine.there) return;
  const auto warp = static_cast<int>(threadIdx.x / 32);
  const float factor = norm.Factor(p.x);
  const float gate = Collect<2>(partial, warp, 0) * factor;
  const float up = Collect<2>(partial, warp, 4) * factor;
  const BlockOfExpert at(p);
  FinishRows({.next = Either(at.routed(), p.inner, p.shared_inner)}, at.routed() ? at.choice() : mine.token, at.block,
             Either(at.routed(), p.routed.gate, p.shared.gate).rows, Silu(gate) * up);
}

// Routed experts of a token that a block multiplies by one after the other: what a block does but once, whatever it
// multiplies, takes longer than an expert's 32 rows.
constexpr int kExpertsOfBlock = 3;
constexpr int BlocksOfExperts(int k) { return (k + kExpertsOfBlock - 1) / kExpertsOfBlock; }

// The pairs of a warp in `down` of these experts: of each the pairs first, first + stride, ... of one row tile.
struct PairsOfExperts {
  struct Place {
    int choice, pair;
  };
  static constexpr int kNone = 32;

  uint64_t down;   // lane i: `down` of the token's choice i
  float weight;    // lane i: of choice i
  unsigned which;  // of the choices
  uint64_t side_offset;
  int row_tile, first, stride, col_tiles;
  float of_expert = 0;   // weight of the expert that is multiplied by
  float factor[4] = {};  // of its rows
  float total[4] = {};   // of the experts before it

  KOMPAKT_DEVICE int ChoiceBehind(int choice) const {
    const unsigned behind = choice >= 31 ? 0 : which >> (choice + 1) << (choice + 1);
    return behind == 0 ? kNone : __ffs(static_cast<int>(behind)) - 1;
  }
  KOMPAKT_DEVICE Place Begin() const { return {2 * first < col_tiles ? ChoiceBehind(-1) : kNone, first}; }
  KOMPAKT_DEVICE Place After(Place at) const {
    if (2 * (at.pair + stride) < col_tiles) return {at.choice, at.pair + stride};
    return {ChoiceBehind(at.choice), first};
  }
  KOMPAKT_DEVICE bool IsThere(Place at) const { return at.choice < kNone; }
  KOMPAKT_DEVICE int Pair(Place at) const { return at.pair; }
  KOMPAKT_DEVICE int Row(Place at, int row) const { return row + at.choice; }
  KOMPAKT_DEVICE const uint8_t* DownOf(int choice) const {
    return reinterpret_cast<const uint8_t*>(__shfl_sync(kFullWarp, down, choice));
  }
  KOMPAKT_DEVICE const float* SideOf(int choice) const {
    return reinterpret_cast<const float*>(DownOf(choice) + side_offset);
  }
  KOMPAKT_DEVICE void Fetch(Place at, int tile_bytes, SharedPtr<uint8_t> to) const {
    FetchPair(DownOf(at.choice) + static_cast<int64_t>(row_tile) * col_tiles * tile_bytes, col_tiles, at.pair,
              tile_bytes, to);
  }
  template <typename F>
  KOMPAKT_DEVICE float BlockScale([[maybe_unused]] Place at, [[maybe_unused]] int tile) const {
    if constexpr (F::kSide != SideKind::kBlockScale) return 1;
    return BlockScaleOf<F>(SideOf(at.choice), row_tile, col_tiles, tile);
  }
  template <typename F>
  KOMPAKT_DEVICE void Enter(Place at) {
    if (!IsThere(at)) return;
    of_expert = __shfl_sync(kFullWarp, weight, at.choice);
    const float* const side = SideOf(at.choice);
    KOMPAKT_UNROLL
    for (int r = 0; r < 4; ++r) {
      factor[r] = RowFactor<F>(side, row_tile * 16 + static_cast<int>(threadIdx.x % 4) * 4 + r);
    }
  }
  template <typename F, int kTokens>
  KOMPAKT_DEVICE void Added(Place at, Place next, Sums<kTokens>& acc) {
    static_assert(kTokens == 1);
    if (next.choice == at.choice) return;
    KOMPAKT_UNROLL
    for (int r = 0; r < 4; ++r) {
      total[r] = fmaf(acc[r][0] * factor[r], of_expert, total[r]);
      acc[r][0] = 0;
    }
    Enter<F>(next);
  }
};

// This warp's part of a row tile of down of some of the routed experts, `part` of BlocksOfExperts, times their inner
// rows and weights.
KOMPAKT_DEVICE RowSums<1> MultiplyExperts(const cuda::ExpertFfnParams& p, int token, int part, int row_tile, int first,
                                          int stride) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const uint8_t* record = nullptr;
  float weight = 0;
  if (lane < p.k) {
    record = RecordOf(p, LoadCached(p.ids + token * p.k + lane));
    weight = LoadCached(p.weights + token * p.k + lane);
  }
  const bool mine = lane / kExpertsOfBlock == part;
  const unsigned which = __ballot_sync(kFullWarp, mine && record != nullptr);
  RowSums<1> result;
  if (row_tile * 16 >= p.routed.down.rows) return result;
  PairsOfExperts pairs{.down = reinterpret_cast<uint64_t>(record) + p.down_offset,
                       .weight = weight,
                       .which = which,
                       .side_offset = p.routed.down.side_offset,
                       .row_tile = row_tile,
                       .first = first,
                       .stride = stride,
                       .col_tiles = (p.routed.down.cols + 31) / 32};
  const PairsOfExperts::Place ahead = StartRing(pairs, RingShape(p.routed.down.format), WarpRing());
  WithOperands(p.routed.down, p.inner, [&](auto format, auto codes) {
    using F = decltype(format);
    pairs.Enter<F>(pairs.Begin());
    MultiplyPairs<F, 1, codes.value>(pairs, ahead, p.inner, TokenRows<1>{{token * p.k}}, WarpRing(), result.v);
  });
  KOMPAKT_UNROLL
  for (int r = 0; r < 4; ++r) result.v[r][0] = pairs.total[r];
  AddLanes<1>(result.v);
  return result;
}

// Grid: x token, y block of 32 rows, z part of the token's experts, the shared one last. The block that comes last of
// those of a token and its 32 rows adds up what all have left in p.scratch, [T, parts, h].
__global__ void __launch_bounds__(kDecodeThreads, 2) ExpertDownKernel(const cuda::ExpertFfnParams p) {
  KOMPAKT_SHARED(float, partial, PartialFloats(1));
  const auto token = static_cast<int>(blockIdx.x), block = static_cast<int>(blockIdx.y);
  const auto part = static_cast<int>(blockIdx.z), parts = static_cast<int>(gridDim.z);
  const auto warp = static_cast<int>(threadIdx.x / 32);
  const int row_tile = block * 2 + warp % 2, first = warp / 2;
  constexpr int kStride = kDecodeWarps / 2;
  if (part < BlocksOfExperts(p.k)) {
    StorePartial(MultiplyExperts(p, token, part, row_tile, first, kStride), partial);
  } else {
    StorePartial(MultiplyRowTile<1>(p.shared.down, row_tile, first, kStride, p.shared_inner, TokenRows<1>{{token}},
                                    WarpRing(), [] {}),
                 partial);
  }
  __syncthreads();
  const int rows = p.routed.down.rows, row = block * 32 + static_cast<int>(threadIdx.x % 32);
  float* const of_token = static_cast<float*>(p.scratch) + static_cast<int64_t>(token) * parts * rows;
  if (warp == 0 && row < rows) of_token[static_cast<int64_t>(part) * rows + row] = Collect<kStride>(partial, 0, 0);
  if (!IsLastBlock(p.done + token * gridDim.y + block, gridDim.z) || warp != 0) return;
  float v = 0;
  if (row < rows) {
    for (int i = 0; i < parts; ++i) v += LoadFresh(of_token + static_cast<int64_t>(i) * rows + row);
    if (p.host_part != nullptr) v += LoadCached(p.host_part + static_cast<int64_t>(token) * rows + row);
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
                 .shared_bytes = kDecodeSharedBytes,
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
  const auto parts = static_cast<unsigned>(BlocksOfExperts(p.k) + (p.shared.gate.rows > 0 ? 1 : 0));
  const auto row_blocks = static_cast<unsigned>(cuda::Groups(p.routed.down.rows));
  return Launch({.name = "expert_down",
                 .grid = dim3(static_cast<unsigned>(p.tokens), row_blocks, parts),
                 .block = dim3(kDecodeThreads),
                 .shared_bytes = kDecodeSharedBytes,
                 .stream = stream},
                ExpertDownKernel, p);
}

}  // namespace kompakt::KOMPAKT_BACKEND
