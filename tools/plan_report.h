// How a ConversionPlan is shown: `plan` and `convert --dry-run`.
#pragma once

#include <string>
#include <vector>

#include "format/tensor_source.h"
#include "nlohmann/json.hpp"
#include "quant/convert.h"
#include "tools/preflight.h"
#include "tools/recipe_flags.h"

namespace kompakt {

// Everything that `plan` and `convert --dry-run` answer; `destination` may be empty. The preflight's outcome is the
// caller's to turn into an exit code.
struct PlanReport {
  ConversionPlan plan;
  std::vector<PlannedFile> files;  // one, or one per volume
  ChosenRecipe recipe;
  Preflight preflight;
};
absl::StatusOr<PlanReport> MakePlanReport(const TensorSource& source, const RecipeFlags& flags,
                                          const std::string& destination, int threads);
std::string PlanText(const TensorSource& source, const PlanReport& report);
nlohmann::ordered_json PlanJson(const TensorSource& source, const PlanReport& report);

}  // namespace kompakt
