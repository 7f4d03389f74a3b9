// What PlanConversion and Convert share: the manifest of a conversion before its weights.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "format/packed_writer.h"
#include "format/tensor_source.h"
#include "quant/importance.h"
#include "quant/recipe.h"

namespace kompakt {

absl::StatusOr<WritePlan> MakeWritePlan(const TensorSource& source, const QuantRecipe& recipe,
                                        const std::vector<QuantRecipe::Choice>& choices, PackedLayout layout,
                                        const Importance* importance);

}  // namespace kompakt
