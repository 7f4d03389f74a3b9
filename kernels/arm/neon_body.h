// Products of integers in vectors of 128 bits: a line of a tile, 16 rows x 4 columns of bytes, is four registers of 4
// rows. Compiled into neon.cc, dotprod.cc and i8mm.cc, which define
//     KOMPAKT_TARGET    the target attribute of every function here
//     KOMPAKT_PRODUCTS  0: bytes are multiplied by smull, and sadalp adds pairs of products
//                       1: sdot multiplies and adds four columns of four rows
//                       2: of many tokens smmla multiplies eight columns of two rows with two tokens; few as 1
// Weights are signed bytes everywhere, so that sums need no correction.
#include <arm_neon.h>

#include <cstring>
#include <iterator>

#include "kernels/quantized/code_tables.h"
#include "kernels/quantized/integer_isa.h"
#include "kernels/quantized/make_isa.h"
#include "kernels/quantized/quantize_scale.h"
#include "kernels/quantized/tile_codes.h"

#define KOMPAKT_INLINE KOMPAKT_TARGET __attribute__((always_inline)) inline

namespace kompakt::arm {
namespace {

using quantized::ActBlock;
using quantized::ActGroup;
using quantized::CodeTable;
using quantized::kIntProduct;
using quantized::kTableOf;
using quantized::PanelTile;

constexpr bool kSdot = KOMPAKT_PRODUCTS >= 1;
constexpr bool kSmmla = KOMPAKT_PRODUCTS == 2;
constexpr int kLines = 8;       // of 4 columns in a tile
constexpr int kLineBytes = 64;  // of bytes
constexpr int kQuarters = 4;    // of the rows of a tile: one register each
constexpr int kQuarterRows = 4;
constexpr int kQuarterBytes = 16;         // of a line
constexpr int64_t kPrefetchBytes = 2048;  // how far ahead memory is asked for

// The group scales of a quarter of a tile.
struct Scales {
  int32x4_t ints[2];      // only where kIntScales
  float32x4_t floats[2];  // only where not
  uint32x4_t shifted[2];  // all ones where the shift bit of that row and group is set; only where kShift
};

KOMPAKT_INLINE int8x16_t Signed(uint8x16_t plus128) { return vreinterpretq_s8_u8(veorq_u8(plus128, vdupq_n_u8(0x80))); }

// Four bytes as words.
KOMPAKT_INLINE uint32x4_t FourRows(const uint8_t* bytes) {
  uint32_t word;
  std::memcpy(&word, bytes, sizeof(word));
  const uint8x8_t v = vreinterpret_u8_u32(vdup_n_u32(word));
  return vmovl_u16(vget_low_u16(vmovl_u8(v)));
}

// A quarter of line `j` of the plane of kBits bits per code at `plane`: its codes, moved to bit kTo of their bytes.
template <int kBits, int kTo>
KOMPAKT_INLINE uint8x16_t PlaneCodes(const uint8_t* plane, int j, int quarter) {
  const uint8x16_t line = vld1q_u8(plane + j / (8 / kBits) * kLineBytes + quarter * kQuarterBytes);
  const auto down = static_cast<int8_t>(-kBits * (j % (8 / kBits)));
  const uint8x16_t codes = vandq_u8(vshlq_u8(line, vdupq_n_s8(down)), vdupq_n_u8((1 << kBits) - 1));
  return kTo == 0 ? codes : vshlq_u8(codes, vdupq_n_s8(kTo));
}

// How a format's tile becomes bytes and scales.
template <const TableSpec& kSpec>
struct TableCodes : quantized::TableTileCodes<kSpec> {
  KOMPAKT_INLINE static int8x16_t Line(const uint8_t* tile, int j, int quarter) {
    const uint8_t* const table = kTableOf<kSpec>.bytes;
    uint8x16_t codes = PlaneCodes<kSpec.low_bits(), 0>(tile, j, quarter);
    if constexpr (kSpec.high_bits() > 0) {
      const uint8_t* const high_plane = tile + kSpec.low_bytes();
      codes = vorrq_u8(codes, PlaneCodes<kSpec.high_bits(), kSpec.low_bits()>(high_plane, j, quarter));
    }
    if constexpr (kSpec.code_bits <= 4) {
      return Signed(vqtbl1q_u8(vld1q_u8(table), codes));
    } else if constexpr (kSpec.code_bits == 5) {
      const uint8x16x2_t entries = {{vld1q_u8(table), vld1q_u8(table + 16)}};
      return Signed(vqtbl2q_u8(entries, codes));
    } else {
      const uint8x16x4_t entries = {
          {vld1q_u8(table), vld1q_u8(table + 16), vld1q_u8(table + 32), vld1q_u8(table + 48)}};
      return Signed(vqtbl4q_u8(entries, codes));
    }
  }

  KOMPAKT_INLINE static void LoadScales(const uint8_t* tile, int quarter, Scales& s) {
    constexpr uint32_t kBit = 1u << kSpec.scale_bits;
    for (int g = 0; g < TableCodes::kGroups; ++g) {
      const uint32x4_t bytes = FourRows(tile + kSpec.code_bytes() + g * kTileRows + quarter * kQuarterRows);
      s.ints[g] =
          vsubq_s32(vreinterpretq_s32_u32(vandq_u32(bytes, vdupq_n_u32(kBit - 1))), vdupq_n_s32(kSpec.scale_bias()));
      s.shifted[g] = vtstq_u32(bytes, vdupq_n_u32(kBit));
    }
  }
};

struct Q8Codes : quantized::Q8TileCodes {
  KOMPAKT_INLINE static int8x16_t Line(const uint8_t* tile, int j, int quarter) {
    return Signed(vld1q_u8(tile + j * kLineBytes + quarter * kQuarterBytes));
  }
  KOMPAKT_INLINE static void LoadScales(const uint8_t* tile, int quarter, Scales& s) {
    s.ints[0] = vreinterpretq_s32_u32(FourRows(tile + offsetof(Q8G32Tile, groups) + quarter * kQuarterRows));
  }
};

// The upstream 4-bit formats.
template <class Tile, const CodeTable& kTable>
struct NibbleCodesOf : Tile {
  KOMPAKT_INLINE static int8x16_t Line(const uint8_t* tile, int j, int quarter) {
    return Signed(vqtbl1q_u8(vld1q_u8(kTable.bytes), PlaneCodes<4, 0>(tile, j, quarter)));
  }
};

struct Int4Codes : NibbleCodesOf<quantized::Int4TileCodes, quantized::kInt4Table> {
  KOMPAKT_INLINE static void LoadScales(const uint8_t* tile, int quarter, Scales& s) {
    uint16_t bf16[kQuarterRows];
    std::memcpy(bf16, tile + offsetof(Int4G32Tile, scales) + quarter * sizeof(bf16), sizeof(bf16));
    s.floats[0] = vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(bf16), 16));
  }
};

struct Mxfp4Codes : NibbleCodesOf<quantized::Mxfp4TileCodes, quantized::kE2m1Table> {
  KOMPAKT_INLINE static void LoadScales(const uint8_t* tile, int quarter, Scales& s) {
    const uint32x4_t e = FourRows(tile + offsetof(Mxfp4Tile, exponents) + quarter * kQuarterRows);
    uint32x4_t bits = vshlq_n_u32(e, 23);
    bits = vbslq_u32(vceqq_u32(e, vdupq_n_u32(0)), vdupq_n_u32(0x00400000), bits);
    bits = vbslq_u32(vceqq_u32(e, vdupq_n_u32(255)), vdupq_n_u32(0x7fc00000), bits);
    s.floats[0] = vreinterpretq_f32_u32(bits);
  }
};

struct Nvfp4Codes : NibbleCodesOf<quantized::Nvfp4TileCodes, quantized::kE2m1Table> {
  // E4M3 moved into the fields of F16 is 2^-8 times its value, subnormals included.
  KOMPAKT_INLINE static float32x4_t FromE4m3(const uint8_t* bytes) {
    const uint16x4_t half = vmovn_u32(FourRows(bytes));
    const uint16x4_t magnitude = vand_u16(half, vdup_n_u16(0x7f));
    const uint16x4_t sign = vshl_n_u16(vand_u16(half, vdup_n_u16(0x80)), 8);
    const float16x4_t f16 = vreinterpret_f16_u16(vorr_u16(vshl_n_u16(magnitude, 7), sign));
    const float32x4_t value = vmulq_n_f32(vcvt_f32_f16(f16), 256.0f);
    const uint32x4_t nan = vceqq_u32(vmovl_u16(magnitude), vdupq_n_u32(0x7f));
    return vbslq_f32(nan, vreinterpretq_f32_u32(vdupq_n_u32(0x7fc00000)), value);
  }
  KOMPAKT_INLINE static void LoadScales(const uint8_t* tile, int quarter, Scales& s) {
    const uint8_t* const scales = tile + offsetof(Nvfp4Tile, scales) + quarter * kQuarterRows;
    s.floats[0] = FromE4m3(scales);
    s.floats[1] = FromE4m3(scales + kTileRows);
  }
};

// A dot product of four rows while it is summed. Without sdot rows 0 and 1 are in the first half, columns 0 and 1 and
// columns 2 and 3 of each apart; rows 2 and 3 in the second.
struct Dot {
  int32x4_t v[kSdot ? 1 : 2];
};

KOMPAKT_INLINE Dot ZeroDot() {
  Dot dot;
  for (int32x4_t& v : dot.v) v = vdupq_n_s32(0);
  return dot;
}

// dot += a line times four columns of a token: word `kLane` of `act`.
template <int kLane>
KOMPAKT_INLINE void AddLine(Dot& dot, int8x16_t line, int8x16_t act) {
#if KOMPAKT_PRODUCTS >= 1
  dot.v[0] = vdotq_laneq_s32(dot.v[0], line, act, kLane);
#else
  const int8x8_t word = vreinterpret_s8_s32(vdup_laneq_s32(vreinterpretq_s32_s8(act), kLane));
  dot.v[0] = vpadalq_s16(dot.v[0], vmull_s8(vget_low_s8(line), word));
  dot.v[1] = vpadalq_s16(dot.v[1], vmull_s8(vget_high_s8(line), word));
#endif
}

// dot *= 256, before the low bytes of int16 activations follow the high ones.
KOMPAKT_INLINE void NextPlane(Dot& dot) {
  for (int32x4_t& v : dot.v) v = vshlq_n_s32(v, 8);
}

KOMPAKT_INLINE int32x4_t SumOf(const Dot& dot) {
  if constexpr (kSdot) {
    return dot.v[0];
  } else {
    return vpaddq_s32(dot.v[0], dot.v[std::size(Dot{}.v) - 1]);
  }
}

// acc += the groups' dot products times scales, in the order that integer_isa.h gives.
template <bool kInt, int kGroups>
KOMPAKT_INLINE float32x4_t AddGroups(float32x4_t acc, const int32x4_t* dot, const int32x4_t* ints,
                                     const float32x4_t* floats, float d) {
  if constexpr (kInt) {
    int32x4_t sum = vmulq_s32(dot[0], ints[0]);
    if constexpr (kGroups == 2) sum = vmlaq_s32(sum, dot[1], ints[1]);
    return vfmaq_f32(acc, vcvtq_f32_s32(sum), vdupq_n_f32(d));
  } else {
    acc = vfmaq_f32(acc, vcvtq_f32_s32(dot[0]), vmulq_n_f32(floats[0], d));
    if constexpr (kGroups == 2) acc = vfmaq_f32(acc, vcvtq_f32_s32(dot[1]), vmulq_n_f32(floats[1], d));
    return acc;
  }
}

// Lines 4 i .. 4 i + 3 of a quarter with 16 columns of each token.
template <int kTokens, int kPlanes>
KOMPAKT_INLINE void AddFourLines(Dot* dot, const int8x16_t* lines, const ActGroup<kPlanes>* group, int i, int plane) {
#pragma GCC unroll 4
  for (int t = 0; t < kTokens; ++t) {
    const int8x16_t act = vld1q_s8(group[t].codes + plane * kActGroup + i * 16);
    AddLine<0>(dot[t], lines[0], act);
    AddLine<1>(dot[t], lines[1], act);
    AddLine<2>(dot[t], lines[2], act);
    AddLine<3>(dot[t], lines[3], act);
  }
}

template <class Codes, int kTokens, int kPlanes>
KOMPAKT_INLINE void FewTokens(const uint8_t* tiles, int64_t col_tiles, const ActBlock& x, float* c, int64_t c_stride) {
  constexpr int kGroups = Codes::kGroups;
  constexpr bool kInt = kIntProduct<Codes, kPlanes>;
  const auto* group = reinterpret_cast<const ActGroup<kPlanes>*>(x.groups);
  const uint8_t* tile = tiles;
  float32x4_t acc[kQuarters][kTokens];
  for (auto& quarter : acc) {
    for (float32x4_t& sum : quarter) sum = vdupq_n_f32(0);
  }
  for (int64_t i = 0; i < col_tiles; ++i, tile += Codes::kTileBytes, group += kTokens) {
    for (uint64_t b = 0; b < Codes::kTileBytes; b += 64) __builtin_prefetch(tile + kPrefetchBytes + b);
#pragma GCC unroll 4
    for (int q = 0; q < kQuarters; ++q) {
      Scales s;
      Codes::LoadScales(tile, q, s);
      if constexpr (Codes::kIntScales && !kInt) {
        for (int g = 0; g < kGroups; ++g) s.floats[g] = vcvtq_f32_s32(s.ints[g]);
      }
      int32x4_t sums[kTokens][kGroups];
#pragma GCC unroll 2
      for (int g = 0; g < kGroups; ++g) {
        Dot high[kTokens];
        Dot dot[kTokens];
        for (int t = 0; t < kTokens; ++t) high[t] = dot[t] = ZeroDot();
#pragma GCC unroll 2
        for (int four = g * 2 / kGroups; four < (g + 1) * 2 / kGroups; ++four) {
          int8x16_t lines[4];
          for (int j = 0; j < 4; ++j) lines[j] = Codes::Line(tile, four * 4 + j, q);
          if constexpr (kPlanes == 2) AddFourLines<kTokens, kPlanes>(high, lines, group, four, 0);
          AddFourLines<kTokens, kPlanes>(dot, lines, group, four, kPlanes - 1);
        }
#pragma GCC unroll 4
        for (int t = 0; t < kTokens; ++t) {
          sums[t][g] = SumOf(dot[t]);
          if constexpr (kPlanes == 2) sums[t][g] = vaddq_s32(sums[t][g], vshlq_n_s32(SumOf(high[t]), 8));
          if constexpr (Codes::kShift != 0) {
            // The sum of the codes is exact, and -128 times it is what the group carries.
            const int32_t sum = (kGroups == 2 ? group[t].half_offset[g] : group[t].offset) / -128;
            const int32x4_t shift = vdupq_n_s32(Codes::kShift * sum);
            sums[t][g] = vaddq_s32(sums[t][g], vandq_s32(shift, vreinterpretq_s32_u32(s.shifted[g])));
          }
        }
      }
#pragma GCC unroll 4
      for (int t = 0; t < kTokens; ++t) {
        acc[q][t] = AddGroups<kInt, kGroups>(acc[q][t], sums[t], s.ints, s.floats, group[t].scale);
      }
    }
  }
  for (int q = 0; q < kQuarters; ++q) {
    for (int t = 0; t < kTokens; ++t) vst1q_f32(c + t * c_stride + q * kQuarterRows, acc[q][t]);
  }
}

// Two lines of a quarter into a panel. As lines for sdot; for smmla the eight columns of each row side by side:
// codes[j], codes[j + 1] are then [16 rows][8].
KOMPAKT_INLINE void StoreLines(PanelTile* panel, int j, int q, int8x16_t first, int8x16_t second) {
  auto* const to = reinterpret_cast<int8_t*>(panel->codes[j]);
  if constexpr (kSmmla) {
    const int32x4_t a = vreinterpretq_s32_s8(first);
    const int32x4_t b = vreinterpretq_s32_s8(second);
    vst1q_s8(to + q * 2 * kQuarterBytes, vreinterpretq_s8_s32(vzip1q_s32(a, b)));
    vst1q_s8(to + q * 2 * kQuarterBytes + kQuarterBytes, vreinterpretq_s8_s32(vzip2q_s32(a, b)));
  } else {
    vst1q_s8(to + q * kQuarterBytes, first);
    vst1q_s8(to + kLineBytes + q * kQuarterBytes, second);
  }
}

// Panels hold signed bytes, the shift included.
template <class Codes, int kPlanes>
KOMPAKT_TARGET void Unpack(const uint8_t* tile, int64_t col_tiles, PanelTile* panel) {
  constexpr int kGroups = Codes::kGroups;
  for (int64_t i = 0; i < col_tiles; ++i, tile += Codes::kTileBytes, ++panel) {
    for (int q = 0; q < kQuarters; ++q) {
      Scales s;
      Codes::LoadScales(tile, q, s);
#pragma GCC unroll 2
      for (int g = 0; g < kGroups; ++g) {
        int8x16_t shift = vdupq_n_s8(0);
        if constexpr (Codes::kShift != 0) {
          shift = vandq_s8(vreinterpretq_s8_u32(s.shifted[g]), vdupq_n_s8(static_cast<int8_t>(Codes::kShift)));
        }
#pragma GCC unroll 4
        for (int j = g * kLines / kGroups; j < (g + 1) * kLines / kGroups; j += 2) {
          StoreLines(panel, j, q, vaddq_s8(Codes::Line(tile, j, q), shift),
                     vaddq_s8(Codes::Line(tile, j + 1, q), shift));
        }
        uint8_t* const scales = panel->scales[g][q * kQuarterRows];
        if constexpr (kIntProduct<Codes, kPlanes>) {
          vst1q_s32(reinterpret_cast<int32_t*>(scales), s.ints[g]);
        } else if constexpr (Codes::kIntScales) {
          vst1q_f32(reinterpret_cast<float*>(scales), vcvtq_f32_s32(s.ints[g]));
        } else {
          vst1q_f32(reinterpret_cast<float*>(scales), s.floats[g]);
        }
      }
    }
  }
}

constexpr int kHalfQuarters = 2;  // of the rows that ManyTokens takes

// sums[quarter][token] of group g of a panel tile, of rows 8 half .. 8 half + 7.
template <int kTokens, int kPlanes, int kGroups>
KOMPAKT_INLINE void DotsOf(const PanelTile* panel, int g, int half, const ActGroup<kPlanes>* group,
                           int32x4_t (*sums)[kTokens]) {
  Dot dot[kHalfQuarters][kTokens];
  for (auto& quarter : dot) {
    for (Dot& d : quarter) d = ZeroDot();
  }
#pragma GCC unroll 2
  for (int plane = 0; plane < kPlanes; ++plane) {
    for (auto& quarter : dot) {
      for (Dot& d : quarter) {
        if (plane == 1) NextPlane(d);
      }
    }
#pragma GCC unroll 2
    for (int four = g * 2 / kGroups; four < (g + 1) * 2 / kGroups; ++four) {
#pragma GCC unroll 2
      for (int q = 0; q < kHalfQuarters; ++q) {
        int8x16_t lines[4];
        for (int j = 0; j < 4; ++j) {
          const auto* const line = reinterpret_cast<const int8_t*>(panel->codes[four * 4 + j]);
          lines[j] = vld1q_s8(line + (half * kHalfQuarters + q) * kQuarterBytes);
        }
        AddFourLines<kTokens, kPlanes>(dot[q], lines, group, four, plane);
      }
    }
  }
  for (int q = 0; q < kHalfQuarters; ++q) {
    for (int t = 0; t < kTokens; ++t) sums[q][t] = SumOf(dot[q][t]);
  }
}

#if KOMPAKT_PRODUCTS == 2
// The same by smmla: products of pairs of rows with pairs of tokens; of an odd number the last is paired with itself.
template <int kTokens, int kPlanes, int kGroups>
KOMPAKT_INLINE void SquaresOf(const PanelTile* panel, int g, int half, const ActGroup<kPlanes>* group,
                              int32x4_t (*sums)[kTokens]) {
  constexpr int kPairs = (kTokens + 1) / 2;
  constexpr int kRowPairs = 4;
  int32x4_t squares[kRowPairs][kPairs];  // [row][token] of each: row 0 token 0, row 0 token 1, row 1 token 0, ...
  for (auto& row_pair : squares) {
    for (int32x4_t& square : row_pair) square = vdupq_n_s32(0);
  }
#pragma GCC unroll 2
  for (int plane = 0; plane < kPlanes; ++plane) {
    for (auto& row_pair : squares) {
      for (int32x4_t& square : row_pair) {
        if (plane == 1) square = vshlq_n_s32(square, 8);
      }
    }
#pragma GCC unroll 4
    for (int j = g * kLines / kGroups; j < (g + 1) * kLines / kGroups; j += 2) {
      const auto* const rows =
          reinterpret_cast<const int8_t*>(panel->codes[j]) + half * 2 * kHalfQuarters * kQuarterBytes;
      int8x16_t acts[kPairs];
      for (int p = 0; p < kPairs; ++p) {
        const ActGroup<kPlanes>& second = group[2 * p + 1 < kTokens ? 2 * p + 1 : 2 * p];
        acts[p] = vcombine_s8(vld1_s8(group[2 * p].codes + plane * kActGroup + j * 4),
                              vld1_s8(second.codes + plane * kActGroup + j * 4));
      }
#pragma GCC unroll 4
      for (int r = 0; r < kRowPairs; ++r) {
        const int8x16_t row_pair = vld1q_s8(rows + r * kQuarterBytes);
        for (int p = 0; p < kPairs; ++p) squares[r][p] = vmmlaq_s32(squares[r][p], row_pair, acts[p]);
      }
    }
  }
  for (int q = 0; q < kHalfQuarters; ++q) {
    for (int t = 0; t < kTokens; ++t) {
      const int32x4_t a = squares[2 * q][t / 2];
      const int32x4_t b = squares[2 * q + 1][t / 2];
      sums[q][t] = t % 2 == 0 ? vuzp1q_s32(a, b) : vuzp2q_s32(a, b);
    }
  }
}
#endif

// kTokens of a block's tokens, from `token` on, and one half of the rows: as many as the registers hold.
template <int kTokens, int kPlanes, bool kInt, int kGroups>
KOMPAKT_TARGET void ManyTokens(const PanelTile* panel, int64_t first, int64_t col_tiles, const ActBlock& x,
                               int64_t token, int half, float* c, int64_t c_stride) {
  const auto* group = reinterpret_cast<const ActGroup<kPlanes>*>(x.groups) + first * x.tokens + token;
  c += token * c_stride + half * kHalfQuarters * kQuarterRows;
  float32x4_t acc[kHalfQuarters][kTokens];
  for (int q = 0; q < kHalfQuarters; ++q) {
    for (int t = 0; t < kTokens; ++t) {
      acc[q][t] = first == 0 ? vdupq_n_f32(0) : vld1q_f32(c + t * c_stride + q * kQuarterRows);
    }
  }
  for (int64_t i = 0; i < col_tiles; ++i, ++panel, group += x.tokens) {
    int32x4_t sums[kGroups][kHalfQuarters][kTokens];
#pragma GCC unroll 2
    for (int g = 0; g < kGroups; ++g) {
#if KOMPAKT_PRODUCTS == 2
      SquaresOf<kTokens, kPlanes, kGroups>(panel, g, half, group, sums[g]);
#else
      DotsOf<kTokens, kPlanes, kGroups>(panel, g, half, group, sums[g]);
#endif
    }
#pragma GCC unroll 2
    for (int q = 0; q < kHalfQuarters; ++q) {
      Scales s;
      for (int g = 0; g < kGroups; ++g) {
        const uint8_t* const scales = panel->scales[g][(half * kHalfQuarters + q) * kQuarterRows];
        s.ints[g] = vld1q_s32(reinterpret_cast<const int32_t*>(scales));
        s.floats[g] = vreinterpretq_f32_s32(s.ints[g]);
      }
#pragma GCC unroll 4
      for (int t = 0; t < kTokens; ++t) {
        int32x4_t dots[kGroups];
        for (int g = 0; g < kGroups; ++g) dots[g] = sums[g][q][t];
        acc[q][t] = AddGroups<kInt, kGroups>(acc[q][t], dots, s.ints, s.floats, group[t].scale);
      }
    }
  }
  for (int q = 0; q < kHalfQuarters; ++q) {
    for (int t = 0; t < kTokens; ++t) vst1q_f32(c + t * c_stride + q * kQuarterRows, acc[q][t]);
  }
}

template <int kPlanes, bool kInt, int kGroups>
void Many(const PanelTile* panel, int64_t first, int64_t col_tiles, const ActBlock& x, float* c, int64_t c_stride) {
  constexpr quantized::Piece kTable[] = {
      ManyTokens<1, kPlanes, kInt, kGroups>,
      ManyTokens<2, kPlanes, kInt, kGroups>,
      ManyTokens<3, kPlanes, kInt, kGroups>,
      ManyTokens<4, kPlanes, kInt, kGroups>,
  };
  quantized::ManyInPieces(kTable, panel, first, col_tiles, x, c, c_stride);
}

KOMPAKT_TARGET void Finish(const float* factors, const ActBlock& x, float* acc, int64_t acc_stride) {
  for (int64_t t = 0; t < x.tokens; ++t, acc += acc_stride) {
    for (int q = 0; q < kQuarters; ++q) {
      float* const a = acc + q * kQuarterRows;
      vst1q_f32(a, vmulq_n_f32(vmulq_f32(vld1q_f32(a), vld1q_f32(factors + q * kQuarterRows)), x.scales[t]));
    }
  }
}

// Eight values as bytes, in order; each within int8.
KOMPAKT_INLINE int8x8_t PackBytes(int32x4_t a, int32x4_t b) {
  return vmovn_s16(vcombine_s16(vmovn_s32(a), vmovn_s32(b)));
}

template <int kPlanes>
KOMPAKT_TARGET void Quantize(const float* x, int64_t n, uint8_t* groups, size_t stride_bytes, float* scale) {
  constexpr float kLargest = kPlanes == 1 ? kInt8Largest : kInt16Largest;
  constexpr int kVectors = static_cast<int>(kActGroup) / 4;
  uint32_t most_bits = 0;
  for (int64_t k = 0; k < n; k += kActGroup, groups += stride_bytes) {
    ActGroup<kPlanes>& group = *reinterpret_cast<ActGroup<kPlanes>*>(groups);
    float tail[kActGroup] = {};
    const float* from = x + k;
    if (n - k < kActGroup) {
      std::memcpy(tail, from, static_cast<size_t>(n - k) * sizeof(float));
      from = tail;
    }
    float32x4_t v[kVectors];
    uint32x4_t most = vdupq_n_u32(0);
    for (int i = 0; i < kVectors; ++i) {
      v[i] = vld1q_f32(from + 4 * i);
      most = vmaxq_u32(most, vandq_u32(vreinterpretq_u32_f32(v[i]), vdupq_n_u32(0x7fffffff)));
    }
    const uint32_t bits = vmaxvq_u32(most);
    most_bits = bits > most_bits ? bits : most_bits;
    const quantized::GroupScale d = quantized::ScaleOfGroup(bits, kLargest);
    // What is not finite must not be converted.
    const int32x4_t some = vdupq_n_s32(d.inverse > 0 ? -1 : 0);
    int32x4_t codes[kVectors];
    int32x4_t half_sums[2] = {vdupq_n_s32(0), vdupq_n_s32(0)};
    for (int i = 0; i < kVectors; ++i) {
      codes[i] = vandq_s32(vcvtnq_s32_f32(vmulq_n_f32(v[i], d.inverse)), some);
      half_sums[i / 4] = vaddq_s32(half_sums[i / 4], codes[i]);
    }
    for (int i = 0; i < kVectors; i += 2) {
      int8_t* const to = group.codes + 4 * i;
      if constexpr (kPlanes == 1) {
        vst1_s8(to, PackBytes(codes[i], codes[i + 1]));
      } else {
        int32x4_t high[2];
        int32x4_t low[2];
        for (int h = 0; h < 2; ++h) {
          high[h] = vshrq_n_s32(vaddq_s32(codes[i + h], vdupq_n_s32(128)), 8);
          low[h] = vsubq_s32(codes[i + h], vshlq_n_s32(high[h], 8));
        }
        vst1_s8(to, PackBytes(high[0], high[1]));
        vst1_s8(to + kActGroup, PackBytes(low[0], low[1]));
      }
    }
    group.scale = d.scale;
    group.half_offset[0] = -128 * vaddvq_s32(half_sums[0]);
    group.half_offset[1] = -128 * vaddvq_s32(half_sums[1]);
    group.offset = group.half_offset[0] + group.half_offset[1];
  }
  *scale = quantized::ScaleToken<kPlanes>(most_bits, n, groups, stride_bytes);
}

// Needs all above it.
#include "kernels/quantized/region_loops.h"

}  // namespace
}  // namespace kompakt::arm
