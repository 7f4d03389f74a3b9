// What the two FP4 forms share: E2M1 codes [rows, cols / 2], two per byte, low nibble = even column.
#pragma once

#include <array>
#include <vector>

#include "absl/strings/string_view.h"
#include "converters/source_forms.h"

namespace kompakt {

// Companions that say how activations were quantized.
inline constexpr std::array<absl::string_view, 2> kFp4Ignored = {".input_scale", ".input_global_scale"};

// Rows and columns of a matrix with such codes. kFailedPrecondition when the tensor is no matrix, when the columns are
// not a multiple of `group`, or when the model calls for another shape.
absl::StatusOr<MatrixShape> Fp4Shape(const ModuleRequest& request, const FoundTensor& codes, int64_t group);

// One code per byte: [row_end - row_begin, cols].
absl::StatusOr<std::vector<uint8_t>> ReadFp4Codes(const FoundTensor& codes, int64_t cols, int64_t row_begin,
                                                  int64_t row_end, Xxh3Stream* source_bytes);

// The companion with `suffix`, or kFailedPrecondition naming it.
absl::StatusOr<FoundTensor> NeedCompanion(const ModuleRequest& request, const FoundTensor& elements,
                                          absl::string_view suffix);

}  // namespace kompakt
