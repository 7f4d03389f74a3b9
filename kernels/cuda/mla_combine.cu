// MlaCombine: the splits of MlaDecode become one mean of latents, and that becomes values.
#include "kernels/cuda/mla.cuh"
#include "kernels/cuda/rows_out.cuh"

namespace kompakt::KOMPAKT_BACKEND {
namespace {

using cuda::KvBFormat;

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kMaxRank = cuda::DeviceLatentCache::kMaxRank;
constexpr int kColsOfThread = 4;  // of the mean, kMeanThreads apart
constexpr int kMeanThreads = kMaxRank / kColsOfThread;
constexpr int kMeanParts = kThreads / kMeanThreads;  // of the splits
constexpr int kAtOnce = 8;                           // splits that a thread asks for together
constexpr int kColParts = 4;                         // of the columns of W_UV

// shares[s]: of split s in the mean of one head; 0 of one without rows. By one warp.
KOMPAKT_DEVICE void SharesOfSplits(const cuda::MlaCombineParams& p, int64_t first_split, SharedPtr<float> shares) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  float log_sum[cuda::kMaxMlaSplits / 32];
  float largest = -INFINITY, total = 0;
  KOMPAKT_UNROLL
  for (int i = 0; i < cuda::kMaxMlaSplits / 32; ++i) {
    const int s = i * 32 + lane;
    log_sum[i] = s < p.splits ? p.log_sum[first_split + static_cast<int64_t>(s) * p.heads] : -INFINITY;
    largest = fmaxf(largest, log_sum[i]);
  }
  largest = WarpMax(largest);
  KOMPAKT_UNROLL
  for (int i = 0; i < cuda::kMaxMlaSplits / 32; ++i) {
    log_sum[i] = Exp2(log_sum[i] - largest);
    total += log_sum[i];
  }
  total = WarpSum(total);
  KOMPAKT_UNROLL
  for (int i = 0; i < cuda::kMaxMlaSplits / 32; ++i) {
    if (i * 32 + lane < p.splits) shares[i * 32 + lane] = log_sum[i] / total;
  }
}

// mean[part][0, kMaxRank): what each part of the splits adds to the mean of one head, zeros behind the rank.
KOMPAKT_DEVICE void MeanOfSplits(const cuda::MlaCombineParams& p, int64_t first_split, SharedPtr<const float> shares,
                                 SharedPtr<float> mean) {
  const int part = static_cast<int>(threadIdx.x) / kMeanThreads, col = static_cast<int>(threadIdx.x) % kMeanThreads;
  const float* const from = p.mean + first_split * p.rank + col;
  const int64_t stride = static_cast<int64_t>(p.heads) * p.rank;
  float sum[kColsOfThread] = {};
  KOMPAKT_ROLLED
  for (int first = part; first < p.splits; first += kMeanParts * kAtOnce) {
    float v[kAtOnce][kColsOfThread] = {};
    float share[kAtOnce] = {};
    KOMPAKT_UNROLL
    for (int i = 0; i < kAtOnce; ++i) {
      const int s = first + i * kMeanParts;
      if (s < p.splits) share[i] = shares[s];
      if (share[i] == 0) continue;  // a split without rows wrote no mean
      KOMPAKT_UNROLL
      for (int j = 0; j < kColsOfThread; ++j) {
        if (col + j * kMeanThreads < p.rank) v[i][j] = from[s * stride + j * kMeanThreads];
      }
    }
    KOMPAKT_UNROLL
    for (int i = 0; i < kAtOnce; ++i) {
      KOMPAKT_UNROLL
      for (int j = 0; j < kColsOfThread; ++j) sum[j] = fmaf(share[i], v[i][j], sum[j]);
    }
  }
  KOMPAKT_UNROLL
  for (int j = 0; j < kColsOfThread; ++j) mean[part * kMaxRank + col + j * kMeanThreads] = sum[j];
}

// A part of the columns of W_UV, for rows of one row tile.
struct ValueTiles {
  int row_tile, part;
};

// Rows [first, end) of W_UV times the mean, over a part of the columns: values[row - zero]. By one warp: each lane sums
// 4 rows over the columns it has of them (LoadPatch), then the 8 lanes of the same rows add up.
template <KvBFormat kFormat>
KOMPAKT_DEVICE void ValuesOf(const cuda::MlaCombineParams& p, const ValueTiles& tiles, int first, int end, int zero,
                             SharedPtr<const float> mean, SharedPtr<float> values) {
  const int lane = static_cast<int>(threadIdx.x % 32), col_tiles = (p.rank + 31) / 32;
  float sum[4] = {};
  KOMPAKT_UNROLL
  for (int i = 0; i < kMaxRank / 32 / kColParts; ++i) {
    const int col_tile = i * kColParts + tiles.part;
    if (col_tile >= col_tiles) continue;
    float w[4][4], scale[4];
    LoadPatch<kFormat>(p.kv_b, col_tiles, tiles.row_tile, col_tile, lane, w);
    PatchScales<kFormat>(p.kv_b, col_tiles, tiles.row_tile, col_tile, lane, scale);
    const int at = col_tile * 32 + lane / 4 * 4;
    float4 x = SharedCast<const float4>(mean + at)[0];
    KOMPAKT_UNROLL
    for (int part = 1; part < kMeanParts; ++part) {
      const float4 more = SharedCast<const float4>(mean + (part * kMaxRank + at))[0];
      x = make_float4(x.x + more.x, x.y + more.y, x.z + more.z, x.w + more.w);
    }
    KOMPAKT_UNROLL
    for (int r = 0; r < 4; ++r) {
      const float dot = fmaf(w[r][0], x.x, fmaf(w[r][1], x.y, fmaf(w[r][2], x.z, w[r][3] * x.w)));
      sum[r] = fmaf(dot, scale[r], sum[r]);
    }
  }
  KOMPAKT_UNROLL
  for (int r = 0; r < 4; ++r) {
    KOMPAKT_UNROLL
    for (int offset = 4; offset < 32; offset *= 2) sum[r] += __shfl_xor_sync(kFullWarp, sum[r], offset);
    const int row = tiles.row_tile * 16 + lane % 4 * 4 + r;
    if (lane < 4 && row >= first && row < end) values[row - zero] = sum[r];
  }
}

// Block (g, token): values 32 g to 32 g + 31 of the token's heads one after the other.
template <KvBFormat kFormat>
__global__ void __launch_bounds__(kThreads, 2) MlaCombineKernel(const cuda::MlaCombineParams p) {
  KOMPAKT_SHARED(float, shares, cuda::kMaxMlaSplits);
  KOMPAKT_SHARED(float, mean, kMeanParts* kMaxRank);
  KOMPAKT_SHARED(float, values, kColParts * 32);
  const int warp = static_cast<int>(threadIdx.x / 32), lane = static_cast<int>(threadIdx.x % 32);
  const int group = static_cast<int>(blockIdx.x), t = static_cast<int>(blockIdx.y);
  const int width = p.heads * p.value_dim, begin = group * 32, stop = min(begin + 32, width);
  for (int head = begin / p.value_dim; head <= (stop - 1) / p.value_dim; ++head) {
    // Of kv_b: the head's rows that are wanted, and where the row of value `begin` would be.
    const int zero = head * p.nope_dim + p.nope_dim + begin;
    const int first = zero + max(begin, head * p.value_dim) - begin;
    const int end = zero + min(stop, (head + 1) * p.value_dim) - begin;
    const int units = ((end - 1) / 16 - first / 16 + 1) * kColParts;
    const auto unit = [&](int i) { return ValueTiles{first / 16 + i / kColParts, i % kColParts}; };
    for (int i = warp; i < units; i += kWarps) {
      PrefetchTiles<kFormat>(p.kv_b, (p.rank + 31) / 32, unit(i).row_tile, unit(i).part, kColParts);
    }
    const int64_t first_split = static_cast<int64_t>(t) * p.splits * p.heads + head;
    if (warp == 0) SharesOfSplits(p, first_split, shares);
    __syncthreads();
    MeanOfSplits(p, first_split, shares, mean);
    __syncthreads();
    for (int i = warp; i < units; i += kWarps) {
      ValuesOf<kFormat>(p, unit(i), first, end, zero, mean, values + unit(i).part * 32);
    }
    __syncthreads();
  }
  if (warp != 0) return;
  float v = 0;
  if (begin + lane < stop) {
    KOMPAKT_UNROLL
    for (int part = 0; part < kColParts; ++part) v += static_cast<float>(values[part * 32 + lane]);
  }
  FinishRows({.y = p.y, .y_stride = width, .next = p.next}, t, group, width, v);
}

}  // namespace

int MlaCombine(const cuda::MlaCombineParams& p, void* stream) {
  const LaunchConfig config{
      .name = "mla_combine",
      .grid = dim3(static_cast<unsigned>(cuda::Groups(static_cast<int64_t>(p.heads) * p.value_dim)),
                   static_cast<unsigned>(p.tokens)),
      .block = dim3(kThreads),
      .stream = stream};
  return ForKvBFormat(p.kv_b.format, [&]<KvBFormat kFormat>() { return Launch(config, MlaCombineKernel<kFormat>, p); });
}

}  // namespace kompakt::KOMPAKT_BACKEND
