// How a ConversionPlan is shown: `plan` and `convert --dry-run`.
#pragma once

#include <string>

#include "format/tensor_source.h"
#include "nlohmann/json.hpp"
#include "quant/convert.h"

namespace kompakt {

std::string PlanText(const TensorSource& source, const ConversionPlan& plan);
nlohmann::ordered_json PlanJson(const TensorSource& source, const ConversionPlan& plan);

// The flags that choose formats, shared by convert and plan.
struct RecipeFlags {
  std::string recipe = "q4";
  std::vector<std::string> overrides;
};
// A built-in name or a recipe file, plus the overrides.
absl::StatusOr<QuantRecipe> ReadRecipe(const RecipeFlags& flags);

// Says on stderr what a user of the packed file will miss: skipped layers, no tokenizer, one we cannot read.
void PrintSourceNotices(const TensorSource& source);

}  // namespace kompakt
