// Parameters of the attention kernels (mla_absorb.cu, mla_decode.cu, mla_combine.cu, mla_prefill.cu): multi-head latent
// attention as in DeepSeek-V2's report, section 2.1. Pointers are device memory. H heads, T tokens of the call.
//
// A step of decoding is mla_absorb, mla_decode, mla_combine; prefill is mla_append, then mla_decompress and
// mla_prefill for one group of heads after the other. `position` is read on the device, so that a captured graph serves
// every step.
#pragma once

#include <cstdint>

#include "kernels/cuda/matrix_params.h"

namespace kompakt::cuda {

// Number formats of W = kv_b_proj that the attention kernels read from tiles. A model that has another one there hands
// it over widened: to bf16 where that is exact (mxfp4, int4_g32), else to f32.
enum class KvBFormat : uint8_t { kF32, kF16, kBf16, kFp8B128, kQ8G32 };

// A packed matrix on the device: tiles and side data as format/block_format.h lays them out.
struct KvBMatrix {
  KvBFormat format = KvBFormat::kBf16;
  const uint8_t* tiles = nullptr;
  const float* side = nullptr;  // kFp8B128: [cdiv(rows, 128)][cdiv(cols, 128)]; kQ8G32: [row tiles * 16]
};

// How a row of the latent cache is stored. Codes are of 8 bits with one BF16 scale per 32 values of the latent; the key
// is BF16 always.
enum class LatentFormat : uint8_t {
  kBf16,
  kFp8,   // E4M3, the scale a power of two
  kInt8,  // scale = max |x| / 127 of the group, rounded up
};

// The latent cache of one layer on a device. A row is
//     bf16        rank, zeros up to rank_padded; rope, zeros up to rope_padded
//     fp8, int8   codes [rank_padded]; scales [8 or a multiple of it]; rope [rope_padded]
// so that every part starts on 16 bytes. For rank 512 and rope 64, bf16 and int8 are the bytes of
// kernels/latent_cache.h.
struct DeviceLatentCache {
  LatentFormat format = LatentFormat::kBf16;
  int rank = 0;             // at most kMaxRank
  int rope = 0;             // even, at most kMaxRope
  int64_t capacity = 0;     // rows
  uint8_t* data = nullptr;  // [capacity][row_bytes()], 16-byte aligned

  static constexpr int kMaxRank = 512;
  static constexpr int kMaxRope = 64;
  static constexpr int kGroup = 32;  // values per scale

  constexpr int rank_padded() const { return (rank + 15) / 16 * 16; }
  constexpr int rope_padded() const { return (rope + 15) / 16 * 16; }
  constexpr int width_padded() const { return rank_padded() + rope_padded(); }
  constexpr int scale_bytes() const {
    return format == LatentFormat::kBf16 ? 0 : ((rank + kGroup - 1) / kGroup + 7) / 8 * 16;
  }
  constexpr int rope_offset() const {  // in bytes
    return format == LatentFormat::kBf16 ? 2 * rank_padded() : rank_padded() + scale_bytes();
  }
  constexpr int row_bytes() const { return rope_offset() + 2 * rope_padded(); }
};

// Appends T rows: RMSNorm of the first `rank` values, rotation of the rest by adjacent pairs.
struct MlaAppendParams {
  const float* a = nullptr;            // [T, rank + rope]: output of kv_a_proj_with_mqa
  int64_t a_stride = 0;                // floats to the next token
  const float* norm_weight = nullptr;  // [rank]
  float eps = 0;
  const float* cos_sin = nullptr;     // [T, rope / 2, 2]
  const int32_t* position = nullptr;  // [1]: row of the first token
  int tokens = 0;
  DeviceLatentCache cache;
};

// Takes queries into the latent space: out = [q_nope W_UK, rotated q_rope] * softmax_scale * log2(e), in BF16, zeros
// where padded. The same launch appends the rows of `append` where append.tokens > 0, and multiplies compressed queries
// by q_b_proj first where q_b.rows > 0 (up to kDecodeTokens tokens): queries have the bits that LinearParams gives
// them.
struct MlaAbsorbParams {
  int heads = 0;
  int nope_dim = 0;
  int rope_dim = 0;
  int value_dim = 0;
  int rank = 0;
  float softmax_scale = 0;
  KvBMatrix kv_b;                  // [H (nope + value), rank]
  const float* q = nullptr;        // [T, H, nope + rope], not rotated; null with q_b
  Matrix q_b = {};                 // [H (nope + rope), compressed.cols]
  Activations compressed = {};     // T rows, as in LinearParams
  float* queries = nullptr;        // [T, H, nope + rope], scratch of q_b
  uint32_t* done = nullptr;        // [T, H] counters of q_b, zero before their first use; left so
  const float* cos_sin = nullptr;  // [T, rope / 2, 2]
  int tokens = 0;
  uint16_t* latent_q = nullptr;  // [T, H, rank_padded + rope_padded]
  MlaAppendParams append;
};

// Attention over the latent cache for few tokens. Token t sees rows [0, position + first + t], or those of `ids`. The
// rows are split evenly over `splits` blocks, each of which writes its own softmax: mean of the latents and log2 of the
// sum.
struct MlaDecodeParams {
  int heads = 0;
  int tokens = 0;
  int splits = 1;
  const int32_t* position = nullptr;  // [1]: of the call that these tokens are part of
  int first = 0;                      // tokens of that call before these
  DeviceLatentCache cache;
  // [T, selected]: rows that the token sees, the first position + first + t + 1 of them where those are fewer (of
  // IndexSelect); null: all up to its own.
  const int32_t* ids = nullptr;
  int selected = 0;
  const uint16_t* latent_q = nullptr;  // [T, H, rank_padded + rope_padded] of MlaAbsorb
  float* mean = nullptr;               // [T, splits, H, rank]
  float* log_sum = nullptr;            // [T, splits, H]: log2, -infinity for a split without rows
};

// y = (mean over the splits) W_UV.
struct MlaCombineParams {
  int heads = 0;
  int nope_dim = 0;
  int value_dim = 0;
  int rank = 0;
  int tokens = 0;
  int splits = 1;  // at most kMaxMlaSplits
  KvBMatrix kv_b;
  const float* mean = nullptr;
  const float* log_sum = nullptr;
  float* y = nullptr;     // [T, H, value], or null
  Activations next = {};  // the same as activations of o_proj, T rows of H value columns, or nothing
};

// Keys and values of cached rows for heads [head_begin, head_begin + heads): latent W_UK, latent W_UV.
struct MlaDecompressParams {
  int head_begin = 0;
  int heads = 0;
  int nope_dim = 0;
  int value_dim = 0;
  KvBMatrix kv_b;
  DeviceLatentCache cache;
  int rows = 0;  // rows [0, rows) of the cache
  // [heads][rows_padded][nope_padded + value_padded], both padded to 16, rows to kPrefillRows; BF16.
  uint16_t* kv = nullptr;
};

// Attention of many tokens: token t of the call sees rows [0, first + t]. first + T <= rows.
struct MlaPrefillParams {
  int head_begin = 0;
  int heads = 0;        // of this group
  int heads_total = 0;  // H
  int nope_dim = 0;
  int rope_dim = 0;
  int value_dim = 0;
  float softmax_scale = 0;
  const float* q = nullptr;        // [T, H, nope + rope], not rotated
  const float* cos_sin = nullptr;  // [T, rope / 2, 2]
  int tokens = 0;
  int first = 0;            // position of the first token
  DeviceLatentCache cache;  // its keys
  int rows = 0;
  const uint16_t* kv = nullptr;  // of MlaDecompress, for the same group
  float* y = nullptr;            // [T, H, value]
};

inline constexpr int kPrefillRows = 32;
inline constexpr int kMaxHeadDim = 256;  // nope + rope, and value, padded

// Elements of MlaDecompressParams::kv.
constexpr int64_t MlaDecompressedElements(int heads, int rows, int nope_dim, int value_dim) {
  const int64_t padded = (rows + kPrefillRows - 1) / kPrefillRows * kPrefillRows;
  return heads * padded * ((nope_dim + 15) / 16 * 16 + (value_dim + 15) / 16 * 16);
}

inline constexpr int kMaxMlaSplits = 128;

inline constexpr int kMinMlaSplitRows = 64;

// How many splits fill a device whose blocks of MlaDecode are heads / 16 per token, without leaving a split fewer than
// kMinMlaSplitRows of the `rows` that are there at most.
constexpr int MlaSplits(int heads, int tokens, int64_t rows, int multiprocessors) {
  const int64_t blocks = static_cast<int64_t>((heads + 15) / 16) * (tokens > 0 ? tokens : 1);
  const int64_t wanted = (multiprocessors + blocks - 1) / blocks;
  const int64_t most = rows < kMinMlaSplitRows ? 1 : rows / kMinMlaSplitRows;
  const int64_t splits = wanted < most ? wanted : most;
  return static_cast<int>(splits < kMaxMlaSplits ? splits : kMaxMlaSplits);
}

}  // namespace kompakt::cuda
