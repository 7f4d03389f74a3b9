// What the integer forms share: unsigned codes of 4 or 8 bits with a scale and a zero point per row and group of
// columns,
//     w[r, c] = (code[r, c] - zero[r, g]) * scale[r, g]      g = c / group, or g_idx[c]
// one F32 product; the difference is exact. int4_g32 holds it when the codes have 4 bits, every zero point is 8, no
// tile of 32 columns meets two groups, and every scale is a BF16 value.
#pragma once

#include <atomic>
#include <string>
#include <vector>

#include "converters/source_forms.h"

namespace kompakt {

struct IntGrid {
  int64_t bits = 4;
  int64_t group = 0;   // columns that share a scale
  int64_t groups = 0;  // per row
};

class GroupedIntTensor : public StoredTensor {
 public:
  GroupedIntTensor(MatrixShape shape, IntGrid grid, FoundTensor scales, FoundTensor index)
      : StoredTensor(shape.rows, shape.cols), grid_(grid), scales_(scales), index_(index) {}

  absl::StatusOr<StoredForm> Form() const override;
  absl::StatusOr<StoredRows> ReadStored(int64_t row_begin, int64_t row_end, Xxh3Stream* source_bytes) const override;
  absl::Status ReadF32(int64_t row_begin, int64_t row_end, absl::Span<float> out,
                       Xxh3Stream* source_bytes) const override;

 protected:
  const IntGrid& grid() const { return grid_; }
  const FoundTensor& scales() const { return scales_; }

  virtual std::string Name() const = 0;      // "INT4, BF16 scale per 64"
  virtual uint64_t StoredBytes() const = 0;  // of all its tensors
  // Of the exact form; empty where int4_g32 cannot give all of it back.
  virtual std::string UpstreamForm() const { return ""; }
  virtual bool HasZeros() const = 0;  // false: every zero point is the middle of the codes
  // All three for rows [row_begin, row_end): codes one per byte [rows, cols]; scales and zeros [rows, groups], checked.
  virtual absl::StatusOr<std::vector<uint8_t>> ReadCodes(int64_t row_begin, int64_t row_end,
                                                         Xxh3Stream* source_bytes) const = 0;
  virtual absl::StatusOr<std::vector<float>> ReadGroupScales(int64_t row_begin, int64_t row_end,
                                                             Xxh3Stream* source_bytes) const = 0;
  virtual absl::StatusOr<std::vector<float>> ReadZeros(int64_t row_begin, int64_t row_end,
                                                       Xxh3Stream* source_bytes) const = 0;

  float MiddleCode() const { return grid_.bits == 4 ? 8.0f : 128.0f; }
  // Scale limits keep code - zero times scale finite.
  float LargestCode() const { return grid_.bits == 4 ? 16.0f : 256.0f; }

 private:
  // Group of each column; empty when that is c / group.
  absl::StatusOr<std::vector<int32_t>> ReadIndex(Xxh3Stream* source_bytes) const;
  absl::StatusOr<bool> FitsInt4G32() const;
  absl::StatusOr<bool> ValuesFitInt4G32() const;

  IntGrid grid_;
  FoundTensor scales_;
  FoundTensor index_;  // absent: groups of consecutive columns
  // Looked up once; threads that look at the same time find the same.
  mutable std::atomic<int8_t> fits_{-1};
};

// The grid of scales stored as [rows, groups], or transposed as [groups, rows]. The configuration must know the group
// size where it names any (quantization.int_groups). kFailedPrecondition naming `scales`.
absl::StatusOr<IntGrid> FindIntGrid(const ModuleRequest& request, const FoundTensor& scales, MatrixShape shape,
                                    int64_t bits, bool transposed);

// The tensor with `suffix` that maps columns to groups: absent, or I32 [cols].
absl::StatusOr<FoundTensor> FindGroupIndex(const ModuleRequest& request, absl::string_view suffix, int64_t cols);

// Codes of `bits` packed into 32-bit words, lowest bits first: words [rows][words_per_row] to [rows][cols] bytes.
std::vector<uint8_t> UnpackWordRows(const uint8_t* words, int64_t rows, int64_t words_per_row, int64_t cols,
                                    int64_t bits);

// Field `index` of a row of such words.
inline uint32_t PackedField(const uint32_t* words, int64_t index, int64_t bits) {
  const int64_t per_word = 32 / bits;
  return (words[index / per_word] >> (index % per_word * bits)) & ((1u << bits) - 1);
}

}  // namespace kompakt
