// MlaCombine: the splits of MlaDecode become one mean of latents, and that becomes values.
#include "kernels/cuda/mla.cuh"
#include "kernels/cuda/rows_out.cuh"

namespace kompakt::KOMPAKT_BACKEND {
namespace {

using cuda::KvBFormat;

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kMaxRank = cuda::DeviceLatentCache::kMaxRank;

// Heads of a block: so many that their values are whole groups of activations.
constexpr int HeadsTogether(const cuda::MlaCombineParams& p) {
  if (p.next.planes == 0 && p.next.x == nullptr) return 1;
  int heads = 1;
  while (heads * p.value_dim % 32 != 0) heads *= 2;
  return heads;
}

// mean[0, columns of all tiles) = the mean over the splits of one head, zeros behind the rank. No barrier.
KOMPAKT_DEVICE void MeanOfSplits(const cuda::MlaCombineParams& p, int t, int head, SharedPtr<float> mean) {
  const int64_t first_split = static_cast<int64_t>(t) * p.splits * p.heads + head;
  float largest = -INFINITY;
  for (int s = 0; s < p.splits; ++s)
    largest = fmaxf(largest, p.log_sum[first_split + static_cast<int64_t>(s) * p.heads]);
  for (int i = static_cast<int>(threadIdx.x); i < (p.rank + 31) / 32 * 32; i += kThreads) {
    float total = 0, weighted = 0;
    for (int s = 0; i < p.rank && s < p.splits; ++s) {
      const int64_t at = first_split + static_cast<int64_t>(s) * p.heads;
      const float weight = Exp2(p.log_sum[at] - largest);
      if (weight == 0) continue;  // a split without rows wrote no mean
      total += weight;
      weighted = fmaf(weight, p.mean[at * p.rank + i], weighted);
    }
    mean[i] = i < p.rank ? weighted / total : 0.0f;
  }
}

// values[0, value_dim) = W_UV mean of one head. A warp takes row tiles: each lane sums 4 rows over the columns it has
// of them (LoadPatch), then the 8 lanes of the same rows add up. No barrier.
template <KvBFormat kFormat>
KOMPAKT_DEVICE void ValuesOfHead(const cuda::MlaCombineParams& p, int head, SharedPtr<const float> mean,
                                 SharedPtr<float> values) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int col_tiles = (p.rank + 31) / 32;
  const int first = head * (p.nope_dim + p.value_dim) + p.nope_dim, end = first + p.value_dim;  // rows of W_UV
  for (int row_tile = first / 16 + warp; row_tile <= (end - 1) / 16; row_tile += kWarps) {
    float sum[4] = {};
    for (int col_tile = 0; col_tile < col_tiles; ++col_tile) {
      float w[4][4];
      LoadPatch<kFormat>(p.kv_b, col_tiles, row_tile, col_tile, lane, w);
      const float4 x = SharedCast<const float4>(mean + (col_tile * 32 + lane / 4 * 4))[0];
      KOMPAKT_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int row = row_tile * 16 + lane % 4 * 4 + i;
        if (row < first || row >= end) continue;
        const float dot = fmaf(w[i][0], x.x, fmaf(w[i][1], x.y, fmaf(w[i][2], x.z, w[i][3] * x.w)));
        sum[i] = fmaf(dot, KvBScale<kFormat>(p.kv_b, col_tiles, row, col_tile), sum[i]);
      }
    }
    KOMPAKT_UNROLL
    for (int i = 0; i < 4; ++i) {
      KOMPAKT_UNROLL
      for (int offset = 4; offset < 32; offset *= 2) sum[i] += __shfl_xor_sync(kFullWarp, sum[i], offset);
      const int row = row_tile * 16 + lane % 4 * 4 + i;
      if (lane < 4 && row >= first && row < end) values[row - first] = sum[i];
    }
  }
}

// Block (some heads, token).
template <KvBFormat kFormat>
__global__ void __launch_bounds__(kThreads, 2) MlaCombineKernel(const cuda::MlaCombineParams p) {
  KOMPAKT_SHARED(float, mean, kMaxRank);
  // Of one head, behind those of the heads before it that do not fill a group yet.
  KOMPAKT_SHARED(float, values, 32 + cuda::kMaxHeadDim);
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const int together = HeadsTogether(p);
  const int t = static_cast<int>(blockIdx.y), first = static_cast<int>(blockIdx.x) * together;
  const bool has_next = p.next.planes > 0 || p.next.x != nullptr;
  int waiting = 0;
  int group = first * p.value_dim / 32;  // of the row of all heads
  for (int head = first; head < min(first + together, p.heads); ++head) {
    MeanOfSplits(p, t, head, mean);
    __syncthreads();
    ValuesOfHead<kFormat>(p, head, mean, values + waiting);
    __syncthreads();
    if (p.y != nullptr) {
      float* const y = p.y + (static_cast<int64_t>(t) * p.heads + head) * p.value_dim;
      for (int i = thread; i < p.value_dim; i += kThreads) y[i] = values[waiting + i];
    }
    if (!has_next) continue;
    const int there = waiting + p.value_dim;
    // The last head's values end the row, in the middle of a group perhaps.
    const int groups = head + 1 == p.heads ? (there + 31) / 32 : there / 32;
    for (int i = warp; i < groups; i += kWarps) {
      const int at = i * 32 + lane;
      float v = 0;
      if (at < there) v = values[at];
      FinishRows({.next = p.next}, t, group + i, p.heads * p.value_dim, v);
    }
    group += groups;
    waiting = there - groups * 32;
    if (head + 1 == min(first + together, p.heads)) return;
    float v = 0;
    if (thread < waiting) v = values[groups * 32 + thread];
    __syncthreads();
    if (thread < waiting) values[thread] = v;
  }
}

}  // namespace

int MlaCombine(const cuda::MlaCombineParams& p, void* stream) {
  const int together = HeadsTogether(p);
  const LaunchConfig config{
      .name = "mla_combine",
      .grid = dim3(static_cast<unsigned>((p.heads + together - 1) / together), static_cast<unsigned>(p.tokens)),
      .block = dim3(kThreads),
      .stream = stream};
  return ForKvBFormat(p.kv_b.format, [&]<KvBFormat kFormat>() { return Launch(config, MlaCombineKernel<kFormat>, p); });
}

}  // namespace kompakt::KOMPAKT_BACKEND
