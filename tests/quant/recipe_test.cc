// Recipes: their text, what they decide, and the rules that none of them can break.
#include "quant/recipe.h"

#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "quant/encoder.h"
#include "tests/fixtures/small_arch.h"

namespace kompakt {
namespace {

using testing::HasSubstr;

// A source of which only the forms matter.
class FormSource : public TensorSource {
 public:
  explicit FormSource(const ArchSpec& arch, std::function<StoredForm(const TensorInfo&)> form)
      : schema_(ModelSchema::Create(arch).value()), form_(std::move(form)) {}
  const ModelSchema& schema() const override { return schema_; }
  const ModelAssets& assets() const override { return assets_; }
  std::vector<std::string> notices() const override { return {}; }
  absl::StatusOr<StoredForm> Form(const TensorInfo& tensor) const override { return form_(tensor); }
  absl::StatusOr<StoredRows> ReadStored(const TensorInfo&, int64_t, int64_t, Xxh3Stream*) const override {
    return absl::InternalError("a recipe reads no weights");
  }
  absl::Status ReadF32(const TensorInfo&, int64_t, int64_t, absl::Span<float>, Xxh3Stream*) const override {
    return absl::InternalError("a recipe reads no weights");
  }
  absl::StatusOr<std::vector<SourceFile>> Files() const override { return std::vector<SourceFile>(); }

 private:
  ModelSchema schema_;
  std::function<StoredForm(const TensorInfo&)> form_;
  ModelAssets assets_;
};

StoredForm Bf16() { return {FormatId::kBf16, false, false, "BF16", 0}; }
StoredForm Fp8() { return {FormatId::kFp8B128, false, false, "F8_E4M3, F32 scale per 128x128", 0}; }
StoredForm Int4() { return {FormatId::kInt4G32, false, true, "INT4, BF16 scale per 32", 0}; }
StoredForm F32() { return {FormatId::kF32, false, false, "F32", 0}; }

// As DeepSeek-V3 comes.
StoredForm V3Form(const TensorInfo& tensor) {
  if (tensor.role == TensorRole::kRouterBias) return F32();
  const TensorClass c = InfoOf(tensor.role).tensor_class;
  const bool plain =
      tensor.is_vector() || c == TensorClass::kRouter || c == TensorClass::kEmbedding || c == TensorClass::kHead;
  return plain ? Bf16() : Fp8();
}

FormSource V3Source() { return FormSource(SmallV3Arch(), V3Form); }
FormSource Bf16Source() {
  return FormSource(SmallV3Arch(), [](const TensorInfo&) { return Bf16(); });
}
// As Kimi-K2-Thinking comes: routed experts INT4, the rest BF16.
FormSource Int4Source() {
  return FormSource(SmallV3Arch(), [](const TensorInfo& t) {
    return InfoOf(t.role).tensor_class == TensorClass::kRoutedExpert ? Int4() : Bf16();
  });
}

const QuantRecipe::Choice& Of(const std::vector<QuantRecipe::Choice>& choices, const TensorSource& source,
                              TensorRole role, int64_t layer = -1, int64_t expert = -1) {
  const int64_t i = source.schema().Find(role, layer, expert);
  EXPECT_GE(i, 0) << InfoOf(role).name;
  return choices[static_cast<size_t>(i)];
}

std::string FormatName(const QuantRecipe::Choice& choice) { return std::string(FormatOf(choice.format).name); }

absl::StatusOr<std::vector<QuantRecipe::Choice>> ResolveWith(absl::string_view builtin, const TensorSource& source,
                                                             std::vector<std::string> overrides) {
  QuantRecipe recipe = QuantRecipe::Builtin(builtin).value();
  for (const std::string& flag : overrides) EXPECT_TRUE(recipe.AddOverride(flag).ok()) << flag;
  return recipe.Resolve(source);
}

TEST(Recipe, LosslessKeepsEverythingAsUpstreamStoresIt) {
  for (const FormSource& source : {V3Source(), Bf16Source(), Int4Source()}) {
    const auto choices = ResolveWith("lossless", source, {}).value();
    for (size_t i = 0; i < choices.size(); ++i) {
      const TensorInfo& tensor = source.schema().tensors()[i];
      if (tensor.role == TensorRole::kRouterBias) continue;  // see below
      EXPECT_TRUE(choices[i].exact) << tensor.Name();
      EXPECT_EQ(choices[i].format, choices[i].form.exact_format) << tensor.Name();
    }
  }
}

TEST(Recipe, Q4IsWhatTheDocumentSays) {
  const FormSource source = V3Source();
  const auto choices = ResolveWith("q4", source, {}).value();
  const std::map<TensorRole, std::string> expected = {
      {TensorRole::kEmbedTokens, "q8_g32"},
      {TensorRole::kFinalNorm, "bf16"},
      {TensorRole::kLmHead, "q8_g32"},
      {TensorRole::kInputNorm, "bf16"},
      {TensorRole::kPostAttentionNorm, "bf16"},
      {TensorRole::kQAProj, "q8_g32"},
      {TensorRole::kQANorm, "bf16"},
      {TensorRole::kQBProj, "q8_g32"},
      {TensorRole::kKvAProj, "q8_g32"},
      {TensorRole::kKvANorm, "bf16"},
      {TensorRole::kKvBProj, "q8_g32"},
      {TensorRole::kOProj, "q8_g32"},
      {TensorRole::kDenseGate, "q8_g32"},
      {TensorRole::kDenseUp, "q8_g32"},
      {TensorRole::kDenseDown, "q8_g32"},
      {TensorRole::kRouter, "bf16"},
      {TensorRole::kRouterBias, "f32"},
      {TensorRole::kExpertGate, "q4_g32"},
      {TensorRole::kExpertUp, "q4_g32"},
      {TensorRole::kExpertDown, "q4_g16"},
      {TensorRole::kSharedGate, "q8_g32"},
      {TensorRole::kSharedUp, "q8_g32"},
      {TensorRole::kSharedDown, "q8_g32"},
  };
  std::set<TensorRole> seen;
  for (size_t i = 0; i < choices.size(); ++i) {
    const TensorInfo& tensor = source.schema().tensors()[i];
    EXPECT_EQ(FormatName(choices[i]), expected.at(tensor.role)) << tensor.Name();
    EXPECT_EQ(choices[i].exact, FormatOf(choices[i].format).exact) << tensor.Name();
    EXPECT_FALSE(choices[i].reason.empty()) << tensor.Name();
    seen.insert(tensor.role);
  }
  EXPECT_EQ(seen.size(), expected.size());
}

TEST(Recipe, Q8PutsEveryMatrixButTheRouterIn8Bits) {
  const FormSource source = Bf16Source();
  const auto choices = ResolveWith("q8", source, {}).value();
  for (size_t i = 0; i < choices.size(); ++i) {
    const TensorInfo& tensor = source.schema().tensors()[i];
    const bool kept = tensor.is_vector() || tensor.role == TensorRole::kRouter;
    EXPECT_EQ(choices[i].format == FormatId::kQ8G32, !kept) << tensor.Name() << " " << FormatName(choices[i]);
  }
}

TEST(Recipe, BuiltinsSuitModelsWithoutSomeOfTheirRoles) {
  // No lm_head, no query compression, no correction bias.
  const FormSource source(SmallV2LiteArch(), [](const TensorInfo&) { return Bf16(); });
  for (const absl::string_view name : QuantRecipe::BuiltinNames()) {
    const auto choices = ResolveWith(name, source, {});
    ASSERT_TRUE(choices.ok()) << choices.status();
    if (name != "q4") continue;
    EXPECT_EQ(Of(*choices, source, TensorRole::kQProj, 0).format, FormatId::kQ8G32);
  }
}

TEST(Recipe, EveryChoiceCanBeMade) {
  // Exact ones are the source's form; the others have an encoder.
  for (const FormSource& source : {V3Source(), Bf16Source(), Int4Source()}) {
    for (const absl::string_view name : QuantRecipe::BuiltinNames()) {
      const auto choices = ResolveWith(name, source, {}).value();
      for (const QuantRecipe::Choice& choice : choices) {
        if (choice.exact) {
          EXPECT_EQ(choice.format, choice.form.exact_format);
        } else {
          EXPECT_NE(FindEncoder(choice.format), nullptr);
        }
      }
    }
  }
}

TEST(Recipe, TheLastRuleThatMatchesWins) {
  const QuantRecipe recipe =
      QuantRecipe::Parse("* = source\nmlp.* = q8_g32\nmlp.experts.up_proj = q4_g16\nmodel.layers.2.* = bf16\n", "r")
          .value();
  const FormSource source = V3Source();
  const auto choices = recipe.Resolve(source).value();
  EXPECT_EQ(FormatName(Of(choices, source, TensorRole::kExpertUp, 1, 0)), "q4_g16");
  EXPECT_EQ(FormatName(Of(choices, source, TensorRole::kExpertDown, 1, 3)), "q8_g32");
  EXPECT_EQ(FormatName(Of(choices, source, TensorRole::kExpertUp, 2, 0)), "bf16");
  EXPECT_EQ(FormatName(Of(choices, source, TensorRole::kOProj, 0)), "fp8_b128");
}

TEST(Recipe, PatternsNameARoleOrATensorOfOneLayer) {
  const FormSource source = V3Source();
  for (const auto& [pattern, layer1, layer2] : std::vector<std::tuple<std::string, std::string, std::string>>{
           {"mlp.experts.down_proj", "q8_g32", "q8_g32"},
           {"*down_proj", "q8_g32", "q8_g32"},
           {"mlp.experts.????_proj", "q8_g32", "q8_g32"},
           {"model.layers.2.mlp.experts.down_proj", "q4_g16", "q8_g32"},
           {"model.layers.?.mlp.experts.d*", "q8_g32", "q8_g32"},
           {"*.1.mlp.*", "q8_g32", "q4_g16"}}) {
    const auto choices = ResolveWith("q4", source, {pattern + "=q8_g32"}).value();
    EXPECT_EQ(FormatName(Of(choices, source, TensorRole::kExpertDown, 1, 2)), layer1) << pattern;
    EXPECT_EQ(FormatName(Of(choices, source, TensorRole::kExpertDown, 2, 2)), layer2) << pattern;
  }
}

TEST(Recipe, NativeLowBitIsKeptUnlessAnOverrideNamesIt) {
  const FormSource source = Int4Source();
  for (const absl::string_view name : {"q4", "q8"}) {
    const auto choices = ResolveWith(name, source, {}).value();
    const QuantRecipe::Choice& up = Of(choices, source, TensorRole::kExpertUp, 1, 0);
    EXPECT_EQ(FormatName(up), "int4_g32");
    EXPECT_TRUE(up.exact);
    EXPECT_THAT(up.reason, HasSubstr("never quantized twice"));
  }
  const auto choices = ResolveWith("q4", source, {"mlp.experts.up_proj=q4_g32"}).value();
  EXPECT_EQ(FormatName(Of(choices, source, TensorRole::kExpertUp, 1, 0)), "q4_g32");
  EXPECT_FALSE(Of(choices, source, TensorRole::kExpertUp, 1, 0).exact);
  EXPECT_EQ(FormatName(Of(choices, source, TensorRole::kExpertDown, 1, 0)), "int4_g32");
}

TEST(Recipe, KvBProjHas8BitsOrMore) {
  const FormSource source = V3Source();
  for (const char* flag :
       {"self_attn.kv_b_proj=q4_g32", "self_attn.*=q4_g16", "model.layers.1.self_attn.kv_b_proj=q4_g32"}) {
    const absl::Status status = ResolveWith("q4", source, {flag}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << flag;
    EXPECT_THAT(std::string(status.message()), HasSubstr("8 bits or more")) << flag;
  }
  const auto choices = ResolveWith("q4", source, {"self_attn.*=q4_g16", "self_attn.kv_b_proj=q8_g32"});
  ASSERT_TRUE(choices.ok()) << choices.status();
  EXPECT_EQ(FormatName(Of(*choices, source, TensorRole::kKvBProj, 1)), "q8_g32");
  EXPECT_EQ(FormatName(Of(*choices, source, TensorRole::kOProj, 1)), "q4_g16");
  // As upstream stores it is no loss.
  const FormSource low(SmallV3Arch(), [](const TensorInfo& t) { return t.is_vector() ? Bf16() : Int4(); });
  EXPECT_EQ(FormatName(Of(ResolveWith("q4", low, {}).value(), low, TensorRole::kKvBProj, 1)), "int4_g32");
}

TEST(Recipe, MtpLayersAreNamedApartAndHave8Bits) {
  const FormSource source(SmallMtpArch(), V3Form);
  for (const absl::string_view name : {"q4", "q8"}) {
    const auto choices = ResolveWith(name, source, {}).value();
    for (const TensorRole role : {TensorRole::kMtpProj, TensorRole::kOProj, TensorRole::kSharedUp}) {
      EXPECT_EQ(FormatName(Of(choices, source, role, 3)), "q8_g32") << InfoOf(role).name;
    }
    EXPECT_EQ(FormatName(Of(choices, source, TensorRole::kExpertDown, 3, 1)), "q8_g32");
    EXPECT_EQ(FormatName(Of(choices, source, TensorRole::kMtpEmbedNorm, 3)), "bf16");
    EXPECT_EQ(FormatName(Of(choices, source, TensorRole::kRouter, 3)), "bf16");
  }
  // A rule for the main model's experts says nothing about them, one of their own does.
  const auto main_only = ResolveWith("q4", source, {"mlp.experts.*=q4_g16"}).value();
  EXPECT_EQ(FormatName(Of(main_only, source, TensorRole::kExpertUp, 1, 0)), "q4_g16");
  EXPECT_EQ(FormatName(Of(main_only, source, TensorRole::kExpertUp, 3, 0)), "q8_g32");
  const auto own = ResolveWith("q4", source, {"mtp.mlp.experts.*=q4_g16"}).value();
  EXPECT_EQ(FormatName(Of(own, source, TensorRole::kExpertUp, 3, 0)), "q4_g16");
  // What a model does not have is no mistake in a recipe, but one on the command line.
  EXPECT_TRUE(ResolveWith("q4", V3Source(), {}).ok());
  EXPECT_FALSE(ResolveWith("q4", V3Source(), {"mtp.*=q8_g32"}).ok());
}

TEST(Recipe, IndexersHave8BitsOrMore) {
  const FormSource source(SmallV32Arch(), V3Form);
  for (const absl::string_view name : {"q4", "q8"}) {
    const auto choices = ResolveWith(name, source, {}).value();
    EXPECT_EQ(FormatName(Of(choices, source, TensorRole::kIndexQB, 1)), "q8_g32");
    EXPECT_EQ(FormatName(Of(choices, source, TensorRole::kIndexK, 0)), "q8_g32");
    EXPECT_EQ(FormatName(Of(choices, source, TensorRole::kIndexWeights, 0)), "fp8_b128") << "as the source has it";
    EXPECT_EQ(FormatName(Of(choices, source, TensorRole::kIndexKNormBias, 1)), "bf16");
  }
  for (const char* flag : {"self_attn.indexer.wq_b=q4_g32", "self_attn.indexer.*=q4_g16", "*indexer.wk=q4_g16",
                           "model.layers.1.self_attn.indexer.weights_proj=q4_g32"}) {
    const absl::Status status = ResolveWith("q4", source, {flag}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << flag;
    EXPECT_THAT(std::string(status.message()), HasSubstr("8 bits or more: add self_attn.indexer.w")) << flag;
  }
}

TEST(Recipe, RouterNormsAndBiasAreNotRounded) {
  const FormSource source = V3Source();
  for (const char* flag : {"mlp.gate=q8_g32", "norm=q4_g32", "*layernorm=f16", "mlp.gate.e_score_correction_bias=bf16",
                           "model.layers.1.mlp.gate=q4_g32", "mlp.gate=f16"}) {
    const absl::Status status = ResolveWith("q4", source, {flag}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << flag;
    EXPECT_THAT(std::string(status.message()), HasSubstr("keeps its source form")) << flag;
  }
  // f32 holds the same values, and the source form may be said aloud.
  const auto choices =
      ResolveWith("q4", source, {"mlp.gate=f32", "norm=f32", "input_layernorm=bf16", "*_layernorm=source"});
  ASSERT_TRUE(choices.ok()) << choices.status();
  EXPECT_EQ(FormatName(Of(*choices, source, TensorRole::kRouter, 1)), "f32");
  EXPECT_FALSE(Of(*choices, source, TensorRole::kRouter, 1).exact);
  EXPECT_EQ(FormatName(Of(*choices, source, TensorRole::kFinalNorm)), "f32");
  EXPECT_EQ(FormatName(Of(*choices, source, TensorRole::kInputNorm, 0)), "bf16");
  EXPECT_TRUE(Of(*choices, source, TensorRole::kInputNorm, 0).exact);
}

TEST(Recipe, AWidePatternDoesNotMeanVectorsAndRouter) {
  const FormSource source = V3Source();
  const auto choices = ResolveWith("lossless", source, {"*=q8_g32"});
  ASSERT_TRUE(choices.ok()) << choices.status();
  EXPECT_EQ(FormatName(Of(*choices, source, TensorRole::kRouter, 1)), "bf16");
  EXPECT_EQ(FormatName(Of(*choices, source, TensorRole::kQANorm, 1)), "bf16");
  EXPECT_EQ(FormatName(Of(*choices, source, TensorRole::kQAProj, 1)), "q8_g32");
}

TEST(Recipe, TheCorrectionBiasIsAlwaysF32) {
  const FormSource source = Bf16Source();
  for (const absl::string_view name : QuantRecipe::BuiltinNames()) {
    const auto choices = ResolveWith(name, source, {}).value();
    EXPECT_EQ(FormatName(Of(choices, source, TensorRole::kRouterBias, 1)), "f32") << name;
    EXPECT_FALSE(Of(choices, source, TensorRole::kRouterBias, 1).exact) << name;
  }
  const FormSource v3 = V3Source();
  EXPECT_TRUE(Of(ResolveWith("q4", v3, {}).value(), v3, TensorRole::kRouterBias, 1).exact);
}

TEST(Recipe, UpstreamFormatsAreOnlyForSourcesThatAreThat) {
  const FormSource v3 = V3Source();
  const auto choices = ResolveWith("q4", v3, {"mlp.experts.*=fp8_b128"});
  ASSERT_TRUE(choices.ok()) << choices.status();
  EXPECT_TRUE(Of(*choices, v3, TensorRole::kExpertUp, 1, 0).exact);
  const FormSource bf16 = Bf16Source();
  for (const char* flag : {"mlp.experts.*=fp8_b128", "mlp.experts.*=int4_g32"}) {
    const absl::Status status = ResolveWith("q4", bf16, {flag}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << flag;
    EXPECT_THAT(std::string(status.message()), HasSubstr("is stored as BF16")) << flag;
  }
}

TEST(Recipe, PlainFormatsAreCastsFromAnyOtherForm) {
  const FormSource v3 = V3Source();
  for (const char* format : {"f32", "bf16", "f16"}) {
    const auto choices =
        ResolveWith("q4", v3, {absl::StrCat("self_attn.o_proj=", format), absl::StrCat("lm_head=", format)});
    ASSERT_TRUE(choices.ok()) << choices.status();
    EXPECT_EQ(FormatName(Of(*choices, v3, TensorRole::kOProj, 1)), format);
    EXPECT_FALSE(Of(*choices, v3, TensorRole::kOProj, 1).exact) << format;
    // lm_head is BF16 upstream.
    EXPECT_EQ(Of(*choices, v3, TensorRole::kLmHead).exact, std::string(format) == "bf16");
  }
}

TEST(Recipe, AFormThatNoFormatHoldsIsKeptAsItsF32Values) {
  const FormSource source(SmallV3Arch(), [](const TensorInfo& t) {
    return t.is_vector() ? Bf16() : StoredForm{FormatId::kF32, true, false, "odd", 0};
  });
  const auto choices = ResolveWith("lossless", source, {}).value();
  EXPECT_EQ(FormatName(Of(choices, source, TensorRole::kOProj, 1)), "f32");
  EXPECT_FALSE(Of(choices, source, TensorRole::kOProj, 1).exact);
  EXPECT_THAT(Of(choices, source, TensorRole::kOProj, 1).reason, HasSubstr("F32 values"));
}

TEST(Recipe, ExpertsOfALayerShareOneFormat) {
  const FormSource source(SmallV3Arch(),
                          [](const TensorInfo& t) { return t.expert == 1 && t.layer == 2 ? Bf16() : V3Form(t); });
  const auto choices = ResolveWith("lossless", source, {}).value();
  for (int64_t expert = 0; expert < 4; ++expert) {
    EXPECT_EQ(FormatName(Of(choices, source, TensorRole::kExpertUp, 1, expert)), "fp8_b128");
    EXPECT_EQ(FormatName(Of(choices, source, TensorRole::kExpertUp, 2, expert)), "f32");
    EXPECT_FALSE(Of(choices, source, TensorRole::kExpertUp, 2, expert).exact);
  }
}

TEST(Recipe, APatternThatMatchesNothingIsRefusedWithANearName) {
  const FormSource source = V3Source();
  for (const char* flag : {"mlp.expert.down_proj=q8_g32", "model.layers.7.*=q8_g32", "self_attn.q_proj=q8_g32",
                           "model.layers.1.mlp.experts.3.down_proj=q8_g32", "MLP.EXPERTS.*=q8_g32"}) {
    const absl::Status status = ResolveWith("q4", source, {flag}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << flag;
    EXPECT_THAT(std::string(status.message()), HasSubstr("matches no tensor of this model")) << flag;
  }
  EXPECT_THAT(std::string(ResolveWith("q4", source, {"mlp.expert.down_proj=q8_g32"}).status().message()),
              HasSubstr("did you mean \"mlp.experts.down_proj\""));
  // A rule of a recipe file may be for roles that only other models have, but not for a role that none has.
  EXPECT_TRUE(QuantRecipe::Parse("* = source\nself_attn.q_proj = q8_g32\n", "r")->Resolve(source).ok());
  EXPECT_FALSE(QuantRecipe::Parse("* = source\nself_attn.q_prj = q8_g32\n", "r")->Resolve(source).ok());
}

TEST(RecipeText, RoundTrips) {
  const FormSource source = Int4Source();
  for (const absl::string_view name : QuantRecipe::BuiltinNames()) {
    for (const bool with_overrides : {false, true}) {
      QuantRecipe recipe = QuantRecipe::Builtin(name).value();
      if (with_overrides) {
        ASSERT_TRUE(recipe.AddOverride("mlp.experts.up_proj=q4_g16").ok());
        ASSERT_TRUE(recipe.AddOverride(" model.layers.1.self_attn.o_proj = source ").ok());
        recipe.set_scale_search(SearchEffort::kFast);
      }
      const std::string text = recipe.ToText();
      const absl::StatusOr<QuantRecipe> again = QuantRecipe::Parse(text, "manifest");
      ASSERT_TRUE(again.ok()) << again.status();
      EXPECT_EQ(again->ToText(), text);
      EXPECT_EQ(again->scale_search(), recipe.scale_search());
      // The same choices, native low-bit included: what came as an override still is one.
      const auto before = recipe.Resolve(source).value();
      const auto after = again->Resolve(source).value();
      ASSERT_EQ(before.size(), after.size());
      for (size_t i = 0; i < before.size(); ++i) {
        EXPECT_EQ(before[i].format, after[i].format) << source.schema().tensors()[i].Name();
        EXPECT_EQ(before[i].exact, after[i].exact) << source.schema().tensors()[i].Name();
        EXPECT_EQ(before[i].reason, after[i].reason) << source.schema().tensors()[i].Name();
      }
    }
  }
}

TEST(RecipeText, SpacesCommentsAndLineEndsDoNotMatter) {
  const auto recipe = QuantRecipe::Parse("# a recipe\r\n\r\n  * =source# all\r\nmlp.experts.* = q4_g32\r\n\n", "r");
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  EXPECT_EQ(recipe->ToText(), "* = source  # all\nmlp.experts.* = q4_g32\n");
}

TEST(RecipeText, TheScaleSearchStandsAnywhereAndIsWrittenFirst) {
  const auto recipe = QuantRecipe::Parse("* = q8_g32\n[scale-search  best ]  # thorough\n", "r");
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  EXPECT_EQ(recipe->scale_search(), SearchEffort::kBest);
  EXPECT_EQ(recipe->ToText(), "[scale-search best]\n* = q8_g32\n");
  EXPECT_EQ(QuantRecipe::Parse("[scale-search default]\n* = q8_g32\n", "r")->ToText(), "* = q8_g32\n");
}

TEST(RecipeText, ErrorsNameTheOriginAndTheLine) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "mine.recipe: expected at least one rule"},
      {"[overrides]\n* = q8_g32\n", "mine.recipe: expected at least one rule"},
      {"* = source\nmlp.experts\n", "mine.recipe:2: expected PATTERN=FORMAT, found \"mlp.experts\""},
      {"* = source\n\n = q8_g32\n", "mine.recipe:3: expected PATTERN=FORMAT, found nothing before"},
      {"* = q4_g23\n", "mine.recipe:1: unknown number format \"q4_g23\" (did you mean \"q4_g32\"?)"},
      {"* = sorce\n", "did you mean \"source\"?"},
      {"* =\n", "mine.recipe:1: unknown number format \"\""},
      {"mlp experts = q8_g32\n", "mine.recipe:1: pattern \"mlp experts\" holds \" \""},
      {"a\x01"
       "b = q8_g32\n",
       "mine.recipe:1: pattern \"a?b\" holds \"?\""},
      {"* = source\n[overrides]\n[overrides]\n", "mine.recipe:3: a second [overrides]"},
      {"[scale-search quick]\n* = source\n", "mine.recipe:1: unknown scale search \"quick\""},
      {"[scale-search bst]\n* = source\n", "did you mean \"best\"?"},
      {"* = source\n[scale-search fast]\n[scale-search best]\n", "mine.recipe:3: a second [scale-search"},
      {"[scale-search fast]\n", "mine.recipe: expected at least one rule"},
      {std::string(300, 'a') + " = q8_g32\n", "mine.recipe:1: a pattern has at most 200 characters"},
  };
  for (const auto& [text, message] : cases) {
    const absl::Status status = QuantRecipe::Parse(text, "mine.recipe").status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  }
}

TEST(RecipeText, AFlagIsOneRule) {
  QuantRecipe recipe = QuantRecipe::Builtin("q4").value();
  for (const char* flag : {"", "mlp.experts.*", "=q8_g32", "mlp.experts.*=q9"}) {
    const absl::Status status = recipe.AddOverride(flag);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << flag;
    EXPECT_THAT(std::string(status.message()), HasSubstr("--tensor")) << flag;
  }
}

TEST(RecipeText, AnUnknownBuiltinIsRefusedWithANearName) {
  const absl::Status status = QuantRecipe::Builtin("loseless").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("did you mean \"lossless\""));
}

TEST(RecipeText, PatternsAreMatchedInReasonableTimeWhateverTheyAre) {
  const FormSource source = V3Source();
  std::string pattern;
  for (int i = 0; i < 99; ++i) pattern += "*a";
  QuantRecipe recipe = QuantRecipe::Builtin("lossless").value();
  ASSERT_TRUE(recipe.AddOverride(pattern + "=q8_g32").ok());
  EXPECT_FALSE(recipe.Resolve(source).ok());
}

}  // namespace
}  // namespace kompakt
