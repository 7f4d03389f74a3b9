// StoredTensor: one tensor of a model as the files hold it. Each stored form (source_forms.h) implements it in a file
// of its own.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "converters/shard_set.h"
#include "format/tensor_source.h"

namespace kompakt {

// Bytes [begin, end) of the data of a stored tensor.
struct StoredRange {
  FoundTensor tensor;
  uint64_t begin = 0;
  uint64_t end = 0;
};

class StoredTensor {
 public:
  StoredTensor(int64_t rows, int64_t cols) : rows_(rows), cols_(cols) {}
  virtual ~StoredTensor() = default;

  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }

  // What the headers say. Where it depends on values (scales that are not BF16, zero points, an activation order) those
  // are read, once, and no further than to the first that decides.
  virtual absl::StatusOr<StoredForm> Form() const = 0;

  // The two reads of TensorSource; the caller has checked 0 <= row_begin < row_end <= rows(). One pass over the
  // elements of the rows and one over their scales. A form that is stored transposed reads a slice of each stored row:
  // the pages that bands share come from the page cache, and the memory is that of the band. kDataLoss for NaN codes,
  // non-finite values, scales that are not finite and positive, indices out of range.
  virtual absl::StatusOr<StoredRows> ReadStored(int64_t row_begin, int64_t row_end, Xxh3Stream* source_bytes) const;
  virtual absl::Status ReadF32(int64_t row_begin, int64_t row_end, absl::Span<float> out,
                               Xxh3Stream* source_bytes) const = 0;

  // Where those rows lie: elements first, then companions. A transposed form names whole tensors.
  virtual std::vector<StoredRange> Ranges(int64_t row_begin, int64_t row_end) const = 0;

  // What reading has shown that is suspicious but usable ("warning: ..."); empty before any read.
  virtual std::vector<std::string> Observations() const { return {}; }

 protected:
  // ReadF32 as rows in f32: the stored form of what no exact format holds.
  absl::StatusOr<StoredRows> DecodedRows(int64_t row_begin, int64_t row_end, Xxh3Stream* source_bytes) const;

 private:
  int64_t rows_;
  int64_t cols_;
};

}  // namespace kompakt
