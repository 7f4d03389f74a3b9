#include "format/word_transpose.h"

#include <algorithm>
#include <cstring>

namespace kompakt {
namespace {

constexpr int64_t kLineBytes = kTileRows * kWordBytes;  // one word of every row
// A cache line of four rows is moved at a time: rows a power of two apart share their place in the cache, and a line
// that is left half read may be gone when its turn comes again.
constexpr int64_t kLineWords = 16;

// Four words in a register that every 64-bit machine has. Integers: a float register may quieten a NaN on some.
typedef uint32_t Four __attribute__((vector_size(16)));

inline Four LoadFour(const uint8_t* from) {
  Four v;
  std::memcpy(&v, from, sizeof(v));
  return v;
}
inline void StoreFour(const Four& v, uint8_t* to) { std::memcpy(to, &v, sizeof(v)); }

// 4 x 4 words, rows `in_stride` apart -> columns `out_stride` apart. Its own inverse.
inline void TransposeBlock(const uint8_t* in, int64_t in_stride, uint8_t* out, int64_t out_stride) {
  const Four a = LoadFour(in);
  const Four b = LoadFour(in + in_stride);
  const Four c = LoadFour(in + 2 * in_stride);
  const Four d = LoadFour(in + 3 * in_stride);
  const Four ac_low = __builtin_shufflevector(a, c, 0, 4, 1, 5);
  const Four bd_low = __builtin_shufflevector(b, d, 0, 4, 1, 5);
  const Four ac_high = __builtin_shufflevector(a, c, 2, 6, 3, 7);
  const Four bd_high = __builtin_shufflevector(b, d, 2, 6, 3, 7);
  StoreFour(__builtin_shufflevector(ac_low, bd_low, 0, 4, 1, 5), out);
  StoreFour(__builtin_shufflevector(ac_low, bd_low, 2, 6, 3, 7), out + out_stride);
  StoreFour(__builtin_shufflevector(ac_high, bd_high, 0, 4, 1, 5), out + 2 * out_stride);
  StoreFour(__builtin_shufflevector(ac_high, bd_high, 2, 6, 3, 7), out + 3 * out_stride);
}

// Calls block(row, word) for every 4 x 4 words, in the order above, and one(row, word) for what is left at the edges.
template <typename Block, typename One>
inline void ForEach(int64_t n_rows, int64_t n_words, const Block& block, const One& one) {
  const int64_t whole_rows = n_rows / 4 * 4;
  const int64_t whole_words = n_words / 4 * 4;
  for (int64_t line = 0; line < whole_words; line += kLineWords) {
    const int64_t end = std::min(whole_words, line + kLineWords);
    for (int64_t r = 0; r < whole_rows; r += 4) {
      for (int64_t k = line; k < end; k += 4) block(r, k);
    }
  }
  for (int64_t k = 0; k < n_words; ++k) {
    for (int64_t r = k < whole_words ? whole_rows : 0; r < n_rows; ++r) one(r, k);
  }
}

}  // namespace

void TransposeWords(const uint8_t* rows, int64_t stride_bytes, int64_t n_rows, int64_t n_words, uint8_t* out) {
  if (n_rows < kTileRows) std::memset(out, 0, static_cast<size_t>(n_words * kLineBytes));
  const auto in_rows = [&](int64_t r, int64_t k) { return rows + r * stride_bytes + k * kWordBytes; };
  const auto in_words = [&](int64_t r, int64_t k) { return out + k * kLineBytes + r * kWordBytes; };
  ForEach(
      n_rows, n_words,
      [&](int64_t r, int64_t k) { TransposeBlock(in_rows(r, k), stride_bytes, in_words(r, k), kLineBytes); },
      [&](int64_t r, int64_t k) { std::memcpy(in_words(r, k), in_rows(r, k), kWordBytes); });
}

void TransposeWordsBack(const uint8_t* words, int64_t n_words, int64_t n_rows, int64_t stride_bytes, uint8_t* rows) {
  const auto in_rows = [&](int64_t r, int64_t k) { return rows + r * stride_bytes + k * kWordBytes; };
  const auto in_words = [&](int64_t r, int64_t k) { return words + k * kLineBytes + r * kWordBytes; };
  ForEach(
      n_rows, n_words,
      [&](int64_t r, int64_t k) { TransposeBlock(in_words(r, k), kLineBytes, in_rows(r, k), stride_bytes); },
      [&](int64_t r, int64_t k) { std::memcpy(in_rows(r, k), in_words(r, k), kWordBytes); });
}

}  // namespace kompakt
