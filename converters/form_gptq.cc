// gptq: unsigned codes of 4 or 8 bits, stored as the transpose.
//
//     X.qweight  I32 [cols * bits / 32, rows]   field j of word (w, r) = code of row r, column w * 32 / bits + j
//     X.qzeros   I32 [groups, rows * bits / 32] field j of word (g, v) = zero point of row v * 32 / bits + j
//     X.scales   F16, BF16 or F32 [groups, rows]
//     X.g_idx    I32 [cols], the group of each column; absent: c / group_size
//
// checkpoint_format "gptq" stores zero points minus one, "gptq_v2" as they are.
#include <array>

#include "converters/decode_lanes.h"
#include "converters/element_reads.h"
#include "converters/form_table.h"
#include "converters/transposed_int.h"
#include "format/status.h"

namespace kompakt {
namespace {

constexpr std::array<int, 8> kShifts4 = {0, 4, 8, 12, 16, 20, 24, 28};
constexpr std::array<int, 4> kShifts8 = {0, 8, 16, 24};

class GptqTensor : public TransposedIntTensor {
 public:
  GptqTensor(MatrixShape shape, IntGrid grid, Parts parts, int zero_offset)
      : TransposedIntTensor(shape, grid, parts,
                            grid.bits == 4 ? absl::Span<const int>(kShifts4) : absl::Span<const int>(kShifts8),
                            zero_offset) {}

 protected:
  std::string Name() const override {
    return absl::StrCat("GPTQ ", grid().bits, "-bit, ", InfoOf(scales().entry->dtype).name, " scale per ", grid().group,
                        parts().index ? " by index" : "");
  }

  std::string UpstreamForm() const override { return FormText("gptq"); }

  // A word holds consecutive columns of one row, so transposing words gives the rows of packed codes.
  absl::StatusOr<std::vector<uint8_t>> ReadCodes(int64_t row_begin, int64_t row_end,
                                                 Xxh3Stream* source_bytes) const override {
    const int64_t n = row_end - row_begin;
    const int64_t words = cols() * grid().bits / 32;
    KOMPAKT_ASSIGN_OR_RETURN(const std::vector<uint8_t> slice, ReadColumns(parts().codes, row_begin, n, source_bytes));
    std::vector<uint32_t> by_row(static_cast<size_t>(n * words));
    TransposeWords(reinterpret_cast<const uint32_t*>(slice.data()), words, n, by_row.data());
    return UnpackWordRows(reinterpret_cast<const uint8_t*>(by_row.data()), n, words, cols(), grid().bits);
  }
};

absl::StatusOr<BoundModule> Bind(const ModuleRequest& request, const FoundTensor& codes) {
  const SourceQuantization& quantization = *request.quantization;
  if (codes.entry->dtype != Dtype::kI32) {
    return MismatchError(codes, "expected dtype I32, found ", InfoOf(codes.entry->dtype).name);
  }
  const int64_t bits = quantization.int_bits.empty() ? 4 : quantization.int_bits[0];
  const std::vector<uint64_t>& found = codes.entry->shape;
  if (found.size() != 2 || found[0] == 0 || found[1] == 0) {
    return MismatchError(codes, "expected a matrix, found shape ", ShapeText(found));
  }
  const MatrixShape shape =
      request.shape.value_or(MatrixShape{static_cast<int64_t>(found[1]), static_cast<int64_t>(found[0]) * 32 / bits});
  TransposedIntTensor::Parts parts;
  parts.codes = codes;
  KOMPAKT_RETURN_IF_ERROR(CheckShape(codes, {shape.cols * bits / 32, shape.rows}));
  KOMPAKT_ASSIGN_OR_RETURN(const IntGrid grid, BindTransposed(request, shape, bits, &parts));
  KOMPAKT_ASSIGN_OR_RETURN(parts.index, FindGroupIndex(request, ".g_idx", shape.cols));
  if (!parts.index && quantization.act_order) {
    return MismatchError(codes, "the configuration says desc_act: true: expected ", request.module,
                         ".g_idx beside it, found none");
  }
  BoundModule bound;
  bound.used = {codes, parts.zeros, parts.scales};
  if (parts.index) bound.used.push_back(parts.index);
  bound.tensor = std::make_unique<GptqTensor>(shape, grid, parts, quantization.gptq_v2 ? 0 : 1);
  return bound;
}

}  // namespace

const SourceForm kGptqForm = {
    .name = "gptq",
    .elements = ".qweight",
    .recognises = [](const ModuleRequest& request,
                     const FoundTensor&) { return request.quantization->method == QuantMethod::kGptq; },
    .ignored = {},
    .bind = Bind,
};

}  // namespace kompakt
