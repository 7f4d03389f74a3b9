// MlaCombine: the splits of MlaDecode become one mean of latents, and that becomes values.
#include "kernels/cuda/mla.cuh"
#include "kernels/cuda/rows_out.cuh"

namespace kompakt::KOMPAKT_BACKEND {
namespace {

using cuda::KvBFormat;

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kMaxRank = cuda::DeviceLatentCache::kMaxRank;

// Block (head, token). A warp takes row tiles of W_UV: each lane sums 4 rows over the columns it has of them
// (LoadPatch), then the 8 lanes of the same rows add up.
template <KvBFormat kFormat>
__global__ void __launch_bounds__(kThreads) MlaCombineKernel(const cuda::MlaCombineParams p) {
  KOMPAKT_SHARED(float, mean, kMaxRank);
  KOMPAKT_SHARED(float, values, cuda::kMaxHeadDim);
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const int head = static_cast<int>(blockIdx.x), t = static_cast<int>(blockIdx.y);
  const int64_t first_split = static_cast<int64_t>(t) * p.splits * p.heads + head;

  float largest = -INFINITY;
  for (int s = 0; s < p.splits; ++s)
    largest = fmaxf(largest, p.log_sum[first_split + static_cast<int64_t>(s) * p.heads]);
  const int col_tiles = (p.rank + 31) / 32;
  for (int i = thread; i < col_tiles * 32; i += kThreads) {
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
  __syncthreads();

  const int first = head * (p.nope_dim + p.value_dim) + p.nope_dim, end = first + p.value_dim;  // rows of W_UV
  float* const y = p.y == nullptr ? nullptr : p.y + (static_cast<int64_t>(t) * p.heads + head) * p.value_dim;
  for (int row_tile = first / 16 + warp; row_tile <= (end - 1) / 16; row_tile += kWarps) {
    float sum[4] = {};
    for (int col_tile = 0; col_tile < col_tiles; ++col_tile) {
      float w[4][4];
      LoadPatch<kFormat>(p.kv_b, col_tiles, row_tile, col_tile, lane, w);
      const float4 x = SharedCast<float4>(mean + (col_tile * 32 + lane / 4 * 4))[0];
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
      if (lane >= 4 || row < first || row >= end) continue;
      values[row - first] = sum[i];
      if (y != nullptr) y[row - first] = sum[i];
    }
  }
  if (p.next.planes == 0 && p.next.x == nullptr) return;
  __syncthreads();
  for (int group = warp; group < p.value_dim / 32; group += kWarps) {
    const float v = values[group * 32 + lane];
    FinishRows({.next = p.next}, t, head * p.value_dim / 32 + group, p.heads * p.value_dim, v);
  }
}

}  // namespace

int MlaCombine(const cuda::MlaCombineParams& p, void* stream) {
  const LaunchConfig config{.name = "mla_combine",
                            .grid = dim3(static_cast<unsigned>(p.heads), static_cast<unsigned>(p.tokens)),
                            .block = dim3(kThreads),
                            .stream = stream};
  return ForKvBFormat(p.kv_b.format, [&]<KvBFormat kFormat>() { return Launch(config, MlaCombineKernel<kFormat>, p); });
}

}  // namespace kompakt::KOMPAKT_BACKEND
