// config.json -> ArchSpec: the published configurations and their parameter counts, both spellings of RoPE, and every
// refusal.
#include "converters/config.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "converters/arch_table.h"
#include "format/model_schema.h"
#include "tests/converters/status_matchers.h"
#include "tests/fixtures/published_configs.h"

namespace kompakt {
namespace {

using nlohmann::json;
using namespace published;

constexpr auto kUnsupported = absl::StatusCode::kUnimplemented;
constexpr auto kCorrupt = absl::StatusCode::kDataLoss;
constexpr auto kContradiction = absl::StatusCode::kFailedPrecondition;

absl::StatusOr<UpstreamConfig> Parse(const json& config) { return ParseConfig(config.dump(), "dir/config.json"); }

TEST(PublishedConfigs, GiveThePublishedParameterCounts) {
  struct Case {
    const char* name;
    json config;
    int64_t parameters;  // main model, from the shapes and consistent with the published totals
  };
  const std::vector<Case> cases = {
      {"DeepSeek-V2", V2(), 235'741'434'880},    {"DeepSeek-V2-Lite", V2Lite(), 15'706'484'224},
      {"DeepSeek-V3", V3(), 671'026'419'200},    {"Moonlight", Moonlight(), 15'960'110'208},
      {"Kimi-K2", KimiK2(), 1'026'408'232'448},  {"GLM-4.7-Flash", GlmFlash(), 29'943'393'920},
      {"DeepSeek-V3.2", V32(), 671'877'944'064},
  };
  for (const Case& c : cases) {
    const auto parsed = Parse(c.config);
    ASSERT_THAT(parsed, IsOk()) << c.name;
    const auto schema = ModelSchema::Create(parsed->arch);
    ASSERT_THAT(schema, IsOk()) << c.name;
    EXPECT_EQ(schema->parameter_count(), c.parameters) << c.name;
  }
}

TEST(PublishedConfigs, V3FieldsArriveUnchanged) {
  const auto parsed = Parse(V3());
  ASSERT_THAT(parsed, IsOk());
  const ArchSpec& arch = parsed->arch;
  EXPECT_EQ(arch.architecture(), "DeepseekV3ForCausalLM");
  EXPECT_EQ(arch.num_nextn_predict_layers(), 1);
  EXPECT_EQ(arch.rms_norm_eps(), 1e-6);
  EXPECT_EQ(arch.moe().topk_method(), TOPK_NOAUX_TC);
  EXPECT_EQ(arch.moe().scoring_func(), ROUTER_SCORING_SIGMOID);
  EXPECT_TRUE(arch.moe().scale_after_norm());
  EXPECT_EQ(arch.rope().yarn().factor(), 40);
  EXPECT_EQ(arch.rope().yarn().beta_fast(), 32);
  EXPECT_EQ(arch.rope().yarn().mscale_all_dim(), 1.0);
  ASSERT_EQ(parsed->quantization.fp8_scales.size(), 1u);
  EXPECT_EQ(parsed->quantization.fp8_scales[0].block_rows, 128);
  EXPECT_FALSE(parsed->quantization.power_of_two_scales);
}

TEST(PublishedConfigs, V2ScalesOnlyWhereItDidNotNormalise) {
  const auto parsed = Parse(V2Lite());
  ASSERT_THAT(parsed, IsOk());
  EXPECT_FALSE(parsed->arch.moe().scale_after_norm());
  EXPECT_EQ(parsed->arch.moe().topk_method(), TOPK_GREEDY);
  EXPECT_EQ(parsed->arch.mla().q_lora_rank(), 0);
  EXPECT_EQ(parsed->arch.rope().yarn().mscale(), 0.707);
}

TEST(PublishedConfigs, LatentNormsKeepTheirEpsWhateverRmsNormEpsSays) {
  for (const json& config : {Moonlight(), GlmFlash()}) {
    const auto parsed = Parse(config);
    ASSERT_THAT(parsed, IsOk());
    EXPECT_EQ(parsed->arch.rms_norm_eps(), 1e-5);
    EXPECT_EQ(parsed->arch.mla().latent_norm_eps(), 1e-6);
    EXPECT_FALSE(parsed->arch.rope().has_yarn());
  }
}

TEST(PublishedConfigs, Glm5HasThePublished744BillionParameters) {
  const auto parsed = Parse(Glm5());
  ASSERT_THAT(parsed, IsOk());
  const auto schema = ModelSchema::Create(parsed->arch);
  ASSERT_THAT(schema, IsOk());
  EXPECT_NEAR(static_cast<double>(schema->parameter_count()) / 1e9, 743.9, 0.05);
}

TEST(PublishedConfigs, TheIndexersOfV32AndGlm5RotateDifferently) {
  const auto v32 = Parse(V32());
  ASSERT_THAT(v32, IsOk());
  EXPECT_EQ(v32->arch.attention(), ATTENTION_MLA_INDEXED);
  EXPECT_EQ(v32->arch.indexer().index_topk(), 2048);
  EXPECT_EQ(v32->arch.indexer().k_norm_eps(), 1e-6);
  EXPECT_FALSE(v32->arch.indexer().rope_interleave());
  EXPECT_TRUE(Parse(Glm5())->arch.indexer().rope_interleave());
  EXPECT_FALSE(Parse(With(Glm5(), {{"indexer_rope_interleave", false}}))->arch.indexer().rope_interleave());
  EXPECT_EQ(Parse(V3())->arch.attention(), ATTENTION_MLA);
}

TEST(Indexer, SharedLayersAreReadFromTheListAndHaveNoTensors) {
  json kinds = json::array();
  for (int i = 0; i < 78; ++i) kinds.push_back(i < 3 || i % 4 == 2 ? "full" : "shared");
  const auto parsed = Parse(With(Glm5(), {{"indexer_types", kinds}, {"index_topk_freq", 4}}));
  ASSERT_THAT(parsed, IsOk());
  const auto schema = ModelSchema::Create(parsed->arch);
  ASSERT_THAT(schema, IsOk());
  EXPECT_GE(schema->Find(TensorRole::kIndexK, 6), 0);
  EXPECT_EQ(schema->Find(TensorRole::kIndexK, 7), -1);
  EXPECT_EQ(schema->Find(TensorRole::kIndexKNormBias, 77), -1);
  // Without a shared layer the list says nothing.
  EXPECT_EQ(Parse(With(Glm5(), {{"indexer_types", json(size_t{78}, "full")}}))->arch.indexer().shared_size(), 0);
}

TEST(Indexer, WhatItsConfigLacksOrContradictsIsNamed) {
  for (const char* key : {"index_n_heads", "index_head_dim", "index_topk"}) {
    EXPECT_THAT(Parse(Without(V32(), key)), Fails(kCorrupt, {key}));
  }
  EXPECT_THAT(Parse(With(V32(), {{"index_topk", 0}})), Fails(kContradiction, {"index_topk", "0"}));
  EXPECT_THAT(Parse(With(V32(), {{"index_head_dim", 63}})), Fails(kContradiction, {"index_head_dim", "64", "63"}));
  EXPECT_THAT(Parse(With(V32(), {{"q_lora_rank", nullptr}})), Fails(kContradiction, {"q_lora_rank", "indexer"}));
  EXPECT_THAT(Parse(With(Glm5(), {{"index_topk_freq", 4}})), Fails(kUnsupported, {"index_topk_freq", "4"}));
  EXPECT_THAT(Parse(With(Glm5(), {{"index_topk_pattern", "FSSS"}})), Fails(kUnsupported, {"index_topk_pattern"}));
  EXPECT_THAT(Parse(With(Glm5(), {{"indexer_types", {"full", "shared"}}})), Fails(kContradiction, {"78", "2"}));
  EXPECT_THAT(Parse(With(Glm5(), {{"indexer_types", json(size_t{78}, "shared")}})),
              Fails(kContradiction, {"\"shared\""}));
  EXPECT_THAT(Parse(With(Glm5(), {{"indexer_types", json(size_t{78}, "none")}})), Fails(kCorrupt, {"indexer_types"}));
}

TEST(PublishedConfigs, KimiKeepsItsModelType) {
  const auto parsed = Parse(KimiK2());
  ASSERT_THAT(parsed, IsOk());
  EXPECT_EQ(parsed->arch.model_type(), "kimi_k2");
  EXPECT_EQ(parsed->arch.rope().yarn().beta_fast(), 1);
}

TEST(ArchTable, EveryRowIsChosenByItsNames) {
  for (const ArchRow& row : SupportedArchitectures()) {
    EXPECT_EQ(FindArchitecture(row.architecture), &row);
    EXPECT_FALSE(row.model_types[0].empty());
    json config = With(V3(), {{"architectures", {std::string(row.architecture)}},
                              {"model_type", std::string(row.model_types[0])},
                              {"scoring_func", std::string(ScoringName(row.scoring_func))},
                              {"topk_method", std::string(TopkMethodName(row.topk_methods[0]))}});
    if (row.indexer != IndexerKind::kNone) config.update(IndexerKeys());
    const auto parsed = Parse(config);
    ASSERT_THAT(parsed, IsOk()) << row.architecture;
    EXPECT_EQ(parsed->arch.architecture(), std::string(row.architecture));
    EXPECT_EQ(parsed->arch.moe().topk_method(), row.topk_methods[0]);
  }
}

TEST(ArchTable, WithoutArchitecturesTheModelTypeDecides) {
  const auto parsed = Parse(Without(KimiK2(), "architectures"));
  ASSERT_THAT(parsed, IsOk());
  EXPECT_EQ(parsed->arch.architecture(), "DeepseekV3ForCausalLM");
  EXPECT_EQ(parsed->arch.model_type(), "kimi_k2");
  EXPECT_THAT(Parse(Without(Without(V3(), "architectures"), "model_type")), Fails(kCorrupt, {"architectures"}));
}

TEST(ArchTable, EarlyV2UploadsAreReadUnderTheirOldName) {
  const json old = With(V2(), {{"architectures", {"DeepseekForCausalLM"}}, {"model_type", "deepseek"}});
  EXPECT_THAT(Parse(old), IsOk());
  EXPECT_THAT(Parse(Without(old, "kv_lora_rank")), Fails(kUnsupported, {"DeepseekForCausalLM", "kv_lora_rank"}));
}

TEST(Rope, RopeParametersOfTransformers5AreTheSameRope) {
  json renamed = Without(Without(V3(), "rope_scaling"), "rope_theta");
  json parameters = Yarn(40, 32, 1.0);
  parameters.erase("type");
  parameters["rope_type"] = "yarn";
  parameters["rope_theta"] = 10000;
  renamed["rope_parameters"] = parameters;
  const auto parsed = Parse(renamed);
  ASSERT_THAT(parsed, IsOk());
  EXPECT_EQ(parsed->arch.rope().SerializeAsString(), Parse(V3())->arch.rope().SerializeAsString());
}

TEST(Rope, DefaultTypeIsPlainRope) {
  for (const json& parameters :
       {json{{"rope_type", "default"}, {"rope_theta", 50000.0}}, json{{"rope_theta", 50000.0}}}) {
    const auto parsed = Parse(With(Without(Moonlight(), "rope_theta"), {{"rope_parameters", parameters}}));
    ASSERT_THAT(parsed, IsOk());
    EXPECT_FALSE(parsed->arch.rope().has_yarn());
    EXPECT_EQ(parsed->arch.rope().rope_theta(), 50000.0);
  }
}

TEST(Rope, AbsentMscaleMeansOneAndAbsentMscaleAllDimZero) {
  json yarn = Yarn(40, 32, 1.0);
  for (const char* key : {"mscale", "mscale_all_dim", "beta_fast", "beta_slow"}) yarn.erase(key);
  const auto parsed = Parse(With(V3(), {{"rope_scaling", yarn}}));
  ASSERT_THAT(parsed, IsOk());
  EXPECT_EQ(parsed->arch.rope().yarn().mscale(), 1.0);
  EXPECT_EQ(parsed->arch.rope().yarn().mscale_all_dim(), 0.0);
  EXPECT_EQ(parsed->arch.rope().yarn().beta_fast(), 32.0);
  EXPECT_EQ(parsed->arch.rope().yarn().beta_slow(), 1.0);
}

TEST(Rope, UnknownTypesAreRefusedByName) {
  for (const char* type : {"linear", "dynamic", "llama3", "longrope", "su", "ntk"}) {
    for (const char* key : {"type", "rope_type"}) {
      EXPECT_THAT(Parse(With(V3(), {{"rope_scaling", {{key, type}, {"factor", 4.0}}}})),
                  Fails(kUnsupported, {"dir/config.json", "rope_scaling", absl::StrCat("\"", type, "\""), "\"yarn\""}));
    }
  }
  EXPECT_THAT(Parse(With(V3(), {{"rope_scaling", {{"factor", 4.0}}}})), Fails(kCorrupt, {"rope_type"}));
}

TEST(Rope, ContradictionsAndVariantsAreRefused) {
  json both = V3();
  both["rope_parameters"] = Yarn(32, 32, 1.0);
  EXPECT_THAT(Parse(both), Fails(kContradiction, {"rope_scaling and rope_parameters"}));
  both["rope_parameters"] = Yarn(40, 32, 1.0);
  EXPECT_THAT(Parse(both), IsOk());
  both["rope_parameters"]["rope_theta"] = 50000;
  EXPECT_THAT(Parse(both), Fails(kContradiction, {"rope_theta", "50000", "10000"}));
  EXPECT_THAT(Parse(Without(V3(), "rope_theta")), Fails(kCorrupt, {"rope_theta"}));
  json yarn = Yarn(40, 32, 1.0);
  yarn["rope_type"] = "linear";
  EXPECT_THAT(Parse(With(V3(), {{"rope_scaling", yarn}})), Fails(kContradiction, {"\"yarn\"", "\"linear\""}));
  EXPECT_THAT(Parse(With(V3(), {{"partial_rotary_factor", 0.5}})), Fails(kUnsupported, {"partial_rotary_factor"}));
  EXPECT_THAT(Parse(With(V3(), {{"rope_interleave", false}})), Fails(kUnsupported, {"rope_interleave"}));
  json attention = Yarn(40, 32, 1.0);
  attention["attention_factor"] = 1.2;
  EXPECT_THAT(Parse(With(V3(), {{"rope_scaling", attention}})), Fails(kUnsupported, {"attention_factor", "1.2"}));
}

TEST(Refusals, UnknownArchitectureIsNamedWithTheSupportedOnes) {
  EXPECT_THAT(Parse(With(V3(), {{"architectures", {"FalconForCausalLM"}}})),
              Fails(kUnsupported, {"dir/config.json", "unknown architecture \"FalconForCausalLM\"",
                                   "DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM", "Glm4MoeLiteForCausalLM"}));
  EXPECT_THAT(Parse(With(V3(), {{"model_type", "deepseek_v9"}})),
              Fails(kUnsupported, {"unknown model_type \"deepseek_v9\"", "deepseek_v3", "kimi_k2"}));
}

TEST(Refusals, DenseDistillsAreCalledDense) {
  for (const char* name : {"Qwen2ForCausalLM", "LlamaForCausalLM"}) {
    EXPECT_THAT(Parse({{"architectures", {name}}, {"hidden_size", 3584}}),
                Fails(kUnsupported, {name, "dense model, not DeepSeek MLA/MoE"}));
  }
}

TEST(Refusals, RelativesThatAreNotSupportedAreNamed) {
  for (const char* name : {"DeepseekV4ForCausalLM", "DeepseekV41ForCausalLM", "KimiK25ForConditionalGeneration"}) {
    EXPECT_THAT(Parse({{"architectures", {name}}}), Fails(kUnsupported, {name, "does not support"}));
  }
  EXPECT_THAT(Parse(With(V3(), {{"index_topk", 2048}})), Fails(kUnsupported, {"index_topk", "2048"}));
}

TEST(Refusals, UnknownScoringTopkAndActivation) {
  EXPECT_THAT(Parse(With(V3(), {{"scoring_func", "sqrtsoftplus"}})),
              Fails(kUnsupported, {"scoring_func \"sqrtsoftplus\"", "\"sigmoid\""}));
  EXPECT_THAT(Parse(With(V2(), {{"scoring_func", "sigmoid"}})), Fails(kUnsupported, {"\"sigmoid\"", "\"softmax\""}));
  EXPECT_THAT(Parse(With(V3(), {{"topk_method", "hash"}})),
              Fails(kUnsupported, {"topk_method \"hash\"", "\"noaux_tc\""}));
  EXPECT_THAT(Parse(With(V2(), {{"topk_method", "noaux_tc"}})),
              Fails(kUnsupported, {"\"noaux_tc\"", "\"greedy\" or \"group_limited_greedy\""}));
  EXPECT_THAT(Parse(Without(V2(), "topk_method")), Fails(kCorrupt, {"topk_method", "no such key"}));
  EXPECT_THAT(Parse(Without(V3(), "topk_method")), IsOk());
  EXPECT_THAT(Parse(With(V3(), {{"hidden_act", "gelu"}})), Fails(kUnsupported, {"hidden_act \"gelu\"", "\"silu\""}));
  EXPECT_THAT(Parse(With(V3(), {{"attention_bias", true}})), Fails(kUnsupported, {"attention_bias"}));
}

TEST(Refusals, EveryFieldThatMattersMustBeThereInItsType) {
  for (const char* key : {"num_hidden_layers", "hidden_size", "num_attention_heads", "kv_lora_rank", "qk_nope_head_dim",
                          "qk_rope_head_dim", "v_head_dim", "intermediate_size", "moe_intermediate_size",
                          "n_routed_experts", "num_experts_per_tok", "first_k_dense_replace", "vocab_size", "n_group",
                          "topk_group", "max_position_embeddings"}) {
    EXPECT_THAT(Parse(Without(V3(), key)), Fails(kCorrupt, {"dir/config.json", key, "an integer", "no such key"}));
    EXPECT_THAT(Parse(With(V3(), {{key, 8.0}})), Fails(kCorrupt, {key, "an integer", "8.0"}));
    EXPECT_THAT(Parse(With(V3(), {{key, "8"}})), Fails(kCorrupt, {key, "an integer", "\"8\""}));
    EXPECT_FALSE(Parse(With(V3(), {{key, -8}})).ok()) << key;
    EXPECT_FALSE(Parse(With(V3(), {{key, 18446744073709551615u}})).ok()) << key;
    EXPECT_FALSE(Parse(With(V3(), {{key, int64_t{1} << 62}})).ok()) << key;
  }
  for (const char* key :
       {"norm_topk_prob", "routed_scaling_factor", "rms_norm_eps", "q_lora_rank", "n_shared_experts"}) {
    EXPECT_THAT(Parse(Without(V3(), key)), Fails(kCorrupt, {key, "no such key"}));
    EXPECT_THAT(Parse(With(V3(), {{key, json::array()}})), Fails(kCorrupt, {key, "found []"}));
  }
  EXPECT_THAT(Parse(With(V3(), {{"n_routed_experts", nullptr}})), Fails(kUnsupported, {"n_routed_experts", "dense"}));
  EXPECT_THAT(Parse(With(V3(), {{"q_lora_rank", 0}})), Fails(kCorrupt, {"q_lora_rank", "found 0"}));
}

TEST(Refusals, ValuesOutOfRangeNameFileAndField) {
  EXPECT_THAT(Parse(With(V3(), {{"num_experts_per_tok", 300}})),
              Fails(kContradiction, {"dir/config.json", "num_experts_per_tok", "300"}));
  EXPECT_THAT(Parse(With(V3(), {{"n_group", 7}})), Fails(kContradiction, {"n_group", "7"}));
  EXPECT_THAT(Parse(With(V3(), {{"rms_norm_eps", 0}})), Fails(kContradiction, {"rms_norm_eps"}));
}

TEST(Refusals, MlpLayerTypesMustBeDenseThenSparse) {
  const json base = Without(GlmFlash(), "first_k_dense_replace");
  std::vector<std::string> kinds(47, "sparse");
  kinds[0] = "dense";
  const auto parsed = Parse(With(base, {{"mlp_layer_types", kinds}}));
  ASSERT_THAT(parsed, IsOk());
  EXPECT_EQ(parsed->arch.moe().first_k_dense_replace(), 1);
  kinds[5] = "dense";
  EXPECT_THAT(Parse(With(base, {{"mlp_layer_types", kinds}})), Fails(kCorrupt, {"mlp_layer_types"}));
  kinds[5] = "sparse";
  kinds.pop_back();
  EXPECT_THAT(Parse(With(base, {{"mlp_layer_types", kinds}})), Fails(kContradiction, {"mlp_layer_types", "47", "46"}));
}

TEST(Refusals, NotAJsonObject) {
  EXPECT_THAT(ParseConfig("[]", "c"), Fails(kCorrupt, {"c: expected an object, found an array"}));
  EXPECT_THAT(ParseConfig("{\"a\":1,}", "c"), Fails(kCorrupt, {"c", "byte"}));
  EXPECT_THAT(ParseConfig("", "c"), Fails(kCorrupt, {"c", "JSON"}));
  EXPECT_THAT(ParseConfig("{\"a\":1,\"a\":2}", "c"), Fails(kCorrupt, {"\"a\" appears twice"}));
  EXPECT_THAT(ParseConfig(std::string(100000, '['), "c"), Fails(kCorrupt, {"nested deeper than 64"}));
  EXPECT_THAT(ParseConfig("{\"a\":1e999}", "c"), Fails(kCorrupt, {"c"}));
  EXPECT_THAT(ParseConfig("{\"a\":\"\xff\"}", "c"), Fails(kCorrupt, {"c"}));
}

json Int4Config(const json& weights, const char* format = "pack-quantized") {
  json group = {{"targets", {"Linear"}}, {"weights", weights}};
  json quantization = {{"quant_method", "compressed-tensors"}, {"format", format}};
  quantization["config_groups"]["group_0"] = group;
  return With(KimiK2(), {{"quantization_config", quantization}});
}

const json kInt4Weights = {{"num_bits", 4},       {"type", "int"},    {"symmetric", true},
                           {"strategy", "group"}, {"group_size", 32}, {"actorder", nullptr}};

TEST(Quantization, PackedInt4IsRead) {
  const auto parsed = Parse(Int4Config(kInt4Weights));
  ASSERT_THAT(parsed, IsOk());
  EXPECT_THAT(parsed->quantization.int_groups, testing::ElementsAre(32));
  const auto channel = Parse(Int4Config(With(kInt4Weights, {{"strategy", "channel"}, {"group_size", nullptr}})));
  ASSERT_THAT(channel, IsOk());
  EXPECT_THAT(channel->quantization.int_groups, testing::ElementsAre(0));
}

TEST(Quantization, Ue8m0AndOtherBlockSizesAreRead) {
  json config = V3();
  config["quantization_config"]["scale_fmt"] = "ue8m0";
  config["quantization_config"]["weight_block_size"] = {64, 256};
  const auto parsed = Parse(config);
  ASSERT_THAT(parsed, IsOk());
  EXPECT_TRUE(parsed->quantization.power_of_two_scales);
  ASSERT_EQ(parsed->quantization.fp8_scales.size(), 1u);
  EXPECT_EQ(parsed->quantization.fp8_scales[0].block_rows, 64);
  EXPECT_EQ(parsed->quantization.fp8_scales[0].block_cols, 256);
}

json Quantized(const json& section) { return With(V3(), {{"quantization_config", section}}); }

const json kGptq = {{"quant_method", "gptq"}, {"bits", 4}, {"group_size", 128}, {"desc_act", false}};
const json kAwq = {{"quant_method", "awq"}, {"bits", 4}, {"group_size", 64}, {"version", "gemm"}, {"zero_point", true}};
const json kNvfp4 = {{"quant_method", "modelopt"}, {"quant_algo", "NVFP4"}, {"group_size", 16}};

TEST(Quantization, GptqAndAwqAreRead) {
  const auto gptq = Parse(Quantized(kGptq));
  ASSERT_THAT(gptq, IsOk());
  EXPECT_EQ(gptq->quantization.method, QuantMethod::kGptq);
  EXPECT_THAT(gptq->quantization.int_bits, testing::ElementsAre(4));
  EXPECT_THAT(gptq->quantization.int_groups, testing::ElementsAre(128));
  EXPECT_FALSE(gptq->quantization.gptq_v2) << "the first format is the default";
  const auto v2 = Parse(
      Quantized(With(kGptq, {{"checkpoint_format", "gptq_v2"}, {"bits", 8}, {"group_size", -1}, {"desc_act", true}})));
  ASSERT_THAT(v2, IsOk());
  EXPECT_TRUE(v2->quantization.gptq_v2);
  EXPECT_TRUE(v2->quantization.act_order);
  EXPECT_THAT(v2->quantization.int_bits, testing::ElementsAre(8));
  EXPECT_THAT(v2->quantization.int_groups, testing::ElementsAre(0)) << "-1 is one group";
  const auto awq = Parse(Quantized(kAwq));
  ASSERT_THAT(awq, IsOk());
  EXPECT_EQ(awq->quantization.method, QuantMethod::kAwq);
  EXPECT_THAT(awq->quantization.int_groups, testing::ElementsAre(64));
}

TEST(Quantization, CompressedTensorsOfEveryStrategyIsRead) {
  const json float8 = {{"num_bits", 8}, {"type", "float"}, {"strategy", "channel"}};
  const auto channel = Parse(Int4Config(float8, "float-quantized"));
  ASSERT_THAT(channel, IsOk());
  ASSERT_EQ(channel->quantization.fp8_scales.size(), 1u);
  EXPECT_EQ(channel->quantization.fp8_scales[0].block_rows, 1);
  EXPECT_EQ(channel->quantization.fp8_scales[0].block_cols, 0);
  const auto block =
      Parse(Int4Config(With(float8, {{"strategy", "block"}, {"block_structure", {64, 128}}}), "float-quantized"));
  ASSERT_THAT(block, IsOk());
  EXPECT_EQ(block->quantization.fp8_scales[0].block_rows, 64);
  const auto int8 = Parse(Int4Config(With(kInt4Weights, {{"num_bits", 8}, {"symmetric", false}})));
  ASSERT_THAT(int8, IsOk());
  EXPECT_THAT(int8->quantization.int_bits, testing::ElementsAre(8));
  EXPECT_TRUE(int8->quantization.asymmetric);
  EXPECT_THAT(Parse(Int4Config({{"num_bits", 4}, {"type", "float"}, {"group_size", 16}}, "nvfp4-pack-quantized")),
              IsOk());
  EXPECT_THAT(Parse(Int4Config({{"num_bits", 4}, {"type", "float"}, {"group_size", 32}}, "mxfp4-pack-quantized")),
              IsOk());
  EXPECT_THAT(Parse(Int4Config(With(kInt4Weights, {{"actorder", "group"}}))), IsOk());
}

TEST(Quantization, ModeloptAndMistralAreRead) {
  ASSERT_THAT(Parse(Quantized(kNvfp4)), IsOk());
  const auto hf = ParseHfQuantConfig(R"({"producer": {"name": "modelopt"},
      "quantization": {"quant_algo": "NVFP4", "group_size": 16, "kv_cache_quant_algo": "FP8"}})",
                                     "q");
  ASSERT_THAT(hf, IsOk());
  EXPECT_EQ(hf->method, QuantMethod::kModelopt);
  EXPECT_THAT(ParseHfQuantConfig(R"({"quantization": {"quant_algo": "W4A8_AWQ"}})", "q"),
              Fails(kUnsupported, {"q: quantization", "quant_algo", "W4A8_AWQ"}));
  EXPECT_THAT(ParseHfQuantConfig("[]", "q"), Fails(kCorrupt, {"q: expected an object"}));
  const auto mistral = Parse(With(Without(V3(), "quantization_config"),
                                  {{"quantization", {{"qformat_weight", "fp8_e4m3"}, {"qscheme_act", "TENSOR"}}}}));
  ASSERT_THAT(mistral, IsOk());
  EXPECT_EQ(mistral->quantization.method, QuantMethod::kMistral);
}

TEST(Quantization, UnknownMethodsFormatsAndStrategiesAreRefusedByName) {
  for (const char* method : {"bitsandbytes", "quark", "mxfp4"}) {
    EXPECT_THAT(Parse(With(V3(), {{"quantization_config", {{"quant_method", method}}}})),
                Fails(kUnsupported, {"quantization_config", "quant_method", method, "compressed-tensors"}));
  }
  for (const char* format : {"marlin-24", "int-quantized", "mxfp8-quantized"}) {
    EXPECT_THAT(Parse(Int4Config(kInt4Weights, format)), Fails(kUnsupported, {"format", format, "pack-quantized"}));
  }
  EXPECT_THAT(Parse(Int4Config(With(kInt4Weights, {{"strategy", "tensor"}}))),
              Fails(kUnsupported, {"group_0: weights", "strategy \"tensor\""}));
  EXPECT_THAT(Parse(Int4Config(With(kInt4Weights, {{"num_bits", 3}}))), Fails(kUnsupported, {"num_bits 3"}));
  EXPECT_THAT(Parse(Int4Config(With(kInt4Weights, {{"type", "float"}}))), Fails(kUnsupported, {"type \"float\""}));
  EXPECT_THAT(Parse(Int4Config(With(kInt4Weights, {{"actorder", "column"}}))), Fails(kUnsupported, {"actorder"}));
  EXPECT_THAT(Parse(Int4Config(With(kInt4Weights, {{"group_size", 0}}))), Fails(kCorrupt, {"group_size"}));
  EXPECT_THAT(Parse(Int4Config({{"num_bits", 4}, {"group_size", 32}}, "nvfp4-pack-quantized")),
              Fails(kUnsupported, {"group_size 32", "16"}));
  EXPECT_THAT(Parse(Quantized(With(kGptq, {{"bits", 3}}))), Fails(kUnsupported, {"bits 3"}));
  EXPECT_THAT(Parse(Quantized(With(kGptq, {{"checkpoint_format", "marlin"}}))),
              Fails(kUnsupported, {"checkpoint_format \"marlin\""}));
  EXPECT_THAT(Parse(Quantized(With(kGptq, {{"dynamic", {{"+:.*", {{"bits", 8}}}}}}))),
              Fails(kUnsupported, {"dynamic"}));
  EXPECT_THAT(Parse(Quantized(Without(kGptq, "bits"))), Fails(kCorrupt, {"bits"}));
  EXPECT_THAT(Parse(Quantized(With(kAwq, {{"version", "gemv"}}))), Fails(kUnsupported, {"version \"gemv\""}));
  EXPECT_THAT(Parse(Quantized(With(kAwq, {{"zero_point", false}}))), Fails(kUnsupported, {"zero_point false"}));
  EXPECT_THAT(Parse(Quantized(With(kNvfp4, {{"group_size", 32}}))), Fails(kUnsupported, {"group_size 32"}));
  EXPECT_THAT(Parse(Quantized(With(kNvfp4, {{"quant_algo", "INT4_AWQ"}}))), Fails(kUnsupported, {"INT4_AWQ"}));
  json fp8 = V3();
  fp8["quantization_config"]["fmt"] = "e5m2";
  EXPECT_THAT(Parse(fp8), Fails(kUnsupported, {"fmt \"e5m2\"", "e4m3"}));
  fp8 = V3();
  fp8["quantization_config"]["weight_block_size"] = {128, 0};
  EXPECT_THAT(Parse(fp8), Fails(kCorrupt, {"weight_block_size", "[128,0]"}));
  fp8 = V3();
  fp8["quantization_config"]["scale_fmt"] = "e5m3";
  EXPECT_THAT(Parse(fp8), Fails(kUnsupported, {"scale_fmt \"e5m3\""}));
}

}  // namespace
}  // namespace kompakt
