// IndexSelect: the rows of highest score, a block per token.
//
// A score becomes a 32-bit word that orders as the score does. Four passes over the scores find the word of the
// top_k-th one, eight bits at a time by the counts of what is left; a fifth writes the rows that are not below it, in
// order. Where not all rows of that very score are wanted, one thread chooses among them (tied_rows.cuh): it takes some
// steps for every row of the cache, where the others take a thousandth.
#include "kernels/cuda/index.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/tied_rows.cuh"

namespace kompakt::KOMPAKT_BACKEND {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;
constexpr int kBins = 256;

// Larger for larger scores; the two zeros are one. No NaN.
KOMPAKT_DEVICE uint32_t WordOf(float score) {
  const uint32_t bits = score == 0 ? 0 : __float_as_uint(score);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

// The sum of v over the threads before this one; *total: over all. All threads call this.
KOMPAKT_DEVICE int SumBefore(int v, SharedPtr<int> of_warps, int* total) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  int sum = v;
  KOMPAKT_UNROLL
  for (int offset = 1; offset < 32; offset *= 2) {
    const int before = __shfl_up_sync(kFullWarp, sum, static_cast<unsigned>(offset));
    if (lane >= offset) sum += before;
  }
  if (lane == 31) of_warps[warp] = sum;
  __syncthreads();
  int warps = of_warps[lane];
  KOMPAKT_UNROLL
  for (int offset = 1; offset < 32; offset *= 2) {
    const int before = __shfl_up_sync(kFullWarp, warps, static_cast<unsigned>(offset));
    if (lane >= offset) warps += before;
  }
  *total = __shfl_sync(kFullWarp, warps, 31);
  const int before = __shfl_sync(kFullWarp, warps, warp == 0 ? 0 : warp - 1);
  __syncthreads();  // of_warps may be written again
  return (warp == 0 ? 0 : before) + sum - v;
}

// NaN marks a row that is taken; the scores have none any more.
KOMPAKT_DEVICE float Taken() { return __int_as_float(0x7fc00000); }

// By one thread: marks the rows that are taken where equal scores have to be told apart.
KOMPAKT_DEVICE void MarkTiedRows(const TiedRows& rows, float* scores, int capacity, int top_k) {
  TakeTiedRows(rows, capacity, top_k);
  int missing = 0;
  for (int i = 0; i < top_k; ++i) {
    if (rows.order[i] >= rows.seen) ++missing;
  }
  for (int i = 0; i < top_k; ++i) {
    if (rows.order[i] < rows.seen) scores[rows.order[i]] = Taken();
  }
  // Rows that are seen may score minus infinity too; a row that is not seen is never taken for one of them.
  for (int row = 0; missing > 0; ++row) {
    if (scores[row] != scores[row]) continue;
    scores[row] = Taken();
    --missing;
  }
}

__global__ void __launch_bounds__(kThreads, 1) IndexSelectKernel(const cuda::IndexSelectParams p) {
  KOMPAKT_SHARED(int, bins, kBins);
  KOMPAKT_SHARED(int, of_warps, kWarps);
  KOMPAKT_SHARED(int, chosen, 2);  // the bin of a pass, and how many rows of it are wanted
  const int thread = static_cast<int>(threadIdx.x), t = static_cast<int>(blockIdx.x);
  const int seen = *p.position + p.first + t + 1;
  int32_t* const ids = p.ids + static_cast<int64_t>(t) * p.top_k;
  if (seen <= p.top_k) {
    for (int row = thread; row < seen; row += kThreads) ids[row] = row;
    return;
  }
  float* const scores = p.scores + t * p.capacity;
  bool finite = true;
  for (int row = thread; row < seen; row += kThreads) {
    const float score = scores[row];
    finite = finite && fabsf(score) <= 3.402823466e+38f;
    if (score != score) scores[row] = -INFINITY;
  }
  if (__syncthreads_count(finite ? 0 : 1) > 0 && thread == 0) *p.not_finite = 1;

  uint32_t word = 0;     // of the top_k-th row, so far
  int wanted = p.top_k;  // rows of the words that begin like it
  int equal = 0;         // how many there are
  for (int shift = 24; shift >= 0; shift -= 8) {
    if (thread < kBins) bins[thread] = 0;
    __syncthreads();
    for (int row = thread; row < seen; row += kThreads) {
      const uint32_t w = WordOf(scores[row]);
      if (shift == 24 || w >> (shift + 8) == word >> (shift + 8)) atomicAdd(bins + (w >> shift & 255u), 1);
    }
    __syncthreads();
    // From the highest bin down, thread by thread.
    const int bin = kBins - 1 - thread;
    int count = 0;
    if (bin >= 0) count = bins[bin];
    int total;
    const int higher = SumBefore(count, of_warps, &total);
    if (higher < wanted && wanted <= higher + count) {
      chosen[0] = bin;
      chosen[1] = wanted - higher;
    }
    __syncthreads();
    const int best = chosen[0];
    word |= static_cast<uint32_t>(best) << shift;
    wanted = chosen[1];
    equal = bins[best];
    __syncthreads();
  }

  const bool tied = wanted < equal;
  if (tied) {
    if (thread == 0) {
      MarkTiedRows({.scores = scores, .seen = seen, .order = p.order + t * p.capacity}, scores,
                   static_cast<int>(p.capacity), p.top_k);
    }
    __syncthreads();
  }
  int written = 0;
  for (int first = 0; first < seen; first += kThreads) {
    const int row = first + thread;
    bool taken = false;
    if (row < seen) taken = tied ? scores[row] != scores[row] : WordOf(scores[row]) >= word;
    int total;
    const int before = SumBefore(taken ? 1 : 0, of_warps, &total);
    if (taken) ids[written + before] = row;
    written += total;
  }
}

}  // namespace

int IndexSelect(const cuda::IndexSelectParams& p, void* stream) {
  return Launch({.name = "index_select",
                 .grid = dim3(static_cast<unsigned>(p.tokens)),
                 .block = dim3(kThreads),
                 .stream = stream},
                IndexSelectKernel, p);
}

}  // namespace kompakt::KOMPAKT_BACKEND
