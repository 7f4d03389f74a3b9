// A row tile of a packed matrix times a few tokens, straight from the tiles: decode.
//
// A warp takes two neighbouring column tiles at a time, a pair. Its pairs come through a ring of its own in shared
// memory: cp.async brings as many of them as fit, all at once in the beginning, before anything that other kernels have
// left is read, and the next one whenever one has been taken out. So what is on its way costs no registers, and the
// code that computes with a pair is there once.
//
// A lane owns four rows of a tile and eight of its columns, so that one 16-byte word has a 4-bit format's codes of
// both:
//     lane = 16 * (which tile) + 4 * segment + quad     rows 4 quad .. 4 quad + 3, columns 8 segment .. 8 segment + 7
// Sums stay in the lane until the end. What a token gets depends neither on the other tokens nor on their number.
#pragma once

#include <type_traits>

#include "kernels/cuda/matrix_params.h"
#include "kernels/cuda/tile_formats.cuh"

namespace kompakt::KOMPAKT_BACKEND {

KOMPAKT_DEVICE uint32_t WordOf(const uint4& v, int i) { return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w; }

// What a lane loads of one tile.
template <typename F>
struct Fragment {
  // Columns in a word of the low plane; a line of narrower ones serves several segments.
  static constexpr int kLowCols = [] {
    if constexpr (F::kInteger)
      return 32 / F::kLowBits;
    else
      return F::kWordCols;
  }();
  static constexpr int kLines = kLowCols >= 8 ? 1 : 8 / kLowCols;
  static constexpr bool kHasHigh = [] {
    if constexpr (F::kInteger)
      return F::kHighBits > 0;
    else
      return false;
  }();
  static constexpr int kScaleBytes = [] {
    if constexpr (F::kInteger)
      return F::kScaleBytes;
    else
      return 0;
  }();

  uint4 low[kLines] = {};
  uint4 high = {};          // of a second plane
  uint32_t scales[2] = {};  // of four rows: the first word is enough for scales of one byte

  KOMPAKT_DEVICE void Load(SharedPtr<const uint8_t> tile, int segment, int quad) {
    const int first = kLowCols >= 8 ? segment * 8 / kLowCols : segment * kLines;
    const auto words = SharedCast<const uint4>(tile + quad * 16);
    KOMPAKT_UNROLL
    for (int i = 0; i < kLines; ++i) {
      const uint4 line = words[(first + i) * (kLineBytes / 16)];
      low[i] = line;
    }
    if constexpr (F::kInteger) {
      if constexpr (F::kHighBits > 0) {
        const uint4 line = words[(F::kLowBits + segment * F::kHighBits / 4) * (kLineBytes / 16)];
        high = line;
      }
      const int group = segment * 8 / F::kGroupCols;
      const auto at = tile + ((F::kLowBits + F::kHighBits) * kLineBytes + (group * 16 + quad * 4) * F::kScaleBytes);
      if constexpr (F::kScaleBytes == 2) {
        const uint2 both = SharedCast<const uint2>(at)[0];
        scales[0] = both.x;
        scales[1] = both.y;
      } else {
        scales[0] = SharedCast<const uint32_t>(at)[0];
      }
    }
  }
  KOMPAKT_DEVICE uint32_t ScaleBits(int row) const {
    if constexpr (kScaleBytes == 2) return scales[row / 2] >> (row % 2 * 16) & 0xffffu;
    return scales[0] >> (8 * row) & 0xffu;
  }
  // The lane's eight columns of its row `row` as int8, in the order of EightValuesOf.
  KOMPAKT_DEVICE void Values(int row, int segment, uint32_t (&out)[2]) const {
    uint32_t high_word = 0;
    if constexpr (kHasHigh) high_word = WordOf(high, row);
    EightValuesOf<F>({WordOf(low[0], row), WordOf(low[kLines - 1], row)}, high_word, segment, out);
  }
  // Column i of the lane's eight, before any scale.
  KOMPAKT_DEVICE float Value(int row, int i) const {
    return F::Value(WordOf(low[i / F::kWordCols], row), i % F::kWordCols);
  }
};

// The tokens of a block: kTokens of them, of which the last may be repeated.
template <int kTokens>
struct TokenRows {
  int row[kTokens];  // of the activations, of which there are below 2^32 bytes
};

// acc[row][token] of a lane's four rows.
template <int kTokens>
using Sums = float[4][kTokens];

// What a lane multiplies its eight columns of a tile by: a token's codes.
struct CodeInputs {
  uint2 high = {}, low = {};  // high: the only plane of int8
  float scale = 0;
  float2 sums = {};  // of the codes of a whole group of columns, by its halves, in one lane of it; 0 in the others

  template <typename F>
  KOMPAKT_DEVICE void Load(const cuda::Activations& x, uint32_t row, uint32_t tile, int segment) {
    const auto groups = static_cast<uint32_t>(cuda::Groups(x.cols));
    const int8_t* const codes =
        x.codes + ((row * static_cast<uint32_t>(x.planes) * groups + tile) * 32u + static_cast<uint32_t>(segment) * 8u);
    high = LoadCached(reinterpret_cast<const uint2*>(codes));
    if (x.planes == 2) low = LoadCached(reinterpret_cast<const uint2*>(codes + groups * 32));
    const uint32_t group = row * groups + tile;
    scale = LoadCached(x.scales + group);
    if constexpr (F::kShifted) {
      if constexpr (F::kGroupCols == 16) {
        if (segment % 2 == 0) sums.x = LoadCached(x.sums + group * 2 + segment / 2);
      } else {
        if (segment == 0) sums = LoadCached(reinterpret_cast<const float2*>(x.sums) + group);
      }
    }
  }
};
// Or its F32 values.
struct FloatInputs {
  float4 first = {}, second = {};

  template <typename F>
  KOMPAKT_DEVICE void Load(const cuda::Activations& x, uint32_t row, uint32_t tile, int segment) {
    const auto* const at = reinterpret_cast<const float4*>(
        x.x + ((row * static_cast<uint32_t>(cuda::Groups(x.cols)) + tile) * 32u + static_cast<uint32_t>(segment) * 8u));
    first = LoadCached(at);
    second = LoadCached(at + 1);
  }
};

template <typename F, int kTokens>
KOMPAKT_DEVICE void Add(const Fragment<F>& w, int segment, const CodeInputs (&x)[kTokens], bool two_planes, float,
                        Sums<kTokens>& acc) {
  uint2 high[kTokens], low[kTokens] = {};
  KOMPAKT_UNROLL
  for (int t = 0; t < kTokens; ++t) {
    high[t] = LikeEightValues<F>(x[t].high);
    if (two_planes) low[t] = LikeEightValues<F>(x[t].low);
  }
  KOMPAKT_UNROLL
  for (int r = 0; r < 4; ++r) {
    uint32_t values[2];
    w.Values(r, segment, values);
    const float scale = F::Scale(w.ScaleBits(r)), shift = F::Shift(w.ScaleBits(r));
    KOMPAKT_UNROLL
    for (int t = 0; t < kTokens; ++t) {
      int dot = __dp4a(static_cast<int>(values[0]), static_cast<int>(high[t].x), 0);
      dot = __dp4a(static_cast<int>(values[1]), static_cast<int>(high[t].y), dot);
      if (two_planes) {
        dot = __dp4a(static_cast<int>(values[0]), static_cast<int>(low[t].x), dot * 256);
        dot = __dp4a(static_cast<int>(values[1]), static_cast<int>(low[t].y), dot);
      }
      float v = static_cast<float>(dot);
      if constexpr (F::kShifted) v = fmaf(shift, x[t].sums.x + x[t].sums.y, v);
      acc[r][t] = fmaf(v, scale * x[t].scale, acc[r][t]);
    }
  }
}

template <typename F, int kTokens>
KOMPAKT_DEVICE void Add(const Fragment<F>& w, int segment, const FloatInputs (&x)[kTokens], bool,
                        [[maybe_unused]] float block_scale, Sums<kTokens>& acc) {
  KOMPAKT_UNROLL
  for (int r = 0; r < 4; ++r) {
    float v[8];
    float scale = block_scale;
    if constexpr (F::kInteger) {
      uint32_t values[2];
      w.Values(r, segment, values);
      scale = F::Scale(w.ScaleBits(r));
      const float shift = F::Shift(w.ScaleBits(r));
      KOMPAKT_UNROLL
      for (int i = 0; i < 8; ++i) {
        const int at = ByteOfEight<F>(i);
        v[i] = static_cast<float>(static_cast<int8_t>(values[at / 4] >> (8 * (at % 4)))) + shift;
      }
    } else {
      KOMPAKT_UNROLL
      for (int i = 0; i < 8; ++i) v[i] = w.Value(r, i);
    }
    KOMPAKT_UNROLL
    for (int t = 0; t < kTokens; ++t) {
      const float4 &a = x[t].first, &b = x[t].second;
      float dot = v[0] * a.x;
      dot = fmaf(v[1], a.y, dot);
      dot = fmaf(v[2], a.z, dot);
      dot = fmaf(v[3], a.w, dot);
      dot = fmaf(v[4], b.x, dot);
      dot = fmaf(v[5], b.y, dot);
      dot = fmaf(v[6], b.z, dot);
      dot = fmaf(v[7], b.w, dot);
      acc[r][t] = fmaf(dot, scale, acc[r][t]);
    }
  }
}

// ---- The ring of a warp.

inline constexpr int kPairsBytes = 5280;
// Behind the pairs: the factors of the 16 rows, until they are needed.
inline constexpr int kRingBytes = kPairsBytes + 16 * static_cast<int>(sizeof(float));
// Pairs that it holds: no more than keep the memory busy.
constexpr int RingPairs(int tile_bytes) {
  const int pairs = kPairsBytes / (2 * tile_bytes);
  return pairs < 8 ? pairs : 8;
}
static_assert(RingPairs(static_cast<int>(sizeof(F32Tile))) >= 1);

// What is to know of a format before the code for it is entered.
struct RingShape {
  int tile_bytes, pairs;
  bool row_scales;

  KOMPAKT_DEVICE explicit RingShape(FormatId format) {
    const uint32_t all = DeviceFormats::Pick(format, [](auto f) {
      using F = decltype(f);
      return static_cast<uint32_t>(F::kTileBytes) | static_cast<uint32_t>(RingPairs(F::kTileBytes)) << 16 |
             (F::kSide == SideKind::kRowScale ? 1u << 31 : 0u);
    });
    tile_bytes = static_cast<int>(all & 0xffffu);
    pairs = static_cast<int>(all >> 16 & 0xffu);
    row_scales = (all >> 31) != 0;
  }
};

// Starts to bring a pair of a row tile's column tiles into `to`, by one warp. `tiles`: the row tile.
KOMPAKT_DEVICE void FetchPair(const uint8_t* tiles, int col_tiles, int pair, int tile_bytes, SharedPtr<uint8_t> to) {
  const uint8_t* const from = tiles + static_cast<int64_t>(pair) * (2 * tile_bytes);
  const int bytes = 2 * pair + 1 < col_tiles ? 2 * tile_bytes : tile_bytes;
  // Unrolled where the size is a constant.
  for (int at = 0; at < 2 * tile_bytes; at += 32 * 16) {
    const int mine = at + static_cast<int>(threadIdx.x % 32) * 16;
    if (mine < bytes) CopyAsync16(to + mine, from + mine);
  }
}

// The factor of a pair's tile, `side` being that of the matrix.
template <typename F>
KOMPAKT_DEVICE float BlockScaleOf([[maybe_unused]] const float* side, [[maybe_unused]] int row_tile,
                                  [[maybe_unused]] int col_tiles, [[maybe_unused]] int tile) {
  if constexpr (F::kSide != SideKind::kBlockScale) return 1;
  return LoadCached(side + row_tile / 8 * ((col_tiles + 3) / 4) + tile / 4);
}

// Where the pairs of a warp come from: the pairs first, first + stride, ... of one row tile.
struct PairsOfRowTile {
  using Place = int;

  const uint8_t* tiles;
  const float* side;
  int row_tile, col_tiles, first, stride;

  KOMPAKT_DEVICE PairsOfRowTile(const cuda::Matrix& w, int tile_bytes, int tile_row, int first_pair, int pair_stride)
      : tiles(w.data + static_cast<int64_t>(tile_row) * ((w.cols + 31) / 32) * tile_bytes),
        side(reinterpret_cast<const float*>(w.data + w.side_offset)),
        row_tile(tile_row),
        col_tiles((w.cols + 31) / 32),
        first(first_pair),
        stride(pair_stride) {}
  KOMPAKT_DEVICE Place Begin() const { return first; }
  KOMPAKT_DEVICE Place After(Place at) const { return at + stride; }
  KOMPAKT_DEVICE bool IsThere(Place at) const { return 2 * at < col_tiles; }
  KOMPAKT_DEVICE int Pair(Place at) const { return at; }
  KOMPAKT_DEVICE int Row(Place, int row) const { return row; }  // of the activations
  KOMPAKT_DEVICE void Fetch(Place at, int tile_bytes, SharedPtr<uint8_t> to) const {
    FetchPair(tiles, col_tiles, at, tile_bytes, to);
  }
  template <typename F>
  KOMPAKT_DEVICE float BlockScale(Place, int tile) const {
    return BlockScaleOf<F>(side, row_tile, col_tiles, tile);
  }
  // A pair has been added, and the one at `next` comes.
  template <typename F, int kTokens>
  KOMPAKT_DEVICE void Added(Place, Place, Sums<kTokens>&) {}
};

// A group of copies for each place, of none behind the last, so that their number tells which pairs are there. Moves
// `ahead` on.
template <typename Source>
KOMPAKT_DEVICE void FetchNext(const Source& source, typename Source::Place& ahead, int tile_bytes,
                              SharedPtr<uint8_t> to) {
  if (source.IsThere(ahead)) source.Fetch(ahead, tile_bytes, to);
  CommitAsync();
  ahead = source.After(ahead);
}

// Fills the ring with the first pairs; what comes next. Before the jump to the code of the format, which has to be
// fetched, too.
template <typename Source>
KOMPAKT_DEVICE typename Source::Place StartRing(const Source& source, const RingShape& shape, SharedPtr<uint8_t> ring) {
  typename Source::Place ahead = source.Begin();
  KOMPAKT_ROLLED
  for (int i = 0; i < shape.pairs; ++i) {
    FetchNext(source, ahead, shape.tile_bytes, ring + i * 2 * shape.tile_bytes);
  }
  return ahead;
}

// acc += the pairs of a source times x, by one warp. `ahead`: of StartRing.
template <typename F, int kTokens, bool kCodes, typename Source>
KOMPAKT_DEVICE void MultiplyPairs(Source& source, typename Source::Place ahead, const cuda::Activations& x,
                                  const TokenRows<kTokens>& tokens, SharedPtr<uint8_t> ring, Sums<kTokens>& acc) {
  using Place = typename Source::Place;
  using Inputs = std::conditional_t<kCodes, CodeInputs, FloatInputs>;
  constexpr int kPairs = RingPairs(F::kTileBytes), kPairBytes = 2 * F::kTileBytes;
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int segment = lane / 4 % 4, quad = lane % 4, tile_of_pair = lane / 16;
  const auto inside = [&](Place at) { return 2 * source.Pair(at) + tile_of_pair < source.col_tiles; };
  const auto load = [&](Place at, Inputs(&inputs)[kTokens]) {
    if (!source.IsThere(at) || !inside(at)) return;
    KOMPAKT_UNROLL
    for (int t = 0; t < kTokens; ++t) {
      inputs[t].template Load<F>(x, static_cast<uint32_t>(source.Row(at, tokens.row[t])),
                                 static_cast<uint32_t>(2 * source.Pair(at) + tile_of_pair), segment);
    }
  };
  // Codes of one token are asked for a pair ahead; for more there are no registers.
  constexpr bool kAhead = kTokens == 1 && kCodes;
  Inputs inputs[kTokens];
  Place at = source.Begin();
  if constexpr (kAhead) load(at, inputs);
  int slot = 0;
  KOMPAKT_ROLLED
  while (source.IsThere(at)) {
    const Place next = source.After(at);
    Inputs of_next[kTokens];
    load(kAhead ? next : at, kAhead ? of_next : inputs);
    const float block_scale =
        source.template BlockScale<F>(at, min(2 * source.Pair(at) + tile_of_pair, source.col_tiles - 1));
    WaitAsync<kPairs - 1>();
    __syncwarp();
    Fragment<F> fragment;
    if (inside(at)) fragment.Load(ring + (slot * kPairBytes + tile_of_pair * F::kTileBytes), segment, quad);
    __syncwarp();
    FetchNext(source, ahead, F::kTileBytes, ring + slot * kPairBytes);
    if (inside(at)) Add<F, kTokens>(fragment, segment, inputs, x.planes == 2, block_scale, acc);
    source.template Added<F, kTokens>(at, next, acc);
    if constexpr (kAhead) inputs[0] = of_next[0];
    at = next;
    slot = slot + 1 < kPairs ? slot + 1 : 0;
  }
}

// Sums of one warp: v[row][token] of a lane's four rows.
template <int kTokens>
struct RowSums {
  Sums<kTokens> v = {};
};

// v of each row of a quad, over all lanes that have it.
template <int kTokens>
KOMPAKT_DEVICE void AddLanes(Sums<kTokens>& v) {
  KOMPAKT_UNROLL
  for (int r = 0; r < 4; ++r) {
    KOMPAKT_UNROLL
    for (int t = 0; t < kTokens; ++t) {
      KOMPAKT_UNROLL
      for (int offset = 4; offset < 32; offset *= 2) v[r][t] += __shfl_xor_sync(kFullWarp, v[r][t], offset);
    }
  }
}

// body(F(), bool constant: by codes?) of what w is multiplied by.
template <typename Body>
KOMPAKT_DEVICE void WithOperands(const cuda::Matrix& w, const cuda::Activations& x, const Body& body) {
  DeviceFormats::With(w.format, [&](auto format) {
    if constexpr (decltype(format)::kInteger) {
      if (x.planes > 0) return body(format, std::true_type());
    }
    body(format, std::false_type());
  });
}

// Row tile `row_tile` of w, perhaps behind its last one, times the tokens, this warp's part of the columns: the pairs
// first, first + stride, ... All lanes of the same quad get the same. `meanwhile()` is called while the first tiles are
// on their way.
template <int kTokens, typename Meanwhile>
KOMPAKT_DEVICE RowSums<kTokens> MultiplyRowTile(const cuda::Matrix& w, int row_tile, int first, int stride,
                                                const cuda::Activations& x, const TokenRows<kTokens>& tokens,
                                                SharedPtr<uint8_t> ring, const Meanwhile& meanwhile) {
  RowSums<kTokens> result;
  if (row_tile * 16 >= w.rows) {
    meanwhile();
    return result;
  }
  Sums<kTokens>& sums = result.v;
  const int lane = static_cast<int>(threadIdx.x % 32);
  const auto factors = SharedCast<float>(ring + kPairsBytes);
  const RingShape shape(w.format);
  PairsOfRowTile pairs(w, shape.tile_bytes, row_tile, first, stride);
  // Part of the first group of copies.
  if (shape.row_scales && lane < 16) CopyAsync4(factors + lane, pairs.side + row_tile * 16 + lane);
  const int ahead = StartRing(pairs, shape, ring);
  meanwhile();
  WithOperands(w, x, [&](auto format, auto codes) {
    using F = decltype(format);
    MultiplyPairs<F, kTokens, codes.value>(pairs, ahead, x, tokens, ring, sums);
    if constexpr (F::kSide == SideKind::kRowScale) {
      WaitAsync<0>();  // where there was no pair
    } else {
      if (lane < 16) factors[lane] = RowFactor<F>(pairs.side, row_tile * 16 + lane);
    }
  });
  __syncwarp();
  KOMPAKT_UNROLL
  for (int r = 0; r < 4; ++r) {
    const float factor = factors[lane % 4 * 4 + r];
    KOMPAKT_UNROLL
    for (int t = 0; t < kTokens; ++t) sums[r][t] *= factor;
  }
  AddLanes<kTokens>(sums);
  return result;
}

}  // namespace kompakt::KOMPAKT_BACKEND
