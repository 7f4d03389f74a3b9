// Products of one vector with rows of a packed matrix in F32, in both directions, straight from the tiles. Included
// inside of a region, after the lanes.
#pragma once

// w.side(row_tile, ...) of a format with a scale for every row: a call for every tile would have all sums stored.
KOMPAKT_X86_INLINE const float* RowScales(const MatrixView& w, int64_t row_tile) {
  return reinterpret_cast<const float*>(w.data + w.layout.side_offset) + row_tile * kTileRows;
}

// A decoder gives four columns of a tile at a time, without the scales that hold for whole columns of it, 16 rows to a
// vector; `Scale` has what is missing, row by row.
struct Q8Columns {
  static constexpr bool kScaled = true;
  const uint8_t* tile;
  V scale;

  KOMPAKT_X86_INLINE void Begin(const MatrixView& w, int64_t row_tile, int64_t col_tile) {
    tile = w.tile(row_tile, col_tile);
    scale = Mul(Load(RowScales(w, row_tile)), LoadBytes(tile + offsetof(Q8G32Tile, groups)));
  }
  KOMPAKT_X86_INLINE void Columns(int64_t four, V* out) const {
    // Flipping the highest bit makes code - 128 of a code.
    const I word = Xor(LoadInts(tile + four * 64), SetInt(static_cast<int32_t>(0x80808080u)));
    out[0] = ToFloat(ShiftRightSigned<24>(ShiftLeft<24>(word)));
    out[1] = ToFloat(ShiftRightSigned<24>(ShiftLeft<16>(word)));
    out[2] = ToFloat(ShiftRightSigned<24>(ShiftLeft<8>(word)));
    out[3] = ToFloat(ShiftRightSigned<24>(word));
  }
};

struct Bf16Columns {
  static constexpr bool kScaled = false;
  const uint8_t* tile;
  V scale;

  KOMPAKT_X86_INLINE void Begin(const MatrixView& w, int64_t row_tile, int64_t col_tile) {
    tile = w.tile(row_tile, col_tile);
  }
  KOMPAKT_X86_INLINE void Columns(int64_t four, V* out) const {
    const I high = SetInt(static_cast<int32_t>(0xffff0000u));
    for (int i = 0; i < 2; ++i) {
      const I word = LoadInts(tile + four * 128 + i * 64);
      out[2 * i] = AsFloat(ShiftLeft<16>(word));
      out[2 * i + 1] = AsFloat(And(word, high));
    }
  }
};

struct Fp8Columns {
  static constexpr bool kScaled = true;
  const uint8_t* tile;
  V scale;

  KOMPAKT_X86_INLINE void Begin(const MatrixView& w, int64_t row_tile, int64_t col_tile) {
    tile = w.tile(row_tile, col_tile);
    scale = Set(*w.side(row_tile, col_tile));
  }
  // Exponent and mantissa, put where those of an F32 are, lack a factor of 2^120; so do subnormal ones.
  template <int kUp>
  KOMPAKT_X86_INLINE static V Value(I word) {
    const I code = ShiftLeft<kUp>(word);
    const I magnitude = And(ShiftRightSigned<4>(code), SetInt(0x07f00000));
    const V value = Mul(AsFloat(Or(magnitude, And(code, SetInt(INT32_MIN)))), Set(0x1p120f));
    return Equal(magnitude, SetInt(0x07f00000), Set(__builtin_nanf("")), value);
  }
  KOMPAKT_X86_INLINE void Columns(int64_t four, V* out) const {
    const I word = LoadInts(tile + four * 64);
    out[0] = Value<24>(word);
    out[1] = Value<16>(word);
    out[2] = Value<8>(word);
    out[3] = Value<0>(word);
  }
};

// Any other format, through a panel.
struct PanelColumns {
  static constexpr bool kScaled = false;
  alignas(64) float panel[kTileElements];
  V scale;

  void Begin(const MatrixView& w, int64_t row_tile, int64_t col_tile) {
    portable::DecodePanel(portable::BestPanelIsa(), *w.format, w.tile(row_tile, col_tile), w.side(row_tile, col_tile),
                          panel);
  }
  KOMPAKT_X86_INLINE void Columns(int64_t four, V* out) const {
    for (int i = 0; i < 4; ++i) out[i] = Load(panel + (4 * four + i) * kLanes);
  }
};

template <typename Decoder>
inline void AbsorbWith(const MatrixView& w, int64_t row_begin, int64_t rows, const float* x, const uint8_t* next,
                       float* lanes, float* y) {
  // x where its rows lie in their tiles, and zero in rows of the same tiles that belong to others.
  const int64_t first = row_begin / kTileRows;
  const int64_t tiles = CeilDiv(row_begin + rows, kTileRows) - first;
  const int64_t skip = row_begin - first * kTileRows;
  for (int64_t i = 0; i < tiles * kTileRows; ++i) lanes[i] = i >= skip && i < skip + rows ? x[i - skip] : 0.0f;
  const auto half_bytes = static_cast<int64_t>(w.format->tile_bytes) / 2;
  Decoder decoder;
  for (int64_t col_tile = 0; col_tile < w.layout.col_tiles; ++col_tile) {
    for (int64_t half = 0; half < 2; ++half) {
      V sum[kLanes];
      for (int i = 0; i < kLanes; ++i) sum[i] = Zero();
      for (int64_t tile = 0; tile < tiles; ++tile) {
        // Tiles of the same columns lie far from one another, which is no stream that the processor would follow.
        for (int64_t b = 0; next != nullptr && b < half_bytes; b += 64) __builtin_prefetch(next + b, 0, 2);
        if (next != nullptr) next += half_bytes;
        decoder.Begin(w, first + tile, col_tile);
        V value = Load(lanes + tile * kTileRows);
        if constexpr (Decoder::kScaled) value = Mul(value, decoder.scale);
        for (int four = 0; four < 4; ++four) {
          V column[4];
          decoder.Columns(4 * half + four, column);
          for (int i = 0; i < 4; ++i) sum[4 * four + i] = Fma(column[i], value, sum[4 * four + i]);
        }
      }
      Store(y + col_tile * kTileCols + half * kLanes, SumEach(sum));
    }
  }
}

template <typename Decoder>
inline void ProjectWith(const MatrixView& w, int64_t row_begin, int64_t rows, const float* x, float* lanes, float* y) {
  const int64_t first = row_begin / kTileRows;
  const int64_t tiles = CeilDiv(row_begin + rows, kTileRows) - first;
  Decoder decoder;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    V total = Zero();
    for (int64_t col_tile = 0; col_tile < w.layout.col_tiles; ++col_tile) {
      decoder.Begin(w, first + tile, col_tile);
      const float* const values = x + col_tile * kTileCols;
      V sum[4] = {Zero(), Zero(), Zero(), Zero()};
      for (int64_t four = 0; four < kTileCols / 4; ++four) {
        V column[4];
        decoder.Columns(four, column);
        for (int i = 0; i < 4; ++i) sum[i] = Fma(column[i], Set(values[4 * four + i]), sum[i]);
      }
      const V of_tile = Add(Add(sum[0], sum[1]), Add(sum[2], sum[3]));
      if constexpr (Decoder::kScaled) {
        total = Fma(of_tile, decoder.scale, total);
      } else {
        total = Add(total, of_tile);
      }
    }
    Store(lanes + tile * kTileRows, total);
  }
  const int64_t skip = row_begin - first * kTileRows;
  for (int64_t i = 0; i < rows; ++i) y[i] = lanes[skip + i];
}

template <typename D>
struct Decodes {};

// body(Decodes<D>()) with the decoder of a format.
template <typename Body>
inline void WithColumns(FormatId format, const Body& body) {
  switch (format) {
    case FormatId::kQ8G32:
      return body(Decodes<Q8Columns>());
    case FormatId::kBf16:
      return body(Decodes<Bf16Columns>());
    case FormatId::kFp8B128:
      return body(Decodes<Fp8Columns>());
    default:
      return body(Decodes<PanelColumns>());
  }
}

inline void Absorb(const MatrixView& w, int64_t row_begin, int64_t rows, const float* x, const uint8_t* next,
                   float* lanes, float* y) {
  WithColumns(w.format->id, [&]<typename D>(Decodes<D>) { AbsorbWith<D>(w, row_begin, rows, x, next, lanes, y); });
}

inline void Project(const MatrixView& w, int64_t row_begin, int64_t rows, const float* x, float* lanes, float* y) {
  WithColumns(w.format->id, [&]<typename D>(Decodes<D>) { ProjectWith<D>(w, row_begin, rows, x, lanes, y); });
}
