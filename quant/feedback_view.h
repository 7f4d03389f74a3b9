// How the factors of error feedback lie in memory, so that a sweep reads them from front to back: blocks of 128 rows j,
// of each the chunks of 8 columns k from the block's first one on, a chunk [128][8]. Elements on and below the diagonal
// are 0.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kompakt {

inline constexpr int64_t kFeedbackBlock = 128;
inline constexpr int64_t kFeedbackChunk = 8;
inline constexpr int64_t kChunkFloats = kFeedbackBlock * kFeedbackChunk;

// `padded_cols` is a multiple of 32.
template <typename T>
struct FeedbackPanels {
  T* data = nullptr;
  int64_t padded_cols = 0;

  // Floats before a block: earlier blocks have all chunks, less those to their left.
  static constexpr int64_t Before(int64_t padded_cols, int64_t block) {
    const int64_t chunks = padded_cols / kFeedbackChunk;
    constexpr int64_t kPerBlock = kFeedbackBlock / kFeedbackChunk;
    return (block * chunks - kPerBlock * (block * (block - 1) / 2)) * kChunkFloats;
  }
  static constexpr int64_t Floats(int64_t padded_cols) {
    return Before(padded_cols, (padded_cols + kFeedbackBlock - 1) / kFeedbackBlock);
  }
  // The chunk that holds column k of the block of row j.
  T* Chunk(int64_t j, int64_t k) const {
    const int64_t block = j / kFeedbackBlock;
    return data + Before(padded_cols, block) +
           (k / kFeedbackChunk - block * (kFeedbackBlock / kFeedbackChunk)) * kChunkFloats;
  }
  // j < k, or in the same block.
  T& At(int64_t j, int64_t k) const { return Chunk(j, k)[j % kFeedbackBlock * kFeedbackChunk + k % kFeedbackChunk]; }
};

struct FeedbackView {
  FeedbackPanels<const float> m;
  const float* d = nullptr;  // [padded_cols], the largest of them in [1, 2)
};

// The factors L D L^T of a matrix a, made row tile by row tile: L[k][j] is at panels (j, k).
struct FactorWork {
  const float* h = nullptr;  // upper triangle by rows, columns i to cols - 1 of row i: a[i][j] = h(cols-1-i, cols-1-j)
  int64_t cols = 0;
  // Element (i, j) of the triangle, i <= j.
  const float& H(int64_t i, int64_t j) const { return h[i * cols - i * (i - 1) / 2 - i + j]; }
  bool (*go_on)(const void*) = nullptr;  // asked between row tiles; null: goes to the end
  const void* go_on_data = nullptr;
  FeedbackPanels<float> panels;
  float* d = nullptr;     // [padded_cols]
  float* x = nullptr;     // [padded_cols][16] scratch
  float* e = nullptr;     // likewise
  int64_t failed_at = 0;  // the first column without a positive d; -1 where go_on said no
};

}  // namespace kompakt
