// The attention kernels; kernels/cuda/mla_params.h says what they compute. And what they share: tiles of kv_b_proj as
// F32, rows of the latent cache as BF16.
#pragma once

#include "kernels/cuda/language.cuh"
#include "kernels/cuda/mla_params.h"
#include "kernels/cuda/ptx.cuh"

namespace kompakt::KOMPAKT_BACKEND {

int MlaAppend(const cuda::MlaAppendParams& p, void* stream);
int MlaAbsorb(const cuda::MlaAbsorbParams& p, void* stream);
int MlaDecode(const cuda::MlaDecodeParams& p, void* stream);
int MlaCombine(const cuda::MlaCombineParams& p, void* stream);
int MlaDecompress(const cuda::MlaDecompressParams& p, void* stream);
int MlaPrefill(const cuda::MlaPrefillParams& p, void* stream);

// Calls launch.operator()<format>() for the format of a kv_b.
template <typename Launcher>
int ForKvBFormat(cuda::KvBFormat format, const Launcher& launch) {
  switch (format) {
    case cuda::KvBFormat::kF32:
      return launch.template operator()<cuda::KvBFormat::kF32>();
    case cuda::KvBFormat::kF16:
      return launch.template operator()<cuda::KvBFormat::kF16>();
    case cuda::KvBFormat::kBf16:
      return launch.template operator()<cuda::KvBFormat::kBf16>();
    case cuda::KvBFormat::kFp8B128:
      return launch.template operator()<cuda::KvBFormat::kFp8B128>();
    case cuda::KvBFormat::kQ8G32:
      break;
  }
  return launch.template operator()<cuda::KvBFormat::kQ8G32>();
}
template <typename Launcher>
int ForLatentFormat(cuda::LatentFormat format, const Launcher& launch) {
  switch (format) {
    case cuda::LatentFormat::kBf16:
      return launch.template operator()<cuda::LatentFormat::kBf16>();
    case cuda::LatentFormat::kFp8:
      return launch.template operator()<cuda::LatentFormat::kFp8>();
    case cuda::LatentFormat::kInt8:
      break;
  }
  return launch.template operator()<cuda::LatentFormat::kInt8>();
}

// ---- kv_b_proj. A tile is 16 rows x 32 columns; in every format its bytes are units of 64, unit u holding columns
// [u * n, (u + 1) * n) of the 16 rows, n = 4, 2 or 1 elements of a 32-bit word per row (format/block_*.h).

template <cuda::KvBFormat kFormat>
inline constexpr int kPerWord = kFormat == cuda::KvBFormat::kF32                                        ? 1
                                : kFormat == cuda::KvBFormat::kF16 || kFormat == cuda::KvBFormat::kBf16 ? 2
                                                                                                        : 4;
template <cuda::KvBFormat kFormat>
inline constexpr int kKvBTileBytes = 64 * 32 / kPerWord<kFormat> + (kFormat == cuda::KvBFormat::kQ8G32 ? 16 : 0);

// The elements of one word, before any scale.
template <cuda::KvBFormat kFormat>
KOMPAKT_DEVICE void DecodeWord(uint32_t word, float* out) {
  if constexpr (kFormat == cuda::KvBFormat::kF32) {
    out[0] = __uint_as_float(word);
  } else if constexpr (kFormat == cuda::KvBFormat::kBf16) {
    out[0] = LowBf16(word);
    out[1] = HighBf16(word);
  } else if constexpr (kFormat == cuda::KvBFormat::kF16) {
    out[0] = LowF16(word);
    out[1] = HighF16(word);
  } else if constexpr (kFormat == cuda::KvBFormat::kQ8G32) {
    KOMPAKT_UNROLL
    for (int i = 0; i < 4; ++i) out[i] = static_cast<float>(static_cast<int>(word >> (8 * i) & 255u) - 128);
  } else {
    KOMPAKT_UNROLL
    for (int i = 0; i < 4; ++i) out[i] = DecodeE4m3(word >> (8 * i) & 255u);
  }
}

// Factor of the elements of row `row` in column tile `col_tile`: w = factor * element.
template <cuda::KvBFormat kFormat>
KOMPAKT_DEVICE float KvBScale(const cuda::KvBMatrix& m, int col_tiles, int row, int col_tile KOMPAKT_SITE) {
  if constexpr (kFormat == cuda::KvBFormat::kQ8G32) {
    const uint8_t* const tile =
        m.tiles + (static_cast<int64_t>(row / 16) * col_tiles + col_tile) * kKvBTileBytes<kFormat>;
    return LoadCached(m.side + row KOMPAKT_HERE) * static_cast<float>(LoadCached(tile + 512 + row % 16 KOMPAKT_HERE));
  } else if constexpr (kFormat == cuda::KvBFormat::kFp8B128) {
    return LoadCached(m.side + (row / 128) * ((col_tiles + 3) / 4) + col_tile / 4 KOMPAKT_HERE);
  } else {
    return 1.0f;
  }
}

// Elements of rows 4 (lane % 4) .. + 3 and columns 4 (lane / 4) .. + 3 of a tile, without their factors: a warp reads
// the tile once, 16 bytes a lane and load.
template <cuda::KvBFormat kFormat>
KOMPAKT_DEVICE void LoadPatch(const cuda::KvBMatrix& m, int col_tiles, int row_tile, int col_tile, int lane,
                              float (&w)[4][4] KOMPAKT_SITE) {
  constexpr int kWord = kPerWord<kFormat>;
  const uint8_t* const tile =
      m.tiles + (static_cast<int64_t>(row_tile) * col_tiles + col_tile) * kKvBTileBytes<kFormat> + lane % 4 * 16;
  KOMPAKT_UNROLL
  for (int i = 0; i < 4 / kWord; ++i) {
    const uint4 words = LoadStreaming<uint4>(tile + (lane / 4 * (4 / kWord) + i) * 64 KOMPAKT_HERE);
    DecodeWord<kFormat>(words.x, &w[0][i * kWord]);
    DecodeWord<kFormat>(words.y, &w[1][i * kWord]);
    DecodeWord<kFormat>(words.z, &w[2][i * kWord]);
    DecodeWord<kFormat>(words.w, &w[3][i * kWord]);
  }
}

// The factors of these rows.
template <cuda::KvBFormat kFormat>
KOMPAKT_DEVICE void PatchScales(const cuda::KvBMatrix& m, int col_tiles, int row_tile, int col_tile, int lane,
                                float (&scale)[4] KOMPAKT_SITE) {
  const int row = row_tile * 16 + lane % 4 * 4;
  if constexpr (kFormat == cuda::KvBFormat::kQ8G32) {
    const uint8_t* const tile =
        m.tiles + (static_cast<int64_t>(row_tile) * col_tiles + col_tile) * kKvBTileBytes<kFormat>;
    const auto codes = LoadStreaming<uint32_t>(tile + 512 + row % 16 KOMPAKT_HERE);
    KOMPAKT_UNROLL
    for (int i = 0; i < 4; ++i) {
      scale[i] = LoadCached(m.side + row + i KOMPAKT_HERE) * static_cast<float>(codes >> (8 * i) & 255u);
    }
  } else {
    KOMPAKT_UNROLL
    for (int i = 0; i < 4; ++i) scale[i] = KvBScale<kFormat>(m, col_tiles, row, col_tile KOMPAKT_HERE);
  }
}

// Asks L2 for the tiles first, first + stride, ... of a row tile, before anything is there to multiply them by. By one
// warp.
template <cuda::KvBFormat kFormat>
KOMPAKT_DEVICE void PrefetchTiles(const cuda::KvBMatrix& m, int col_tiles, int row_tile, int first, int stride) {
  for (int col_tile = first; col_tile < col_tiles; col_tile += stride) {
    const uint8_t* const tile =
        m.tiles + (static_cast<int64_t>(row_tile) * col_tiles + col_tile) * kKvBTileBytes<kFormat>;
    const int at = static_cast<int>(threadIdx.x % 32) * 128;
    if (at < kKvBTileBytes<kFormat>) PrefetchL2(tile + at);
  }
}

// Columns 4 quad .. + 3 of one row of a column tile, with their factor.
template <cuda::KvBFormat kFormat>
KOMPAKT_DEVICE void LoadRowQuad(const cuda::KvBMatrix& m, int col_tiles, int row, int col_tile, int quad,
                                float (&w)[4] KOMPAKT_SITE) {
  constexpr int kWord = kPerWord<kFormat>;
  const uint8_t* const tile =
      m.tiles + (static_cast<int64_t>(row / 16) * col_tiles + col_tile) * kKvBTileBytes<kFormat> + row % 16 * 4;
  const float scale = KvBScale<kFormat>(m, col_tiles, row, col_tile KOMPAKT_HERE);
  KOMPAKT_UNROLL
  for (int i = 0; i < 4 / kWord; ++i) {
    const auto* const word = reinterpret_cast<const uint32_t*>(tile + (quad * (4 / kWord) + i) * 64);
    DecodeWord<kFormat>(LoadCached(word KOMPAKT_HERE), &w[i * kWord]);
  }
  KOMPAKT_UNROLL
  for (int i = 0; i < 4; ++i) w[i] *= scale;
}

// ---- The latent cache.

// Bytes from one row to the next in shared memory: an odd multiple of 16, so that the eight rows of a matrix that
// ldmatrix reads lie in different banks.
constexpr int BankedStride(int row_bytes) { return row_bytes % 32 == 0 ? row_bytes + 16 : row_bytes; }

// Eight codes of a row as BF16, four words of two.
template <cuda::LatentFormat kFormat>
KOMPAKT_DEVICE uint4 DecodeLatent(uint2 codes, float scale) {
  uint32_t out[4];
  KOMPAKT_UNROLL
  for (int i = 0; i < 4; ++i) {
    const uint32_t pair = (i < 2 ? codes.x : codes.y) >> (16 * (i % 2));
    if constexpr (kFormat == cuda::LatentFormat::kInt8) {
      out[i] = PackBf16(static_cast<float>(static_cast<int8_t>(pair & 255u)) * scale,
                        static_cast<float>(static_cast<int8_t>(pair >> 8 & 255u)) * scale);
    } else {
      out[i] = PackBf16(DecodeE4m3(pair & 255u) * scale, DecodeE4m3(pair >> 8 & 255u) * scale);
    }
  }
  return make_uint4(out[0], out[1], out[2], out[3]);
}

// Row `row` of quantized rows in shared memory (`raw`, raw_stride bytes apart) as BF16 from to[0] on: values
// [8 chunk, 8 chunk + 8) of its latent, or of its key behind the latent's padding.
template <cuda::LatentFormat kFormat>
KOMPAKT_DEVICE void WidenChunk(const cuda::DeviceLatentCache& cache, SharedPtr<uint8_t> raw, SharedPtr<uint16_t> to,
                               int chunk KOMPAKT_SITE) {
  const int latent_chunks = cache.rank_padded() / 8;
  if (chunk < latent_chunks) {
    const uint2 codes = SharedCast<uint2>(raw + chunk * 8)[0];
    const uint16_t scale = SharedCast<uint16_t>(raw + cache.rank_padded())[chunk / 4];
    SharedCast<uint4>(to + chunk * 8)[0] = DecodeLatent<kFormat>(codes, LowBf16(scale));
  } else {
    const uint4 key = SharedCast<uint4>(raw + cache.rope_offset())[chunk - latent_chunks];
    SharedCast<uint4>(to + chunk * 8)[0] = key;
  }
}

}  // namespace kompakt::KOMPAKT_BACKEND
