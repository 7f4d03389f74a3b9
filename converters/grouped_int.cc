#include "converters/grouped_int.h"

#include <algorithm>
#include <cstring>

#include "converters/decode_lanes.h"
#include "converters/element_reads.h"
#include "format/float_formats.h"
#include "format/status.h"

namespace kompakt {
namespace {

// Rows whose values are looked at together when exactness depends on them.
constexpr int64_t kRowsLookedAt = 128;

}  // namespace

absl::StatusOr<std::vector<int32_t>> GroupedIntTensor::ReadIndex(Xxh3Stream* source_bytes) const {
  std::vector<int32_t> index;
  if (!index_) return index;
  KOMPAKT_ASSIGN_OR_RETURN(const std::vector<uint8_t> bytes,
                           ReadElements(index_, 0, static_cast<uint64_t>(cols()), source_bytes));
  index.resize(static_cast<size_t>(cols()));
  std::memcpy(index.data(), bytes.data(), bytes.size());
  // compressed-tensors writes -1 throughout where no order was chosen.
  if (std::all_of(index.begin(), index.end(), [](int32_t group) { return group == -1; })) return std::vector<int32_t>();
  bool sequential = true;
  for (size_t c = 0; c < index.size(); ++c) {
    if (index[c] < 0 || index[c] >= grid_.groups) {
      return ElementError(index_, c, absl::StrCat("expected a group below ", grid_.groups, ", found ", index[c]));
    }
    sequential = sequential && index[c] == static_cast<int64_t>(c) / grid_.group;
  }
  if (sequential) index.clear();
  return index;
}

absl::StatusOr<bool> GroupedIntTensor::ValuesFitInt4G32() const {
  KOMPAKT_ASSIGN_OR_RETURN(const std::vector<int32_t> index, ReadIndex(nullptr));
  if (!index.empty()) return false;
  if (!HasZeros() && scales_.entry->dtype == Dtype::kBf16) return true;
  for (int64_t row = 0; row < rows(); row += kRowsLookedAt) {
    const int64_t end = std::min(rows(), row + kRowsLookedAt);
    if (HasZeros()) {
      KOMPAKT_ASSIGN_OR_RETURN(const std::vector<float> zeros, ReadZeros(row, end, nullptr));
      if (std::any_of(zeros.begin(), zeros.end(), [&](float z) { return z != MiddleCode(); })) return false;
    }
    KOMPAKT_ASSIGN_OR_RETURN(const std::vector<float> scales, ReadGroupScales(row, end, nullptr));
    if (std::any_of(scales.begin(), scales.end(), [](float s) { return Bf16ToF32(F32ToBf16(s)) != s; })) return false;
  }
  return true;
}

absl::StatusOr<bool> GroupedIntTensor::FitsInt4G32() const {
  if (grid_.bits != 4 || (grid_.group % kTileCols != 0 && grid_.groups > 1)) return false;
  int8_t known = fits_.load(std::memory_order_relaxed);
  if (known < 0) {
    KOMPAKT_ASSIGN_OR_RETURN(const bool fits, ValuesFitInt4G32());
    known = fits ? 1 : 0;
    fits_.store(known, std::memory_order_relaxed);
  }
  return known == 1;
}

absl::StatusOr<StoredForm> GroupedIntTensor::Form() const {
  KOMPAKT_ASSIGN_OR_RETURN(const bool exact, FitsInt4G32());
  StoredForm form;
  form.decoded = !exact;
  form.exact_format = exact ? FormatId::kInt4G32 : FormatId::kF32;
  form.native_low_bit = exact;
  form.stored_bytes = StoredBytes();
  form.dtype = Name();
  if (exact) form.upstream_form = UpstreamForm();
  return form;
}

absl::StatusOr<StoredRows> GroupedIntTensor::ReadStored(int64_t row_begin, int64_t row_end,
                                                        Xxh3Stream* source_bytes) const {
  KOMPAKT_ASSIGN_OR_RETURN(const bool exact, FitsInt4G32());
  if (!exact) return DecodedRows(row_begin, row_end, source_bytes);
  StoredRows out;
  out.format = FormatId::kInt4G32;
  out.rows = row_end - row_begin;
  out.cols = cols();
  KOMPAKT_ASSIGN_OR_RETURN(out.elements, ReadCodes(row_begin, row_end, source_bytes));
  KOMPAKT_ASSIGN_OR_RETURN(const std::vector<float> scales, ReadGroupScales(row_begin, row_end, source_bytes));
  if (source_bytes != nullptr) {  // known to say nothing here, but part of the source
    if (HasZeros()) KOMPAKT_RETURN_IF_ERROR(ReadZeros(row_begin, row_end, source_bytes).status());
    KOMPAKT_RETURN_IF_ERROR(ReadIndex(source_bytes).status());
  }
  const int64_t tiles = CeilDiv(cols(), kTileCols);
  out.group_scales.reserve(static_cast<size_t>(out.rows * tiles));
  for (int64_t row = 0; row < out.rows; ++row) {
    const float* row_scales = scales.data() + row * grid_.groups;
    for (int64_t tile = 0; tile < tiles; ++tile) {
      out.group_scales.push_back(F32ToBf16(row_scales[tile * kTileCols / grid_.group]));
    }
  }
  return out;
}

absl::Status GroupedIntTensor::ReadF32(int64_t row_begin, int64_t row_end, absl::Span<float> out,
                                       Xxh3Stream* source_bytes) const {
  KOMPAKT_ASSIGN_OR_RETURN(const std::vector<uint8_t> codes, ReadCodes(row_begin, row_end, source_bytes));
  KOMPAKT_ASSIGN_OR_RETURN(const std::vector<float> scales, ReadGroupScales(row_begin, row_end, source_bytes));
  std::vector<float> zeros(scales.size(), MiddleCode());
  if (HasZeros()) {
    KOMPAKT_ASSIGN_OR_RETURN(zeros, ReadZeros(row_begin, row_end, source_bytes));
  }
  KOMPAKT_ASSIGN_OR_RETURN(const std::vector<int32_t> index, ReadIndex(source_bytes));
  const DecodeLanes& lanes = BestDecodeLanes();
  for (int64_t row = 0; row < row_end - row_begin; ++row) {
    const uint8_t* c = codes.data() + row * cols();
    const float* s = scales.data() + row * grid_.groups;
    const float* z = zeros.data() + row * grid_.groups;
    float* values = out.data() + row * cols();
    if (index.empty()) {
      lanes.grouped_int(c, cols(), grid_.group, s, z, values);
    } else {
      lanes.indexed_int(c, cols(), index.data(), s, z, values);
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<IntGrid> FindIntGrid(const ModuleRequest& request, const FoundTensor& scales, MatrixShape shape,
                                    int64_t bits, bool transposed) {
  const std::vector<uint64_t>& found = scales.entry->shape;
  const auto rows = static_cast<uint64_t>(shape.rows);
  const bool plausible = found.size() == 2 && found[transposed ? 1 : 0] == rows && found[transposed ? 0 : 1] >= 1 &&
                         found[transposed ? 0 : 1] <= static_cast<uint64_t>(shape.cols);
  const int64_t groups = plausible ? static_cast<int64_t>(found[transposed ? 0 : 1]) : 0;
  std::vector<int64_t> sizes = request.quantization->int_groups;
  if (sizes.empty() && plausible) sizes = {CeilDiv(shape.cols, groups)};
  for (const int64_t size : sizes) {
    const int64_t group = size == 0 ? shape.cols : size;
    if (!plausible || CeilDiv(shape.cols, group) != groups) continue;
    return IntGrid{.bits = bits, .group = std::min(group, shape.cols), .groups = groups};
  }
  const int64_t group = sizes.empty() || sizes[0] == 0 ? shape.cols : sizes[0];
  std::vector<uint64_t> expected = {rows, static_cast<uint64_t>(CeilDiv(shape.cols, group))};
  if (transposed) std::swap(expected[0], expected[1]);
  return MismatchError(scales, "expected shape ", ShapeText(expected), " for groups of ", group, " columns, found ",
                       ShapeText(found));
}

absl::StatusOr<FoundTensor> FindGroupIndex(const ModuleRequest& request, absl::string_view suffix, int64_t cols) {
  const FoundTensor index = request.Find(suffix);
  if (!index) return index;
  if (index.entry->dtype != Dtype::kI32) {
    return MismatchError(index, "expected dtype I32, found ", InfoOf(index.entry->dtype).name);
  }
  KOMPAKT_RETURN_IF_ERROR(CheckShape(index, {cols}));
  return index;
}

std::vector<uint8_t> UnpackWordRows(const uint8_t* words, int64_t rows, int64_t words_per_row, int64_t cols,
                                    int64_t bits) {
  std::vector<uint8_t> codes(static_cast<size_t>(rows * cols));
  const DecodeLanes& lanes = BestDecodeLanes();
  std::vector<uint8_t> padded(static_cast<size_t>(words_per_row * 8));
  for (int64_t row = 0; row < rows; ++row) {
    const uint8_t* packed = words + row * words_per_row * 4;
    uint8_t* out = codes.data() + row * cols;
    if (bits == 8) {
      std::memcpy(out, packed, static_cast<size_t>(cols));
    } else if (words_per_row * 8 == cols) {
      lanes.unpack_nibbles(packed, words_per_row * 4, out);
    } else {
      lanes.unpack_nibbles(packed, words_per_row * 4, padded.data());
      std::memcpy(out, padded.data(), static_cast<size_t>(cols));
    }
  }
  return codes;
}

}  // namespace kompakt
