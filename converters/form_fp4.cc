#include "converters/form_fp4.h"

#include "converters/decode_lanes.h"
#include "converters/element_reads.h"
#include "format/status.h"

namespace kompakt {

absl::StatusOr<MatrixShape> Fp4Shape(const ModuleRequest& request, const FoundTensor& codes, int64_t group) {
  const std::vector<uint64_t>& found = codes.entry->shape;
  if (found.size() != 2 || found[0] == 0 || found[1] == 0) {
    return MismatchError(codes, "expected a matrix, found shape ", ShapeText(found));
  }
  MatrixShape shape{static_cast<int64_t>(found[0]), static_cast<int64_t>(found[1] * 2)};
  if (request.shape.has_value()) {
    shape = *request.shape;
    if (shape.cols % group != 0) {
      return MismatchError(codes, "expected columns in groups of ", group, ", the model has ", shape.cols);
    }
    KOMPAKT_RETURN_IF_ERROR(CheckShape(codes, {shape.rows, shape.cols / 2}));
  }
  if (shape.cols % group != 0) {
    return MismatchError(codes, "expected columns in groups of ", group, ", found ", shape.cols);
  }
  return shape;
}

absl::StatusOr<std::vector<uint8_t>> ReadFp4Codes(const FoundTensor& codes, int64_t cols, int64_t row_begin,
                                                  int64_t row_end, Xxh3Stream* source_bytes) {
  const auto row_bytes = static_cast<uint64_t>(cols / 2);
  KOMPAKT_ASSIGN_OR_RETURN(const std::vector<uint8_t> packed,
                           ReadElements(codes, static_cast<uint64_t>(row_begin) * row_bytes,
                                        static_cast<uint64_t>(row_end - row_begin) * row_bytes, source_bytes));
  std::vector<uint8_t> unpacked(packed.size() * 2);
  BestDecodeLanes().unpack_nibbles(packed.data(), static_cast<int64_t>(packed.size()), unpacked.data());
  return unpacked;
}

absl::StatusOr<FoundTensor> NeedCompanion(const ModuleRequest& request, const FoundTensor& elements,
                                          absl::string_view suffix) {
  const FoundTensor found = request.Find(suffix);
  if (found) return found;
  return MismatchError(elements, "expected ", request.module, suffix, " beside it, found none");
}

}  // namespace kompakt
