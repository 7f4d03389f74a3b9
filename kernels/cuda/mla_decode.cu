// MlaDecode: attention in the latent space on tensor cores, for few tokens.
//
// A block computes 16 heads of one token over one split of the rows. The rows come in tiles of 32 through shared
// memory; while one is computed with, cp.async brings the next. Per tile
//   scores    S[16][32] = Q[16][rank + rope] K^T: four warps take 8 rows each of one half of the columns, four of the
//             other half; the halves meet in shared memory
//   softmax   online: 16 threads per head; probabilities in BF16, and their sum is of the rounded ones
//   mean      O[16][rank] += P V, V being the first `rank` values of K: each warp keeps 16 columns of every 128
// A quantized cache comes as it is, and is widened to BF16 once it is there.
#include "kernels/cuda/mla.cuh"

namespace kompakt::KOMPAKT_BACKEND {
namespace {

using cuda::DeviceLatentCache;
using cuda::LatentFormat;

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kHeads = 16;
constexpr int kTile = 32;
constexpr int kScoreStride = kTile + 2;                            // floats
constexpr int kProbabilityStride = kTile + 8;                      // BF16: 80 bytes, an odd multiple of 16
constexpr int kPairs = DeviceLatentCache::kMaxRank / 16 / kWarps;  // of 8 columns, of a warp

// Offsets of the pieces of shared memory, in bytes.
template <LatentFormat kFormat>
struct SharedPlan {
  int stride;      // of a row in BF16
  int raw_stride;  // of a row as it is stored
  int q, tiles, raw, scores, probabilities, scales, bytes;

  constexpr explicit SharedPlan(const DeviceLatentCache& cache) {
    constexpr bool kPlain = kFormat == LatentFormat::kBf16;
    stride = BankedStride(2 * cache.width_padded());
    raw_stride = kPlain ? 0 : cache.row_bytes();
    q = 0;
    tiles = q + kHeads * stride;
    raw = tiles + (kPlain ? 2 : 1) * kTile * stride;
    scores = raw + kTile * raw_stride;
    probabilities = scores + 2 * kHeads * kScoreStride * 4;
    scales = probabilities + kHeads * kProbabilityStride * 2;
    bytes = scales + kHeads * 4;
  }
};

// Rows [begin, begin + 32) of the split towards shared memory; zeros behind `end`.
KOMPAKT_DEVICE void FetchTile(const DeviceLatentCache& cache, const int32_t* ids, int begin, int end,
                              SharedPtr<uint8_t> to, int stride) {
  const int chunks = cache.row_bytes() / 16;
  for (int i = static_cast<int>(threadIdx.x); i < kTile * chunks; i += kThreads) {
    const int j = i / chunks, chunk = i % chunks;
    const bool inside = begin + j < end;
    const int64_t row = !inside ? 0 : ids != nullptr ? LoadCached(ids + begin + j) : begin + j;
    CopyAsync16(to + (j * stride + chunk * 16), cache.data + row * cache.row_bytes() + chunk * 16, inside ? 16 : 0);
  }
}

// S of rows 8 (warp % 4) .. + 7 over one half of the columns.
KOMPAKT_DEVICE void Scores(SharedPtr<uint16_t> q, SharedPtr<uint16_t> tile, int stride, int steps, int warp, int lane,
                           float (&s)[4]) {
  const int half = (steps + 1) / 2;
  const int begin = warp / 4 * half, end = min(steps, begin + half);
  const SharedPtr<uint16_t> a_row = q + (lane % 16 * stride + lane / 16 * 8);
  const SharedPtr<uint16_t> b_row = tile + ((warp % 4 * 8 + lane % 8) * stride);
  int step = begin;
  for (; step + 1 < end; step += 2) {
    uint32_t a0[4], a1[4], b[4];
    LoadMatrixX4(a0, a_row + step * 16);
    LoadMatrixX4(a1, a_row + step * 16 + 16);
    LoadMatrixX4(b, b_row + (step * 16 + lane / 8 * 8));
    MmaBf16(s, a0, {b[0], b[1]});
    MmaBf16(s, a1, {b[2], b[3]});
  }
  if (step < end) {
    uint32_t a[4], b[2];
    LoadMatrixX4(a, a_row + step * 16);
    LoadMatrixX2(b, b_row + (step * 16 + lane / 8 % 2 * 8));
    MmaBf16(s, a, b);
  }
}

template <LatentFormat kFormat>
__global__ void __launch_bounds__(kThreads) MlaDecodeKernel(const cuda::MlaDecodeParams p) {
  constexpr bool kPlain = kFormat == LatentFormat::kBf16;
  const SharedPlan<kFormat> plan(p.cache);
  const int stride = plan.stride / 2;  // in elements
  KOMPAKT_DYNAMIC_SHARED(memory);
  const auto q = SharedSlice<uint16_t>(memory, plan.q, kHeads * stride);
  const auto tiles = SharedSlice<uint16_t>(memory, plan.tiles, (kPlain ? 2 : 1) * kTile * stride);
  const auto raw = SharedSlice<uint8_t>(memory, plan.raw, kTile * plan.raw_stride);
  const auto scores = SharedSlice<float>(memory, plan.scores, 2 * kHeads * kScoreStride);
  const auto probabilities = SharedSlice<uint16_t>(memory, plan.probabilities, kHeads * kProbabilityStride);
  const auto scales = SharedSlice<float>(memory, plan.scales, kHeads);

  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const int g = lane / 4, t4 = lane % 4;
  const int head0 = static_cast<int>(blockIdx.x) * kHeads;
  const int split = static_cast<int>(blockIdx.y), t = static_cast<int>(blockIdx.z);
  const int heads = min(kHeads, p.heads - head0);
  const int64_t out = (static_cast<int64_t>(t) * p.splits + split) * p.heads + head0;

  const int before = *p.position + p.first + t + 1;
  const int seen = p.ids != nullptr ? min(p.selected, before) : before;
  const int tiles_per_split = ((seen + kTile - 1) / kTile + p.splits - 1) / p.splits;
  const int begin = split * tiles_per_split * kTile, end = min(seen, begin + tiles_per_split * kTile);
  if (begin >= end) {
    if (thread < heads) p.log_sum[out + thread] = -INFINITY;
    return;
  }
  const int32_t* const ids = p.ids != nullptr ? p.ids + static_cast<int64_t>(t) * p.selected : nullptr;

  const int width = p.cache.width_padded();
  for (int i = thread; i < kHeads * width / 8; i += kThreads) {
    const int row = i / (width / 8), chunk = i % (width / 8);
    const bool inside = row < heads;
    const int64_t from = (static_cast<int64_t>(t) * p.heads + head0 + (inside ? row : 0)) * width + chunk * 8;
    CopyAsync16(q + (row * stride + chunk * 8), p.latent_q + from, inside ? 16 : 0);
  }
  const auto fetch = [&](int row, int stage) {
    if constexpr (kPlain) {
      FetchTile(p.cache, ids, row, end, SharedCast<uint8_t>(tiles + stage * kTile * stride), plan.stride);
    } else {
      FetchTile(p.cache, ids, row, end, raw, plan.raw_stride);
    }
    CommitAsync();
  };
  fetch(begin, 0);

  float mean[kPairs][2][4] = {};
  float largest = -INFINITY, sum = 0;  // of head thread / 16: the maximum; this thread's share of the sum
  int stage = 0;
  for (int row = begin; row < end; row += kTile) {
    WaitAsync<0>();
    __syncthreads();  // the tile is there, and nobody reads the one before
    const auto tile = tiles + stage * kTile * stride;
    if constexpr (!kPlain) {
      for (int i = thread; i < kTile * (width / 8); i += kThreads) {
        const int j = i / (width / 8);
        WidenChunk<kFormat>(p.cache, raw + j * plan.raw_stride, tile + j * stride, i % (width / 8));
      }
      __syncthreads();
    }
    if (row + kTile < end) fetch(row + kTile, stage ^ 1);

    float s[4] = {};
    Scores(q, tile, stride, width / 16, warp, lane, s);
    const auto score = scores + (warp / 4 * kHeads * kScoreStride + warp % 4 * 8 + 2 * t4);
    score[g * kScoreStride] = s[0];
    score[g * kScoreStride + 1] = s[1];
    score[(g + 8) * kScoreStride] = s[2];
    score[(g + 8) * kScoreStride + 1] = s[3];
    __syncthreads();

    {
      const int head = thread / 16, col = thread % 16;
      float x[2];
      KOMPAKT_UNROLL
      for (int i = 0; i < 2; ++i) {
        const int at = head * kScoreStride + col + 16 * i;
        x[i] = static_cast<float>(scores[at]) + static_cast<float>(scores[kHeads * kScoreStride + at]);
        if (row + col + 16 * i >= end) x[i] = -INFINITY;
      }
      const float now = fmaxf(largest, WarpMax<16>(fmaxf(x[0], x[1])));
      const float keep = Exp2(largest - now);
      largest = now;
      const uint32_t rounded = PackBf16(Exp2(x[0] - now), Exp2(x[1] - now));
      sum = fmaf(sum, keep, LowBf16(rounded) + HighBf16(rounded));
      probabilities[head * kProbabilityStride + col] = static_cast<uint16_t>(rounded & 0xffffu);
      probabilities[head * kProbabilityStride + col + 16] = static_cast<uint16_t>(rounded >> 16);
      if (col == 0) scales[head] = keep;
    }
    __syncthreads();

    const float keep_low = scales[g], keep_high = scales[g + 8];
    KOMPAKT_UNROLL
    for (int i = 0; i < kPairs; ++i) {
      KOMPAKT_UNROLL
      for (int j = 0; j < 2; ++j) {
        mean[i][j][0] *= keep_low;
        mean[i][j][1] *= keep_low;
        mean[i][j][2] *= keep_high;
        mean[i][j][3] *= keep_high;
      }
    }
    KOMPAKT_UNROLL
    for (int k = 0; k < kTile; k += 16) {
      uint32_t a[4];
      LoadMatrixX4(a, probabilities + (lane % 16 * kProbabilityStride + k + lane / 16 * 8));
      KOMPAKT_UNROLL
      for (int i = 0; i < kPairs; ++i) {
        const int col = (warp + kWarps * i) * 16;
        if (col >= p.cache.rank_padded()) continue;
        uint32_t b[4];
        LoadMatrixX4Transposed(b, tile + ((k + lane % 16) * stride + col + lane / 16 * 8));
        MmaBf16(mean[i][0], a, {b[0], b[1]});
        MmaBf16(mean[i][1], a, {b[2], b[3]});
      }
    }
    if constexpr (kPlain) stage ^= 1;
  }

  sum = WarpSum<16>(sum);
  if (thread % 16 == 0) {
    const int head = thread / 16;
    // `scales` was read before the last barrier only by those who passed it.
    if (head < heads) p.log_sum[out + head] = largest + log2f(sum);
  }
  __syncthreads();
  if (thread % 16 == 0) scales[thread / 16] = 1.0f / sum;
  __syncthreads();
  const float low = scales[g], high = scales[g + 8];
  const int rank = p.cache.rank;
  KOMPAKT_UNROLL
  for (int i = 0; i < kPairs; ++i) {
    KOMPAKT_UNROLL
    for (int j = 0; j < 2; ++j) {
      KOMPAKT_UNROLL
      for (int c = 0; c < 4; ++c) {
        const int head = g + c / 2 * 8, col = (warp + kWarps * i) * 16 + j * 8 + 2 * t4 + c % 2;
        if (head < heads && col < rank) p.mean[(out + head) * rank + col] = mean[i][j][c] * (c < 2 ? low : high);
      }
    }
  }
}

}  // namespace

int MlaDecode(const cuda::MlaDecodeParams& p, void* stream) {
  return ForLatentFormat(p.cache.format, [&]<LatentFormat kFormat>() {
    return Launch({.name = "mla_decode",
                   .grid = dim3(static_cast<unsigned>((p.heads + kHeads - 1) / kHeads), static_cast<unsigned>(p.splits),
                                static_cast<unsigned>(p.tokens)),
                   .block = dim3(kThreads),
                   .shared_bytes = static_cast<size_t>(SharedPlan<kFormat>(p.cache).bytes),
                   .stream = stream},
                  MlaDecodeKernel<kFormat>, p);
  });
}

}  // namespace kompakt::KOMPAKT_BACKEND
