// The functions of AttentionLoops in terms of sixteen lanes (lanes_*.h) and units (units_*.h). Included inside of a
// region, after both.
#pragma once

// Its lanes added pairwise.
KOMPAKT_X86_INLINE float Sum(V a) {
  float lanes[16];
  Store(lanes, a);
  for (int width = 8; width >= 1; width /= 2) {
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  }
  return lanes[0];
}
KOMPAKT_X86_INLINE float Largest(V a) {
  float lanes[16];
  Store(lanes, a);
  for (int width = 8; width >= 1; width /= 2) {
    for (int i = 0; i < width; ++i) lanes[i] = lanes[i] > lanes[i + width] ? lanes[i] : lanes[i + width];
  }
  return lanes[0];
}

template <int kRows, int kTiles, bool kFetch>
KOMPAKT_X86_INLINE void MultiplyBlock(const UnitProduct& p, int64_t row, int64_t tile) {
  V sum[kRows][kTiles];
  float* const c = p.c + row * p.c_row + tile * kLanes;
  const uint32_t* const a = p.a + row * p.a_row;
  const uint32_t* const b = p.b + tile * p.b_tile;
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kTiles; ++j) sum[i][j] = p.accumulate ? Load(c + i * p.c_row + j * kLanes) : Zero();
  }
  const uint8_t* const next = kFetch ? p.next + row * p.k * 2 : nullptr;
  for (int64_t k = 0; k < p.k; ++k) {
    if (kFetch && k * kRows % 32 == 0) __builtin_prefetch(next + k * kRows * 2, 0, 2);
    U column[kTiles];
    for (int j = 0; j < kTiles; ++j) column[j] = LoadUnits(b + j * p.b_tile + k * p.b_k);
    for (int i = 0; i < kRows; ++i) {
      const U value = BroadcastUnit(a + i * p.a_row + k * p.a_k);
      for (int j = 0; j < kTiles; ++j) sum[i][j] = MultiplyAdd(sum[i][j], column[j], value);
    }
  }
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kTiles; ++j) Store(c + i * p.c_row + j * kLanes, sum[i][j]);
  }
}

template <int kRows>
KOMPAKT_X86_INLINE void MultiplyTiles(const UnitProduct& p, int64_t row) {
  int64_t tile = 0;
  for (; tile + kTilesAtOnce <= p.tiles; tile += kTilesAtOnce) {
    MultiplyBlock<kRows, kTilesAtOnce, false>(p, row, tile);
  }
  if constexpr (kTilesAtOnce > 2) {
    for (; tile + 2 <= p.tiles; tile += 2) MultiplyBlock<kRows, 2, false>(p, row, tile);
  }
  for (; tile < p.tiles; ++tile) MultiplyBlock<kRows, 1, false>(p, row, tile);
}

inline void Multiply(const UnitProduct& p) {
  int64_t row = 0;
  if (p.next != nullptr && p.tiles == 1) {
    for (; row + kRowsAtOnce <= p.rows; row += kRowsAtOnce) MultiplyBlock<kRowsAtOnce, 1, true>(p, row, 0);
  }
  for (; row + kRowsAtOnce <= p.rows; row += kRowsAtOnce) MultiplyTiles<kRowsAtOnce>(p, row);
  for (; row + 2 <= p.rows; row += 2) MultiplyTiles<2>(p, row);
  for (; row < p.rows; ++row) MultiplyTiles<1>(p, row);
}

inline void TransposeUnits(const uint32_t* a, int64_t a_row, int64_t rows, int64_t cols, uint32_t* b) {
  int64_t j = 0;
  for (; j + 16 <= cols; j += 16) Transpose16(a + j, a_row, rows, b + j * kLanes);
  for (; j < cols; ++j) {
    for (int64_t i = 0; i < kLanes; ++i) b[j * kLanes + i] = i < rows ? a[i * a_row + j] : 0;
  }
}

// 2^x for x <= 0 within 2 ulp; 0 below -149 or so. NaN stays NaN.
KOMPAKT_X86_INLINE V Exp2(V x) {
  const V bounded = Max(Set(-200.0f), x);  // in this order a NaN is kept
  const V n = Round(bounded);
  const V f = Sub(bounded, n);
  V y = Fma(Set(1.52527338e-5f), f, Set(1.54035304e-4f));
  y = Fma(y, f, Set(1.33335581e-3f));
  y = Fma(y, f, Set(9.61812911e-3f));
  y = Fma(y, f, Set(5.55041087e-2f));
  y = Fma(y, f, Set(2.40226507e-1f));
  y = Fma(y, f, Set(6.93147181e-1f));
  y = Fma(y, f, Set(1.0f));
  return Scale2(y, n);
}

inline float Exp2Of(float x) {
  float lanes[kLanes];
  Store(lanes, Exp2(Set(x)));
  return lanes[0];
}

inline void SoftmaxColumns(float* scores, int64_t n, const int32_t* seen, float* largest, float* sum, float* keep,
                           uint32_t* weights) {
  int32_t least = seen[0];
  for (int64_t i = 1; i < kLanes; ++i) least = seen[i] < least ? seen[i] : least;
  const V before = Load(largest);
  V most = before;
  if (least >= n) {
    for (int64_t j = 0; j < n; ++j) most = Max(Load(scores + j * kLanes), most);
  } else {
    const I limit = LoadInts(seen);
    for (int64_t j = 0; j < n; ++j) {
      const V score = Below(SetInt(static_cast<int32_t>(j)), limit, Load(scores + j * kLanes), Set(-__builtin_inff()));
      Store(scores + j * kLanes, score);
      most = Max(score, most);
    }
  }
  const V kept = Exp2(Sub(before, most));
  V total = Zero();
  for (int64_t j = 0; j < n; j += 2) {
    const bool both = j + 1 < n;
    const V first = Exp2(Sub(Load(scores + j * kLanes), most));
    const V second = both ? Exp2(Sub(Load(scores + (j + 1) * kLanes), most)) : Zero();
    StoreColumnWeights(first, second, both, j / 2, weights, total);
  }
  Store(largest, most);
  Store(keep, kept);
  Store(sum, Fma(Load(sum), kept, total));
}

inline float SoftmaxRow(float* scores, int64_t n, int64_t seen, float* largest, float* sum, uint32_t* weights) {
  V most = Set(*largest);
  const I limit = SetInt(static_cast<int32_t>(seen));
  for (int64_t j = 0; j < n; j += kLanes) {
    V score = Load(scores + j);
    if (j + kLanes > seen) {
      alignas(64) int32_t lane[kLanes];
      for (int64_t i = 0; i < kLanes; ++i) lane[i] = static_cast<int32_t>(j + i);
      score = Below(LoadInts(lane), limit, score, Set(-__builtin_inff()));
      Store(scores + j, score);
    }
    most = Max(score, most);
  }
  const float m = Largest(most);
  const float keep = Exp2Of(*largest - m);
  V total = Zero();
  for (int64_t j = 0; j < n; j += 2 * kLanes) {
    const V first = Exp2(Sub(Load(scores + j), Set(m)));
    const V second = Exp2(Sub(Load(scores + j + kLanes), Set(m)));
    StoreRowWeights(first, second, j / (2 * kLanes), weights, total);
  }
  *largest = m;
  *sum = *sum * keep + Sum(total);
  return keep;
}

inline void ScaleBy(float* c, int64_t n, float factor) {
  for (int64_t i = 0; i < n; i += kLanes) Store(c + i, Mul(Load(c + i), Set(factor)));
}

inline void AddScaled(float* c, const float* x, int64_t n, float factor) {
  for (int64_t i = 0; i < n; i += kLanes) Store(c + i, Fma(Load(x + i), Set(factor), Load(c + i)));
}
