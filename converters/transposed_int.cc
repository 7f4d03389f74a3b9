#include "converters/transposed_int.h"

#include <cstring>

#include "converters/element_reads.h"
#include "converters/form_fp4.h"
#include "format/status.h"

namespace kompakt {

std::vector<StoredRange> TransposedIntTensor::Ranges(int64_t /*row_begin*/, int64_t /*row_end*/) const {
  std::vector<StoredRange> ranges;
  for (const FoundTensor& whole : {parts_.codes, parts_.scales, parts_.zeros, parts_.index}) {
    if (whole) ranges.push_back({whole, 0, whole.entry->bytes()});
  }
  return ranges;
}

std::string TransposedIntTensor::FormText(absl::string_view name) const {
  if (parts_.index) {
    const absl::StatusOr<std::vector<uint8_t>> first = ReadElements(parts_.index, 0, 1, nullptr);
    // Whoever chose no order may have written -1 throughout.
    if (!first.ok() || std::any_of(first->begin(), first->end(), [](uint8_t b) { return b != 0; })) return "";
  }
  return absl::StrCat("form=", name, " group=", grid().group, " scale_dtype=", InfoOf(scales().entry->dtype).name,
                      " zero=", 8 - zero_offset_, parts_.index ? " index=1" : "");
}

uint64_t TransposedIntTensor::StoredBytes() const {
  uint64_t bytes = 0;
  for (const StoredRange& range : Ranges(0, rows())) bytes += range.end;
  return bytes;
}

std::vector<std::string> TransposedIntTensor::Observations() const {
  if (!overflowing_zero_.load(std::memory_order_relaxed)) return {};
  const int64_t largest = (int64_t{1} << grid().bits) - 1;
  return {absl::StrCat("warning: ", parts_.zeros.entry->name, ": a stored zero point is ", largest, ", which means ",
                       largest + 1, " in the first checkpoint_format gptq; some programs read it as 0")};
}

absl::StatusOr<std::vector<float>> TransposedIntTensor::ReadGroupScales(int64_t row_begin, int64_t row_end,
                                                                        Xxh3Stream* source_bytes) const {
  const int64_t n = row_end - row_begin;
  KOMPAKT_ASSIGN_OR_RETURN(const std::vector<uint8_t> bytes, ReadColumns(parts_.scales, row_begin, n, source_bytes));
  std::vector<float> scales(static_cast<size_t>(n * grid().groups));
  const ScaleRule rule{.largest_code = LargestCode()};
  for (int64_t g = 0; g < grid().groups; ++g) {
    for (int64_t r = 0; r < n; ++r) {
      const float scale = ElementAsF32(parts_.scales.entry->dtype, bytes.data(), static_cast<uint64_t>(g * n + r));
      KOMPAKT_RETURN_IF_ERROR(
          CheckScale(parts_.scales, static_cast<uint64_t>(g * rows() + row_begin + r), scale, rule));
      scales[static_cast<size_t>(r * grid().groups + g)] = scale;
    }
  }
  return scales;
}

absl::StatusOr<std::vector<float>> TransposedIntTensor::ReadZeros(int64_t row_begin, int64_t row_end,
                                                                  Xxh3Stream* source_bytes) const {
  const int64_t per_word = 32 / grid().bits;
  const int64_t first_word = row_begin / per_word;
  const int64_t words = CeilDiv(row_end, per_word) - first_word;
  KOMPAKT_ASSIGN_OR_RETURN(const std::vector<uint8_t> bytes,
                           ReadColumns(parts_.zeros, first_word, words, source_bytes));
  std::vector<float> zeros(static_cast<size_t>((row_end - row_begin) * grid().groups));
  const uint32_t mask = (1u << grid().bits) - 1;
  bool overflows = false;
  for (int64_t g = 0; g < grid().groups; ++g) {
    for (int64_t row = row_begin; row < row_end; ++row) {
      uint32_t word;
      std::memcpy(&word, bytes.data() + (g * words + row / per_word - first_word) * 4, sizeof(word));
      const uint32_t stored = (word >> zero_shifts_[static_cast<size_t>(row % per_word)]) & mask;
      overflows = overflows || stored + static_cast<uint32_t>(zero_offset_) > mask;
      zeros[static_cast<size_t>((row - row_begin) * grid().groups + g)] =
          static_cast<float>(stored + static_cast<uint32_t>(zero_offset_));
    }
  }
  if (overflows) overflowing_zero_.store(true, std::memory_order_relaxed);
  return zeros;
}

absl::StatusOr<IntGrid> BindTransposed(const ModuleRequest& request, MatrixShape shape, int64_t bits,
                                       TransposedIntTensor::Parts* parts) {
  KOMPAKT_ASSIGN_OR_RETURN(parts->zeros, NeedCompanion(request, parts->codes, ".qzeros"));
  KOMPAKT_ASSIGN_OR_RETURN(parts->scales, NeedCompanion(request, parts->codes, ".scales"));
  if (parts->zeros.entry->dtype != Dtype::kI32) {
    return MismatchError(parts->zeros, "expected dtype I32, found ", InfoOf(parts->zeros.entry->dtype).name);
  }
  KOMPAKT_RETURN_IF_ERROR(CheckFloat(parts->scales));
  if (shape.rows * bits % 32 != 0 || shape.cols * bits % 32 != 0) {
    return MismatchError(parts->codes, "expected whole words of ", 32 / bits, " codes, the matrix is ", shape.rows,
                         " x ", shape.cols);
  }
  KOMPAKT_ASSIGN_OR_RETURN(const IntGrid grid, FindIntGrid(request, parts->scales, shape, bits, true));
  KOMPAKT_RETURN_IF_ERROR(CheckShape(parts->zeros, {grid.groups, shape.rows * bits / 32}));
  return grid;
}

}  // namespace kompakt
