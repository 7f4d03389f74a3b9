// IndexAppend and IndexScores: the keys of an indexer, and what they score.
//
// IndexScores is one product per token, S[heads][rows] = Q K^T, of which only sums over the heads are kept. A block has
// the token's queries in shared memory, as BF16 and as BF16 of what that left: a score decides which rows are seen, so
// that queries are better not rounded to 8 bits. A warp takes 16 rows at a time straight from global memory: the order
// in which a dot product is summed is free, so each lane loads 16 bytes of its row, and shared memory has the queries
// in the order that follows from it.
#include "kernels/cuda/index.cuh"
#include "kernels/cuda/mla.cuh"

namespace kompakt::KOMPAKT_BACKEND {
namespace {

using cuda::DeviceIndexCache;

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kChunks = DeviceIndexCache::kMaxDim / 32;  // of 32 values of a key
constexpr int kWarpRows = 16;
constexpr int kSteps = 2;  // of a warp
constexpr int kBlockRows = kWarps * kWarpRows * kSteps;

// Value i of a row x of `dim` values, its first ones rotated by the angles of token t. `load(i)` gives value i of x.
template <typename Load>
KOMPAKT_DEVICE float Rotated(const cuda::IndexRotation& r, int t, int i, const Load& load) {
  if (i >= r.dim) return load(i);
  const int half = r.dim / 2;
  const int pair = r.halves ? i % half : i / 2;
  const bool second = r.halves ? i >= half : i % 2 != 0;
  const float x = load(r.halves ? pair : 2 * pair), y = load(r.halves ? pair + half : 2 * pair + 1);
  const float* const angle = r.cos_sin + static_cast<int64_t>(t) * r.dim + 2 * pair;
  const float c = LoadCached(angle), s = LoadCached(angle + 1);
  return second ? x * s + y * c : x * c - y * s;
}

// A warp per token.
__global__ void __launch_bounds__(kThreads) IndexAppendKernel(const cuda::IndexAppendParams p) {
  KOMPAKT_SHARED(float, rows, kWarps* DeviceIndexCache::kMaxDim);
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int t = static_cast<int>(blockIdx.x) * kWarps + warp;
  if (t >= p.tokens) return;
  const int dim = p.cache.dim;
  const auto row = rows + warp * DeviceIndexCache::kMaxDim;
  const float* const a = p.a + static_cast<int64_t>(t) * dim;
  float x[kChunks];
  float sum = 0;
  KOMPAKT_UNROLL
  for (int i = 0; i < kChunks; ++i) {
    x[i] = lane + 32 * i < dim ? LoadCached(a + lane + 32 * i) : 0.0f;
    sum += x[i];
  }
  const float mean = WarpSum(sum) / static_cast<float>(dim);
  float squares = 0;
  KOMPAKT_UNROLL
  for (int i = 0; i < kChunks; ++i) {
    x[i] -= mean;
    if (lane + 32 * i < dim) squares += x[i] * x[i];
  }
  const float scale = 1.0f / sqrtf(WarpSum(squares) / static_cast<float>(dim) + p.eps);
  KOMPAKT_UNROLL
  for (int i = 0; i < kChunks; ++i) {
    const int at = lane + 32 * i;
    if (at < dim) row[at] = x[i] * scale * LoadCached(p.norm + at) + LoadCached(p.bias + at);
  }
  __syncwarp();
  auto* const out =
      reinterpret_cast<uint32_t*>(p.cache.data + (*p.position + static_cast<int64_t>(t)) * p.cache.dim_padded());
  const auto value = [&](int i) { return Rotated(p.rotation, t, i, [&](int j) -> float { return row[j]; }); };
  for (int i = lane; i < p.cache.dim_padded() / 2; i += 32) {
    const float low = 2 * i < dim ? value(2 * i) : 0.0f, high = 2 * i + 1 < dim ? value(2 * i + 1) : 0.0f;
    out[i] = PackBf16(low, high);
  }
}

// Bytes of a head's queries in shared memory.
constexpr int QueryStride(const DeviceIndexCache& cache) { return BankedStride(cache.row_bytes()); }

constexpr int PaddedHeads(int heads) { return (heads + 15) / 16 * 16; }

// Where value i of a query lies: lane / 4 of a fragment has 8 consecutive values of a chunk of 32, which two products
// of 16 take four by four.
KOMPAKT_DEVICE int PlaceOf(int i) { return i / 32 * 32 + i % 8 / 4 * 16 + i % 4 / 2 * 8 + i % 32 / 8 * 2 + i % 2; }

// Grid: x rows, y token.
__global__ void __launch_bounds__(kThreads, 2) IndexScoresKernel(const cuda::IndexScoresParams p) {
  const int stride = QueryStride(p.cache) / 2;  // in elements
  const int heads = PaddedHeads(p.heads), dim = p.cache.dim, padded = p.cache.dim_padded();
  KOMPAKT_DYNAMIC_SHARED(memory);
  const auto high = SharedSlice<uint16_t>(memory, 0, heads * stride);
  const auto low = SharedSlice<uint16_t>(memory, heads * stride * 2, heads * stride);
  const auto weights = SharedSlice<float>(memory, heads * stride * 4, heads);
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const int g = lane / 4, t4 = lane % 4;
  const int t = static_cast<int>(blockIdx.y), block_row = static_cast<int>(blockIdx.x) * kBlockRows;
  const int seen = *p.position + p.first + t + 1;
  if (block_row >= seen) return;

  for (int i = thread; i < heads * padded; i += kThreads) {
    const int head = i / padded, at = i % padded;
    float x = 0;
    if (head < p.heads && at < dim) {
      const float* const q = p.q + (static_cast<int64_t>(t) * p.heads + head) * dim;
      x = Rotated(p.rotation, t, at, [&](int j) { return LoadCached(q + j); });
    }
    const float rounded = LowBf16(PackBf16(x, 0));
    const uint32_t both = PackBf16(x, x - rounded);
    high[head * stride + PlaceOf(at)] = static_cast<uint16_t>(both & 0xffffu);
    low[head * stride + PlaceOf(at)] = static_cast<uint16_t>(both >> 16);
  }
  for (int head = thread; head < heads; head += kThreads) {
    float w = 0;
    if (head < p.heads) w = p.scale * LoadCached(p.w + static_cast<int64_t>(t) * p.heads + head);
    weights[head] = w;
  }
  __syncthreads();

  for (int step = 0; step < kSteps; ++step) {
    const int row = block_row + (step * kWarps + warp) * kWarpRows;
    if (row >= seen) return;
    uint4 keys[2][kChunks];
    KOMPAKT_UNROLL
    for (int n = 0; n < 2; ++n) {
      const bool inside = row + 8 * n + g < seen;
      const uint16_t* const key = p.cache.data + (row + 8 * n + g) * static_cast<int64_t>(padded) + 8 * t4;
      KOMPAKT_UNROLL
      for (int i = 0; i < kChunks; ++i) {
        keys[n][i] = make_uint4(0, 0, 0, 0);
        if (inside && 32 * i < padded) keys[n][i] = LoadStreaming<uint4>(key + 32 * i);
      }
    }
    float sums[2][2] = {};
    for (int head = 0; head < heads; head += 16) {
      float s[2][4] = {};
      const int at = (head + lane % 16) * stride + lane / 16 * 8;
      KOMPAKT_UNROLL
      for (int i = 0; i < kChunks; ++i) {
        if (32 * i >= padded) continue;
        KOMPAKT_UNROLL
        for (int half = 0; half < 2; ++half) {
          uint32_t a[4], b[4];
          LoadMatrixX4(a, high + (at + 32 * i + 16 * half));
          LoadMatrixX4(b, low + (at + 32 * i + 16 * half));
          KOMPAKT_UNROLL
          for (int n = 0; n < 2; ++n) {
            const uint4 k = keys[n][i];
            MmaBf16(s[n], b, {half == 0 ? k.x : k.z, half == 0 ? k.y : k.w});
            MmaBf16(s[n], a, {half == 0 ? k.x : k.z, half == 0 ? k.y : k.w});
          }
        }
      }
      const float first = weights[head + g], second = weights[head + g + 8];
      KOMPAKT_UNROLL
      for (int n = 0; n < 2; ++n) {
        KOMPAKT_UNROLL
        for (int j = 0; j < 2; ++j) {
          // Not fmaxf, which would hide a NaN.
          sums[n][j] += first * (s[n][j] < 0 ? 0.0f : s[n][j]) + second * (s[n][j + 2] < 0 ? 0.0f : s[n][j + 2]);
        }
      }
    }
    float* const scores = p.scores + t * p.cache.capacity;
    KOMPAKT_UNROLL
    for (int n = 0; n < 2; ++n) {
      KOMPAKT_UNROLL
      for (int j = 0; j < 2; ++j) {
        float v = sums[n][j];
        KOMPAKT_UNROLL
        for (int offset = 4; offset < 32; offset *= 2) v += __shfl_xor_sync(kFullWarp, v, offset);
        const int at = row + 8 * n + 2 * t4 + j;
        if (g == 0 && at < seen) scores[at] = v;
      }
    }
  }
}

}  // namespace

int IndexAppend(const cuda::IndexAppendParams& p, void* stream) {
  return Launch({.name = "index_append",
                 .grid = dim3(static_cast<unsigned>((p.tokens + kWarps - 1) / kWarps)),
                 .block = dim3(kThreads),
                 .stream = stream},
                IndexAppendKernel, p);
}

int IndexScores(const cuda::IndexScoresParams& p, void* stream) {
  const int heads = PaddedHeads(p.heads);
  return Launch(
      {.name = "index_scores",
       .grid = dim3(static_cast<unsigned>((p.rows + kBlockRows - 1) / kBlockRows), static_cast<unsigned>(p.tokens)),
       .block = dim3(kThreads),
       .shared_bytes = static_cast<size_t>(heads) * (2 * static_cast<size_t>(QueryStride(p.cache)) + 4),
       .stream = stream},
      IndexScoresKernel, p);
}

}  // namespace kompakt::KOMPAKT_BACKEND
