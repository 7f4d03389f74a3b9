#include "kernels/cuda/gated.cuh"
#include "kernels/cuda/many_tokens.cuh"
#include "kernels/cuda/rows_out.cuh"
#include "kernels/cuda/tile_floats.cuh"

namespace kompakt::KOMPAKT_BACKEND {
namespace {

// kCodes: products of integer codes; else of F32.
template <bool kCodes>
inline constexpr int kPool = kCodes ? kPoolBytes : kFloatPoolBytes;

template <bool kCodes>
KOMPAKT_DEVICE void MultiplyMany(const Products& p, SharedPtr<const int> rows, SharedPtr<uint8_t> pool) {
  if constexpr (kCodes) {
    MultiplyTiles(p, rows, pool);
  } else {
    MultiplyFloatTiles(p, rows, pool);
  }
}

KOMPAKT_DEVICE int CeilDiv(int a, int b) { return (a + b - 1) / b; }

// The rows of x, or of results, that the tokens of a block are: those of a list, or consecutive ones.
struct TokenTile {
  const int* slots = nullptr;  // null: first, first + 1, ...
  int64_t first = 0;
  int tokens = 0;

  KOMPAKT_DEVICE int64_t Slot(int i) const { return slots != nullptr ? LoadCached(slots + first + i) : first + i; }
};

// rows[i] = Slot(i) / per_row. With a barrier.
KOMPAKT_DEVICE void StoreRows(const TokenTile& tile, int per_row, SharedPtr<int> rows) {
  for (int i = static_cast<int>(threadIdx.x); i < kManyTokens; i += kManyThreads) {
    rows[i] = static_cast<int>(tile.Slot(min(i, tile.tokens - 1)) / per_row);
  }
  __syncthreads();
}

KOMPAKT_DEVICE TokenTile ConsecutiveTokens(int tile, int64_t tokens) {
  const int64_t first = static_cast<int64_t>(tile) * kManyTokens;
  return {.first = first, .tokens = static_cast<int>(min(static_cast<int64_t>(kManyTokens), tokens - first))};
}

// A piece of work is 64 rows of a job times 64 tokens; token tiles of the same rows follow each other.
template <bool kCodes>
__global__ void __launch_bounds__(kManyThreads, 1) LinearOfManyKernel(const cuda::LinearParams p) {
  KOMPAKT_SHARED(uint8_t, pool, kPool<kCodes>);
  KOMPAKT_SHARED(int, rows, kManyTokens);
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int token_tiles = static_cast<int>((p.tokens + kManyTokens - 1) / kManyTokens);
  int pieces = 0;
  for (int i = 0; i < p.n_jobs; ++i) pieces += CeilDiv(p.jobs[i].w.rows, kManyRows) * token_tiles;
  for (int piece = static_cast<int>(blockIdx.x); piece < pieces; piece += static_cast<int>(gridDim.x)) {
    int row_block = piece / token_tiles;
    int job = 0;
    while (row_block >= CeilDiv(p.jobs[job].w.rows, kManyRows)) row_block -= CeilDiv(p.jobs[job++].w.rows, kManyRows);
    const cuda::Matrix& w = p.jobs[job].w;
    const TokenTile tile = ConsecutiveTokens(piece % token_tiles, p.tokens);
    StoreRows(tile, 1, rows);
    const int row_tile = row_block * kManyWarps + warp;
    MultiplyMany<kCodes>(
        {.w = w, .row_tile = row_tile, .rows = row_tile * 16 < w.rows, .x = p.x, .tokens = tile.tokens}, rows, pool);
    const auto results = SharedCast<const float>(SharedPtr<const uint8_t>(pool));
    for (int i = warp; i < tile.tokens; i += kManyWarps) {
      const float factor = NormFactor(p.x, LaneSquares(p.x, tile.first + i));
      for (int half = 0; half < 2; ++half) {
        const int block = row_block * 2 + half;
        if (block * 32 >= w.rows) break;
        const float v = results[i * kResultStride + half * 32 + lane];
        FinishRows(p.jobs[job].out, tile.first + i, block, w.rows, v * factor);
      }
    }
    __syncthreads();
  }
}

// silu(gate x) * (up x) of 32 rows: warps 0 and 1 multiply by gate, 2 and 3 by up.
template <bool kCodes>
KOMPAKT_DEVICE void GateUpPiece(const cuda::Matrix& gate, const cuda::Matrix& up, int block, const TokenTile& tile,
                                int per_row, const cuda::Activations& x, const cuda::Activations& inner,
                                SharedPtr<int> rows, SharedPtr<uint8_t> pool) {
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  StoreRows(tile, per_row, rows);
  const int row_tile = block * 2 + warp % 2;
  MultiplyMany<kCodes>({.w = Either(warp < 2, gate, up),
                        .row_tile = row_tile,
                        .rows = row_tile * 16 < gate.rows,
                        .x = x,
                        .tokens = tile.tokens},
                       rows, pool);
  const auto results = SharedCast<const float>(SharedPtr<const uint8_t>(pool));
  for (int i = warp; i < tile.tokens; i += kManyWarps) {
    const int64_t slot = tile.Slot(i);
    const float factor = NormFactor(x, LaneSquares(x, slot / per_row));
    const float g = results[i * kResultStride + lane];
    const float u = results[i * kResultStride + 32 + lane];
    FinishRows({.next = inner}, slot, block, gate.rows, Silu(g * factor) * (u * factor));
  }
  __syncthreads();
}

template <bool kCodes>
__global__ void __launch_bounds__(kManyThreads, 1) GateUpOfManyKernel(const cuda::FfnParams p) {
  KOMPAKT_SHARED(uint8_t, pool, kPool<kCodes>);
  KOMPAKT_SHARED(int, rows, kManyTokens);
  const int token_tiles = static_cast<int>((p.tokens + kManyTokens - 1) / kManyTokens);
  const int pieces = CeilDiv(p.w.gate.rows, 32) * token_tiles;
  for (int piece = static_cast<int>(blockIdx.x); piece < pieces; piece += static_cast<int>(gridDim.x)) {
    GateUpPiece<kCodes>(p.w.gate, p.w.up, piece / token_tiles, ConsecutiveTokens(piece % token_tiles, p.tokens), 1, p.x,
                        p.inner, rows, pool);
  }
}

// ---- Routed experts.

// In p.scratch.
struct ExpertPlan {
  int* begin;       // [E + 1]: slots of expert e are slots[begin[e]] to slots[begin[e + 1]]
  int* tile_begin;  // [E + 1]: its token tiles
  unsigned* next;   // [2]: the queues of gate_up and down
  int* slots;       // [T * k]: t * k + place, ordered by expert, then token
  float* results;   // [T * k, h]
};

__host__ __device__ inline ExpertPlan PlanOf(const cuda::ExpertFfnParams& p) {
  const auto words = [](int64_t n) { return (n + 63) / 64 * 64; };
  int* at = static_cast<int*>(p.scratch);
  ExpertPlan plan;
  plan.begin = at;
  at += words(p.n_experts + 1);
  plan.tile_begin = at;
  at += words(p.n_experts + 1);
  plan.next = reinterpret_cast<unsigned*>(at);
  at += words(2);
  plan.slots = at;
  at += words(p.tokens * p.k);
  plan.results = reinterpret_cast<float*>(at);
  return plan;
}

// One block. An expert is one thread's, so that its tokens keep their order.
__global__ void __launch_bounds__(256) SortByExpertKernel(const cuda::ExpertFfnParams p) {
  const ExpertPlan plan = PlanOf(p);
  const int slots = static_cast<int>(p.tokens) * p.k;
  for (int e = static_cast<int>(threadIdx.x); e < p.n_experts; e += 256) {
    int n = 0;
    if (RecordOf(p, e) != nullptr) {
      for (int i = 0; i < slots; ++i) n += LoadCached(p.ids + i) == e ? 1 : 0;
    }
    plan.begin[e + 1] = n;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    plan.begin[0] = plan.tile_begin[0] = 0;
    plan.next[0] = plan.next[1] = 0;
    for (int e = 0; e < p.n_experts; ++e) {
      const int n = plan.begin[e + 1];
      plan.begin[e + 1] = plan.begin[e] + n;
      plan.tile_begin[e + 1] = plan.tile_begin[e] + CeilDiv(n, kManyTokens);
    }
  }
  __syncthreads();
  for (int e = static_cast<int>(threadIdx.x); e < p.n_experts; e += 256) {
    int at = plan.begin[e];
    if (plan.begin[e + 1] == at) continue;
    for (int i = 0; i < slots; ++i) {
      if (LoadCached(p.ids + i) == e) plan.slots[at++] = i;
    }
  }
}

// The expert whose token tiles hold `tile`.
KOMPAKT_DEVICE int ExpertOfTile(const ExpertPlan& plan, int n_experts, int tile) {
  int low = 0, high = n_experts;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (LoadCached(plan.tile_begin + middle) <= tile) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

KOMPAKT_DEVICE TokenTile TileOfExpert(const ExpertPlan& plan, int expert, int tile) {
  const int first = LoadCached(plan.begin + expert) + (tile - LoadCached(plan.tile_begin + expert)) * kManyTokens;
  return {.slots = plan.slots, .first = first, .tokens = min(kManyTokens, LoadCached(plan.begin + expert + 1) - first)};
}

// The next piece of a queue, for the whole block.
KOMPAKT_DEVICE int TakePiece(unsigned* next, SharedPtr<int> piece) {
  if (threadIdx.x == 0) piece[0] = static_cast<int>(atomicAdd(next, 1u));
  __syncthreads();
  const int taken = piece[0];
  __syncthreads();
  return taken;
}

template <bool kCodes>
__global__ void __launch_bounds__(kManyThreads, 1) ExpertGateUpKernel(const cuda::ExpertFfnParams p) {
  KOMPAKT_SHARED(uint8_t, pool, kPool<kCodes>);
  KOMPAKT_SHARED(int, rows, kManyTokens);
  KOMPAKT_SHARED(int, queue, 4);
  const ExpertPlan plan = PlanOf(p);
  const int blocks = CeilDiv(p.routed.gate.rows, 32);
  const int pieces = LoadCached(plan.tile_begin + p.n_experts) * blocks;
  for (int piece = TakePiece(plan.next, queue); piece < pieces; piece = TakePiece(plan.next, queue)) {
    const int tile = piece / blocks;
    const int expert = ExpertOfTile(plan, p.n_experts, tile);
    const uint8_t* const record = RecordOf(p, expert);
    cuda::Matrix gate = p.routed.gate, up = p.routed.up;
    gate.data = record + p.gate_offset;
    up.data = record + p.up_offset;
    GateUpPiece<kCodes>(gate, up, piece % blocks, TileOfExpert(plan, expert, tile), p.k, p.x, p.inner, rows, pool);
  }
}

template <bool kCodes>
__global__ void __launch_bounds__(kManyThreads, 1) ExpertDownOfManyKernel(const cuda::ExpertFfnParams p) {
  KOMPAKT_SHARED(uint8_t, pool, kPool<kCodes>);
  KOMPAKT_SHARED(int, rows, kManyTokens);
  KOMPAKT_SHARED(int, queue, 4);
  const ExpertPlan plan = PlanOf(p);
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int hidden = p.routed.down.rows;
  const int blocks = CeilDiv(hidden, kManyRows);
  const int pieces = LoadCached(plan.tile_begin + p.n_experts) * blocks;
  for (int piece = TakePiece(plan.next + 1, queue); piece < pieces; piece = TakePiece(plan.next + 1, queue)) {
    const int expert = ExpertOfTile(plan, p.n_experts, piece / blocks);
    const TokenTile tile = TileOfExpert(plan, expert, piece / blocks);
    const int row_block = piece % blocks;
    cuda::Matrix down = p.routed.down;
    down.data = RecordOf(p, expert) + p.down_offset;
    StoreRows(tile, 1, rows);
    const int row_tile = row_block * kManyWarps + warp;
    MultiplyMany<kCodes>(
        {.w = down, .row_tile = row_tile, .rows = row_tile * 16 < hidden, .x = p.inner, .tokens = tile.tokens}, rows,
        pool);
    const auto results = SharedCast<const float>(SharedPtr<const uint8_t>(pool));
    for (int i = warp; i < tile.tokens; i += kManyWarps) {
      float* const to = plan.results + tile.Slot(i) * hidden + row_block * kManyRows;
      for (int half = 0; half < 2; ++half) {
        const float v = results[i * kResultStride + half * 32 + lane];
        if (row_block * kManyRows + half * 32 + lane < hidden) to[half * 32 + lane] = v;
      }
    }
    __syncthreads();
  }
}

// A warp per 32 rows of a token: its experts' results, added up in ascending order.
__global__ void __launch_bounds__(256) CombineKernel(const cuda::ExpertFfnParams p, const float* shared) {
  const ExpertPlan plan = PlanOf(p);
  const int hidden = p.routed.down.rows;
  const int blocks = static_cast<int>(cuda::Groups(hidden));
  const int warp = static_cast<int>(blockIdx.x * 8 + threadIdx.x / 32);
  const int64_t token = warp / blocks;
  if (token >= p.tokens) return;
  const int block = warp % blocks;
  const int row = block * 32 + static_cast<int>(threadIdx.x) % 32;
  float v = 0;
  if (row < hidden) {
    for (int slot = 0; slot < p.k; ++slot) {
      const int64_t at = token * p.k + slot;
      if (RecordOf(p, LoadCached(p.ids + at)) == nullptr) continue;
      v = fmaf(LoadCached(p.weights + at), LoadCached(plan.results + at * hidden + row), v);
    }
    if (shared != nullptr) v += LoadCached(shared + token * hidden + row);
    if (p.host_part != nullptr) v += LoadCached(p.host_part + token * hidden + row);
  }
  FinishRows(p.out, token, block, hidden, v);
}

// As many blocks as run at once, or as there is work for.
unsigned Persistent(int64_t pieces, int32_t blocks) {
  return static_cast<unsigned>(blocks > 0 && blocks < pieces ? blocks : pieces);
}
int64_t TokenTiles(int64_t tokens) { return (tokens + kManyTokens - 1) / kManyTokens; }

}  // namespace

int LinearOfMany(const cuda::LinearParams& p, bool codes, void* stream) {
  int64_t pieces = 0;
  for (int i = 0; i < p.n_jobs; ++i) {
    pieces += (p.jobs[i].w.rows + kManyRows - 1) / kManyRows * TokenTiles(p.tokens);
  }
  return Launch({.name = "linear_of_many",
                 .grid = dim3(Persistent(pieces, p.blocks)),
                 .block = dim3(kManyThreads),
                 .stream = stream},
                codes ? LinearOfManyKernel<true> : LinearOfManyKernel<false>, p);
}

int GateUpOfMany(const cuda::FfnParams& p, bool codes, void* stream) {
  const int64_t pieces = cuda::Groups(p.w.gate.rows) * TokenTiles(p.tokens);
  return Launch({.name = "gate_up_of_many",
                 .grid = dim3(Persistent(pieces, p.blocks)),
                 .block = dim3(kManyThreads),
                 .stream = stream},
                codes ? GateUpOfManyKernel<true> : GateUpOfManyKernel<false>, p);
}

float* SharedResults(const cuda::ExpertFfnParams& p) { return PlanOf(p).results + p.tokens * p.k * p.routed.down.rows; }

int ExpertFfnOfMany(const cuda::ExpertFfnParams& p, bool codes, bool down_codes, const float* shared, void* stream) {
  int code =
      Launch({.name = "sort_by_expert", .grid = dim3(1), .block = dim3(256), .stream = stream}, SortByExpertKernel, p);
  if (code != 0) return code;
  // How many tiles there are is known on the device only.
  const int64_t tiles = p.tokens * p.k / kManyTokens + p.n_experts;
  code = Launch({.name = "expert_gate_up_of_many",
                 .grid = dim3(Persistent(tiles * cuda::Groups(p.routed.gate.rows), p.blocks)),
                 .block = dim3(kManyThreads),
                 .stream = stream},
                codes ? ExpertGateUpKernel<true> : ExpertGateUpKernel<false>, p);
  if (code != 0) return code;
  const int hidden = p.routed.down.rows;
  code = Launch({.name = "expert_down_of_many",
                 .grid = dim3(Persistent(tiles * ((hidden + kManyRows - 1) / kManyRows), p.blocks)),
                 .block = dim3(kManyThreads),
                 .stream = stream},
                down_codes ? ExpertDownOfManyKernel<true> : ExpertDownOfManyKernel<false>, p);
  if (code != 0) return code;
  return Launch({.name = "combine",
                 .grid = dim3(static_cast<unsigned>((p.tokens * cuda::Groups(hidden) + 7) / 8)),
                 .block = dim3(256),
                 .stream = stream},
                CombineKernel, p, shared);
}

}  // namespace kompakt::KOMPAKT_BACKEND
