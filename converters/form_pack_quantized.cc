// pack-quantized (compressed-tensors): unsigned codes of 4 or 8 bits along the rows.
//
//     X.weight_packed      I32 [rows, cdiv(cols * bits, 32)]: element c of a row is bits c * bits.. of its words
//     X.weight_scale       BF16, F16 or F32 [rows, groups]
//     X.weight_shape       I32 or I64 [2] = rows, cols
//     X.weight_zero_point  I32 [cdiv(rows * bits, 32), groups], asymmetric only: packed along the rows
//     X.weight_g_idx       I32 [cols], the group of each column, with an activation order only
//
// A symmetric code u stands for u - 2^(bits - 1).
#include <algorithm>
#include <array>
#include <cstring>

#include "converters/element_reads.h"
#include "converters/form_fp4.h"
#include "converters/form_table.h"
#include "converters/grouped_int.h"
#include "format/status.h"

namespace kompakt {
namespace {

class PackQuantizedTensor : public GroupedIntTensor {
 public:
  struct Parts {
    FoundTensor packed, scales, shape, zeros, index;
  };
  PackQuantizedTensor(MatrixShape shape, IntGrid grid, Parts parts)
      : GroupedIntTensor(shape, grid, parts.scales, parts.index), parts_(parts) {}

  std::vector<StoredRange> Ranges(int64_t row_begin, int64_t row_end) const override {
    const auto begin = static_cast<uint64_t>(row_begin);
    const auto end = static_cast<uint64_t>(row_end);
    const auto row_bytes = static_cast<uint64_t>(Words()) * 4;
    const uint64_t scale_bytes = static_cast<uint64_t>(grid().groups) * ElementBytes(scales().entry->dtype);
    std::vector<StoredRange> ranges = {{parts_.packed, begin * row_bytes, end * row_bytes},
                                       {scales(), begin * scale_bytes, end * scale_bytes}};
    for (const FoundTensor& whole : {parts_.zeros, parts_.index, parts_.shape}) {
      if (whole) ranges.push_back({whole, 0, whole.entry->bytes()});
    }
    return ranges;
  }

 protected:
  std::string Name() const override {
    return absl::StrCat("INT", grid().bits, HasZeros() ? " with zero points" : "", ", ",
                        InfoOf(scales().entry->dtype).name, " scale per ", grid().group,
                        parts_.index ? " by index" : "");
  }
  uint64_t StoredBytes() const override {
    uint64_t bytes = 0;
    for (const StoredRange& range : Ranges(0, rows())) bytes += range.end - range.begin;
    return bytes;
  }
  std::string UpstreamForm() const override {
    // The words of other widths end in codes that mean nothing and are not kept.
    if (HasZeros() || parts_.index || cols() % 8 != 0) return "";
    return absl::StrCat("form=pack-quantized group=", grid().group, " scale_dtype=", InfoOf(scales().entry->dtype).name,
                        " shape_dtype=", InfoOf(parts_.shape.entry->dtype).name);
  }
  bool HasZeros() const override { return static_cast<bool>(parts_.zeros); }

  absl::StatusOr<std::vector<uint8_t>> ReadCodes(int64_t row_begin, int64_t row_end,
                                                 Xxh3Stream* source_bytes) const override {
    // Once per pass over the tensor is enough.
    if (row_begin == 0) KOMPAKT_RETURN_IF_ERROR(CheckWeightShape());
    const auto words = static_cast<uint64_t>(Words());
    KOMPAKT_ASSIGN_OR_RETURN(const std::vector<uint8_t> packed,
                             ReadElements(parts_.packed, static_cast<uint64_t>(row_begin) * words,
                                          static_cast<uint64_t>(row_end - row_begin) * words, source_bytes));
    return UnpackWordRows(packed.data(), row_end - row_begin, Words(), cols(), grid().bits);
  }

  absl::StatusOr<std::vector<float>> ReadGroupScales(int64_t row_begin, int64_t row_end,
                                                     Xxh3Stream* source_bytes) const override {
    return ReadScales(scales(), static_cast<uint64_t>(row_begin * grid().groups),
                      static_cast<uint64_t>((row_end - row_begin) * grid().groups), {.largest_code = LargestCode()},
                      source_bytes);
  }

  absl::StatusOr<std::vector<float>> ReadZeros(int64_t row_begin, int64_t row_end,
                                               Xxh3Stream* source_bytes) const override {
    const int64_t per_word = 32 / grid().bits;
    const int64_t first_word = row_begin / per_word;
    const int64_t words = CeilDiv(row_end, per_word) - first_word;
    KOMPAKT_ASSIGN_OR_RETURN(const std::vector<uint8_t> bytes,
                             ReadElements(parts_.zeros, static_cast<uint64_t>(first_word * grid().groups),
                                          static_cast<uint64_t>(words * grid().groups), source_bytes));
    std::vector<float> zeros;
    zeros.reserve(static_cast<size_t>((row_end - row_begin) * grid().groups));
    const uint32_t mask = (1u << grid().bits) - 1;
    for (int64_t row = row_begin; row < row_end; ++row) {
      const int64_t word_row = row / per_word - first_word;
      for (int64_t g = 0; g < grid().groups; ++g) {
        uint32_t word;
        std::memcpy(&word, bytes.data() + (word_row * grid().groups + g) * 4, sizeof(word));
        zeros.push_back(static_cast<float>((word >> (row % per_word * grid().bits)) & mask));
      }
    }
    return zeros;
  }

 private:
  int64_t Words() const { return CeilDiv(cols() * grid().bits, 32); }

  absl::Status CheckWeightShape() const;

  Parts parts_;
};

struct StoredShape {
  int64_t rows = 0;
  int64_t cols = 0;
};

absl::StatusOr<StoredShape> ReadWeightShape(const FoundTensor& found) {
  KOMPAKT_ASSIGN_OR_RETURN(const std::vector<uint8_t> bytes, ReadElements(found, 0, 2, nullptr));
  if (found.entry->dtype == Dtype::kI32) {
    int32_t values[2];
    std::memcpy(values, bytes.data(), sizeof(values));
    return StoredShape{values[0], values[1]};
  }
  int64_t values[2];
  std::memcpy(values, bytes.data(), sizeof(values));
  return StoredShape{values[0], values[1]};
}

absl::Status PackQuantizedTensor::CheckWeightShape() const {
  KOMPAKT_ASSIGN_OR_RETURN(const StoredShape stored, ReadWeightShape(parts_.shape));
  if (stored.rows == rows() && stored.cols == cols()) return absl::OkStatus();
  return CorruptError(parts_.shape.file->path(), ": tensor ", parts_.shape.entry->name, ": expected (", rows(), ", ",
                      cols(), "), found (", stored.rows, ", ", stored.cols, ")");
}

// The bits per code for which the words hold the columns; 0 for none of those that are read.
int64_t BitsOf(const ModuleRequest& request, const FoundTensor& packed, MatrixShape shape) {
  std::vector<int64_t> candidates = request.quantization->int_bits;
  if (candidates.empty()) candidates = {4, 8};
  const std::vector<uint64_t>& found = packed.entry->shape;
  for (const int64_t bits : candidates) {
    if (found.size() == 2 && found[0] == static_cast<uint64_t>(shape.rows) &&
        found[1] == static_cast<uint64_t>(CeilDiv(shape.cols * bits, 32))) {
      return bits;
    }
  }
  return 0;
}

absl::StatusOr<BoundModule> Bind(const ModuleRequest& request, const FoundTensor& packed) {
  PackQuantizedTensor::Parts parts;
  parts.packed = packed;
  KOMPAKT_ASSIGN_OR_RETURN(parts.scales, NeedCompanion(request, packed, ".weight_scale"));
  KOMPAKT_ASSIGN_OR_RETURN(parts.shape, NeedCompanion(request, packed, ".weight_shape"));
  const Dtype shape_dtype = parts.shape.entry->dtype;
  if (shape_dtype != Dtype::kI32 && shape_dtype != Dtype::kI64) {
    return MismatchError(parts.shape, "expected dtype I32 or I64, found ", InfoOf(shape_dtype).name);
  }
  KOMPAKT_RETURN_IF_ERROR(CheckShape(parts.shape, {2}));
  MatrixShape shape;
  if (request.shape.has_value()) {
    shape = *request.shape;
  } else {
    KOMPAKT_ASSIGN_OR_RETURN(const StoredShape stored, ReadWeightShape(parts.shape));
    constexpr int64_t kMost = int64_t{1} << 31;
    if (stored.rows < 1 || stored.cols < 1 || stored.rows > kMost || stored.cols > kMost) {
      return MismatchError(parts.shape, "expected two positive sizes, found (", stored.rows, ", ", stored.cols, ")");
    }
    shape = {stored.rows, stored.cols};
  }
  const int64_t bits = BitsOf(request, packed, shape);
  if (bits == 0) {
    const int64_t expected = request.quantization->int_bits.empty() ? 4 : request.quantization->int_bits[0];
    return MismatchError(
        packed, "expected shape ",
        ShapeText({static_cast<uint64_t>(shape.rows), static_cast<uint64_t>(CeilDiv(shape.cols * expected, 32))}),
        " for INT", expected, ", found ", ShapeText(packed.entry->shape));
  }
  KOMPAKT_RETURN_IF_ERROR(CheckFloat(parts.scales));
  KOMPAKT_ASSIGN_OR_RETURN(const IntGrid grid, FindIntGrid(request, parts.scales, shape, bits, false));
  parts.zeros = request.Find(".weight_zero_point");
  if (!parts.zeros && request.quantization->asymmetric) {
    return MismatchError(packed, "the configuration says symmetric: false: expected ", request.module,
                         ".weight_zero_point beside it, found none");
  }
  if (parts.zeros) {
    if (parts.zeros.entry->dtype != Dtype::kI32) {
      return MismatchError(parts.zeros, "expected dtype I32, found ", InfoOf(parts.zeros.entry->dtype).name);
    }
    KOMPAKT_RETURN_IF_ERROR(CheckShape(parts.zeros, {CeilDiv(shape.rows * bits, 32), grid.groups}));
  }
  KOMPAKT_ASSIGN_OR_RETURN(parts.index, FindGroupIndex(request, ".weight_g_idx", shape.cols));
  BoundModule bound;
  bound.used = {packed, parts.scales, parts.shape};
  for (const FoundTensor& optional : {parts.zeros, parts.index}) {
    if (optional) bound.used.push_back(optional);
  }
  bound.tensor = std::make_unique<PackQuantizedTensor>(shape, grid, parts);
  return bound;
}

constexpr std::array<absl::string_view, 3> kIgnored = {".input_scale", ".input_global_scale", ".input_zero_point"};

}  // namespace

const SourceForm kPackQuantizedForm = {
    .name = "pack-quantized",
    .elements = ".weight_packed",
    .recognises = [](const ModuleRequest&, const FoundTensor& e) { return e.entry->dtype == Dtype::kI32; },
    .ignored = kIgnored,
    .bind = Bind,
};

}  // namespace kompakt
