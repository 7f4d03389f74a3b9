// MlaAppend and MlaAbsorb: what happens to a token's latent and queries before it attends.
#include "kernels/cuda/decode_block.cuh"
#include "kernels/cuda/last_block.cuh"
#include "kernels/cuda/mla.cuh"

namespace kompakt::KOMPAKT_BACKEND {
namespace {

using cuda::DeviceLatentCache;
using cuda::KvBFormat;
using cuda::LatentFormat;

constexpr int kThreads = kDecodeThreads;
constexpr int kWarps = kDecodeWarps;

// FP8 E4M3, to nearest even, of |x| <= 448.
KOMPAKT_DEVICE uint32_t EncodeE4m3(float x) {
  const uint32_t sign = __float_as_uint(x) >> 24 & 0x80u;
  const uint32_t bits = __float_as_uint(x) & 0x7fffffffu;
  if (bits < 121u << 23) {  // below 2^-6: a multiple of 2^-9
    return sign | static_cast<uint32_t>(__float2int_rn(__uint_as_float(bits) * 512.0f));
  }
  const uint32_t rebased = bits - (120u << 23);
  return sign | (rebased + 0x7ffffu + (rebased >> 20 & 1u)) >> 20;
}

// The scale of a group in BF16 bits, and codes, one per lane (`x` of a lane behind the rank is 0). NaN where a value is
// not finite, so that it is not hidden.
template <LatentFormat kFormat>
KOMPAKT_DEVICE uint32_t QuantizeLane(float x, uint32_t* code KOMPAKT_SITE) {
  const float largest = WarpMax(fabsf(x) KOMPAKT_HERE);
  const bool finite = __all_sync(kFullWarp, fabsf(x) <= 3.4028235e38f KOMPAKT_HERE) != 0;
  *code = 0;
  if (!finite) return 0x7fc0u;
  if constexpr (kFormat == LatentFormat::kInt8) {
    // The least BF16 that is not below it, so that no code passes 127.
    const uint32_t scale = (__float_as_uint(largest / 127.0f) + 0xffffu) >> 16;
    if (scale == 0) return 0;  // zeros, or denormal numbers without a 127th part
    const int rounded = __float2int_rn(x / LowBf16(scale));
    *code = static_cast<uint32_t>(max(-127, min(127, rounded))) & 255u;
    return scale;
  } else {
    if (largest == 0) return 0;
    // The least power of two that brings the group within 448 = 1.75 * 2^8; a normal number.
    const uint32_t bits = __float_as_uint(largest);
    const int above = (bits & 0x7fffffu) > 0x600000u ? 1 : 0;
    const int exponent = max(1, static_cast<int>(bits >> 23) - 8 + above);
    const uint32_t scale = static_cast<uint32_t>(exponent) << 7;
    *code = EncodeE4m3(x / LowBf16(scale));
    return scale;
  }
}

KOMPAKT_DEVICE float RotatedFirst(float a, float b, float c, float s) { return a * c - b * s; }
KOMPAKT_DEVICE float RotatedSecond(float a, float b, float c, float s) { return a * s + b * c; }

// Token `t` of p, by one block. `values`: kMaxRank floats, `partial`: kWarps.
template <LatentFormat kFormat>
KOMPAKT_DEVICE void AppendToken(const cuda::MlaAppendParams& p, int t, SharedPtr<float> values,
                                SharedPtr<float> partial) {
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const int rank = p.cache.rank;
  const float* const a = p.a + t * p.a_stride;
  float sum = 0;
  for (int i = thread; i < rank; i += kThreads) {
    const float x = LoadCached(a + i);
    values[i] = x;
    sum += x * x;
  }
  sum = WarpSum(sum);
  if (lane == 0) partial[warp] = sum;
  __syncthreads();
  float total = 0;
  KOMPAKT_UNROLL
  for (int i = 0; i < kWarps; ++i) total += partial[i];
  const float scale = 1.0f / sqrtf(total / static_cast<float>(rank) + p.eps);

  uint8_t* const row = p.cache.data + (*p.position + t) * static_cast<int64_t>(p.cache.row_bytes());
  if constexpr (kFormat == LatentFormat::kBf16) {
    auto* const out = reinterpret_cast<uint32_t*>(row);
    for (int i = thread; i < p.cache.rank_padded() / 2; i += kThreads) {
      float y[2];
      KOMPAKT_UNROLL
      for (int j = 0; j < 2; ++j) {
        const int at = 2 * i + j;
        y[j] = at < rank ? static_cast<float>(values[at]) * scale * LoadCached(p.norm_weight + at) : 0.0f;
      }
      out[i] = PackBf16(y[0], y[1]);
    }
  } else {
    auto* const scales = reinterpret_cast<uint16_t*>(row + p.cache.rank_padded());
    for (int group = warp; group < p.cache.scale_bytes() / 2; group += kWarps) {
      const int at = group * DeviceLatentCache::kGroup + lane;
      const float y = at < rank ? static_cast<float>(values[at]) * scale * LoadCached(p.norm_weight + at) : 0.0f;
      uint32_t code;
      const uint32_t group_scale = QuantizeLane<kFormat>(y, &code);
      if (at < p.cache.rank_padded()) row[at] = static_cast<uint8_t>(code);
      if (lane == 0) scales[group] = static_cast<uint16_t>(group_scale);
    }
  }
  auto* const key = reinterpret_cast<uint32_t*>(row + p.cache.rope_offset());
  for (int i = thread; i < p.cache.rope_padded() / 2; i += kThreads) {
    uint32_t pair = 0;
    if (2 * i < p.cache.rope) {
      const float x = LoadCached(a + rank + 2 * i), y = LoadCached(a + rank + 2 * i + 1);
      const float* const angle = p.cos_sin + static_cast<int64_t>(t) * p.cache.rope + 2 * i;
      const float c = LoadCached(angle), s = LoadCached(angle + 1);
      pair = PackBf16(RotatedFirst(x, y, c, s), RotatedSecond(x, y, c, s));
    }
    key[i] = pair;
  }
}

KOMPAKT_DEVICE void AppendTokenOf(const cuda::MlaAppendParams& p, int t) {
  KOMPAKT_SHARED(float, values, DeviceLatentCache::kMaxRank);
  KOMPAKT_SHARED(float, partial, kWarps);
  switch (p.cache.format) {
    case LatentFormat::kBf16:
      return AppendToken<LatentFormat::kBf16>(p, t, values, partial);
    case LatentFormat::kFp8:
      return AppendToken<LatentFormat::kFp8>(p, t, values, partial);
    case LatentFormat::kInt8:
      return AppendToken<LatentFormat::kInt8>(p, t, values, partial);
  }
}

// Block t: token t.
__global__ void __launch_bounds__(kThreads) MlaAppendKernel(const cuda::MlaAppendParams p) {
  AppendTokenOf(p, static_cast<int>(blockIdx.x));
}

// Of scores, in powers of two.
KOMPAKT_DEVICE float QueryFactor(const cuda::MlaAbsorbParams& p) { return p.softmax_scale * 1.44269504f; }

// Halves of the row tiles of a head; a warp has one of a column tile.
constexpr int kRowHalves = 2;
constexpr int kColTilesAtOnce = kWarps / kRowHalves;
// Row tiles that a warp asks for together.
constexpr int kRowTilesAtOnce = 4;
// Blocks that share the columns of a head, where a launch has blocks to spare.
constexpr int kAbsorbParts = 4;

// One head of a token, whose query times `QueryFactor` is in `q`: [nope + rope], written before a barrier. Part `part`
// of `parts` of the column tiles of W_UK, in rounds of kColTilesAtOnce: each lane sums 4 columns over the rows it has
// of them (LoadPatch), then the 4 lanes of the same columns add up, then the halves. `halves`: kWarps * 32 floats. All
// threads of a block call this.
template <KvBFormat kFormat>
KOMPAKT_DEVICE void AbsorbHead(const cuda::MlaAbsorbParams& p, int head, int t, int part, int parts,
                               SharedPtr<const float> q, SharedPtr<float> halves) {
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const int rank_padded = (p.rank + 15) / 16 * 16, rope_padded = (p.rope_dim + 15) / 16 * 16;
  uint16_t* const out = p.latent_q + (static_cast<int64_t>(t) * p.heads + head) * (rank_padded + rope_padded);
  const int first = head * (p.nope_dim + p.value_dim), end = first + p.nope_dim;  // rows of W_UK
  const int last_tile = (end - 1) / 16, col_tiles = (p.rank + 31) / 32;
  const int half = warp % kRowHalves, place = warp / kRowHalves;
  for (int round = part * kColTilesAtOnce; round < col_tiles; round += parts * kColTilesAtOnce) {
    const int col_tile = round + place;
    float sum[4] = {};
    if (col_tile < col_tiles) {
      for (int row_tile = first / 16 + half; row_tile <= last_tile; row_tile += kRowHalves * kRowTilesAtOnce) {
        float w[kRowTilesAtOnce][4][4], scale[kRowTilesAtOnce][4];
        KOMPAKT_UNROLL
        for (int k = 0; k < kRowTilesAtOnce; ++k) {
          // Behind the last one that one again, times nothing.
          const int at = min(row_tile + k * kRowHalves, last_tile);
          LoadPatch<kFormat>(p.kv_b, col_tiles, at, col_tile, lane, w[k]);
          PatchScales<kFormat>(p.kv_b, col_tiles, at, col_tile, lane, scale[k]);
        }
        KOMPAKT_UNROLL
        for (int k = 0; k < kRowTilesAtOnce; ++k) {
          KOMPAKT_UNROLL
          for (int i = 0; i < 4; ++i) {
            const int row = (row_tile + k * kRowHalves) * 16 + lane % 4 * 4 + i;
            float x = 0;
            if (row >= first && row < end) x = q[row - first];
            const float y = x * scale[k][i];
            KOMPAKT_UNROLL
            for (int j = 0; j < 4; ++j) sum[j] = fmaf(y, w[k][i][j], sum[j]);
          }
        }
      }
    }
    KOMPAKT_UNROLL
    for (int j = 0; j < 4; ++j) {
      sum[j] += __shfl_xor_sync(kFullWarp, sum[j], 1);
      sum[j] += __shfl_xor_sync(kFullWarp, sum[j], 2);
    }
    if (lane % 4 == 0) {
      KOMPAKT_UNROLL
      for (int j = 0; j < 4; ++j) halves[warp * 32 + lane + j] = sum[j];
    }
    __syncthreads();
    // Two columns a thread.
    const int column = 2 * thread % 32, tile = thread / 16;
    const int at = (round + tile) * 32 + column;
    if (tile < kColTilesAtOnce && at < rank_padded) {
      float v[2];
      KOMPAKT_UNROLL
      for (int j = 0; j < 2; ++j) {
        v[j] = 0;
        // A tile's columns behind the rank decode to anything.
        if (at + j >= p.rank) continue;
        KOMPAKT_UNROLL
        for (int h = 0; h < kRowHalves; ++h) {
          v[j] += static_cast<float>(halves[(tile * kRowHalves + h) * 32 + column + j]);
        }
      }
      reinterpret_cast<uint32_t*>(out)[at / 2] = PackBf16(v[0], v[1]);
    }
    __syncthreads();
  }
  if (part != 0) return;
  for (int i = thread; i < rope_padded / 2; i += kThreads) {
    uint32_t pair = 0;
    if (2 * i < p.rope_dim) {
      const float x = q[p.nope_dim + 2 * i], y = q[p.nope_dim + 2 * i + 1];
      const float* const angle = p.cos_sin + static_cast<int64_t>(t) * p.rope_dim + 2 * i;
      const float c = LoadCached(angle), s = LoadCached(angle + 1);
      pair = PackBf16(RotatedFirst(x, y, c, s), RotatedSecond(x, y, c, s));
    }
    reinterpret_cast<uint32_t*>(out + rank_padded)[i] = pair;
  }
}

// Block (head, token, part of the columns); blocks (heads, token, 0) append.
template <KvBFormat kFormat>
__global__ void __launch_bounds__(kThreads, 2) MlaAbsorbKernel(const cuda::MlaAbsorbParams p) {
  KOMPAKT_SHARED(float, query, cuda::kMaxHeadDim);
  KOMPAKT_SHARED(float, halves, kWarps * 32);
  const int head = static_cast<int>(blockIdx.x), t = static_cast<int>(blockIdx.y), part = static_cast<int>(blockIdx.z);
  if (head == p.heads) {
    if (part == 0) AppendTokenOf(p.append, t);
    return;
  }
  const int q_width = p.nope_dim + p.rope_dim;
  const float* const q = p.q + (static_cast<int64_t>(t) * p.heads + head) * q_width;
  for (int i = static_cast<int>(threadIdx.x); i < q_width; i += kThreads) {
    query[i] = LoadCached(q + i) * QueryFactor(p);
  }
  __syncthreads();
  AbsorbHead<kFormat>(p, head, t, part, static_cast<int>(gridDim.z), query, halves);
}

KOMPAKT_DEVICE void AbsorbHeadOf(const cuda::MlaAbsorbParams& p, int head, int t, SharedPtr<const float> q,
                                 SharedPtr<float> halves) {
  switch (p.kv_b.format) {
    case KvBFormat::kF32:
      return AbsorbHead<KvBFormat::kF32>(p, head, t, 0, 1, q, halves);
    case KvBFormat::kF16:
      return AbsorbHead<KvBFormat::kF16>(p, head, t, 0, 1, q, halves);
    case KvBFormat::kBf16:
      return AbsorbHead<KvBFormat::kBf16>(p, head, t, 0, 1, q, halves);
    case KvBFormat::kFp8B128:
      return AbsorbHead<KvBFormat::kFp8B128>(p, head, t, 0, 1, q, halves);
    case KvBFormat::kQ8G32:
      return AbsorbHead<KvBFormat::kQ8G32>(p, head, t, 0, 1, q, halves);
  }
}

// The same with q_b. Grid: x token chunk, y block of 32 rows of q_b; the last y appends. The block that ends last of
// those that have rows of a head absorbs it. One kernel for all formats of kv_b, for the product is most of it.
template <int kTokens>
__global__ void __launch_bounds__(kThreads, 2) MlaQueryKernel(const cuda::MlaAbsorbParams p) {
  KOMPAKT_SHARED(float, partial, PartialFloats(kTokens));
  KOMPAKT_SHARED(float, squares, kTokens * 32);
  const NormInputs<kTokens> norm{squares};
  KOMPAKT_SHARED(float, halves, kWarps * 32);
  KOMPAKT_SHARED(float, query, cuda::kMaxHeadDim);
  const int thread = static_cast<int>(threadIdx.x), block = static_cast<int>(blockIdx.y);
  const int first = static_cast<int>(blockIdx.x) * kTokens, end = min(first + kTokens, p.tokens);
  const int rows = p.q_b.rows;
  if (block * 32 >= rows) {
    for (int t = first; t < min(end, p.append.tokens); ++t) {
      AppendTokenOf(p.append, t);
      __syncthreads();
    }
    return;
  }
  const WarpsToken<kTokens> mine(p.tokens);
  const float product = MultiplyBlock<kTokens>(
      p.q_b, block, p.compressed, RowsOfChunk<kTokens>(static_cast<int>(blockIdx.x), p.tokens), partial, [&] {
        if (mine.there) norm.Load(p.compressed, mine.token);
      });
  if (mine.there) {
    FinishRows({.y = p.queries, .y_stride = rows}, mine.token, block, rows, norm.Factor(p.compressed) * product);
  }
  const int width = p.nope_dim + p.rope_dim;
  for (int head = block * 32 / width; head <= (min(block * 32 + 32, rows) - 1) / width; ++head) {
    const int of_head = ((head + 1) * width - 1) / 32 - head * width / 32 + 1;
    uint32_t* const done = p.done + static_cast<int64_t>(blockIdx.x) * p.heads + head;
    if (!IsLastBlock(done, static_cast<unsigned>(of_head))) continue;
    for (int t = first; t < end; ++t) {
      const float* const q = p.queries + (static_cast<int64_t>(t) * p.heads + head) * width;
      for (int i = thread; i < width; i += kThreads) query[i] = LoadFresh(q + i) * QueryFactor(p);
      __syncthreads();
      AbsorbHeadOf(p, head, t, query, halves);
      __syncthreads();
    }
  }
}

template <int kTokens>
int LaunchQuery(const cuda::MlaAbsorbParams& p, void* stream) {
  const int64_t blocks = cuda::Groups(p.q_b.rows) + (p.append.tokens > 0 ? 1 : 0);
  return Launch({.name = "mla_query",
                 .grid = dim3(static_cast<unsigned>((p.tokens + kTokens - 1) / kTokens), static_cast<unsigned>(blocks)),
                 .block = dim3(kThreads),
                 .shared_bytes = kDecodeSharedBytes,
                 .stream = stream},
                MlaQueryKernel<kTokens>, p);
}

}  // namespace

int MlaAppend(const cuda::MlaAppendParams& p, void* stream) {
  return Launch(
      {.name = "mla_append", .grid = dim3(static_cast<unsigned>(p.tokens)), .block = dim3(kThreads), .stream = stream},
      MlaAppendKernel, p);
}

int MlaAbsorb(const cuda::MlaAbsorbParams& p, void* stream) {
  const auto blocks = static_cast<unsigned>(p.heads + (p.append.tokens > 0 ? 1 : 0));
  if (p.q_b.rows > 0) return p.tokens == 1 ? LaunchQuery<1>(p, stream) : LaunchQuery<kChunk>(p, stream);
  const LaunchConfig config{.name = "mla_absorb",
                            .grid = dim3(blocks, static_cast<unsigned>(p.tokens), kAbsorbParts),
                            .block = dim3(kThreads),
                            .stream = stream};
  return ForKvBFormat(p.kv_b.format, [&]<KvBFormat kFormat>() { return Launch(config, MlaAbsorbKernel<kFormat>, p); });
}

}  // namespace kompakt::KOMPAKT_BACKEND
