#include "format/model_schema.h"

#include <functional>
#include <set>
#include <string>

#include "format/arch_spec.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fixtures/small_arch.h"
#include "tests/format/example_arch.h"

namespace kompakt {
namespace {

using testing::HasSubstr;

TEST(ModelSchema, CountsTheParametersThatTheV3ReportCounts) {
  const auto schema = ModelSchema::Create(DeepSeekV3Arch());
  ASSERT_TRUE(schema.ok()) << schema.status();
  EXPECT_EQ(schema->parameter_count(), 671'026'419'200);
}

TEST(ModelSchema, CountsTheParametersOfV2Lite) {
  const auto schema = ModelSchema::Create(DeepSeekV2LiteArch());
  ASSERT_TRUE(schema.ok()) << schema.status();
  EXPECT_EQ(schema->parameter_count(), 15'706'484'224);
  EXPECT_EQ(schema->tensors().size(), 5291u);
}

TEST(ModelSchema, NamesAreThoseOfTheUpstreamCheckpoint) {
  const auto schema = ModelSchema::Create(DeepSeekV3Arch());
  ASSERT_TRUE(schema.ok()) << schema.status();
  const auto name = [&](TensorRole role, int64_t layer = -1, int64_t expert = -1) {
    const int64_t i = schema->Find(role, layer, expert);
    return i < 0 ? std::string("absent") : schema->tensors()[static_cast<size_t>(i)].Name();
  };
  EXPECT_EQ(name(TensorRole::kEmbedTokens), "model.embed_tokens.weight");
  EXPECT_EQ(name(TensorRole::kFinalNorm), "model.norm.weight");
  EXPECT_EQ(name(TensorRole::kLmHead), "lm_head.weight");
  EXPECT_EQ(name(TensorRole::kKvAProj, 60), "model.layers.60.self_attn.kv_a_proj_with_mqa.weight");
  EXPECT_EQ(name(TensorRole::kRouterBias, 3), "model.layers.3.mlp.gate.e_score_correction_bias");
  EXPECT_EQ(name(TensorRole::kExpertDown, 5, 255), "model.layers.5.mlp.experts.255.down_proj.weight");
  EXPECT_EQ(name(TensorRole::kExpertDown, 5, 256), "absent");
  EXPECT_EQ(name(TensorRole::kExpertDown, 2, 0), "absent") << "layer 2 is dense";
  EXPECT_EQ(name(TensorRole::kDenseGate, 2), "model.layers.2.mlp.gate_proj.weight");
  EXPECT_EQ(name(TensorRole::kQProj, 0), "absent") << "V3 compresses queries";
  EXPECT_EQ(name(TensorRole::kExpertGate, 61, 0), "absent");
}

TEST(ModelSchema, FindAgreesWithTheList) {
  const auto schema = ModelSchema::Create(DeepSeekV2LiteArch());
  ASSERT_TRUE(schema.ok()) << schema.status();
  std::set<std::string> names;
  for (size_t i = 0; i < schema->tensors().size(); ++i) {
    const TensorInfo& t = schema->tensors()[i];
    EXPECT_EQ(schema->Find(t.role, t.layer, t.expert), static_cast<int64_t>(i)) << t.Name();
    EXPECT_TRUE(names.insert(t.Name()).second) << t.Name() << " stands twice";
  }
}

TEST(ModelSchema, IndexersAreWhereTheArchSpecSays) {
  const auto schema = ModelSchema::Create(SmallV32Arch());
  ASSERT_TRUE(schema.ok()) << schema.status();
  const int64_t bias = schema->Find(TensorRole::kIndexKNormBias, 1);
  ASSERT_GE(bias, 0);
  EXPECT_EQ(schema->tensors()[static_cast<size_t>(bias)].Name(), "model.layers.1.self_attn.indexer.k_norm.bias");
  const int64_t q = schema->Find(TensorRole::kIndexQB, 0);
  EXPECT_EQ(schema->tensors()[static_cast<size_t>(q)].Name(), "model.layers.0.self_attn.indexer.wq_b.weight");
  EXPECT_EQ(schema->tensors()[static_cast<size_t>(q)].rows, 5 * 22);
  EXPECT_EQ(schema->tensors()[static_cast<size_t>(q)].cols, 40);
  EXPECT_EQ(schema->Find(TensorRole::kIndexQB, 2), -1) << "layer 2 shares";
}

TEST(ModelSchema, MtpLayersFollowTheMainModelAndLeaveItAsItIs) {
  const auto main = ModelSchema::Create(SmallV3Arch());
  const auto kept = ModelSchema::Create(SmallMtpArch());
  ASSERT_TRUE(main.ok() && kept.ok());
  ASSERT_GT(kept->tensors().size(), main->tensors().size());
  for (size_t i = 0; i < main->tensors().size(); ++i) {
    EXPECT_EQ(kept->tensors()[i].Name(), main->tensors()[i].Name());
  }
  EXPECT_EQ(kept->main_parameter_count(), main->parameter_count());
  const auto name = [&](TensorRole role, int64_t expert = -1) {
    const int64_t i = kept->Find(role, 3, expert);
    return i < 0 ? std::string("absent") : kept->tensors()[static_cast<size_t>(i)].Name();
  };
  EXPECT_EQ(name(TensorRole::kMtpProj), "model.layers.3.eh_proj.weight");
  EXPECT_EQ(name(TensorRole::kMtpEmbedNorm), "model.layers.3.enorm.weight");
  EXPECT_EQ(name(TensorRole::kMtpHiddenNorm), "model.layers.3.hnorm.weight");
  EXPECT_EQ(name(TensorRole::kMtpHeadNorm), "model.layers.3.shared_head.norm.weight");
  EXPECT_EQ(name(TensorRole::kExpertUp, 3), "model.layers.3.mlp.experts.3.up_proj.weight");
  EXPECT_EQ(main->Find(TensorRole::kMtpProj, 3), -1);
  EXPECT_EQ(kept->Find(TensorRole::kMtpProj, 2), -1);
  EXPECT_EQ(kept->Find(TensorRole::kRouter, 4), -1);
  EXPECT_EQ(RoleLabel(kept->arch(), TensorRole::kExpertUp, 3), "mtp.mlp.experts.up_proj");
  EXPECT_EQ(RoleLabel(kept->arch(), TensorRole::kExpertUp, 2), "mlp.experts.up_proj");
  EXPECT_EQ(ClassOf(kept->arch(), TensorRole::kOProj, 3), TensorClass::kMtp);
  EXPECT_EQ(ClassOf(kept->arch(), TensorRole::kLmHead, -1), TensorClass::kHead);
  ArchSpec more = SmallMtpArch();
  more.set_mtp_layers(2);
  EXPECT_THAT(std::string(ValidateArchSpec(more).message()), HasSubstr("mtp_layers"));
}

TEST(ModelSchema, V3WithItsMtpLayerHasTheParametersThatItsFilesHold) {
  ArchSpec arch = DeepSeekV3Arch();
  arch.set_num_nextn_predict_layers(1);
  arch.set_mtp_layers(1);
  const auto schema = ModelSchema::Create(arch);
  ASSERT_TRUE(schema.ok()) << schema.status();
  // As stored, without the copies of embedding and head.
  EXPECT_EQ(schema->parameter_count(), 684'489'845'504 - 2 * int64_t{129280} * 7168);
}

TEST(ModelSchema, TiedEmbeddingsHaveNoHead) {
  ArchSpec arch = DeepSeekV2LiteArch();
  arch.set_tie_word_embeddings(true);
  const auto schema = ModelSchema::Create(arch);
  ASSERT_TRUE(schema.ok()) << schema.status();
  EXPECT_EQ(schema->Find(TensorRole::kLmHead), -1);
}

TEST(ModelSchema, EveryRoleNameFindsItsRole) {
  for (const RoleInfo& info : AllRoles()) {
    const auto role = RoleFromName(info.name);
    ASSERT_TRUE(role.ok()) << role.status();
    EXPECT_EQ(*role, info.role) << info.name;
  }
  EXPECT_THAT(std::string(RoleFromName("mlp.expert.down_proj").status().message()),
              HasSubstr("did you mean \"mlp.experts.down_proj\""));
}

TEST(ArchSpec, AnIndexerFitsItsModel) {
  ASSERT_TRUE(ValidateArchSpec(SmallV32Arch()).ok());
  const std::pair<const char*, std::function<void(ArchSpec&)>> cases[] = {
      {"an indexer, but", [](ArchSpec& a) { a.set_attention(ATTENTION_MLA); }},
      {"index_n_heads", [](ArchSpec& a) { a.clear_indexer(); }},
      {"index_head_dim", [](ArchSpec& a) { a.mutable_indexer()->set_index_head_dim(7); }},
      {"index_n_heads", [](ArchSpec& a) { a.mutable_indexer()->set_index_n_heads(int64_t{1} << 40); }},
      {"index_topk", [](ArchSpec& a) { a.mutable_indexer()->set_index_topk(-1); }},
      {"k_norm_eps", [](ArchSpec& a) { a.mutable_indexer()->set_k_norm_eps(0); }},
      {"q_lora_rank", [](ArchSpec& a) { a.mutable_mla()->set_q_lora_rank(0); }},
      {"all 3 layers", [](ArchSpec& a) { a.mutable_indexer()->add_shared(false); }},
      {"a shared one", [](ArchSpec& a) { a.mutable_indexer()->set_shared(0, true); }},
  };
  for (const auto& [says, spoil] : cases) {
    ArchSpec arch = SmallV32Arch();
    spoil(arch);
    EXPECT_THAT(std::string(ValidateArchSpec(arch).message()), HasSubstr(says));
  }
}

struct BadArch {
  const char* says;
  std::function<void(ArchSpec&)> spoil;
};

TEST(ArchSpec, EveryContradictionIsNamed) {
  const BadArch cases[] = {
      {"vocab_size", [](ArchSpec& a) { a.set_vocab_size(0); }},
      {"hidden_size", [](ArchSpec& a) { a.set_hidden_size(-1); }},
      {"num_hidden_layers", [](ArchSpec& a) { a.set_num_hidden_layers(int64_t{1} << 40); }},
      {"rms_norm_eps", [](ArchSpec& a) { a.set_rms_norm_eps(0); }},
      {"attention kind", [](ArchSpec& a) { a.set_attention(ATTENTION_KIND_UNSPECIFIED); }},
      {"qk_rope_head_dim", [](ArchSpec& a) { a.mutable_mla()->set_qk_rope_head_dim(63); }},
      {"kv_lora_rank", [](ArchSpec& a) { a.mutable_mla()->set_kv_lora_rank(0); }},
      {"rope_theta", [](ArchSpec& a) { a.mutable_rope()->set_rope_theta(1); }},
      {"factor", [](ArchSpec& a) { a.mutable_rope()->mutable_yarn()->set_factor(-2); }},
      {"n_group", [](ArchSpec& a) { a.mutable_moe()->set_n_group(7); }},
      {"topk_group", [](ArchSpec& a) { a.mutable_moe()->set_topk_group(9); }},
      {"num_experts_per_tok", [](ArchSpec& a) { a.mutable_moe()->set_num_experts_per_tok(257); }},
      {"exceeds the 128 experts", [](ArchSpec& a) { a.mutable_moe()->set_num_experts_per_tok(129); }},
      {"two best experts",
       [](ArchSpec& a) {
         a.mutable_moe()->set_n_group(256);
         a.mutable_moe()->set_topk_group(200);
       }},
      {"scoring_func", [](ArchSpec& a) { a.mutable_moe()->set_scoring_func(ROUTER_SCORING_UNSPECIFIED); }},
  };
  ASSERT_TRUE(ValidateArchSpec(DeepSeekV3Arch()).ok());
  for (const BadArch& bad : cases) {
    ArchSpec arch = DeepSeekV3Arch();
    bad.spoil(arch);
    const absl::Status status = ValidateArchSpec(arch);
    EXPECT_FALSE(status.ok()) << bad.says;
    EXPECT_THAT(std::string(status.message()), HasSubstr(bad.says));
  }
}

}  // namespace
}  // namespace kompakt
