// The functions of quantized::FloatIsa in terms of sixteen lanes. Included inside of a region, after the lanes and
//     kAtOnce      how many tokens of sums the registers hold beside weights that are being made
//     kMadeAtOnce  and beside those that are ready; 0: a block of tokens is taken at once anyhow
#pragma once

// A line is 64 bytes of a tile, kColumns columns of 16 rows. Columns() gives them as they are multiplied; Look() keeps
// in `seen` what Damaged() wants to know of codes that Columns() does not understand.
struct F32Weights {
  static constexpr int kColumns = 1;
  static constexpr bool kBlockScales = false;
  static constexpr bool kLooks = false;
  KOMPAKT_X86_INLINE static void Columns(I line, V* w) { w[0] = AsFloat(line); }
};

struct Bf16Weights {
  static constexpr int kColumns = 2;
  static constexpr bool kBlockScales = false;
  static constexpr bool kLooks = false;
  KOMPAKT_X86_INLINE static void Columns(I line, V* w) {
    w[0] = AsFloat(ShiftLeft<16>(line));
    w[1] = AsFloat(And(line, SetInt(static_cast<int32_t>(0xffff0000u))));
  }
};

struct F16Weights {
  static constexpr int kColumns = 2;
  static constexpr bool kBlockScales = false;
  static constexpr bool kLooks = true;
  KOMPAKT_X86_INLINE static void Columns(I line, V* w) {
    const I fields = SetInt(static_cast<int32_t>(0x8fffe000u));
    w[0] = AsFloat(And(ShiftRightSigned<3>(ShiftLeft<16>(line)), fields));
    w[1] = AsFloat(And(ShiftRightSigned<3>(line), fields));
  }
  // The largest magnitude: from 0x7c00 on it is infinity or NaN.
  KOMPAKT_X86_INLINE static I Look(I line, I seen) { return MaxWords(seen, And(line, SetInt(0x7fff7fff))); }
  KOMPAKT_X86_INLINE static bool Damaged(uint32_t seen) { return (seen & 0xffff) >= 0x7c00 || seen >> 16 >= 0x7c00; }
};

struct Fp8Weights {
  static constexpr int kColumns = 4;
  static constexpr bool kBlockScales = true;
  static constexpr bool kLooks = true;
  // Two columns become two bf16 in each word at once.
  KOMPAKT_X86_INLINE static void Columns(I line, V* w) {
    const I fields = SetInt(static_cast<int32_t>(0x87f087f0u));
    const I even = And(ShiftRightSigned16<4>(ShiftLeft16<8>(line)), fields);
    const I odd = And(ShiftRightSigned16<4>(line), fields);
    const I high = SetInt(static_cast<int32_t>(0xffff0000u));
    w[0] = AsFloat(ShiftLeft<16>(even));
    w[1] = AsFloat(ShiftLeft<16>(odd));
    w[2] = AsFloat(And(even, high));
    w[3] = AsFloat(And(odd, high));
  }
  // The largest magnitude: 0x7f is NaN.
  KOMPAKT_X86_INLINE static I Look(I line, I seen) { return MaxBytes(seen, And(line, SetInt(0x7f7f7f7f))); }
  KOMPAKT_X86_INLINE static bool Damaged(uint32_t seen) { return ((seen + 0x01010101u) & 0x80808080u) != 0; }
};

constexpr int64_t kLineBytes = 64;

// NaN for the rows of c whose weights `seen` says are damaged.
template <class Weights>
inline void Mark(I seen, float* c, int64_t c_stride, int64_t tokens) {
  uint32_t words[kTileRows];
  StoreInts(words, seen);
  for (int64_t r = 0; r < kTileRows; ++r) {
    if (!Weights::Damaged(words[r])) continue;
    for (int64_t t = 0; t < tokens; ++t) c[t * c_stride + r] = __builtin_nanf("");
  }
}

// Tokens [token, token + kTokens) times row tiles [tile, tile + kTiles) of p.
template <class Weights, int kTokens, int kTiles>
inline void MultiplyFloats(const FloatProduct& p, int64_t token, int64_t tile) {
  constexpr int kColumns = Weights::kColumns;
  constexpr bool kScales = Weights::kBlockScales;
  constexpr int64_t kBlockTiles = kFp8Block / kTileCols;
  const uint8_t* at[kTiles];
  const float* x[kTokens];
  const float* scales[kTiles];
  for (int i = 0; i < kTiles; ++i) at[i] = p.w->tile(p.first + tile + i, p.first_col_tile);
  for (int i = 0; i < kTiles; ++i) scales[i] = p.w->side(p.first + tile + i, p.first_col_tile);
  for (int t = 0; t < kTokens; ++t) x[t] = p.rows[token + t];
  float* const c = p.c + token * p.c_stride + tile * kTileRows;
  V sum[kTokens][kTiles];
  V total[kTokens][kTiles];  // of the blocks before
  I seen[kTiles];
#pragma GCC unroll 4
  for (int i = 0; i < kTiles; ++i) {
    seen[i] = SetInt(0);
#pragma GCC unroll 12
    for (int t = 0; t < kTokens; ++t) {
      const V before = p.first_col_tile == 0 ? Zero() : Load(c + t * p.c_stride + i * kTileRows);
      sum[t][i] = kScales ? Zero() : before;
      total[t][i] = before;
    }
  }
  const int64_t end = p.first_col_tile + p.col_tiles;
  for (int64_t col_tile = p.first_col_tile; col_tile < end; ++col_tile) {
    for (int64_t k = col_tile * kTileCols; k < (col_tile + 1) * kTileCols; k += kColumns) {
#pragma GCC unroll 4
      for (int i = 0; i < kTiles; ++i) {
        __builtin_prefetch(at[i] + kAheadBytes, 0, 3);
        const I line = LoadInts(at[i]);
        at[i] += kLineBytes;
        if constexpr (Weights::kLooks) seen[i] = Weights::Look(line, seen[i]);
        V w[kColumns];
        Weights::Columns(line, w);
#pragma GCC unroll 4
        for (int n = 0; n < kColumns; ++n) {
#pragma GCC unroll 12
          for (int t = 0; t < kTokens; ++t) sum[t][i] = Fma(w[n], Set(x[t][k + n]), sum[t][i]);
        }
      }
    }
    if (!kScales || (col_tile % kBlockTiles != kBlockTiles - 1 && col_tile + 1 != end)) continue;
#pragma GCC unroll 4
    for (int i = 0; i < kTiles; ++i) {
      const V scale = Set(*scales[i]++);
#pragma GCC unroll 12
      for (int t = 0; t < kTokens; ++t) {
        total[t][i] = Fma(sum[t][i], scale, total[t][i]);
        sum[t][i] = Zero();
      }
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < kTiles; ++i) {
#pragma GCC unroll 12
    for (int t = 0; t < kTokens; ++t) {
      Store(c + t * p.c_stride + i * kTileRows, kScales ? total[t][i] : sum[t][i]);
    }
    if constexpr (Weights::kLooks) Mark<Weights>(seen[i], c + i * kTileRows, p.c_stride, kTokens);
  }
}

// Few tokens take several row tiles at once: a chain of dependent additions would leave the adders idle.
template <class Weights, int kTokens>
inline void MultiplyTiles(const FloatProduct& p, int64_t token) {
  constexpr int kTiles = kTokens == 1 ? 4 : kTokens <= 3 ? 2 : 1;
  int64_t tile = 0;
  for (; tile + kTiles <= p.tiles; tile += kTiles) MultiplyFloats<Weights, kTokens, kTiles>(p, token, tile);
  if constexpr (kTiles > 1) {
    for (; tile < p.tiles; ++tile) MultiplyFloats<Weights, kTokens, 1>(p, token, tile);
  }
}

template <class Weights, int kTokens = kAtOnce>
inline void MultiplyPiece(const FloatProduct& p, int64_t token, int64_t tokens) {
  if (tokens == kTokens) return MultiplyTiles<Weights, kTokens>(p, token);
  if constexpr (kTokens > 1) MultiplyPiece<Weights, kTokens - 1>(p, token, tokens);
}

// body(token, tokens) for pieces of at most kMost tokens and nearly equal size.
template <int kMost, typename Body>
KOMPAKT_X86_INLINE void InPieces(int64_t n, const Body& body) {
  const int64_t pieces = (n + kMost - 1) / kMost;
  int64_t token = 0;
  for (int64_t piece = 0; piece < pieces; ++piece) {
    const int64_t tokens = (n - token) / (pieces - piece);
    body(token, tokens);
    token += tokens;
  }
}

// ---- where a block of tokens takes several pieces: a weight is made once for all of them ----

// Columns of a row tile as floats, as many as share a scale.
struct Columns {
  float w[kFp8Block][kTileRows];
  int64_t n;
};

template <class Weights>
inline void Make(const uint8_t* at, int64_t n, Columns& columns, I& seen) {
  for (int64_t k = 0; k < n; k += Weights::kColumns, at += kLineBytes) {
    __builtin_prefetch(at + kAheadBytes, 0, 3);
    const I line = LoadInts(at);
    if constexpr (Weights::kLooks) seen = Weights::Look(line, seen);
    V w[Weights::kColumns];
    Weights::Columns(line, w);
    for (int i = 0; i < Weights::kColumns; ++i) Store(columns.w[k + i], w[i]);
  }
  columns.n = n;
}

// `scale`: of the columns; null: c is one chain. Unless `first`, c goes on from what it holds.
template <int kTokens>
inline void MultiplyColumns(const Columns& columns, const float* const* x, const float* scale, bool first, float* c,
                            int64_t c_stride) {
  V sum[kTokens];
  for (int t = 0; t < kTokens; ++t) sum[t] = first || scale != nullptr ? Zero() : Load(c + t * c_stride);
  for (int64_t k = 0; k < columns.n; ++k) {
    const V w = Load(columns.w[k]);
#pragma GCC unroll 12
    for (int t = 0; t < kTokens; ++t) sum[t] = Fma(w, Set(x[t][k]), sum[t]);
  }
  for (int t = 0; t < kTokens; ++t) {
    float* const to = c + t * c_stride;
    if (scale != nullptr) sum[t] = Fma(sum[t], Set(*scale), first ? Zero() : Load(to));
    Store(to, sum[t]);
  }
}

template <int kTokens = kMadeAtOnce>
inline void MultiplyColumnsPiece(const Columns& columns, const float* const* x, int64_t tokens, const float* scale,
                                 bool first, float* c, int64_t c_stride) {
  if (tokens == kTokens) return MultiplyColumns<kTokens>(columns, x, scale, first, c, c_stride);
  if constexpr (kTokens > 1) MultiplyColumnsPiece<kTokens - 1>(columns, x, tokens, scale, first, c, c_stride);
}

template <class Weights>
inline void MultiplyMade(const FloatProduct& p, int64_t tile) {
  constexpr int64_t kTiles = kFp8Block / kTileCols;
  const int64_t end = p.first_col_tile + p.col_tiles;
  float* const c = p.c + tile * kTileRows;
  Columns columns;
  I seen = SetInt(0);
  for (int64_t col_tile = p.first_col_tile; col_tile < end; col_tile += kTiles) {
    const int64_t tiles = end - col_tile < kTiles ? end - col_tile : kTiles;
    Make<Weights>(p.w->tile(p.first + tile, col_tile), tiles * kTileCols, columns, seen);
    const float* const scale = Weights::kBlockScales ? p.w->side(p.first + tile, col_tile) : nullptr;
    const float* x[quantized::kFloatTokens];
    for (int64_t t = 0; t < p.tokens; ++t) x[t] = p.rows[t] + col_tile * kTileCols;
    InPieces<kMadeAtOnce>(p.tokens, [&](int64_t token, int64_t tokens) {
      MultiplyColumnsPiece(columns, x + token, tokens, scale, col_tile == 0, c + token * p.c_stride, p.c_stride);
    });
  }
  if constexpr (Weights::kLooks) Mark<Weights>(seen, c, p.c_stride, p.tokens);
}

template <class Weights>
inline void Product(const FloatProduct& p) {
  // Making bf16 takes less than storing it would.
  if constexpr (kMadeAtOnce > 0 && Weights::kLooks) {
    if (p.tokens > kAtOnce) {
      for (int64_t tile = 0; tile < p.tiles; ++tile) MultiplyMade<Weights>(p, tile);
      return;
    }
  }
  InPieces<kAtOnce>(p.tokens, [&](int64_t token, int64_t tokens) { MultiplyPiece<Weights>(p, token, tokens); });
}

// Bits of F32 without the sign order as the numbers do, infinity and NaN last.
inline void Raise(const float* x, int64_t n, int64_t n_padded, float* y, float* scale) {
  constexpr uint32_t kInfinity = 0x7f800000;
  constexpr int kExponent = 30, kMost = 126, kBias = 127;
  uint32_t most = 0;
  for (int64_t i = 0; i < n; ++i) {
    uint32_t bits;
    __builtin_memcpy(&bits, x + i, sizeof(bits));
    bits &= 0x7fffffff;
    most = bits > most ? bits : most;
  }
  int power = most == 0 || most >= kInfinity ? 0 : kExponent + kBias - static_cast<int>(most >> 23);
  power = power > kMost ? kMost : power;
  const uint32_t up_bits = static_cast<uint32_t>(kBias + power) << 23;
  const uint32_t down_bits = static_cast<uint32_t>(kBias - power) << 23;
  float up;
  __builtin_memcpy(&up, &up_bits, sizeof(up));
  __builtin_memcpy(scale, &down_bits, sizeof(down_bits));
  for (int64_t i = 0; i < n; ++i) y[i] = x[i] * up;
  for (int64_t i = n; i < n_padded; ++i) y[i] = 0;
}

constexpr FloatIsa kFloatLoops = [] {
  FloatIsa isa{};
  isa.raise = Raise;
  isa.product[static_cast<size_t>(FormatId::kF32)] = Product<F32Weights>;
  isa.product[static_cast<size_t>(FormatId::kF16)] = Product<F16Weights>;
  isa.product[static_cast<size_t>(FormatId::kBf16)] = Product<Bf16Weights>;
  isa.product[static_cast<size_t>(FormatId::kFp8B128)] = Product<Fp8Weights>;
  return isa;
}();
