// MTP layers that are kept or skipped, and what is usable in a checkpoint but suspicious.
#include "converters/suspicions.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "converters/checkpoint.h"
#include "tests/converters/status_matchers.h"
#include "tests/converters/temp_folder.h"
#include "tests/converters/test_checkpoint.h"

namespace kompakt {
namespace {

constexpr auto kContradiction = absl::StatusCode::kFailedPrecondition;
const char kQA[] = "model.layers.0.self_attn.q_a_proj.weight";

class SuspicionTest : public testing::Test {
 protected:
  auto Open() { return OpenCheckpoint(folder_.path()); }
  auto WriteAndOpen() {
    checkpoint_.Write(folder_.path());
    return Open();
  }

  TempFolder folder_;
  TestCheckpoint checkpoint_ = TestCheckpoint::Tiny();
};

// ---- MTP layers

class MtpTest : public SuspicionTest {
 protected:
  MtpTest() {
    // The MTP layer, index 2, with the main model's names plus its own.
    checkpoint_.config["num_nextn_predict_layers"] = 1;
    auto parsed = *ParseConfig(checkpoint_.config.dump(), "config.json");
    parsed.arch.set_mtp_layers(1);
    const ModelSchema schema = *ModelSchema::Create(parsed.arch);
    for (const TensorInfo& t : schema.tensors()) {
      if (t.layer < 2) continue;
      const std::vector<float> values(static_cast<size_t>(t.elements()), 0.5f);
      std::vector<uint64_t> shape = {static_cast<uint64_t>(t.rows), static_cast<uint64_t>(t.cols)};
      if (t.is_vector()) shape = {static_cast<uint64_t>(t.cols)};
      checkpoint_.tensors[t.Name()] =
          t.role == TensorRole::kRouterBias ? F32Tensor(shape, values) : Bf16Tensor(shape, values);
    }
    checkpoint_.tensors[kEmbed] = checkpoint_.at("model.embed_tokens.weight");
    checkpoint_.tensors[kHead] = checkpoint_.at("lm_head.weight");
  }
  auto WriteAndKeep() {
    checkpoint_.Write(folder_.path());
    return OpenCheckpoint(folder_.path(), {.keep_mtp = true});
  }

  static constexpr char kEmbed[] = "model.layers.2.embed_tokens.weight";
  static constexpr char kHead[] = "model.layers.2.shared_head.head.weight";
};

TEST_F(MtpTest, IsSkippedWithANoticeUnlessItIsToBeKept) {
  const auto skipped = WriteAndOpen();
  ASSERT_THAT(skipped, IsOk());
  EXPECT_THAT((*skipped)->notices(), testing::Contains(testing::HasSubstr("MTP layer 2")));
  const auto kept = WriteAndKeep();
  ASSERT_THAT(kept, IsOk());
  EXPECT_THAT((*kept)->notices(), testing::Not(testing::Contains(testing::HasSubstr("MTP"))));
  EXPECT_GE((*kept)->schema().Find(TensorRole::kMtpProj, 2), 0);
  const int64_t stored = (*kept)->schema().parameter_count() - (*kept)->schema().main_parameter_count() + 2 * 48 * 64;
  EXPECT_EQ((*kept)->Inventory().mtp_parameters, stored);
  EXPECT_EQ((*skipped)->Inventory().mtp_parameters, stored);
}

TEST_F(MtpTest, CopiesOfEmbeddingAndHeadNeedNotBeThere) {
  checkpoint_.Take(kEmbed);
  checkpoint_.Take(kHead);
  EXPECT_THAT(WriteAndKeep(), IsOk());
}

TEST_F(MtpTest, ACopyThatDiffersIsFoundWhereItIsRead) {
  checkpoint_.at(kHead).data[1000] ^= 1;  // row 7
  const auto source = WriteAndKeep();
  ASSERT_THAT(source, IsOk());
  const ModelSchema& schema = (*source)->schema();
  const TensorInfo& head = schema.tensors()[static_cast<size_t>(schema.Find(TensorRole::kLmHead))];
  std::vector<float> rows(static_cast<size_t>(head.elements()));
  EXPECT_THAT((*source)->ReadF32(head, 0, 48, absl::MakeSpan(rows)),
              Fails(kContradiction, {kHead, "expected a copy of lm_head.weight", "row 7"}));
  EXPECT_FALSE((*source)->ReadStored(head, 0, 48).ok());
  EXPECT_THAT((*source)->ReadF32(head, 8, 48, absl::MakeSpan(rows).first(40 * 64)), IsOk());
  const TensorInfo& embed = schema.tensors()[static_cast<size_t>(schema.Find(TensorRole::kEmbedTokens))];
  EXPECT_THAT((*source)->ReadF32(embed, 0, 48, absl::MakeSpan(rows)), IsOk());
}

TEST_F(MtpTest, ACopyOfAnotherShapeOrDtypeIsRefused) {
  checkpoint_.tensors[kEmbed] = F32Tensor({48, 64}, std::vector<float>(48 * 64));
  EXPECT_THAT(WriteAndKeep(), Fails(kContradiction, {kEmbed, "BF16", "F32"}));
  checkpoint_.tensors[kEmbed] = Bf16Tensor({47, 64}, std::vector<float>(47 * 64));
  EXPECT_THAT(WriteAndKeep(), Fails(kContradiction, {kEmbed, "48", "47"}));
  // Skipped, nobody looks at it.
  EXPECT_THAT(Open(), IsOk());
}

TEST_F(MtpTest, MissingTensorsOfALayerThatIsKeptAreNamed) {
  checkpoint_.Take("model.layers.2.eh_proj.weight");
  EXPECT_THAT(WriteAndKeep(), Fails(kContradiction, {"missing", "model.layers.2.eh_proj.weight"}));
  EXPECT_THAT(Open(), IsOk());
  checkpoint_ = TestCheckpoint::Tiny();
  EXPECT_THAT(WriteAndKeep(), Fails(kContradiction, {"num_nextn_predict_layers", "found 0"}));
}

// ---- warnings

TEST_F(SuspicionTest, WhatIsUsableButSuspiciousIsAWarning) {
  using testing::AllOf;
  using testing::HasSubstr;
  const auto warns = [&](const char* first, const char* second) {
    checkpoint_.Write(folder_.path());
    const auto source = Open();
    ASSERT_THAT(source, IsOk()) << first;
    EXPECT_THAT((*source)->notices(),
                testing::Contains(AllOf(testing::StartsWith("warning: "), HasSubstr(first), HasSubstr(second))));
    checkpoint_ = TestCheckpoint::Tiny();
  };
  checkpoint_.config["attn_temperature"] = 2;
  warns("config.json: keys that this program does not know", "attn_temperature");
  checkpoint_.config["rope_scaling"] = {{"type", "yarn"}, {"factor", 4}, {"original_max_position_embeddings", 64}};
  warns("rope_scaling", "mscale_all_dim is 0 or missing");
  checkpoint_.config["rope_scaling"] = {{"type", "yarn"},
                                        {"factor", 4},
                                        {"original_max_position_embeddings", 64},
                                        {"mscale", 1.0},
                                        {"mscale_all_dim", 0.707}};
  warns("mscale 1 and mscale_all_dim 0.707", "differ");
  checkpoint_.config["num_key_value_heads"] = 1;
  warns("num_key_value_heads", "expected num_attention_heads 2, found 1");
  checkpoint_.config["quantization_config"] = {{"quant_method", "fp8"}, {"weight_block_size", {128, 128}}};
  warns("quantization_config", "no tensor is quantized");
  checkpoint_.MakeFp8(kQA);
  warns("no quantization_config", "tensors are quantized");
  const std::string bias = "model.layers.1.mlp.gate.e_score_correction_bias";
  checkpoint_.tensors[bias] = Bf16Tensor({4}, {2, 2.5f, 3, 2});
  warns(bias.c_str(), "expected F32, found BF16");
  checkpoint_.config.erase("eos_token_id");
  checkpoint_.files["tokenizer.json"] = R"({"model":{"type":"BPE","vocab":{"a":0},"merges":[]},"added_tokens":[]})";
  warns("eos_token_id", "length limit");
}

TEST_F(SuspicionTest, AModelWithTheOutlineOfAPublishedOneButOtherCountsIsSuspicious) {
  BoundTensors bound;
  auto parsed = *ParseConfig(checkpoint_.config.dump(), "config.json");
  ArchSpec& arch = parsed.arch;
  arch.set_num_hidden_layers(27);
  arch.set_hidden_size(2048);
  arch.mutable_moe()->set_n_routed_experts(64);
  const ModelSchema schema = *ModelSchema::Create(arch);
  EXPECT_THAT(
      TensorWarnings(schema, bound, false),
      testing::ElementsAre(testing::AllOf(testing::StartsWith("warning: the model has the outline of Moonlight"),
                                          testing::HasSubstr("expected 15960110208"))));
}

}  // namespace
}  // namespace kompakt
