#include "quant/fit.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "format/status.h"
#include "quant/convert.h"

namespace kompakt {
namespace {

constexpr absl::string_view kKeep = "* = source  # norms, router and biases: small, and everything depends on them\n";
constexpr absl::string_view kEight =
    "embed_tokens = q8_g32\nlm_head = q8_g32\nself_attn.*proj* = q8_g32\nmlp.*_proj = q8_g32\n";
constexpr absl::string_view kDense4 =
    "mlp.gate_proj = q4_g16\nmlp.up_proj = q4_g16\nmlp.down_proj = q4_g16\nmlp.shared_experts.*_proj = q4_g16\n";
constexpr absl::string_view kRest4 =
    "embed_tokens = q4_g16\nlm_head = q4_g16\nself_attn.q_*proj = q4_g16\nself_attn.kv_a_proj_with_mqa = q4_g16\n"
    "self_attn.o_proj = q4_g16\n";

// One step of the ladder. Later steps are smaller for sources of 16 bits; for others a step may be larger than a better
// one, and is then left out. Steps with a name of --recipe are that recipe.
struct Step {
  std::string name;
  std::string rules;
};

std::vector<Step> Ladder() {
  const auto eight = [](absl::string_view experts, absl::string_view others = "", absl::string_view more = "") {
    return absl::StrCat(kKeep, kEight, others, experts, more);
  };
  const auto experts = [](absl::string_view format) { return absl::StrCat("mlp.experts.*_proj = ", format, "\n"); };
  const auto builtin = [](absl::string_view name) { return QuantRecipe::Builtin(name)->ToText(); };
  return {
      {"lossless", builtin("lossless")},
      {"q8", builtin("q8")},
      {"q6", builtin("q6")},
      {"q5", builtin("q5")},
      {"q8 with the experts at q4_g16", eight(experts("q4_g16"))},
      {"q4", builtin("q4")},
      {"q8 with the experts at q4_g32", eight(experts("q4_g32"))},
      {"experts at q4_g32, other FFN matrices at q4_g16", eight(experts("q4_g32"), kDense4)},
      {"experts at q4_g32, FFN, embedding and queries at q4_g16",
       eight(experts("q4_g32"), kDense4, "embed_tokens = q4_g16\nself_attn.q_*proj = q4_g16\n")},
      {"experts at q4_g32, all else at q4_g16 but kv_b_proj", eight(experts("q4_g32"), kDense4, kRest4)},
      {"q3", builtin("q3")},
      {"experts at q3_g16, other FFN matrices at q4_g16", eight(experts("q3_g16"), kDense4)},
      {"experts at q3_g16, all else at q4_g16 but kv_b_proj", eight(experts("q3_g16"), kDense4, kRest4)},
      {"experts at q3_g32, all else at q4_g16 but kv_b_proj", eight(experts("q3_g32"), kDense4, kRest4)},
      {"q2", builtin("q2")},
      {"experts at q2_g16, other FFN matrices at q4_g16", eight(experts("q2_g16"), kDense4)},
      {"experts at q2_g16, all else at q4_g16 but kv_b_proj", eight(experts("q2_g16"), kDense4, kRest4)},
      {"experts at q2_g32, all else at q4_g16 but kv_b_proj", eight(experts("q2_g32"), kDense4, kRest4)},
  };
}

// What the recipe of `step` decides for the matrices of one layer, as rules for that layer alone.
std::string RulesOfLayer(const TensorSource& source, const std::vector<QuantRecipe::Choice>& choices, int64_t layer,
                         absl::string_view step) {
  std::string rules;
  for (const RoleInfo& role : AllRoles()) {
    const int64_t first = role.scope == TensorScope::kModel ? -1 : source.schema().Find(role.role, layer, -1);
    const int64_t index =
        first >= 0 || role.scope != TensorScope::kExpert ? first : source.schema().Find(role.role, layer, 0);
    if (index < 0 || role.is_vector || role.role == TensorRole::kRouter) continue;
    const QuantRecipe::Choice& choice = choices[static_cast<size_t>(index)];
    const bool keep = choice.exact || (choice.format == FormatId::kF32 && choice.form.decoded);
    absl::StrAppend(&rules, "model.layers.", layer, ".", role.name, " = ",
                    keep ? absl::string_view("source") : FormatOf(choice.format).name, "  # this layer: ", step,
                    ", as far as the budget goes\n");
  }
  return rules;
}

// First, last, second, last but one, ...: what errors hurt more comes first.
std::vector<int64_t> LayersFromOutside(int64_t layers) {
  std::vector<int64_t> order;
  for (int64_t i = 0; i < layers; ++i) order.push_back(i % 2 == 0 ? i / 2 : layers - 1 - i / 2);
  return order;
}

absl::StatusOr<QuantRecipe> MakeRecipe(const std::string& rules, const FitRequest& request) {
  KOMPAKT_ASSIGN_OR_RETURN(QuantRecipe recipe, QuantRecipe::Parse(rules, "fit"));
  for (const std::string& flag : request.overrides) KOMPAKT_RETURN_IF_ERROR(recipe.AddOverride(flag));
  if (request.scale_search.has_value()) recipe.set_scale_search(*request.scale_search);
  if (!request.error_feedback.empty()) KOMPAKT_RETURN_IF_ERROR(recipe.SetErrorFeedback(request.error_feedback));
  return recipe;
}

absl::StatusOr<uint64_t> FileBytes(const TensorSource& source, const QuantRecipe& recipe, const FitRequest& request) {
  KOMPAKT_ASSIGN_OR_RETURN(const ConversionPlan plan, PlanConversion(source, recipe, 1, 0, request.importance));
  return plan.file_bytes;
}

}  // namespace

absl::StatusOr<FitResult> FitRecipe(const TensorSource& source, const FitRequest& request) {
  const ArchSpec& arch = source.schema().arch();
  FitResult result;
  result.footprint = FootprintOf(arch, request.context, request.threads, request.cache_format);
  const auto fits = [&](uint64_t file_bytes) {
    return result.footprint.total() <= request.budget_bytes &&
           file_bytes <= request.budget_bytes - result.footprint.total();
  };

  // The best step that fits, and the next better one that is larger.
  const std::vector<Step> ladder = Ladder();
  const Step* chosen = nullptr;
  const Step* better = nullptr;
  uint64_t smallest = UINT64_MAX;
  for (const Step& step : ladder) {
    KOMPAKT_ASSIGN_OR_RETURN(QuantRecipe recipe, MakeRecipe(step.rules, request));
    KOMPAKT_ASSIGN_OR_RETURN(const uint64_t bytes, FileBytes(source, recipe, request));
    if (bytes >= smallest) continue;
    smallest = bytes;
    if (!fits(bytes)) {
      better = &step;
      continue;
    }
    chosen = &step;
    result.recipe = std::move(recipe);
    result.file_bytes = bytes;
    break;
  }
  if (chosen == nullptr) {
    return absl::ResourceExhaustedError(absl::StrFormat(
        "--fit: expected a budget of at least %d bytes, found %d: the smallest file has %d bytes, a KV cache of %d "
        "tokens %d, and working memory %d",
        smallest + result.footprint.total(), request.budget_bytes, smallest, request.context,
        result.footprint.cache_bytes, result.footprint.working_bytes));
  }
  result.chosen = chosen->name;
  if (better == nullptr) return result;

  // The largest number of layers at the better step: bytes grow with every one.
  KOMPAKT_ASSIGN_OR_RETURN(const QuantRecipe better_recipe, QuantRecipe::Parse(better->rules, "fit"));
  KOMPAKT_ASSIGN_OR_RETURN(const std::vector<QuantRecipe::Choice> choices, better_recipe.Resolve(source));
  const std::vector<int64_t> order = LayersFromOutside(arch.num_hidden_layers());
  int64_t low = 0;
  int64_t high = std::ssize(order);
  while (low < high) {
    const int64_t middle = (low + high + 1) / 2;
    std::string rules = chosen->rules;
    for (int64_t i = 0; i < middle; ++i) {
      rules += RulesOfLayer(source, choices, order[static_cast<size_t>(i)], better->name);
    }
    KOMPAKT_ASSIGN_OR_RETURN(QuantRecipe recipe, MakeRecipe(rules, request));
    KOMPAKT_ASSIGN_OR_RETURN(const uint64_t bytes, FileBytes(source, recipe, request));
    if (!fits(bytes)) {
      high = middle - 1;
      continue;
    }
    low = middle;
    result.recipe = std::move(recipe);
    result.file_bytes = bytes;
  }
  if (low > 0) {
    absl::StrAppend(&result.chosen, "; ", low, " of ", order.size(), " layers: ", better->name);
  }
  return result;
}

}  // namespace kompakt
