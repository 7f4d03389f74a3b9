#include "quant/allocate.h"

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "converters/checkpoint.h"
#include "converters/config.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "quant/convert.h"
#include "tests/fixtures/published_configs.h"
#include "tests/fixtures/small_arch.h"
#include "tests/fixtures/synthetic_source.h"

namespace kompakt {
namespace {

using testing::HasSubstr;

std::unique_ptr<TensorSource> Synthetic(const ArchSpec& arch, FormatId matrices) {
  SyntheticOptions options;
  options.arch = arch;
  options.assets = SmallAssets();
  options.form = [matrices](const TensorInfo& tensor) {
    return tensor.is_vector() || tensor.role == TensorRole::kRouter ? DefaultForm(tensor) : matrices;
  };
  return std::make_unique<SyntheticSource>(options);
}

struct NamedSource {
  std::string name;
  std::unique_ptr<TensorSource> source;
};

std::vector<NamedSource> Sources() {
  std::vector<NamedSource> sources;
  for (const char* name : {"glm5", "glmflash", "kimi", "moonlight", "tiny-v3", "v2", "v2lite", "v3", "v32"}) {
    auto source = OpenCheckpoint(std::string(KOMPAKT_TEST_DATA "/checkpoints/") + name);
    EXPECT_TRUE(source.ok()) << name << ": " << source.status();
    if (source.ok()) sources.push_back({name, *std::move(source)});
  }
  for (const FormatId format : {FormatId::kBf16, FormatId::kFp8B128, FormatId::kInt4G32, FormatId::kF32}) {
    sources.push_back({absl::StrCat("small v3 in ", FormatOf(format).name), Synthetic(SmallV3Arch(), format)});
    sources.push_back({absl::StrCat("small v2 lite in ", FormatOf(format).name), Synthetic(SmallV2LiteArch(), format)});
  }
  sources.push_back({"small mtp", Synthetic(SmallMtpArch(), FormatId::kBf16)});
  sources.push_back({"small v32", Synthetic(SmallV32Arch(), FormatId::kBf16)});
  return sources;
}

uint64_t TensorBytes(const TensorSource& source, const QuantRecipe& recipe) {
  const auto plan = PlanConversion(source, recipe, 1);
  EXPECT_TRUE(plan.ok()) << plan.status();
  return plan.ok() ? plan->tensor_bytes : 0;
}

// The weighted error of a recipe, from its choices alone.
double DamageOf(const TensorSource& source, const QuantRecipe& recipe) {
  const ModelSchema& schema = source.schema();
  const ErrorWeights weights(schema.arch(), {});
  const auto choices = recipe.Resolve(source);
  EXPECT_TRUE(choices.ok()) << choices.status();
  double damage = 0;
  for (size_t i = 0; choices.ok() && i < choices->size(); ++i) {
    const TensorInfo& tensor = schema.tensors()[i];
    if (tensor.expert <= 0) damage += weights.Of(tensor.role, tensor.layer) * FormatNoise((*choices)[i].format);
  }
  return damage;
}

// Budgets from below the smallest choice to above everything kept, some of them one byte apart.
std::vector<uint64_t> Budgets(uint64_t lossless) {
  std::vector<uint64_t> budgets;
  for (uint64_t i = 1; i <= 60; ++i) {
    budgets.push_back(lossless * i / 56);
    if (i % 10 == 0) budgets.insert(budgets.end(), {lossless * i / 56 + 1, lossless * i / 56 + 64});
  }
  return budgets;
}

TEST(Allocate, NeverExceedsTheBudgetAndALargerOneNeverHurts) {
  for (const auto& [name, source] : Sources()) {
    const uint64_t lossless = TensorBytes(*source, *QuantRecipe::Builtin("lossless"));
    double last = std::numeric_limits<double>::infinity();
    int met = 0;
    for (const uint64_t budget : Budgets(lossless)) {
      AllocationRequest request;
      request.budget_bytes = budget;
      const auto allocation = Allocate(*source, request);
      if (!allocation.ok()) {
        EXPECT_EQ(met, 0) << name << ": " << budget << " is refused after a smaller budget was met";
        EXPECT_EQ(allocation.status().code(), absl::StatusCode::kResourceExhausted) << allocation.status();
        continue;
      }
      ++met;
      EXPECT_LE(allocation->tensor_bytes, budget) << name;
      EXPECT_EQ(TensorBytes(*source, allocation->recipe), allocation->tensor_bytes) << name;
      EXPECT_NEAR(DamageOf(*source, allocation->recipe), allocation->damage, 1e-12) << name;
      EXPECT_LE(allocation->damage, last + 1e-15) << name << ": at " << budget;
      last = allocation->damage;
    }
    EXPECT_GT(met, 0) << name;
    EXPECT_EQ(last, 0) << name << ": with more than enough, everything is kept";
  }
}

TEST(Allocate, MeetsABudgetThatIsExactlyItsSmallestChoice) {
  const auto source = Synthetic(SmallV3Arch(), FormatId::kBf16);
  AllocationRequest request;
  request.budget_bytes = 1000;
  const auto refused = Allocate(*source, request);
  ASSERT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
  const std::string message(refused.status().message());
  ASSERT_THAT(message, HasSubstr("found 1000"));
  request.budget_bytes = std::stoull(message.substr(message.find("at least ") + 9));
  const auto smallest = Allocate(*source, request);
  ASSERT_TRUE(smallest.ok()) << smallest.status();
  EXPECT_EQ(smallest->tensor_bytes, request.budget_bytes);
  --request.budget_bytes;
  EXPECT_FALSE(Allocate(*source, request).ok());
}

TEST(Allocate, IsNoWorseThanAnyBuiltInRecipeOfThatSize) {
  for (const auto& [name, source] : Sources()) {
    for (const absl::string_view builtin : QuantRecipe::BuiltinNames()) {
      const QuantRecipe recipe = *QuantRecipe::Builtin(builtin);
      AllocationRequest request;
      request.budget_bytes = TensorBytes(*source, recipe);
      const auto allocation = Allocate(*source, request);
      ASSERT_TRUE(allocation.ok()) << allocation.status();
      // Filling the last bytes is greedy: 5 % for what an exact search could still find.
      EXPECT_LE(allocation->damage, 1.05 * DamageOf(*source, recipe) + 1e-15) << name << ", " << builtin;
    }
  }
}

TEST(Allocate, WritesARecipeThatParsesToItself) {
  for (const auto& [name, source] : Sources()) {
    AllocationRequest request;
    request.budget_bytes = TensorBytes(*source, *QuantRecipe::Builtin("q4"));
    const auto allocation = Allocate(*source, request);
    ASSERT_TRUE(allocation.ok()) << allocation.status();
    const std::string text = allocation->recipe.ToText();
    const auto replayed = QuantRecipe::Parse(text, "file");
    ASSERT_TRUE(replayed.ok()) << replayed.status();
    EXPECT_EQ(replayed->ToText(), text) << name;
    for (const RecipeRule& rule : replayed->rules()) EXPECT_FALSE(rule.reason.empty()) << name << ": " << rule.pattern;
  }
}

TEST(Allocate, ObeysOverridesWithinTheBudget) {
  const auto source = Synthetic(SmallV3Arch(), FormatId::kBf16);
  AllocationRequest request;
  request.budget_bytes = TensorBytes(*source, *QuantRecipe::Builtin("q8"));
  request.overrides = {"lm_head=bf16", "model.layers.1.mlp.experts.up_proj=q4_g32"};
  const auto allocation = Allocate(*source, request);
  ASSERT_TRUE(allocation.ok()) << allocation.status();
  EXPECT_LE(TensorBytes(*source, allocation->recipe), request.budget_bytes);
  const auto choices = *allocation->recipe.Resolve(*source);
  EXPECT_EQ(choices[static_cast<size_t>(source->schema().Find(TensorRole::kLmHead))].format, FormatId::kBf16);
  EXPECT_EQ(choices[static_cast<size_t>(source->schema().Find(TensorRole::kExpertUp, 1, 2))].format, FormatId::kQ4G32);
}

TEST(Allocate, GivesBitsToWhatWasMeasuredToMatter) {
  const auto source = Synthetic(SmallV3Arch(), FormatId::kBf16);
  const auto bits_of = [&](double down, TensorRole role) {
    AllocationRequest request;
    request.budget_bytes = TensorBytes(*source, *QuantRecipe::Builtin("q8")) * 8 / 10;
    request.measured = {{"experts.gate_up", 1, 2, 1.0}, {"experts.down", 1, 2, down}};
    // The others as the table has them, in units in which gate and up weigh 1.
    for (const char* other : {"attention.out", "shared.down", "shared.gate_up"}) {
      request.measured.push_back({other, 1, 2, 8.0});
    }
    const auto allocation = Allocate(*source, request);
    EXPECT_TRUE(allocation.ok()) << allocation.status();
    const auto choices = *allocation->recipe.Resolve(*source);
    return FormatOf(choices[static_cast<size_t>(source->schema().Find(role, 1, 0))].format).bits_per_weight;
  };
  EXPECT_GT(bits_of(1000, TensorRole::kExpertDown), bits_of(0.001, TensorRole::kExpertDown));
  EXPECT_LE(bits_of(1000, TensorRole::kExpertGate), bits_of(0.001, TensorRole::kExpertGate));
}

// The shapes of published models; nothing of their weights is read.
TEST(Allocate, GivesPublishedModelsTheirBitsInTheOrderOfTheTable) {
  const struct {
    const char* name;
    nlohmann::json config;
    FormatId matrices;
  } models[] = {{"V3", published::V3(), FormatId::kFp8B128}, {"V2-Lite", published::V2Lite(), FormatId::kBf16}};
  for (const auto& model : models) {
    const auto config = ParseConfig(model.config.dump(), model.name);
    ASSERT_TRUE(config.ok()) << config.status();
    const auto source = Synthetic(config->arch, model.matrices);
    const ModelSchema& schema = source->schema();
    AllocationRequest request;
    request.budget_bytes = static_cast<uint64_t>(4.5 / 8 * static_cast<double>(schema.parameter_count()));
    const auto allocation = Allocate(*source, request);
    ASSERT_TRUE(allocation.ok()) << allocation.status();
    EXPECT_LE(allocation->tensor_bytes, request.budget_bytes);
    // An expert layer's step is the coarsest; hardly anything is left over.
    EXPECT_GT(static_cast<double>(allocation->tensor_bytes), 0.999 * static_cast<double>(request.budget_bytes));
    const auto choices = *allocation->recipe.Resolve(*source);
    const auto bits = [&](TensorRole role, int64_t layer, int64_t expert = -1) {
      return FormatOf(choices[static_cast<size_t>(schema.Find(role, layer, expert))].format).bits_per_weight;
    };
    for (int64_t l = config->arch.moe().first_k_dense_replace(); l < config->arch.num_hidden_layers(); ++l) {
      EXPECT_GE(bits(TensorRole::kExpertDown, l, 0), bits(TensorRole::kExpertGate, l, 0)) << model.name << " " << l;
      EXPECT_GE(bits(TensorRole::kKvAProj, l), 8) << model.name << " " << l;
      EXPECT_GE(bits(TensorRole::kOProj, l), bits(TensorRole::kExpertDown, l, 0)) << model.name << " " << l;
      EXPECT_GE(bits(TensorRole::kSharedDown, l), bits(TensorRole::kExpertDown, l, 0)) << model.name << " " << l;
    }
    EXPECT_GE(bits(TensorRole::kLmHead, -1), 8) << model.name;
    RecordProperty(model.name, allocation->recipe.ToText());
  }
}

TEST(FormatNoise, FallsWithTheBitsAndIsRoundedTo001Db) {
  for (const BlockFormat& a : AllFormats()) {
    if (a.exact) {
      EXPECT_EQ(FormatNoise(a.id), 0) << a.name;
      continue;
    }
    const double db = 10 * std::log10(FormatNoise(a.id));
    EXPECT_NEAR(100 * db, std::round(100 * db), 1e-6) << a.name;
    EXPECT_LT(db, -10) << a.name;
    for (const BlockFormat& b : AllFormats()) {
      if (!b.exact && b.bits_per_weight > a.bits_per_weight) {
        EXPECT_LT(FormatNoise(b.id), FormatNoise(a.id)) << a.name << " " << b.name;
      }
    }
  }
}

}  // namespace
}  // namespace kompakt
