// awq (the GEMM layout): unsigned 4-bit codes, stored as the transpose in an order of its own.
//
//     X.qweight  I32 [cols, rows / 8]    code of row 8 v + j, column c = nibble kNibble[j] of word (c, v)
//     X.qzeros   I32 [groups, rows / 8]  the same order
//     X.scales   F16, BF16 or F32 [groups, rows]
#include <array>

#include "converters/decode_lanes.h"
#include "converters/element_reads.h"
#include "converters/form_table.h"
#include "converters/transposed_int.h"
#include "format/status.h"

namespace kompakt {
namespace {

constexpr int64_t kPerWord = 8;
// In bits: nibble 0, 4, 1, 5, 2, 6, 3, 7.
constexpr std::array<int, kPerWord> kShifts = {0, 16, 4, 20, 8, 24, 12, 28};

class AwqTensor : public TransposedIntTensor {
 public:
  AwqTensor(MatrixShape shape, IntGrid grid, Parts parts) : TransposedIntTensor(shape, grid, parts, kShifts, 0) {}

 protected:
  std::string Name() const override {
    return absl::StrCat("AWQ 4-bit, ", InfoOf(scales().entry->dtype).name, " scale per ", grid().group);
  }

  std::string UpstreamForm() const override { return FormText("awq"); }

  absl::StatusOr<std::vector<uint8_t>> ReadCodes(int64_t row_begin, int64_t row_end,
                                                 Xxh3Stream* source_bytes) const override {
    const int64_t first_word = row_begin / kPerWord;
    const int64_t words = CeilDiv(row_end, kPerWord) - first_word;
    KOMPAKT_ASSIGN_OR_RETURN(const std::vector<uint8_t> slice,
                             ReadColumns(parts().codes, first_word, words, source_bytes));
    std::vector<uint32_t> by_word(static_cast<size_t>(words * cols()));
    TransposeWords(reinterpret_cast<const uint32_t*>(slice.data()), cols(), words, by_word.data());
    std::vector<uint8_t> codes(static_cast<size_t>((row_end - row_begin) * cols()));
    for (int64_t row = row_begin; row < row_end; ++row) {
      const uint32_t* column_words = by_word.data() + (row / kPerWord - first_word) * cols();
      BestDecodeLanes().take_nibbles(column_words, cols(), kShifts[static_cast<size_t>(row % kPerWord)],
                                     codes.data() + (row - row_begin) * cols());
    }
    return codes;
  }
};

absl::StatusOr<BoundModule> Bind(const ModuleRequest& request, const FoundTensor& codes) {
  if (codes.entry->dtype != Dtype::kI32) {
    return MismatchError(codes, "expected dtype I32, found ", InfoOf(codes.entry->dtype).name);
  }
  const std::vector<uint64_t>& found = codes.entry->shape;
  if (found.size() != 2 || found[0] == 0 || found[1] == 0) {
    return MismatchError(codes, "expected a matrix, found shape ", ShapeText(found));
  }
  const MatrixShape shape =
      request.shape.value_or(MatrixShape{static_cast<int64_t>(found[1]) * kPerWord, static_cast<int64_t>(found[0])});
  TransposedIntTensor::Parts parts;
  parts.codes = codes;
  KOMPAKT_RETURN_IF_ERROR(CheckShape(codes, {shape.cols, shape.rows / kPerWord}));
  KOMPAKT_ASSIGN_OR_RETURN(const IntGrid grid, BindTransposed(request, shape, 4, &parts));
  if (const FoundTensor index = request.Find(".g_idx")) {
    return MismatchError(index, "AWQ knows no activation order");
  }
  BoundModule bound;
  bound.used = {codes, parts.zeros, parts.scales};
  bound.tensor = std::make_unique<AwqTensor>(shape, grid, parts);
  return bound;
}

}  // namespace

const SourceForm kAwqForm = {
    .name = "awq",
    .elements = ".qweight",
    .recognises = [](const ModuleRequest& request,
                     const FoundTensor&) { return request.quantization->method == QuantMethod::kAwq; },
    .ignored = {},
    .bind = Bind,
};

}  // namespace kompakt
