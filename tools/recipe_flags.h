// The flags of convert and plan that decide what is written: formats, and the size of volumes.
#pragma once

#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "format/tensor_source.h"
#include "quant/allocate.h"
#include "quant/fit.h"
#include "quant/importance.h"
#include "quant/recipe.h"

namespace kompakt {

struct RecipeFlags {
  std::string recipe = "q4";
  std::vector<std::string> overrides;
  std::string fit;           // an amount; empty: by --recipe
  int64_t context = 4096;    // -c: of the KV cache that --fit counts
  std::string kv = "bf16";   // --kv: its format
  std::string scale_search;  // empty: what the recipe says
  // "off" or a damping; empty: what the recipe says, else kDefaultDamping where the calibration has second moments
  std::string error_feedback;
  std::string volume_size;   // an amount; empty: one file
  std::string size;          // an amount of tensor data; empty: by --recipe
  std::string bits;          // the same in bits per weight
  std::string sensitivity;   // a file; empty: the built-in error weights
  std::string write_recipe;  // a file to write the recipe to
};

// Adds --recipe, --tensor, --scale-search, --error-feedback, --fit, -c, --kv, --volume-size, --size, --bpw,
// --sensitivity and --write-recipe to a verb.
void DeclareRecipeFlags(CLI::App& app, RecipeFlags& flags);

struct ChosenRecipe {
  QuantRecipe recipe;
  CacheFormat cache_format = CacheFormat::kF32;
  absl::optional<FitResult> fit;  // with --fit
  uint64_t fit_budget_bytes = 0;
  absl::optional<Allocation> allocation;  // with --size or --bpw
  uint64_t size_budget_bytes = 0;
};

// A built-in name or a recipe file, plus the overrides; or what fits the budget. Writes it where --write-recipe says.
// `importance`: of the conversion, or null. kInvalidArgument for flags that contradict each other.
absl::StatusOr<ChosenRecipe> ChooseRecipe(const RecipeFlags& flags, const TensorSource& source, int threads,
                                          const Importance* importance = nullptr);

// --volume-size in bytes; 0 without it. kInvalidArgument for what is no amount.
absl::StatusOr<uint64_t> VolumeBytes(const RecipeFlags& flags);

}  // namespace kompakt
