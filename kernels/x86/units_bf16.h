// Units that hold two bf16, multiplied by vdpbf16ps. Included inside of a region, after the lanes of AVX-512.
#pragma once

constexpr int64_t kUnitValues = 2;

struct U {
  __m512bh v;
};
KOMPAKT_X86_INLINE U LoadUnits(const uint32_t* p) { return {reinterpret_cast<__m512bh>(_mm512_loadu_si512(p))}; }
KOMPAKT_X86_INLINE U BroadcastUnit(const uint32_t* p) {
  __m512i unit = _mm512_set1_epi32(static_cast<int32_t>(*p));
#if defined(__clang__)
  asm("" : "+v"(unit));  // clang 16 recurses without end over a broadcast that becomes bf16
#endif
  return {reinterpret_cast<__m512bh>(unit)};
}
KOMPAKT_X86_INLINE V MultiplyAdd(V sum, U b, U a) { return {_mm512_dpbf16_ps(sum.v, b.v, a.v)}; }

// Units whose low values are `low` and whose high values are `high`, lane by lane.
KOMPAKT_X86_INLINE __m512i Pairs(V low, V high) {
  const auto a = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(low.v));
  const auto b = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(high.v));
  return _mm512_or_si512(_mm512_maskz_cvtepu16_epi32(0xffff, a),
                         _mm512_maskz_slli_epi32(0xffff, _mm512_maskz_cvtepu16_epi32(0xffff, b), 16));
}
KOMPAKT_X86_INLINE V LowValues(__m512i units) {
  return {_mm512_castsi512_ps(_mm512_maskz_slli_epi32(0xffff, units, 16))};
}
KOMPAKT_X86_INLINE V HighValues(__m512i units) {
  return {_mm512_castsi512_ps(_mm512_and_si512(units, _mm512_set1_epi32(static_cast<int32_t>(0xffff0000u))))};
}

KOMPAKT_X86_INLINE void StoreColumnWeights(V first, V second, bool both, int64_t pair, uint32_t* weights, V& sum) {
  const __m512i units = Pairs(first, both ? second : Zero());
  _mm512_storeu_si512(weights + pair * kLanes, units);
  sum = Add(sum, LowValues(units));
  sum = Add(sum, HighValues(units));
}
KOMPAKT_X86_INLINE void StoreRowWeights(V first, V second, int64_t pair, uint32_t* weights, V& sum) {
  const auto units = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(second.v, first.v));
  _mm512_storeu_si512(weights + pair * kLanes, units);
  sum = Add(sum, Add(LowValues(units), HighValues(units)));
}

inline void ToUnits(const float* x, int64_t n, uint32_t* units) {
  int64_t i = 0;
  for (; i + 32 <= n; i += 32) {
    const auto both =
        reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(_mm512_loadu_ps(x + i + 16), _mm512_loadu_ps(x + i)));
    _mm512_storeu_si512(units + i / 2, both);
  }
  for (; i < n; i += 2) {
    const uint32_t low = F32ToBf16(x[i]);
    const uint32_t high = i + 1 < n ? F32ToBf16(x[i + 1]) : 0;
    units[i / 2] = low | high << 16;
  }
}

inline void RowsToUnits(const float* c, int64_t c_row, int64_t n_rows, int64_t tiles, uint32_t* units,
                        int64_t units_row) {
  for (int64_t i = 0; i < n_rows; i += 2) {
    for (int64_t j = 0; j < tiles * kLanes; j += kLanes) {
      const V low = Load(c + i * c_row + j);
      const V high = i + 1 < n_rows ? Load(c + (i + 1) * c_row + j) : Zero();
      _mm512_storeu_si512(units + i / 2 * units_row + j, Pairs(low, high));
    }
  }
}

// Two rows of 32 values interleave to two vectors of units, quarter by quarter: the low halves of quarters have columns
// 0-3, 8-11, 16-19 and 24-27, the high ones the others.
template <bool kHigh>
KOMPAKT_X86_INLINE U Interleave(const uint16_t* b, int64_t b_k, bool both) {
  const __m512i first = _mm512_loadu_si512(b);
  const __m512i second = both ? _mm512_loadu_si512(b + b_k) : _mm512_setzero_si512();
  return {
      reinterpret_cast<__m512bh>(kHigh ? _mm512_unpackhi_epi16(first, second) : _mm512_unpacklo_epi16(first, second))};
}

// All rows at once: interleaving takes one of the units that multiply.
template <bool kHigh>
KOMPAKT_X86_INLINE void MultiplyRowsBlock(const RowProduct& p, int64_t row, int64_t chunk) {
  V sum[kLanes];
  float* const c = p.c + row * p.c_row + chunk * 2 * kLanes + (kHigh ? kLanes : 0);
  const uint32_t* const a = p.a + row * p.a_row;
  const uint16_t* const b = static_cast<const uint16_t*>(p.b) + chunk * 2 * kLanes;
  const uint8_t* const next =
      p.next == nullptr ? nullptr : p.next + (2 * chunk + (kHigh ? 1 : 0)) * kLanes * kLanes * 4;
  for (int i = 0; i < kLanes; ++i) sum[i] = Load(c + i * p.c_row);
  const int64_t pairs = p.n_b / 2;
  for (int64_t k = 0; k < pairs; ++k) {
    if (next != nullptr && k % 2 == 0) __builtin_prefetch(next + k * 32, 0, 2);
    const U value = Interleave<kHigh>(b + 2 * k * p.b_k, p.b_k, true);
    for (int i = 0; i < kLanes; ++i) sum[i] = MultiplyAdd(sum[i], value, BroadcastUnit(a + i * p.a_row + k * p.a_k));
  }
  if (p.n_b % 2 != 0) {
    const U value = Interleave<kHigh>(b + 2 * pairs * p.b_k, p.b_k, false);
    for (int i = 0; i < kLanes; ++i) {
      sum[i] = MultiplyAdd(sum[i], value, BroadcastUnit(a + i * p.a_row + pairs * p.a_k));
    }
  }
  for (int i = 0; i < kLanes; ++i) Store(c + i * p.c_row, sum[i]);
}

inline void MultiplyRows(const RowProduct& p) {
  for (int64_t chunk = 0; chunk < p.chunks; ++chunk) {
    for (int64_t row = 0; row < p.rows; row += kLanes) {
      MultiplyRowsBlock<false>(p, row, chunk);
      MultiplyRowsBlock<true>(p, row, chunk);
    }
  }
}

inline void OrderColumns(float* c, int64_t c_row, int64_t rows, int64_t chunks) {
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      float* const at = c + i * c_row + chunk * 2 * kLanes;
      float mixed[2 * kLanes];
      std::memcpy(mixed, at, sizeof(mixed));
      for (int quarter = 0; quarter < 4; ++quarter) {
        std::memcpy(at + 8 * quarter, mixed + 4 * quarter, 16);
        std::memcpy(at + 8 * quarter + 4, mixed + kLanes + 4 * quarter, 16);
      }
    }
  }
}
