#include "kernels/cuda/choose_best.cuh"
#include "kernels/cuda/choose_experts.cuh"
#include "kernels/cuda/decode_block.cuh"
#include "kernels/cuda/linear.cuh"
#include "kernels/cuda/many_tokens.cuh"

namespace kompakt::KOMPAKT_BACKEND {
namespace {

// What a grid of products does beyond them. The kernels that need it are the same ones, for the products are most of
// them.
struct Tail {
  enum class Kind : uint8_t { kNone, kRoute, kHead } kind = Kind::kNone;
  cuda::RouteParams route = {};
  cuda::HeadParams head = {};
};

// The logits of a token are the sums of their parts, by the warp that goes on with them.
KOMPAKT_DEVICE void AddParts(const cuda::RouteParams& p, int64_t tokens, int64_t token) {
  const auto n = static_cast<int>(p.rule.n_experts);
  const int parts = cuda::RouteParts(p.w.cols);
  KOMPAKT_ROLLED
  for (int e = static_cast<int>(threadIdx.x) % 32; e < n; e += 32) {
    float sum = 0;
    KOMPAKT_UNROLL
    for (int part = 0; part < cuda::kMaxRouteParts; ++part) {
      if (part < parts) sum += LoadFresh(p.parts + (part * tokens + token) * n + e);
    }
    p.logits[token * n + e] = sum;
  }
  __syncwarp();
}

// Of the block that ends last: a warp per token.
KOMPAKT_DEVICE void RunTail(const Tail& tail, int64_t tokens) {
  const int warp = static_cast<int>(threadIdx.x) / 32;
  if (tail.kind == Tail::Kind::kHead) {
    for (int64_t token = warp; token < tokens; token += kDecodeWarps) ChooseBest(tail.head, token);
  } else if (warp < tokens) {
    KOMPAKT_DYNAMIC_SHARED(scores);
    const auto n = static_cast<size_t>(tail.route.rule.n_experts);
    AddParts(tail.route, tokens, warp);
    ChooseForToken(tail.route, warp, SharedSlice<float>(scores, 8 * n * warp, n),
                   SharedSlice<float>(scores, 8 * n * warp + 4 * n, n));
  }
}

// Grid: x token chunk, y block of 32 rows of one of the jobs, z part of the columns: several of the router's only,
// which has few rows. Blocks that read the same weights follow each other.
template <int kTokens>
__global__ void __launch_bounds__(kDecodeThreads, DecodeBlocks(kTokens))
    LinearKernel(const cuda::LinearParams p, const Tail tail) {
  KOMPAKT_SHARED(float, partial, PartialFloats(kTokens));
  KOMPAKT_SHARED(float, squares, kTokens * 32);
  const NormInputs<kTokens> norm{squares};
  int block = static_cast<int>(blockIdx.y);
  int job = 0;
  while (block >= static_cast<int>(cuda::Groups(p.jobs[job].w.rows))) {
    block -= static_cast<int>(cuda::Groups(p.jobs[job].w.rows));
    ++job;
  }
  const cuda::Matrix& w = p.jobs[job].w;
  const cuda::RowsOut& out = p.jobs[job].out;
  const float product = MultiplyBlock<kTokens>(
      w, block, p.x, RowsOfChunk<kTokens>(static_cast<int>(blockIdx.x), static_cast<int>(p.tokens)), partial,
      [&] {
        const WarpsToken<kTokens> mine(p.tokens);
        if (!mine.there) return;
        norm.Load(p.x, mine.token);
        PrefetchRows(out, block);
      },
      static_cast<int>(blockIdx.z), static_cast<int>(gridDim.z));
  if (const WarpsToken<kTokens> mine(p.tokens); mine.there) {
    const float v = norm.Factor(p.x) * product;
    if (tail.kind == Tail::Kind::kRoute) {
      const int row = block * 32 + static_cast<int>(threadIdx.x % 32);
      if (row < w.rows) tail.route.parts[(blockIdx.z * p.tokens + mine.token) * w.rows + row] = v;
    } else {
      FinishRows(out, mine.token, block, w.rows, v);
    }
    if (tail.kind == Tail::Kind::kHead) StoreBest(tail.head, mine.token, block, v);
  }
  if (tail.kind == Tail::Kind::kNone) return;
  uint32_t* const done = tail.kind == Tail::Kind::kHead ? BestScratch(tail.head.scratch).done : tail.route.done;
  if (IsLastBlock(done, gridDim.x * gridDim.y * gridDim.z)) RunTail(tail, p.tokens);
}

// The choice of many tokens, a warp each.
__global__ void __launch_bounds__(kDecodeThreads) ChooseExpertsKernel(const cuda::RouteParams p) {
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int64_t token = static_cast<int64_t>(blockIdx.x) * kDecodeWarps + warp;
  if (token >= p.tokens) return;
  KOMPAKT_DYNAMIC_SHARED(scores);
  const auto n = static_cast<size_t>(p.rule.n_experts);
  ChooseForToken(p, token, SharedSlice<float>(scores, 8 * n * warp, n),
                 SharedSlice<float>(scores, 8 * n * warp + 4 * n, n));
}

// A warp per 32 values.
__global__ void __launch_bounds__(256) QuantizeKernel(const cuda::QuantizeParams p) {
  const int cols = p.out.next.cols;
  const int warp = static_cast<int>(blockIdx.x * 8 + threadIdx.x / 32);
  const int groups = static_cast<int>(cuda::Groups(cols));
  const int64_t token = warp / groups;
  if (token >= p.tokens) return;
  const int group = warp % groups;
  const int col = group * 32 + static_cast<int>(threadIdx.x) % 32;
  FinishRows(p.out, token, group, cols, col < cols ? LoadCached(p.x + token * p.x_stride + col) : 0);
}

// A warp per 32 columns of a row of the table, lane = column.
__global__ void __launch_bounds__(256) EmbedKernel(const cuda::EmbedParams p) {
  const int cols = p.table.cols;
  const int warp = static_cast<int>(blockIdx.x * 8 + threadIdx.x / 32);
  const int groups = static_cast<int>(cuda::Groups(cols));
  const int64_t token = warp / groups;
  if (token >= p.tokens) return;
  const int tile = warp % groups;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int id = LoadCached(p.ids + token);
  const int row = id % 16;
  const int row_tile = id / 16;
  const auto* const side = reinterpret_cast<const float*>(p.table.data + p.table.side_offset);
  float v = 0;
  DeviceFormats::With(p.table.format, [&](auto format) {
    using F = decltype(format);
    const uint8_t* const at =
        p.table.data + (static_cast<uint64_t>(row_tile) * groups + tile) * static_cast<uint64_t>(F::kTileBytes);
    const auto word = [&](int line) { return LoadStreaming<uint32_t>(at + line * kLineBytes + row * 4); };
    if constexpr (F::kInteger) {
      const int j = lane / 4;
      uint32_t high = 0;
      if constexpr (F::kHighBits > 0) high = word(F::kLowBits + j * F::kHighBits / 8);
      const uint32_t values = ValuesOf<F>(word(j * F::kLowBits / 8), high, j);
      const uint8_t* const scales =
          at + (F::kLowBits + F::kHighBits) * kLineBytes + (lane / F::kGroupCols * 16 + row) * F::kScaleBytes;
      uint32_t bits = 0;
      if constexpr (F::kScaleBytes == 2) {
        bits = LoadCached(reinterpret_cast<const uint16_t*>(scales));
      } else {
        bits = LoadCached(scales);
      }
      const auto value = static_cast<float>(static_cast<int8_t>(values >> (8 * (lane % 4))));
      v = RowFactor<F>(side, id) * (F::Scale(bits) * (value + F::Shift(bits)));
    } else {
      v = F::Value(word(lane / F::kWordCols), lane % F::kWordCols);
      if constexpr (F::kSide == SideKind::kBlockScale) {
        v *= LoadCached(side + static_cast<int64_t>(row_tile / 8) * ((cols + 127) / 128) + tile / 4);
      }
    }
  });
  FinishRows(p.out, token, tile, cols, v);
}

unsigned WarpBlocks(int64_t warps) { return static_cast<unsigned>((warps + 7) / 8); }

// Bytes of ChooseForToken for a block of `tokens` warps.
size_t ChoiceBytes(const RouterRule& rule, int64_t tokens) {
  return static_cast<size_t>(tokens * rule.n_experts) * 2 * sizeof(float);
}

template <int kTokens>
int LaunchLinear(const cuda::LinearParams& p, void* stream, const char* name = "linear", const Tail& tail = {}) {
  int64_t blocks = 0;
  for (int i = 0; i < p.n_jobs; ++i) blocks += cuda::Groups(p.jobs[i].w.rows);
  const auto chunks = static_cast<unsigned>((p.tokens + kTokens - 1) / kTokens);
  const bool routes = tail.kind == Tail::Kind::kRoute;
  // The choice takes the place of the rings.
  const size_t choice_bytes = routes ? ChoiceBytes(tail.route.rule, p.tokens) : 0;
  return Launch({.name = name,
                 .grid = dim3(chunks, static_cast<unsigned>(blocks),
                              routes ? static_cast<unsigned>(cuda::RouteParts(tail.route.w.cols)) : 1),
                 .block = dim3(kDecodeThreads),
                 .shared_bytes = choice_bytes > kDecodeSharedBytes ? choice_bytes : kDecodeSharedBytes,
                 .stream = stream},
                LinearKernel<kTokens>, p, tail);
}

int LaunchDecode(const cuda::LinearParams& p, void* stream, const char* name, const Tail& tail) {
  return p.tokens == 1 ? LaunchLinear<1>(p, stream, name, tail) : LaunchLinear<kChunk>(p, stream, name, tail);
}

}  // namespace

int Linear(const cuda::LinearParams& p, void* stream) {
  if (p.tokens == 1) return LaunchLinear<1>(p, stream);
  if (p.tokens <= cuda::kDecodeTokens) return LaunchLinear<kChunk>(p, stream);
  // Products of codes and of floats are two launches.
  cuda::LinearParams floats = p, codes = p;
  floats.n_jobs = codes.n_jobs = 0;
  for (int i = 0; i < p.n_jobs; ++i) {
    cuda::LinearParams& to = p.x.planes > 0 && DeviceFormats::IsInteger(p.jobs[i].w.format) ? codes : floats;
    to.jobs[to.n_jobs++] = p.jobs[i];
  }
  if (codes.n_jobs > 0) {
    if (const int code = LinearOfMany(codes, true, stream); code != 0) return code;
  }
  return floats.n_jobs > 0 ? LinearOfMany(floats, false, stream) : 0;
}

int Route(const cuda::RouteParams& p, void* stream) {
  cuda::LinearParams logits{.n_jobs = 1, .x = p.x, .tokens = p.tokens};
  logits.x.planes = 0;
  logits.jobs[0] = {.w = p.w, .out = {.y = p.logits, .y_stride = p.rule.n_experts}};
  if (p.tokens <= kDecodeWarps) return LaunchDecode(logits, stream, "route", {.kind = Tail::Kind::kRoute, .route = p});
  if (const int code = LaunchLinear<kChunk>(logits, stream); code != 0) return code;
  return Launch({.name = "choose_experts",
                 .grid = dim3(static_cast<unsigned>((p.tokens + kDecodeWarps - 1) / kDecodeWarps)),
                 .block = dim3(kDecodeThreads),
                 .shared_bytes = ChoiceBytes(p.rule, kDecodeWarps),
                 .stream = stream},
                ChooseExpertsKernel, p);
}

int Head(const cuda::HeadParams& p, void* stream) {
  cuda::LinearParams logits{.n_jobs = 1, .x = p.x, .tokens = p.tokens};
  logits.jobs[0] = {.w = p.w, .out = {.y = p.logits, .y_stride = p.w.rows}};
  return LaunchDecode(logits, stream, "head", {.kind = Tail::Kind::kHead, .head = p});
}

int Quantize(const cuda::QuantizeParams& p, void* stream) {
  return Launch({.name = "quantize",
                 .grid = dim3(WarpBlocks(p.tokens * cuda::Groups(p.out.next.cols))),
                 .block = dim3(256),
                 .stream = stream},
                QuantizeKernel, p);
}

int Embed(const cuda::EmbedParams& p, void* stream) {
  return Launch({.name = "embed",
                 .grid = dim3(WarpBlocks(p.tokens * cuda::Groups(p.table.cols))),
                 .block = dim3(256),
                 .stream = stream},
                EmbedKernel, p);
}

}  // namespace kompakt::KOMPAKT_BACKEND
