// MlaDecompress and MlaPrefill: attention of many tokens. Keys and values of the cached rows are computed once per head
// (latent W_UK, latent W_UV), then every 64 queries go over them with an online softmax.
#include "kernels/cuda/mla.cuh"

namespace kompakt::KOMPAKT_BACKEND {
namespace {

using cuda::DeviceLatentCache;
using cuda::KvBFormat;
using cuda::LatentFormat;

constexpr int Padded(int n) { return (n + 15) / 16 * 16; }

// ---- Decompression: 64 rows of the cache times 16 outputs of a head at a time.

constexpr int kRowsPerBlock = 64;
constexpr int kDecompressThreads = 256;  // a warp: 16 rows, 8 outputs

struct DecompressPlan {
  int stride;  // bytes of a row of latents, or of weights
  int rows, weights, bytes;

  constexpr explicit DecompressPlan(const DeviceLatentCache& cache) {
    stride = BankedStride(2 * cache.rank_padded());
    rows = 0;
    weights = kRowsPerBlock * stride;
    bytes = weights + 16 * stride;
  }
};

// Values [8 chunk, 8 chunk + 8) of the latent of a cached row, as BF16.
KOMPAKT_DEVICE uint4 LatentChunk(const DeviceLatentCache& cache, int64_t row, int chunk) {
  const uint8_t* const p = cache.data + row * cache.row_bytes();
  if (cache.format == LatentFormat::kBf16) return LoadStreaming<uint4>(p + chunk * 16);
  const uint2 codes = LoadStreaming<uint2>(p + chunk * 8);
  const auto* const scales = reinterpret_cast<const uint16_t*>(p + cache.rank_padded());
  const float scale = LowBf16(LoadCached(scales + chunk / 4));
  return cache.format == LatentFormat::kFp8 ? DecodeLatent<LatentFormat::kFp8>(codes, scale)
                                            : DecodeLatent<LatentFormat::kInt8>(codes, scale);
}

// Block (rows, head of the group).
template <KvBFormat kFormat>
__global__ void __launch_bounds__(kDecompressThreads) MlaDecompressKernel(const cuda::MlaDecompressParams p) {
  const DecompressPlan plan(p.cache);
  const int stride = plan.stride / 2;  // in elements
  KOMPAKT_DYNAMIC_SHARED(memory);
  const auto rows = SharedSlice<uint16_t>(memory, plan.rows, kRowsPerBlock * stride);
  const auto weights = SharedSlice<uint16_t>(memory, plan.weights, 16 * stride);

  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const int row0 = static_cast<int>(blockIdx.x) * kRowsPerBlock;
  const int local_head = static_cast<int>(blockIdx.y);
  const int rank = p.cache.rank, rank_padded = p.cache.rank_padded();
  const int col_tiles = (rank + 31) / 32;
  const int head_row = (p.head_begin + local_head) * (p.nope_dim + p.value_dim);
  const int nope_padded = Padded(p.nope_dim), out_width = nope_padded + Padded(p.value_dim);
  const int rows_padded = (p.rows + cuda::kPrefillRows - 1) / cuda::kPrefillRows * cuda::kPrefillRows;

  for (int i = thread; i < kRowsPerBlock * rank_padded / 8; i += kDecompressThreads) {
    const int j = i / (rank_padded / 8), chunk = i % (rank_padded / 8);
    const uint4 zero = make_uint4(0, 0, 0, 0);
    SharedCast<uint4>(rows + (j * stride + chunk * 8))[0] =
        row0 + j < p.rows ? LatentChunk(p.cache, row0 + j, chunk) : zero;
  }
  for (int out = 0; out < out_width; out += 16) {
    __syncthreads();  // nobody reads the weights before
    // Outputs [out, out + 16) are rows of W_UK, or behind its padding of W_UV.
    const bool is_key = out < nope_padded;
    const int within = is_key ? out : out - nope_padded;
    const int dim = is_key ? p.nope_dim : p.value_dim;
    for (int i = thread; i < 16 * rank_padded / 4; i += kDecompressThreads) {
      const int n = i % 16, quad = i / 16;
      float w[4] = {};
      if (within + n < dim) {
        const int row = head_row + (is_key ? 0 : p.nope_dim) + within + n;
        LoadRowQuad<kFormat>(p.kv_b, col_tiles, row, quad / 8, quad % 8, w);
        KOMPAKT_UNROLL
        for (int j = 0; j < 4; ++j) {
          if (quad * 4 + j >= rank) w[j] = 0;
        }
      }
      SharedCast<uint2>(weights + (n * stride + quad * 4))[0] = make_uint2(PackBf16(w[0], w[1]), PackBf16(w[2], w[3]));
    }
    __syncthreads();
    float c[4] = {};
    const auto a_row = rows + ((warp % 4 * 16 + lane % 16) * stride + lane / 16 * 8);
    const auto b_row = weights + ((warp / 4 * 8 + lane % 8) * stride + lane / 8 % 2 * 8);
    for (int k = 0; k < rank_padded; k += 16) {
      uint32_t a[4], b[2];
      LoadMatrixX4(a, a_row + k);
      LoadMatrixX2(b, b_row + k);
      MmaBf16(c, a, b);
    }
    KOMPAKT_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int row = row0 + warp % 4 * 16 + lane / 4 + 8 * half;
      if (row < rows_padded) {
        const int64_t at =
            (static_cast<int64_t>(local_head) * rows_padded + row) * out_width + out + warp / 4 * 8 + lane % 4 * 2;
        *reinterpret_cast<uint32_t*>(p.kv + at) = PackBf16(c[2 * half], c[2 * half + 1]);
      }
    }
  }
}

// ---- Attention: a block takes 64 queries of one head, a warp 16 of them; rows come in tiles of 32.

constexpr int kThreads = 128;
constexpr int kQueries = 64;
constexpr int kTile = cuda::kPrefillRows;

struct PrefillPlan {
  int q_width, v_width;    // elements
  int q_stride, v_stride;  // bytes
  int q, k, v, bytes;

  constexpr explicit PrefillPlan(const cuda::MlaPrefillParams& p) {
    q_width = Padded(p.nope_dim) + Padded(p.rope_dim);
    v_width = Padded(p.value_dim);
    q_stride = BankedStride(2 * q_width);
    v_stride = BankedStride(2 * v_width);
    q = 0;
    k = q + kQueries * q_stride;
    v = k + 2 * kTile * q_stride;
    bytes = v + 2 * kTile * v_stride;
  }
};

// Query `t` of a head, element pair 2 i, 2 i + 1 of its padded form.
KOMPAKT_DEVICE uint32_t QueryPair(const cuda::MlaPrefillParams& p, int t, int head, int i) {
  const float factor = p.softmax_scale * 1.44269504f;
  const float* const q = p.q + (static_cast<int64_t>(t) * p.heads_total + head) * (p.nope_dim + p.rope_dim);
  const int nope_padded = Padded(p.nope_dim);
  const int at = 2 * i < nope_padded ? 2 * i : 2 * i - nope_padded;
  if (2 * i < nope_padded) {
    return PackBf16(at < p.nope_dim ? LoadCached(q + at) * factor : 0.0f,
                    at + 1 < p.nope_dim ? LoadCached(q + at + 1) * factor : 0.0f);
  }
  if (at >= p.rope_dim) return 0;
  const float x = LoadCached(q + p.nope_dim + at), y = LoadCached(q + p.nope_dim + at + 1);
  const float* const angle = p.cos_sin + static_cast<int64_t>(t) * p.rope_dim + at;
  const float c = LoadCached(angle), s = LoadCached(angle + 1);
  return PackBf16((x * c - y * s) * factor, (x * s + y * c) * factor);
}

// kValueTiles: of 8 columns, at least value_dim / 8.
template <int kValueTiles>
__global__ void __launch_bounds__(kThreads) MlaPrefillKernel(const cuda::MlaPrefillParams p) {
  const PrefillPlan plan(p);
  const int q_stride = plan.q_stride / 2, v_stride = plan.v_stride / 2;  // in elements
  KOMPAKT_DYNAMIC_SHARED(memory);
  const auto queries = SharedSlice<uint16_t>(memory, plan.q, kQueries * q_stride);
  const auto keys = SharedSlice<uint16_t>(memory, plan.k, 2 * kTile * q_stride);
  const auto values = SharedSlice<uint16_t>(memory, plan.v, 2 * kTile * v_stride);

  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const int g = lane / 4, t4 = lane % 4;
  const int query0 = static_cast<int>(blockIdx.x) * kQueries;
  const int local_head = static_cast<int>(blockIdx.y), head = p.head_begin + local_head;
  const int nope_padded = Padded(p.nope_dim), kv_width = nope_padded + plan.v_width;
  const int rows_padded = (p.rows + kTile - 1) / kTile * kTile;
  const uint16_t* const kv = p.kv + static_cast<int64_t>(local_head) * rows_padded * kv_width;
  const int end = min(p.rows, p.first + query0 + kQueries);  // rows that the last query sees

  const auto fetch = [&](int row0, int stage) {
    const int chunks = (kv_width + p.cache.rope_padded()) / 8;
    for (int i = thread; i < kTile * chunks; i += kThreads) {
      const int j = i / chunks, at = i % chunks * 8, row = row0 + j;
      if (at < nope_padded) {
        CopyAsync16(keys + ((stage * kTile + j) * q_stride + at), kv + static_cast<int64_t>(row) * kv_width + at);
      } else if (at < kv_width) {
        CopyAsync16(values + ((stage * kTile + j) * v_stride + at - nope_padded),
                    kv + static_cast<int64_t>(row) * kv_width + at);
      } else {
        const bool inside = row < p.rows;
        const uint8_t* const key =
            p.cache.data + static_cast<int64_t>(inside ? row : 0) * p.cache.row_bytes() + p.cache.rope_offset();
        CopyAsync16(keys + ((stage * kTile + j) * q_stride + nope_padded + at - kv_width), key + (at - kv_width) * 2,
                    inside ? 16 : 0);
      }
    }
    CommitAsync();
  };
  fetch(0, 0);
  for (int i = thread; i < kQueries * plan.q_width / 2; i += kThreads) {
    const int j = i / (plan.q_width / 2), pair = i % (plan.q_width / 2);
    SharedCast<uint32_t>(queries + (j * q_stride + 2 * pair))[0] =
        query0 + j < p.tokens ? QueryPair(p, query0 + j, head, pair) : 0u;
  }

  float mean[kValueTiles][4] = {};
  float largest[2] = {-INFINITY, -INFINITY}, sum[2] = {};  // of queries g and g + 8 of the warp
  const int position = p.first + query0 + warp * 16 + g;   // of query g
  const auto q_row = queries + ((warp * 16 + lane % 16) * q_stride + lane / 16 * 8);
  int stage = 0;
  for (int row0 = 0; row0 < end; row0 += kTile, stage ^= 1) {
    WaitAsync<0>();
    __syncthreads();  // the tile is there, and nobody reads the one before
    if (row0 + kTile < end) fetch(row0 + kTile, stage ^ 1);

    float s[kTile / 8][4] = {};
    const auto k_row = keys + ((stage * kTile + lane % 8 + lane / 16 * 8) * q_stride + lane / 8 % 2 * 8);
    for (int k = 0; k < plan.q_width; k += 16) {
      uint32_t a[4];
      LoadMatrixX4(a, q_row + k);
      KOMPAKT_UNROLL
      for (int n = 0; n < kTile / 16; ++n) {
        uint32_t b[4];
        LoadMatrixX4(b, k_row + (n * 16 * q_stride + k));
        MmaBf16(s[2 * n], a, {b[0], b[1]});
        MmaBf16(s[2 * n + 1], a, {b[2], b[3]});
      }
    }

    float keep[2];
    KOMPAKT_UNROLL
    for (int half = 0; half < 2; ++half) {
      float now = largest[half];
      KOMPAKT_UNROLL
      for (int n = 0; n < kTile / 8; ++n) {
        KOMPAKT_UNROLL
        for (int c = 2 * half; c < 2 * half + 2; ++c) {
          if (row0 + n * 8 + 2 * t4 + c % 2 > position + 8 * half) s[n][c] = -INFINITY;
          now = fmaxf(now, s[n][c]);
        }
      }
      now = WarpMax<4>(now);
      keep[half] = Exp2(largest[half] - now);
      largest[half] = now;
      sum[half] *= keep[half];
    }
    uint32_t probabilities[kTile / 8][2];
    KOMPAKT_UNROLL
    for (int n = 0; n < kTile / 8; ++n) {
      KOMPAKT_UNROLL
      for (int half = 0; half < 2; ++half) {
        const uint32_t rounded =
            PackBf16(Exp2(s[n][2 * half] - largest[half]), Exp2(s[n][2 * half + 1] - largest[half]));
        probabilities[n][half] = rounded;
        sum[half] += LowBf16(rounded) + HighBf16(rounded);
      }
    }
    KOMPAKT_UNROLL
    for (int n = 0; n < kValueTiles; ++n) {
      mean[n][0] *= keep[0];
      mean[n][1] *= keep[0];
      mean[n][2] *= keep[1];
      mean[n][3] *= keep[1];
    }
    KOMPAKT_UNROLL
    for (int k = 0; k < kTile / 16; ++k) {
      const uint32_t a[4] = {probabilities[2 * k][0], probabilities[2 * k][1], probabilities[2 * k + 1][0],
                             probabilities[2 * k + 1][1]};
      const auto v_row = values + ((stage * kTile + k * 16 + lane % 16) * v_stride + lane / 16 * 8);
      KOMPAKT_UNROLL
      for (int n = 0; n < kValueTiles / 2; ++n) {
        if (n * 16 >= plan.v_width) continue;
        uint32_t b[4];
        LoadMatrixX4Transposed(b, v_row + n * 16);
        MmaBf16(mean[2 * n], a, {b[0], b[1]});
        MmaBf16(mean[2 * n + 1], a, {b[2], b[3]});
      }
    }
  }

  KOMPAKT_UNROLL
  for (int half = 0; half < 2; ++half) {
    const float inverse = 1.0f / WarpSum<4>(sum[half]);
    const int t = query0 + warp * 16 + g + 8 * half;
    if (t >= p.tokens) continue;
    float* const y = p.y + (static_cast<int64_t>(t) * p.heads_total + head) * p.value_dim;
    KOMPAKT_UNROLL
    for (int n = 0; n < kValueTiles; ++n) {
      KOMPAKT_UNROLL
      for (int c = 0; c < 2; ++c) {
        const int col = n * 8 + 2 * t4 + c;
        if (col < p.value_dim) y[col] = mean[n][2 * half + c] * inverse;
      }
    }
  }
}

}  // namespace

int MlaDecompress(const cuda::MlaDecompressParams& p, void* stream) {
  const LaunchConfig config{
      .name = "mla_decompress",
      .grid = dim3(static_cast<unsigned>((p.rows + kRowsPerBlock - 1) / kRowsPerBlock), static_cast<unsigned>(p.heads)),
      .block = dim3(kDecompressThreads),
      .shared_bytes = static_cast<size_t>(DecompressPlan(p.cache).bytes),
      .stream = stream};
  return ForKvBFormat(p.kv_b.format,
                      [&]<KvBFormat kFormat>() { return Launch(config, MlaDecompressKernel<kFormat>, p); });
}

int MlaPrefill(const cuda::MlaPrefillParams& p, void* stream) {
  const LaunchConfig config{
      .name = "mla_prefill",
      .grid = dim3(static_cast<unsigned>((p.tokens + kQueries - 1) / kQueries), static_cast<unsigned>(p.heads)),
      .block = dim3(kThreads),
      .shared_bytes = static_cast<size_t>(PrefillPlan(p).bytes),
      .stream = stream};
  return p.value_dim <= 128 ? Launch(config, MlaPrefillKernel<16>, p) : Launch(config, MlaPrefillKernel<32>, p);
}

}  // namespace kompakt::KOMPAKT_BACKEND
