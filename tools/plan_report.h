// How a ConversionPlan is shown: `plan` and `convert --dry-run`.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "format/tensor_source.h"
#include "quant/importance.h"
#include "tools/exit_code.h"
#include "tools/machine_memory.h"
#include "tools/recipe_flags.h"

namespace kompakt {

// Plans with `flags`, checks what can be checked before work (`destination` may be empty), and prints the answer, as
// JSON or as text. `importance`: of the conversion, or null. An error when a check has failed, so that a script needs
// to look at the exit code only.
absl::StatusOr<ExitCode> AnswerPlan(const TensorSource& source, const RecipeFlags& flags,
                                    const std::string& destination, int threads, const RamLimit& ram,
                                    const Importance* importance, bool json);

}  // namespace kompakt
