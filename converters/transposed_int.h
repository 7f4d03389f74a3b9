// What gptq and awq share: integer weights stored as the transpose [cols, rows], with scales [groups, rows] and zero
// points [groups, rows * bits / 32] packed along the rows.
//
// A band of rows is a slice of columns of every stored row (element_reads.h, ReadColumns).
#pragma once

#include <atomic>
#include <vector>

#include "converters/grouped_int.h"

namespace kompakt {

class TransposedIntTensor : public GroupedIntTensor {
 public:
  struct Parts {
    FoundTensor codes, zeros, scales, index;
  };
  // zero_shifts: where in a word of `zeros` the zero point of each of its rows begins, in bits. zero_offset: what is
  // added to a stored zero point.
  TransposedIntTensor(MatrixShape shape, IntGrid grid, Parts parts, absl::Span<const int> zero_shifts, int zero_offset)
      : GroupedIntTensor(shape, grid, parts.scales, parts.index),
        parts_(parts),
        zero_shifts_(zero_shifts),
        zero_offset_(zero_offset) {}

  std::vector<StoredRange> Ranges(int64_t row_begin, int64_t row_end) const override;
  std::vector<std::string> Observations() const override;

 protected:
  const Parts& parts() const { return parts_; }
  // UpstreamForm of the form `name`; empty where the group index is not simply c / group.
  std::string FormText(absl::string_view name) const;
  uint64_t StoredBytes() const override;
  bool HasZeros() const override { return true; }
  absl::StatusOr<std::vector<float>> ReadGroupScales(int64_t row_begin, int64_t row_end,
                                                     Xxh3Stream* source_bytes) const override;
  absl::StatusOr<std::vector<float>> ReadZeros(int64_t row_begin, int64_t row_end,
                                               Xxh3Stream* source_bytes) const override;

 private:
  Parts parts_;
  absl::Span<const int> zero_shifts_;  // [32 / bits]
  int zero_offset_;
  mutable std::atomic<bool> overflowing_zero_{false};  // a stored zero point that passes the codes once it is offset
};

// Checks dtypes and shapes of qzeros and scales for a matrix of `shape`, and finds the groups.
// kFailedPrecondition naming what is missing or contradicts.
absl::StatusOr<IntGrid> BindTransposed(const ModuleRequest& request, MatrixShape shape, int64_t bits,
                                       TransposedIntTensor::Parts* parts);

}  // namespace kompakt
