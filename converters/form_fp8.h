// fp8: E4M3FN codes with scales that multiply: w[r, c] = value(code) * scale, one F32 product.
//
//     per tensor   scale [], [1] or [1, 1]
//     per channel  scale [rows] or [rows, 1]
//     per block    scale [cdiv(rows, block_rows)][cdiv(cols, block_cols)]; edge blocks are smaller
//
// Spellings of the scale: X.weight_scale_inv (DeepSeek; a multiplier despite its name), X.weight_scale
// (compressed-tensors), X.scale (DeepSeek-V4), X.qscale_weight (Mistral). fp8_b128 holds the form when no 128 x 128
// block of the packed file meets two scales.
#pragma once

#include <vector>

#include "converters/source_forms.h"

namespace kompakt {

extern const SourceForm kFp8Form;

// Scales by any of the spellings that lie beside `elements`.
std::vector<FoundTensor> FindFp8Scales(const ModuleRequest& request, const FoundTensor& elements);

absl::StatusOr<BoundModule> BindFp8(const ModuleRequest& request, const FoundTensor& elements, MatrixShape shape,
                                    const FusedSlice* slice);

}  // namespace kompakt
