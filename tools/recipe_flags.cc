#include "tools/recipe_flags.h"

#include <sys/stat.h>

#include "format/status.h"
#include "tools/byte_size.h"
#include "tools/model_input.h"

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

}  // namespace

void DeclareRecipeFlags(CLI::App& app, RecipeFlags& flags) {
  CLI::Option* const recipe = app.add_option("--recipe", flags.recipe, "lossless, q8, q4 (default), or a recipe file");
  app.add_option("--tensor", flags.overrides,
                 "PATTERN=FORMAT, for example 'mlp.experts.*=q8_g32' or 'model.layers.0.*=bf16'; may repeat")
      ->expected(1)
      ->take_all();
  app.add_option("--scale-search", flags.scale_search,
                 "fast, default or best: how thoroughly the encoders look for scales; the recipe's where not given");
  app.add_option("--fit", flags.fit, "Choose formats so that file, KV cache and working memory stay within, say, 8GiB")
      ->excludes(recipe);
  app.add_option("-c,--ctx-size", flags.context, "Tokens of the KV cache that --fit counts (default 4096)");
  app.add_option("--volume-size", flags.volume_size,
                 "Cut the file into volumes of at most, say, 40GiB: NAME-00001-of-000NN.kpk");
}

absl::StatusOr<uint64_t> VolumeBytes(const RecipeFlags& flags) {
  if (flags.volume_size.empty()) return uint64_t{0};
  return ParseByteSize("--volume-size", flags.volume_size);
}

absl::StatusOr<ChosenRecipe> ChooseRecipe(const RecipeFlags& flags, const TensorSource& source, int threads) {
  ChosenRecipe chosen;
  if (flags.context < 1 || flags.context > kMostContext) {
    return UsageError("-c: expected 1 to ", kMostContext, " tokens, found ", flags.context);
  }
  absl::optional<SearchEffort> scale_search;
  if (!flags.scale_search.empty()) {
    const absl::StatusOr<SearchEffort> effort = EffortFromName(flags.scale_search);
    if (!effort.ok()) return WithContext(effort.status(), "--scale-search");
    scale_search = *effort;
  }
  if (flags.fit.empty()) {
    KOMPAKT_ASSIGN_OR_RETURN(chosen.recipe, ReadRecipe(flags));
  } else {
    KOMPAKT_ASSIGN_OR_RETURN(chosen.fit_budget_bytes, ParseByteSize("--fit", flags.fit));
    const FitRequest request{.budget_bytes = chosen.fit_budget_bytes,
                             .context = flags.context,
                             .threads = threads,
                             .overrides = flags.overrides};
    KOMPAKT_ASSIGN_OR_RETURN(chosen.fit, FitRecipe(source, request));
    chosen.recipe = chosen.fit->recipe;
  }
  if (scale_search) chosen.recipe.set_scale_search(*scale_search);
  return chosen;
}

}  // namespace kompakt
