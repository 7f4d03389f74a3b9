// The bodies of PanelIsa, in vectors of kLanes floats. Always inlined into functions that carry the target attribute
// (panel_isa.cc), so that each instruction set gets its own code and nothing of it leaks into other translation units.
//
// Vectors are passed by reference only: passing them by value would mean a different calling convention per target.
#pragma once

#include <cstdint>
#include <cstring>

#include "format/block_bf16.h"
#include "format/block_f16.h"
#include "format/block_f32.h"
#include "format/block_fp8_b128.h"
#include "format/block_int4_g32.h"
#include "format/block_mxfp4.h"
#include "format/block_nvfp4.h"
#include "format/block_q8_g32.h"
#include "format/float_formats.h"
#include "kernels/portable/panel.h"

#define KOMPAKT_PANEL_INLINE [[gnu::always_inline]] inline

namespace kompakt::portable {

template <int kLanes>
struct Lanes {
  typedef float F __attribute__((vector_size(kLanes * 4)));
  typedef int32_t I __attribute__((vector_size(kLanes * 4)));
  typedef uint32_t U __attribute__((vector_size(kLanes * 4)));
};

template <typename V>
KOMPAKT_PANEL_INLINE void Load(V& v, const void* p) {
  std::memcpy(&v, p, sizeof(V));
}

template <typename V>
KOMPAKT_PANEL_INLINE void Store(void* p, const V& v) {
  std::memcpy(p, &v, sizeof(V));
}

// Tokens [0, kTokens) of `a` times panels [0, kTiles), all in registers.
template <int kLanes, int kTokens, int kTiles>
KOMPAKT_PANEL_INLINE void MultiplyBlock(const PanelProduct& p, int64_t token, int64_t tile) {
  using F = typename Lanes<kLanes>::F;
  constexpr int kParts = static_cast<int>(kTileRows) / kLanes;
  const float* a[kTokens];
  for (int t = 0; t < kTokens; ++t) a[t] = p.a[token + t];
  const float* const panel = p.panel + tile * p.tile_stride;
  float* const c = p.c + token * p.c_stride + tile * kTileRows;
  F sum[kTokens][kTiles][kParts];
  for (int t = 0; t < kTokens; ++t) {
    for (int i = 0; i < kTiles; ++i) {
      for (int j = 0; j < kParts; ++j) {
        if (p.accumulate) {
          Load(sum[t][i][j], c + t * p.c_stride + i * kTileRows + j * kLanes);
        } else {
          sum[t][i][j] = F{};
        }
      }
    }
  }
  for (int64_t k = 0; k < p.k; ++k) {
    for (int i = 0; i < kTiles; ++i) {
      for (int j = 0; j < kParts; ++j) {
        F w;
        Load(w, panel + i * p.tile_stride + k * p.k_stride + j * kLanes);
        for (int t = 0; t < kTokens; ++t) sum[t][i][j] += w * a[t][k];
      }
    }
  }
  for (int t = 0; t < kTokens; ++t) {
    for (int i = 0; i < kTiles; ++i) {
      for (int j = 0; j < kParts; ++j) Store(c + t * p.c_stride + i * kTileRows + j * kLanes, sum[t][i][j]);
    }
  }
}

template <int kLanes, int kTokens, int kTiles>
KOMPAKT_PANEL_INLINE void MultiplyTokens(const PanelProduct& p, int64_t token) {
  int64_t tile = 0;
  for (; tile + kTiles <= p.tiles; tile += kTiles) MultiplyBlock<kLanes, kTokens, kTiles>(p, token, tile);
  for (; tile < p.tiles; ++tile) MultiplyBlock<kLanes, kTokens, 1>(p, token, tile);
}

// Blocks are as large as the registers allow. Few tokens take several panels at once: a chain of dependent additions
// would leave the adders idle.
template <int kLanes>
KOMPAKT_PANEL_INLINE void MultiplyPanels(const PanelProduct& p) {
  constexpr int kMost = kLanes == 16 ? 8 : kLanes == 8 ? 4 : 2;
  constexpr int kTilesOfOne = kLanes == 4 ? 2 : 4;
  int64_t token = 0;
  for (; token + kMost <= p.tokens; token += kMost) MultiplyTokens<kLanes, kMost, 1>(p, token);
  if constexpr (kMost > 4) {
    for (; token + 4 <= p.tokens; token += 4) MultiplyTokens<kLanes, 4, 2>(p, token);
  }
  if constexpr (kMost > 2) {
    for (; token + 2 <= p.tokens; token += 2) MultiplyTokens<kLanes, 2, kTilesOfOne / 2>(p, token);
  }
  for (; token < p.tokens; ++token) MultiplyTokens<kLanes, 1, kTilesOfOne>(p, token);
}

// ---- decoding: 32-bit words lie 16 rows side by side, so a word of kLanes rows is one vector ----

KOMPAKT_PANEL_INLINE void DecodeF32(const uint8_t* tile, const float* /*side*/, float* panel) {
  std::memcpy(panel, tile, sizeof(F32Tile));
}

template <int kLanes>
KOMPAKT_PANEL_INLINE void DecodeBf16(const uint8_t* tile, const float* /*side*/, float* panel) {
  using U = typename Lanes<kLanes>::U;
  for (int64_t k = 0; k < kTileCols; k += 2) {
    for (int64_t r = 0; r < kTileRows; r += kLanes) {
      U word;
      Load(word, tile + (k / 2 * kTileRows + r) * 4);
      const U even = word << 16;
      const U odd = word & 0xffff0000u;
      Store(panel + k * kTileRows + r, even);
      Store(panel + (k + 1) * kTileRows + r, odd);
    }
  }
}

template <int kLanes>
KOMPAKT_PANEL_INLINE void F16ToF32(const typename Lanes<kLanes>::U& half, typename Lanes<kLanes>::U& out) {
  using F = typename Lanes<kLanes>::F;
  using I = typename Lanes<kLanes>::I;
  using U = typename Lanes<kLanes>::U;
  const U sign = (half & 0x8000u) << 16;
  const U magnitude = half & 0x7fffu;
  const F subnormal = __builtin_convertvector(reinterpret_cast<I>(magnitude), F) * 0x1p-24f;
  const U normal = (magnitude << 13) + (112u << 23);
  const U special = (magnitude << 13) | 0x7f800000u;
  const U finite = magnitude < 0x400u ? reinterpret_cast<U>(subnormal) : normal;
  out = sign | (magnitude >= 0x7c00u ? special : finite);
}

template <int kLanes>
KOMPAKT_PANEL_INLINE void DecodeF16(const uint8_t* tile, const float* /*side*/, float* panel) {
  using U = typename Lanes<kLanes>::U;
  for (int64_t k = 0; k < kTileCols; k += 2) {
    for (int64_t r = 0; r < kTileRows; r += kLanes) {
      U word;
      Load(word, tile + (k / 2 * kTileRows + r) * 4);
      U even;
      U odd;
      F16ToF32<kLanes>(word & 0xffffu, even);
      F16ToF32<kLanes>(word >> 16, odd);
      Store(panel + k * kTileRows + r, even);
      Store(panel + (k + 1) * kTileRows + r, odd);
    }
  }
}

template <int kLanes>
KOMPAKT_PANEL_INLINE void DecodeFp8(const uint8_t* tile, const float* side, float* panel) {
  using F = typename Lanes<kLanes>::F;
  using I = typename Lanes<kLanes>::I;
  using U = typename Lanes<kLanes>::U;
  const float scale = *side;
  for (int64_t k = 0; k < kTileCols; k += 4) {
    for (int64_t r = 0; r < kTileRows; r += kLanes) {
      U word;
      Load(word, tile + (k / 4 * kTileRows + r) * 4);
      for (int64_t byte = 0; byte < 4; ++byte) {
        const U magnitude = (word >> static_cast<uint32_t>(8 * byte)) & 0x7fu;
        const U sign = (word << static_cast<uint32_t>(24 - 8 * byte)) & 0x80000000u;
        const F subnormal = __builtin_convertvector(reinterpret_cast<I>(magnitude), F) * 0x1p-9f;
        const U normal = (magnitude << 20) + (120u << 23);
        const U number = magnitude < 8u ? reinterpret_cast<U>(subnormal) : normal;
        const U value = sign | (magnitude == 0x7fu ? U{} + 0x7fc00000u : number);
        const F w = reinterpret_cast<F>(value) * scale;
        Store(panel + (k + byte) * kTileRows + r, w);
      }
    }
  }
}

template <int kLanes>
KOMPAKT_PANEL_INLINE void DecodeQ8(const uint8_t* tile, const float* side, float* panel) {
  using F = typename Lanes<kLanes>::F;
  using I = typename Lanes<kLanes>::I;
  const uint8_t* const groups = tile + offsetof(Q8G32Tile, groups);
  for (int64_t r = 0; r < kTileRows; r += kLanes) {
    F row_scale;
    Load(row_scale, side + r);
    F group_scale;
    for (int i = 0; i < kLanes; ++i) group_scale[i] = groups[r + i];
    for (int64_t k = 0; k < kTileCols; k += 4) {
      I word;
      Load(word, tile + (k / 4 * kTileRows + r) * 4);
      for (int64_t byte = 0; byte < 4; ++byte) {
        const I code = ((word >> static_cast<int32_t>(8 * byte)) & 0xff) - kQ8CodeBias;
        // The product of group scale and code is exact, so it may as well be made in F32.
        const F w = __builtin_convertvector(code, F) * group_scale * row_scale;
        Store(panel + (k + byte) * kTileRows + r, w);
      }
    }
  }
}

template <int kLanes>
KOMPAKT_PANEL_INLINE void DecodeInt4(const uint8_t* tile, const float* /*side*/, float* panel) {
  using F = typename Lanes<kLanes>::F;
  using I = typename Lanes<kLanes>::I;
  uint16_t bf16[kTileRows];
  std::memcpy(bf16, tile + offsetof(Int4G32Tile, scales), sizeof(bf16));
  for (int64_t r = 0; r < kTileRows; r += kLanes) {
    I bits;
    for (int i = 0; i < kLanes; ++i) bits[i] = bf16[r + i];
    bits = bits << 16;
    const F scale = reinterpret_cast<F>(bits);
    for (int64_t k = 0; k < kTileCols; k += 8) {
      I word;
      Load(word, tile + (k / 8 * kTileRows + r) * 4);
      for (int64_t byte = 0; byte < 4; ++byte) {
        const I low = ((word >> static_cast<int32_t>(8 * byte)) & 0xf) - kInt4CodeBias;
        const I high = ((word >> static_cast<int32_t>(8 * byte + 4)) & 0xf) - kInt4CodeBias;
        const F w_low = __builtin_convertvector(low, F) * scale;
        const F w_high = __builtin_convertvector(high, F) * scale;
        Store(panel + (k + byte) * kTileRows + r, w_low);
        Store(panel + (k + 4 + byte) * kTileRows + r, w_high);
      }
    }
  }
}

// The value of E2M1 codes 0..15: 0, 0.5, then 1 and 1.5 times powers of two, which only need their bits put in place.
template <int kLanes>
KOMPAKT_PANEL_INLINE void E2m1ToF32(const typename Lanes<kLanes>::I& code, typename Lanes<kLanes>::F& out) {
  using F = typename Lanes<kLanes>::F;
  using I = typename Lanes<kLanes>::I;
  const I magnitude = code & 7;
  const I half = (magnitude & 1) * 0x3f000000;  // 0 or 0.5
  const I normal = (magnitude << 22) + (126 << 23);
  const I bits = (magnitude < 2 ? half : normal) | ((code & 8) << 28);
  out = reinterpret_cast<F>(bits);
}

template <int kLanes>
KOMPAKT_PANEL_INLINE void DecodeMxfp4(const uint8_t* tile, const float* /*side*/, float* panel) {
  using F = typename Lanes<kLanes>::F;
  using I = typename Lanes<kLanes>::I;
  const uint8_t* const exponents = tile + offsetof(Mxfp4Tile, exponents);
  for (int64_t r = 0; r < kTileRows; r += kLanes) {
    I exponent;
    for (int i = 0; i < kLanes; ++i) exponent[i] = exponents[r + i];
    const I bits = exponent == 0 ? I{} + 0x00400000 : exponent == 255 ? I{} + 0x7fc00000 : exponent << 23;
    const F scale = reinterpret_cast<F>(bits);
    for (int64_t k = 0; k < kTileCols; k += 8) {
      I word;
      Load(word, tile + (k / 8 * kTileRows + r) * 4);
      for (int64_t byte = 0; byte < 4; ++byte) {
        const I low = (word >> static_cast<int32_t>(8 * byte)) & 0xf;
        const I high = (word >> static_cast<int32_t>(8 * byte + 4)) & 0xf;
        F w_low;
        F w_high;
        E2m1ToF32<kLanes>(low, w_low);
        E2m1ToF32<kLanes>(high, w_high);
        w_low *= scale;
        w_high *= scale;
        Store(panel + (k + byte) * kTileRows + r, w_low);
        Store(panel + (k + 4 + byte) * kTileRows + r, w_high);
      }
    }
  }
}

template <int kLanes>
KOMPAKT_PANEL_INLINE void DecodeNvfp4(const uint8_t* tile, const float* side, float* panel) {
  using F = typename Lanes<kLanes>::F;
  using I = typename Lanes<kLanes>::I;
  const uint8_t* const scales = tile + offsetof(Nvfp4Tile, scales);
  const float multiplier = side[0];
  const float divisor = side[1];
  for (int64_t r = 0; r < kTileRows; r += kLanes) {
    F scale[2];
    for (int g = 0; g < 2; ++g) {
      for (int i = 0; i < kLanes; ++i) scale[g][i] = kFp8E4m3Values[scales[g * kTileRows + r + i]];
    }
    for (int64_t k = 0; k < kTileCols; k += 8) {
      I word;
      Load(word, tile + (k / 8 * kTileRows + r) * 4);
      const F group_scale = scale[k / kNvfp4Group];
      for (int64_t byte = 0; byte < 4; ++byte) {
        const I low = (word >> static_cast<int32_t>(8 * byte)) & 0xf;
        const I high = (word >> static_cast<int32_t>(8 * byte + 4)) & 0xf;
        F w_low;
        F w_high;
        E2m1ToF32<kLanes>(low, w_low);
        E2m1ToF32<kLanes>(high, w_high);
        w_low = w_low * group_scale * multiplier;
        w_high = w_high * group_scale * multiplier;
        if (divisor != 1.0f) {  // divisions cost more than all the rest
          w_low = w_low / divisor;
          w_high = w_high / divisor;
        }
        Store(panel + (k + byte) * kTileRows + r, w_low);
        Store(panel + (k + 4 + byte) * kTileRows + r, w_high);
      }
    }
  }
}

// ---- products straight from the tiles ----
//
// A format is read in lines of 64 bytes, kColumns columns of 16 rows; kLanes rows of a line become kColumns vectors,
// with the operations of the decoders above.

template <int kLanes>
struct F32Lines {
  using F = typename Lanes<kLanes>::F;
  static constexpr bool kHasNan = false;  // among codes that Decode does not take as they are
  static constexpr int kColumns = 1;
  KOMPAKT_PANEL_INLINE static void Decode(const uint8_t* words, const float* /*side*/, F* w) { Load(w[0], words); }
};

template <int kLanes>
struct Bf16Lines {
  using F = typename Lanes<kLanes>::F;
  using U = typename Lanes<kLanes>::U;
  static constexpr bool kHasNan = false;  // among codes that Decode does not take as they are
  static constexpr int kColumns = 2;
  KOMPAKT_PANEL_INLINE static void Decode(const uint8_t* words, const float* /*side*/, F* w) {
    U word;
    Load(word, words);
    const U even = word << 16;
    const U odd = word & 0xffff0000u;
    w[0] = reinterpret_cast<F>(even);
    w[1] = reinterpret_cast<F>(odd);
  }
};

template <int kLanes>
struct F16Lines {
  using F = typename Lanes<kLanes>::F;
  using U = typename Lanes<kLanes>::U;
  static constexpr bool kHasNan = false;  // among codes that Decode does not take as they are
  static constexpr int kColumns = 2;
  KOMPAKT_PANEL_INLINE static void Decode(const uint8_t* words, const float* /*side*/, F* w) {
    U word;
    Load(word, words);
    U even;
    U odd;
    F16ToF32<kLanes>(word & 0xffffu, even);
    F16ToF32<kLanes>(word >> 16, odd);
    w[0] = reinterpret_cast<F>(even);
    w[1] = reinterpret_cast<F>(odd);
  }
};

template <int kLanes>
struct Fp8Lines {
  using F = typename Lanes<kLanes>::F;
  using I = typename Lanes<kLanes>::I;
  static constexpr int kColumns = 4;
  // The fields of E4M3 moved into those of F32 are 2^-120 times its value, subnormals included. The power joins the
  // scale, which stays below 2^128 (row_tiles.cc sees to that); the product is that of value and scale, rounded once.
  KOMPAKT_PANEL_INLINE static void Decode(const uint8_t* words, const float* side, F* w) {
    constexpr auto kFields = static_cast<int32_t>(0x87f00000u);
    const float scale = *side * 0x1p120f;
    I word;
    Load(word, words);
    for (int byte = 0; byte < 4; ++byte) {
      const I bits = ((word << (24 - 8 * byte)) >> 4) & kFields;
      w[byte] = reinterpret_cast<F>(bits) * scale;
    }
  }
  // Sets the upper bit of a byte of `seen` where a code is NaN, 0x7f without its sign: adding 1 carries into that bit.
  static constexpr bool kHasNan = true;
  KOMPAKT_PANEL_INLINE static void LookForNan(const uint8_t* words, I& seen) {
    I word;
    Load(word, words);
    seen |= (word & 0x7f7f7f7f) + 0x01010101;
  }
};

template <int kLanes, int kTokens, int kTiles>
struct DirectSums {
  static constexpr int kParts = static_cast<int>(kTileRows) / kLanes;
  typename Lanes<kLanes>::F sum[kTokens][kTiles][kParts];
  typename Lanes<kLanes>::I nan[kTiles][kParts];
};

// One tile of each of kTiles row tiles, `columns` columns of it, added to the sums.
template <int kLanes, template <int> class Lines, int kTokens, int kTiles>
KOMPAKT_PANEL_INLINE void AddDirect(const uint8_t* const* tiles, const float* const* side, const float* const* a,
                                    int64_t columns, DirectSums<kLanes, kTokens, kTiles>& s) {
  using F = typename Lanes<kLanes>::F;
  constexpr int kColumns = Lines<kLanes>::kColumns;
  constexpr int64_t kLineBytes = kTileRows * 4;
  constexpr int64_t kPrefetchBytes = 2048;
  for (int64_t k = 0; k < columns; k += kColumns) {
    for (int i = 0; i < kTiles; ++i) {
      const uint8_t* const line = tiles[i] + k / kColumns * kLineBytes;
      __builtin_prefetch(line + kPrefetchBytes, 0, 3);
      for (int j = 0; j < s.kParts; ++j) {
        const uint8_t* const words = line + j * kLanes * 4;
        F w[kColumns];
        Lines<kLanes>::Decode(words, side[i], w);
        if constexpr (Lines<kLanes>::kHasNan) Lines<kLanes>::LookForNan(words, s.nan[i][j]);
        for (int n = 0; n < kColumns; ++n) {
          // Columns past the edge have no activation, and adding zero would make 0 of -0.
          if (k + n >= columns) break;
          for (int t = 0; t < kTokens; ++t) s.sum[t][i][j] += w[n] * a[t][k + n];
        }
      }
    }
  }
}

template <int kLanes, template <int> class Lines, int kTokens, int kTiles>
KOMPAKT_PANEL_INLINE void DirectTiles(const DirectProduct& p, int64_t tile) {
  using F = typename Lanes<kLanes>::F;
  using I = typename Lanes<kLanes>::I;
  const MatrixView& m = *p.w;
  const uint8_t* tiles[kTiles];
  const float* side[kTiles];
  const float* a[kTokens];
  for (int i = 0; i < kTiles; ++i) tiles[i] = m.tile(p.first + tile + i, 0);
  for (int t = 0; t < kTokens; ++t) a[t] = p.a[t];
  DirectSums<kLanes, kTokens, kTiles> s = {};
  for (int64_t col_tile = 0; col_tile < m.layout.col_tiles; ++col_tile) {
    for (int i = 0; i < kTiles; ++i) side[i] = m.side(p.first + tile + i, col_tile);
    const int64_t columns = m.shape.cols - col_tile * kTileCols;
    if (columns >= kTileCols) {
      AddDirect<kLanes, Lines, kTokens, kTiles>(tiles, side, a, kTileCols, s);
    } else {
      AddDirect<kLanes, Lines, kTokens, kTiles>(tiles, side, a, columns, s);
    }
    for (int i = 0; i < kTiles; ++i) tiles[i] += m.format->tile_bytes;
    for (int t = 0; t < kTokens; ++t) a[t] += kTileCols;
  }
  for (int t = 0; t < kTokens; ++t) {
    for (int i = 0; i < kTiles; ++i) {
      for (int j = 0; j < s.kParts; ++j) {
        F sum = s.sum[t][i][j];
        if constexpr (Lines<kLanes>::kHasNan) {
          const I seen = s.nan[i][j] & static_cast<int32_t>(0x80808080u);
          sum = seen != 0 ? F{} + __builtin_nanf("") : sum;
        }
        Store(p.c + t * p.c_stride + (tile + i) * kTileRows + j * kLanes, sum);
      }
    }
  }
}

template <int kLanes, template <int> class Lines, int kTokens>
KOMPAKT_PANEL_INLINE void DirectTokens(const DirectProduct& p) {
  constexpr int kTiles = (kLanes == 4 ? 2 : 4) / kTokens;
  int64_t tile = 0;
  for (; tile + kTiles <= p.tiles; tile += kTiles) DirectTiles<kLanes, Lines, kTokens, kTiles>(p, tile);
  for (; tile < p.tiles; ++tile) DirectTiles<kLanes, Lines, kTokens, 1>(p, tile);
}

template <int kLanes, template <int> class Lines>
KOMPAKT_PANEL_INLINE void Direct(const DirectProduct& p) {
  static_assert(kDirectTokens == 2);
  p.tokens == 1 ? DirectTokens<kLanes, Lines, 1>(p) : DirectTokens<kLanes, Lines, 2>(p);
}

// ---- attention and activation ----

KOMPAKT_PANEL_INLINE void TransposeBody(const float* a, int64_t a_stride, int64_t rows, int64_t cols, float* b,
                                        int64_t b_stride) {
  using F = Lanes<4>::F;
  for (int64_t j = 0; j < cols; j += 4) {
    for (int64_t i = 0; i < rows; i += 4) {
      F r0, r1, r2, r3;
      Load(r0, a + i * a_stride + j);
      Load(r1, a + (i + 1) * a_stride + j);
      Load(r2, a + (i + 2) * a_stride + j);
      Load(r3, a + (i + 3) * a_stride + j);
      const F low01 = __builtin_shufflevector(r0, r1, 0, 4, 1, 5);
      const F high01 = __builtin_shufflevector(r0, r1, 2, 6, 3, 7);
      const F low23 = __builtin_shufflevector(r2, r3, 0, 4, 1, 5);
      const F high23 = __builtin_shufflevector(r2, r3, 2, 6, 3, 7);
      Store(b + j * b_stride + i, __builtin_shufflevector(low01, low23, 0, 1, 4, 5));
      Store(b + (j + 1) * b_stride + i, __builtin_shufflevector(low01, low23, 2, 3, 6, 7));
      Store(b + (j + 2) * b_stride + i, __builtin_shufflevector(high01, high23, 0, 1, 4, 5));
      Store(b + (j + 3) * b_stride + i, __builtin_shufflevector(high01, high23, 2, 3, 6, 7));
    }
  }
}

// e^x within 2 ulp (Cephes' polynomial): 0 below -87.3, where the result would be subnormal, infinity above 88.3.
template <int kLanes>
KOMPAKT_PANEL_INLINE void Exp(const typename Lanes<kLanes>::F& x, typename Lanes<kLanes>::F& out) {
  using F = typename Lanes<kLanes>::F;
  using U = typename Lanes<kLanes>::U;
  // Adding 1.5 * 2^23 rounds to an integer n and leaves n in the low bits.
  const F shifted = x * 1.44269504088896341f + 12582912.0f;
  const F n = shifted - 12582912.0f;
  const F r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  F p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const U scaled = reinterpret_cast<U>(p) + (reinterpret_cast<U>(shifted) << 23);
  F y = reinterpret_cast<F>(scaled);
  y = x < -87.3f ? F{} : y;
  y = x > 88.3f ? F{} + __builtin_inff() : y;
  out = x == x ? y : x;
}

template <int kLanes>
KOMPAKT_PANEL_INLINE void SiluTimesBody(float* gate, const float* up, int64_t n) {
  using F = typename Lanes<kLanes>::F;
  for (int64_t i = 0; i < n; i += kLanes) {
    F g;
    F u;
    Load(g, gate + i);
    Load(u, up + i);
    const F minus = -g;
    F e;
    Exp<kLanes>(minus, e);
    Store(gate + i, g / (1.0f + e) * u);
  }
}

template <int kLanes>
KOMPAKT_PANEL_INLINE void ExpBody(float* x, int64_t n) {
  using F = typename Lanes<kLanes>::F;
  for (int64_t i = 0; i < n; i += kLanes) {
    F v;
    Load(v, x + i);
    F e;
    Exp<kLanes>(v, e);
    Store(x + i, e);
  }
}

// Sums run in 16 lanes whatever kLanes is, so that every instruction set adds in the same order.
template <int kLanes>
KOMPAKT_PANEL_INLINE float SoftmaxStepBody(float* scores, int64_t n, float scale, float* largest, float* sum) {
  using F = typename Lanes<kLanes>::F;
  constexpr int kParts = 16 / kLanes;
  F most = F{} + *largest;
  for (int64_t i = 0; i < n; i += kLanes) {
    F s;
    Load(s, scores + i);
    s *= scale;
    Store(scores + i, s);
    most = s > most ? s : most;
  }
  float m = most[0];
  for (int i = 1; i < kLanes; ++i) m = most[i] > m ? most[i] : m;
  const F fallen = F{} + (*largest - m);
  F keep;
  Exp<kLanes>(fallen, keep);
  F sums[kParts];
  for (int j = 0; j < kParts; ++j) sums[j] = F{};
  for (int64_t i = 0; i < n; i += 16) {
    for (int j = 0; j < kParts; ++j) {
      F s;
      Load(s, scores + i + j * kLanes);
      const F x = s - m;
      F e;
      Exp<kLanes>(x, e);
      Store(scores + i + j * kLanes, e);
      sums[j] += e;
    }
  }
  float lanes[16];
  std::memcpy(lanes, sums, sizeof(lanes));
  for (int width = 8; width >= 1; width /= 2) {
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  }
  *largest = m;
  *sum = *sum * keep[0] + lanes[0];
  return keep[0];
}

}  // namespace kompakt::portable
