#include "converters/stored_tensor.h"

#include <cstring>

#include "format/status.h"

namespace kompakt {

absl::StatusOr<StoredRows> StoredTensor::ReadStored(int64_t row_begin, int64_t row_end,
                                                    Xxh3Stream* source_bytes) const {
  return DecodedRows(row_begin, row_end, source_bytes);
}

absl::StatusOr<StoredRows> StoredTensor::DecodedRows(int64_t row_begin, int64_t row_end,
                                                     Xxh3Stream* source_bytes) const {
  StoredRows rows;
  rows.format = FormatId::kF32;
  rows.rows = row_end - row_begin;
  rows.cols = cols_;
  std::vector<float> values(static_cast<size_t>(rows.rows * rows.cols));
  KOMPAKT_RETURN_IF_ERROR(ReadF32(row_begin, row_end, absl::MakeSpan(values), source_bytes));
  rows.elements.resize(values.size() * sizeof(float));
  std::memcpy(rows.elements.data(), values.data(), rows.elements.size());
  return rows;
}

}  // namespace kompakt
