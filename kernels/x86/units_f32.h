// Units that hold one F32. Included inside of a region, after the lanes.
#pragma once

constexpr int64_t kUnitValues = 1;

using U = V;
KOMPAKT_X86_INLINE U LoadUnits(const uint32_t* p) { return Load(reinterpret_cast<const float*>(p)); }
KOMPAKT_X86_INLINE U BroadcastUnit(const uint32_t* p) { return Set(*reinterpret_cast<const float*>(p)); }
KOMPAKT_X86_INLINE V MultiplyAdd(V sum, U b, U a) { return Fma(b, a, sum); }

// Weights of rows 2 j and 2 j + 1 (that of the second row counts only where `both`); what they are worth is added to
// `sum`.
KOMPAKT_X86_INLINE void StoreColumnWeights(V first, V second, bool both, int64_t pair, uint32_t* weights, V& sum) {
  auto* const out = reinterpret_cast<float*>(weights) + pair * 2 * kLanes;
  Store(out, first);
  sum = Add(sum, first);
  if (!both) return;
  Store(out + kLanes, second);
  sum = Add(sum, second);
}
// Weights of columns [32 pair, 32 pair + 32).
KOMPAKT_X86_INLINE void StoreRowWeights(V first, V second, int64_t pair, uint32_t* weights, V& sum) {
  auto* const out = reinterpret_cast<float*>(weights) + pair * 2 * kLanes;
  Store(out, first);
  Store(out + kLanes, second);
  sum = Add(sum, Add(first, second));
}

inline void ToUnits(const float* x, int64_t n, uint32_t* units) { std::memcpy(units, x, static_cast<size_t>(n) * 4); }

inline void RowsToUnits(const float* c, int64_t c_row, int64_t n_rows, int64_t tiles, uint32_t* units,
                        int64_t units_row) {
  for (int64_t i = 0; i < n_rows; ++i) {
    std::memcpy(units + i * units_row, c + i * c_row, static_cast<size_t>(tiles * kLanes) * 4);
  }
}

template <int kRows>
KOMPAKT_X86_INLINE void MultiplyRowsBlock(const RowProduct& p, int64_t row, int64_t tile) {
  V sum[kRows];
  float* const c = p.c + row * p.c_row + tile * kLanes;
  const uint32_t* const a = p.a + row * p.a_row;
  const float* const b = static_cast<const float*>(p.b) + tile * kLanes;
  for (int i = 0; i < kRows; ++i) sum[i] = Load(c + i * p.c_row);
  for (int64_t k = 0; k < p.n_b; ++k) {
    const V value = Load(b + k * p.b_k);
    for (int i = 0; i < kRows; ++i) sum[i] = Fma(value, BroadcastUnit(a + i * p.a_row + k * p.a_k), sum[i]);
  }
  for (int i = 0; i < kRows; ++i) Store(c + i * p.c_row, sum[i]);
}

inline void MultiplyRows(const RowProduct& p) {
  for (int64_t tile = 0; tile < 2 * p.chunks; ++tile) {
    for (int64_t row = 0; row < p.rows; row += kRowsAtOnce) MultiplyRowsBlock<kRowsAtOnce>(p, row, tile);
  }
}

inline void OrderColumns(float* /*c*/, int64_t /*c_row*/, int64_t /*rows*/, int64_t /*chunks*/) {}
