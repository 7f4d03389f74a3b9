// Part of a region (instruction_set.h): error feedback over a row tile, and the factors it needs. Both are sweeps from
// left to right over 16 rows side by side, in which every column takes up multiples of the columns before it. A
// column's sum is one chain in ascending order, multiply, round, add, round, however the columns are blocked.
#pragma once

#include <cstdint>

// Columns whose sums fit the registers.
constexpr int kSumsAtOnce = kParts == 1 ? 8 : kParts == 2 ? 4 : 2;

// x[k] += sum over j of e[j] m[j][k], for the 8 columns of a chunk. e: [count][16], m: [count][8], x: [8][16].
KOMPAKT_INLINE void AddMultiples(const float* e, const float* m, int64_t count, float* x) {
  for (int first = 0; first < kFeedbackChunk; first += kSumsAtOnce) {
    F sums[kSumsAtOnce];
    for (int k = 0; k < kSumsAtOnce; ++k) sums[k] = Load(x + (first + k) * 16);
    for (int64_t j = 0; j < count; ++j) {
      const F term = Load(e + j * 16);
      for (int k = 0; k < kSumsAtOnce; ++k) sums[k] = sums[k] + term * m[j * kFeedbackChunk + first + k];
    }
    for (int k = 0; k < kSumsAtOnce; ++k) Store(sums[k], x + (first + k) * 16);
  }
}

// The same for rows [begin, end) of one block and columns [from, to), multiples of 8.
template <typename T>
KOMPAKT_INLINE void SpreadErrors(const FeedbackPanels<T>& m, const float* e, int64_t begin, int64_t end, int64_t from,
                                 int64_t to, float* x) {
  const int64_t row = begin % kFeedbackBlock * kFeedbackChunk;
  for (int64_t k = from; k < to; k += kFeedbackChunk) {
    AddMultiples(e + begin * 16, m.Chunk(begin, k) + row, end - begin, x + k * 16);
  }
}

// sum over columns of D t^2 for errors e, in x: t.
KOMPAKT_INLINE F ProxyError(const FeedbackView& view, int64_t padded_cols, const float* e, float* x) {
  std::memcpy(x, e, static_cast<size_t>(padded_cols * 16) * sizeof(float));
  F sum = Splat(0.0f);
  for (int64_t begin = 0; begin < padded_cols; begin += kFeedbackBlock) {
    const int64_t end = begin + kFeedbackBlock < padded_cols ? begin + kFeedbackBlock : padded_cols;
    SpreadErrors(view.m, e, begin, end, begin, padded_cols, x);
    for (int64_t k = begin; k < end; ++k) {
      const F t = Load(x + k * 16);
      sum = sum + t * t * view.d[k];
    }
  }
  return sum;
}

// The errors of the codes that the row tile has.
KOMPAKT_INLINE void ErrorsOf(const RowWork& work, float* e) {
  const F row_scale = RowScales(work);
  for (int64_t c = 0; c < work.padded_cols; ++c) {
    F difference = Splat(0.0f);
    if (c < work.cols) {
      const F s = Load(work.groups_state + (c / work.group_cols * kTableFields + kScale) * 16);
      const I values = Load(reinterpret_cast<const int32_t*>(work.values + c / 4 * 64));
      difference = Load(work.x + c * 16) - row_scale * (s * ToFloat(SignedByte(values, static_cast<int>(c % 4))));
    }
    Store(difference, e + c * 16);
  }
}

// Scale and shift of a group for its columns as they have become; rows where none has changed keep theirs. Returns
// those.
KOMPAKT_INLINE I ChooseAgain(const TableFormat& format, const TableSearch& search, const NearestTable& nearest,
                             const FeedbackView& view, const F& row_scale, const RowWork& work, int64_t g,
                             const float* x, float* state) {
  Group group;
  FindGroup(work, g, &group);
  const int64_t col = g * work.group_cols;
  I same = Splat(-1);
  for (int64_t k = 0; k < work.group_cols; ++k) same = same & Equal(Load(x + (col + k) * 16), Load(group.x + k * 16));
  group.x = x + col * 16;
  for (int64_t k = 0; k < work.group_cols; ++k) {
    Store(Splat(col + k < work.cols ? view.d[col + k] : 0.0f), group.weights + k * 16);
  }
  group.h = group.weights;
  float found[kTableFields * 16];
  CoarseSearch(format, search, nearest, group, found);
  Choice best = {Splat(3.4e38f), Splat(0.0f), Splat(0.0f), Splat(0.0f), Splat(0.0f)};
  ChooseScale(format, search, nearest, group, row_scale, found, &best);
  Store(Select(same, Load(state + kScale * 16), best.s), state + kScale * 16);
  Store(Select(same, Load(state + kShift * 16), best.shift), state + kShift * 16);
  return same;
}

// Codes column after column. x: the columns with what they have taken up so far; e: their errors. Adds to `proxy`.
KOMPAKT_INLINE void AssignWithFeedback(const TableFormat& format, const NearestTable& nearest, const FeedbackView& view,
                                       const F& row_scale, const I& same, int64_t g, RowWork& work, float* x, float* e,
                                       F* proxy) {
  const F zero = Splat(0.0f);
  const float* state = work.groups_state + g * kTableFields * 16;
  const F s = Load(state + kScale * 16);
  const I shift = ShiftBytes(Load(state + kShift * 16));
  const I some = Equal(Equal(s, zero), Splat(0));
  const F step = row_scale * s;
  const F inverse = Select(some, Splat(1.0f) / step, zero);
  // More than any table has, less than what 16 bits hold.
  const F most = Splat(1000.0f), least = Splat(-1000.0f);
  const int64_t begin = g * work.group_cols;
  const int64_t end = begin + work.group_cols;
  for (int64_t quad = begin; quad < end; quad += 4) {
    const I old_codes = Load(reinterpret_cast<const int32_t*>(work.codes + quad * 16));
    const I old_values = Load(reinterpret_cast<const int32_t*>(work.values + quad * 16));
    I codes = Splat(0), values = Splat(0);
    for (int k = 0; k < 4; ++k) {
      const int64_t c = quad + k;
      if (c >= work.cols) {
        Store(zero, e + c * 16);
        continue;
      }
      const F now = Load(x + c * 16);
      const F original = Load(work.x + c * 16);
      const I y = SubtractBytes(RoundToBytes(Max(Min(now * inverse, most), least), zero, zero, zero), shift);
      const I keep = same & Equal(now, original);
      const I byte = Splat(255);
      const I value = Select(keep, ShiftRight(old_values, 8 * k) & byte,
                             AddBytes(Nearest(nearest, *format.table, y), shift) & byte & some);
      const I code = Select(keep, ShiftRight(old_codes, 8 * k) & byte, CodeOf(nearest, *format.table, y) & byte & some);
      values = values | ShiftLeft(value, 8 * k);
      codes = codes | ShiftLeft(code, 8 * k);
      const F decoded = row_scale * (s * ToFloat(SignedByte(value, 0)));
      const F error = original - decoded;
      const F left = now - decoded;
      *proxy = *proxy + left * left * view.d[c];
      Store(error, e + c * 16);
      const int64_t row = c % kFeedbackBlock * kFeedbackChunk;
      for (int64_t later = c + 1; later < end; ++later) {
        const F taken = error * view.m.Chunk(c, later)[row + later % kFeedbackChunk];
        Store(Load(x + later * 16) + taken, x + later * 16);
      }
    }
    Store(codes, reinterpret_cast<int32_t*>(work.codes + quad * 16));
    Store(values, reinterpret_cast<int32_t*>(work.values + quad * 16));
  }
}

bool EncodeTableWithFeedback(const TableFormat& format, SearchEffort effort, const RowTile& in,
                             const FeedbackView& view, EncoderScratch& scratch, uint8_t* tiles, float* row_scales,
                             TileError* error) {
  const TableSearch& search = TableSearchOf(format, effort);
  RowWork work = MakeRowWork(in, format.spec->group_cols, kTableFields, scratch);
  if (!ScaleRows(work)) return false;
  const NearestTable nearest(*format.table);
  if (work.importance == nullptr) {
    SearchTable(format, search, nearest, work);
  } else {
    SearchWeighted(format, search, nearest, scratch, work);
  }
  // What the padding would take up is never looked at, but must not overflow into anything: it stays zero, because M is
  // zero there.
  const size_t floats = static_cast<size_t>(work.padded_cols * 16);
  float* e = scratch.feedback.Get<float>(2 * floats);
  float* x = e + floats;
  ErrorsOf(work, e);
  const F before = ProxyError(view, work.padded_cols, e, x);
  RowResult searched;
  PlaceResult(work, kScale, 2, kTableFields, &scratch.kept, &searched);
  KeepResult(work, &searched);

  std::memcpy(x, work.x, floats * sizeof(float));
  const F row_scale = RowScales(work);
  F after = Splat(0.0f);
  for (int64_t g = 0; g < work.groups; ++g) {
    float* state = work.groups_state + g * kTableFields * 16;
    const I same = ChooseAgain(format, search, nearest, view, row_scale, work, g, x, state);
    AssignWithFeedback(format, nearest, view, row_scale, same, g, work, x, e, &after);
    const int64_t begin = g * work.group_cols;
    const int64_t end = begin + work.group_cols;
    const int64_t block = begin / kFeedbackBlock * kFeedbackBlock;
    const int64_t block_end = block + kFeedbackBlock < work.padded_cols ? block + kFeedbackBlock : work.padded_cols;
    SpreadErrors(view.m, e, begin, end, end, block_end, x);
    if (end == block_end) SpreadErrors(view.m, e, block, block_end, block_end, work.padded_cols, x);
  }
  // A thousandth for the roundings of the factors, so that what is kept is better in truth.
  RestoreRows(searched, Equal(Less(after, before * 0.999f), Splat(0)), work);
  WriteTableTiles(format, work, tiles);
  for (int64_t row = 0; row < kTileRows; ++row) row_scales[row] = row < work.n_rows ? work.scale[row].stored : 0;
  MeasureError(work, work.groups_state + kScale * 16, kTableFields * 16, error);
  return true;
}

// Rows [first, first + 16) of L, and d of their columns. Returns whether all d are positive.
KOMPAKT_INLINE bool FactorTile(FactorWork& f, int64_t first) {
  const int64_t rows = f.cols - first < 16 ? f.cols - first : 16;
  const int64_t to = (first + 16 + kFeedbackChunk - 1) / kFeedbackChunk * kFeedbackChunk;
  for (int64_t c = 0; c < to; ++c) {
    for (int64_t r = 0; r < 16; ++r) {
      const bool inside = r < rows && c <= first + r;
      f.x[c * 16 + r] = inside ? f.H(f.cols - 1 - first - r, f.cols - 1 - c) : 0.0f;
    }
  }
  // The columns before the tile's own: subtract what the columns before account for, chunk by chunk, then block by
  // block.
  for (int64_t begin = 0; begin < first; begin += kFeedbackBlock) {
    const int64_t block_end = begin + kFeedbackBlock;
    const int64_t end = block_end < first ? block_end : first;
    for (int64_t chunk = begin; chunk < end; chunk += kFeedbackChunk) {
      for (int64_t j = chunk; j < chunk + kFeedbackChunk; ++j) {
        const F negative = Splat(0.0f) - Load(f.x + j * 16);
        Store(negative, f.e + j * 16);
        const float* m = f.panels.Chunk(j, chunk) + j % kFeedbackBlock * kFeedbackChunk;
        for (int64_t k = j + 1; k < chunk + kFeedbackChunk; ++k) {
          Store(Load(f.x + k * 16) + negative * m[k - chunk], f.x + k * 16);
        }
      }
      SpreadErrors(f.panels, f.e, chunk, chunk + kFeedbackChunk, chunk + kFeedbackChunk, end, f.x);
    }
    SpreadErrors(f.panels, f.e, begin, end, end, first, f.x);
  }
  // The tile's own columns need its own rows of L.
  for (int64_t j = 0; j < first; ++j) {
    for (int64_t r = 0; r < rows; ++r) f.panels.At(j, first + r) = f.x[j * 16 + r] / f.d[j];
  }
  for (int64_t begin = 0; begin < first; begin += kFeedbackBlock) {
    const int64_t end = begin + kFeedbackBlock < first ? begin + kFeedbackBlock : first;
    SpreadErrors(f.panels, f.e, begin, end, first, to, f.x);
  }
  for (int64_t c = 0; c < rows; ++c) {
    float* column = f.x + (first + c) * 16;
    for (int64_t j = 0; j < c; ++j) {
      const float multiple = f.x[(first + j) * 16 + c] / f.d[first + j];  // L[first + c][first + j]
      for (int64_t r = c; r < rows; ++r) column[r] = column[r] - f.x[(first + j) * 16 + r] * multiple;
    }
    const float d = column[c];
    f.failed_at = first + c;
    if (!(d > 0x1p-126f) || !(d < 0x1p126f)) return false;
    f.d[first + c] = d;
  }
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t j = first; j < first + r; ++j) f.panels.At(j, first + r) = f.x[j * 16 + r] / f.d[j];
  }
  return true;
}

bool FactorMoments(FactorWork& f) {
  for (int64_t first = 0; first < f.cols; first += 16) {
    if (f.go_on != nullptr && !f.go_on(f.go_on_data)) {
      f.failed_at = -1;
      return false;
    }
    if (!FactorTile(f, first)) return false;
  }
  return true;
}
