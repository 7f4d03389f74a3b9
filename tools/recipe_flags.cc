#include "tools/recipe_flags.h"

#include <sys/stat.h>

#include <memory>

#include "absl/strings/numbers.h"
#include "format/file_system.h"
#include "format/status.h"
#include "quant/feedback_plan.h"
#include "tools/byte_size.h"
#include "tools/model_input.h"
#include "tools/runtime_flags.h"
#include "tools/sensitivity_file.h"

namespace kompakt {
namespace {

constexpr int64_t kMostContext = int64_t{1} << 30;

absl::StatusOr<QuantRecipe> ReadRecipe(const RecipeFlags& flags) {
  absl::StatusOr<QuantRecipe> recipe = QuantRecipe::Builtin(flags.recipe);
  struct stat info {};
  if (!recipe.ok() && stat(flags.recipe.c_str(), &info) == 0 && !S_ISDIR(info.st_mode)) {
    KOMPAKT_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(flags.recipe));
    recipe = QuantRecipe::Parse(text, flags.recipe);
  }
  if (!recipe.ok()) return recipe.status();
  for (const std::string& flag : flags.overrides) KOMPAKT_RETURN_IF_ERROR(recipe->AddOverride(flag));
  return recipe;
}

// --size, or --bpw of all parameters that are packed.
absl::StatusOr<uint64_t> TensorBudget(const RecipeFlags& flags, const TensorSource& source) {
  if (!flags.size.empty()) return ParseByteSize("--size", flags.size);
  double bits = 0;
  if (!absl::SimpleAtod(flags.bits, &bits) || !(bits > 0) || !(bits <= 64)) {
    return UsageError("--bpw: expected a number of bits per weight above 0 and up to 64, found \"", flags.bits, "\"");
  }
  return static_cast<uint64_t>(bits / 8 * static_cast<double>(source.schema().parameter_count()));
}

}  // namespace

void DeclareRecipeFlags(CLI::App& app, RecipeFlags& flags) {
  CLI::Option* const recipe =
      app.add_option("--recipe", flags.recipe, "lossless, q8, q6, q5, q4 (default), q3, q2, or a recipe file");
  app.add_option("--tensor", flags.overrides,
                 "PATTERN=FORMAT, for example 'mlp.experts.*=q8_g32' or 'model.layers.0.*=bf16'; may repeat")
      ->expected(1)
      ->take_all();
  app.add_option("--scale-search", flags.scale_search,
                 "fast, default or best: how thoroughly the encoders look for scales; the recipe's where not given");
  app.add_option("--error-feedback", flags.error_feedback,
                 "off, or the damping of second moments in units of their mean (default 0.01 where --calibration has "
                 "them): errors of a weight are made good by the weights to its right");
  app.add_option("--fit", flags.fit, "Choose formats so that file, KV cache and working memory stay within, say, 8GiB")
      ->excludes(recipe);
  CLI::Option* const fit = app.get_option("--fit");
  CLI::Option* const size =
      app.add_option("--size", flags.size,
                     "Choose formats so that the tensors take at most this much, say 8.5GB, with the least damage")
          ->excludes(recipe)
          ->excludes(fit);
  app.add_option("--bpw", flags.bits, "The same, in bits per weight: 4.5")
      ->excludes(recipe)
      ->excludes(fit)
      ->excludes(size);
  app.add_option("--sensitivity", flags.sensitivity,
                 "What `kompakt sensitivity` measured: error weights for --size and --bpw");
  app.add_option("--write-recipe", flags.write_recipe,
                 "Write the recipe to this file: --recipe FILE then does the same");
  app.add_option("-c,--ctx-size", flags.context,
                 "Tokens of the KV cache that plan shows and --fit counts (default 4096)");
  DeclareCacheFlag(app, flags.kv, "bf16");
  app.add_option("--volume-size", flags.volume_size,
                 "Cut the file into volumes of at most, say, 40GiB: NAME-00001-of-000NN.kpk");
}

absl::StatusOr<uint64_t> VolumeBytes(const RecipeFlags& flags) {
  if (flags.volume_size.empty()) return uint64_t{0};
  return ParseByteSize("--volume-size", flags.volume_size);
}

absl::StatusOr<ChosenRecipe> ChooseRecipe(const RecipeFlags& flags, const TensorSource& source, int threads,
                                          const Importance* importance) {
  ChosenRecipe chosen;
  if (flags.context < 1 || flags.context > kMostContext) {
    return UsageError("-c: expected 1 to ", kMostContext, " tokens, found ", flags.context);
  }
  KOMPAKT_ASSIGN_OR_RETURN(chosen.cache_format, ResolveCacheFlag(flags.kv));
  absl::optional<SearchEffort> scale_search;
  if (!flags.scale_search.empty()) {
    const absl::StatusOr<SearchEffort> effort = EffortFromName(flags.scale_search);
    if (!effort.ok()) return WithContext(effort.status(), "--scale-search");
    scale_search = *effort;
  }
  std::string error_feedback = flags.error_feedback;
  if (error_feedback.empty() && importance != nullptr && importance->file().has_matrices()) {
    error_feedback = absl::StrCat(kDefaultDamping);
  }
  if (!error_feedback.empty()) {
    if (const absl::Status set = QuantRecipe().SetErrorFeedback(error_feedback); !set.ok()) {
      return WithContext(set, "--error-feedback");
    }
  }
  const bool by_size = !flags.size.empty() || !flags.bits.empty();
  if (!flags.sensitivity.empty() && !by_size) {
    return UsageError("--sensitivity: expected --size or --bpw with it, found neither");
  }
  if (by_size) {
    KOMPAKT_ASSIGN_OR_RETURN(chosen.size_budget_bytes, TensorBudget(flags, source));
    AllocationRequest request;
    request.budget_bytes = chosen.size_budget_bytes;
    request.overrides = flags.overrides;
    request.importance = importance;
    if (!flags.sensitivity.empty()) {
      KOMPAKT_ASSIGN_OR_RETURN(const SensitivityReport measured, ReadSensitivity(flags.sensitivity));
      KOMPAKT_RETURN_IF_ERROR(CheckSameDepth(measured, source.schema().arch(), flags.sensitivity));
      request.measured = measured.Weights();
      if (!measured.calibration.empty()) request.importance = nullptr;
    }
    absl::StatusOr<Allocation> allocation = Allocate(source, request);
    if (!allocation.ok()) return WithContext(allocation.status(), flags.size.empty() ? "--bpw" : "--size");
    chosen.allocation = *std::move(allocation);
    chosen.recipe = chosen.allocation->recipe;
  } else if (flags.fit.empty()) {
    KOMPAKT_ASSIGN_OR_RETURN(chosen.recipe, ReadRecipe(flags));
  } else {
    KOMPAKT_ASSIGN_OR_RETURN(chosen.fit_budget_bytes, ParseByteSize("--fit", flags.fit));
    const FitRequest request{.budget_bytes = chosen.fit_budget_bytes,
                             .context = flags.context,
                             .threads = threads,
                             .cache_format = chosen.cache_format,
                             .importance = importance,
                             .overrides = flags.overrides,
                             .scale_search = scale_search,
                             .error_feedback = error_feedback};
    KOMPAKT_ASSIGN_OR_RETURN(chosen.fit, FitRecipe(source, request));
    chosen.recipe = chosen.fit->recipe;
  }
  if (scale_search) chosen.recipe.set_scale_search(*scale_search);
  if (!error_feedback.empty() && (!flags.error_feedback.empty() || !chosen.recipe.names_error_feedback())) {
    KOMPAKT_RETURN_IF_ERROR(chosen.recipe.SetErrorFeedback(error_feedback));
  }
  if (!flags.write_recipe.empty()) {
    KOMPAKT_RETURN_IF_ERROR(ReplaceFile(PosixFileSystem(), flags.write_recipe, chosen.recipe.ToText()));
  }
  return chosen;
}

}  // namespace kompakt
