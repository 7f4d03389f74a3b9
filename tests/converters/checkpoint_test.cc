// What OpenCheckpoint accepts and refuses: folders, index against shards, expected tensors against found ones, scales.
#include "converters/checkpoint.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <string>
#include <vector>

#include "tests/converters/status_matchers.h"
#include "tests/converters/temp_folder.h"
#include "tests/converters/test_checkpoint.h"

namespace kompakt {
namespace {

constexpr auto kUnsupported = absl::StatusCode::kUnimplemented;
constexpr auto kCorrupt = absl::StatusCode::kDataLoss;
constexpr auto kContradiction = absl::StatusCode::kFailedPrecondition;

const char kExpert[] = "model.layers.1.mlp.experts.2.gate_proj.weight";
const char kQA[] = "model.layers.0.self_attn.q_a_proj.weight";

class CheckpointTest : public testing::Test {
 protected:
  auto Open() { return OpenCheckpoint(folder_.path()); }
  auto WriteAndOpen() {
    checkpoint_.Write(folder_.path());
    return Open();
  }

  TempFolder folder_;
  TestCheckpoint checkpoint_ = TestCheckpoint::Tiny();
};

// ---- folders

TEST_F(CheckpointTest, SmallCheckpointOpens) {
  const auto source = WriteAndOpen();
  ASSERT_THAT(source, IsOk());
  EXPECT_EQ((*source)->schema().tensors().size(), checkpoint_.tensors.size());
  EXPECT_THAT((*source)->notices(), testing::ElementsAre(testing::HasSubstr("no tokenizer")));
}

TEST_F(CheckpointTest, PathsThatAreNoCheckpointFolderGetAHelpfulAnswer) {
  EXPECT_THAT(OpenCheckpoint(folder_.File("none")), Fails(absl::StatusCode::kNotFound, {"none", "no such folder"}));
  WriteFile(folder_.File("model.safetensors"), "x");
  EXPECT_THAT(OpenCheckpoint(folder_.File("model.safetensors")),
              Fails(absl::StatusCode::kInvalidArgument, {"found a file", "give the folder", folder_.path()}));
  WriteFile(folder_.File("m.gguf"), "x");
  EXPECT_THAT(OpenCheckpoint(folder_.File("m.gguf")), Fails(absl::StatusCode::kInvalidArgument, {"GGUF"}));
}

TEST_F(CheckpointTest, FolderWithoutConfigSaysWhatItHolds) {
  EXPECT_THAT(Open(), Fails(absl::StatusCode::kNotFound, {folder_.path(), "config.json", "empty folder"}));
  WriteFile(folder_.File("model.safetensors"), "x");
  EXPECT_THAT(Open(), Fails(absl::StatusCode::kNotFound, {"config.json", "model.safetensors"}));
  mkdir(folder_.File("inner").c_str(), 0755);
  WriteFile(folder_.File("inner/config.json"), "{}");
  EXPECT_THAT(Open(), Fails(absl::StatusCode::kNotFound, {"did you mean", folder_.File("inner")}));
  WriteFile(folder_.File("weights.gguf"), "x");
  EXPECT_THAT(Open(), Fails(kUnsupported, {"weights.gguf", "safetensors"}));
}

TEST_F(CheckpointTest, FolderWithoutSafetensorsSaysWhatItHolds) {
  checkpoint_.WriteOtherFiles(folder_.path());
  EXPECT_THAT(Open(), Fails(absl::StatusCode::kNotFound, {folder_.path(), "no weights"}));
  WriteFile(folder_.File("pytorch_model.bin"), "x");
  EXPECT_THAT(Open(), Fails(kUnsupported, {"PyTorch .bin", "safetensors"}));
  WriteFile(folder_.File("model.gguf"), "x");
  EXPECT_THAT(Open(), Fails(kUnsupported, {".gguf"}));
  WriteFile(folder_.File("model-00001-of-000002.safetensors"), "x");
  EXPECT_THAT(Open(), Fails(kContradiction, {"model-00001-of-000002.safetensors", "without their index"}));
}

TEST_F(CheckpointTest, ConfigThatIsAnLfsPointerOrAPageIsRecognised) {
  checkpoint_.Write(folder_.path());
  WriteFile(folder_.File("config.json"), "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 1\n");
  EXPECT_THAT(Open(), Fails(kCorrupt, {"config.json", "Git LFS"}));
  WriteFile(folder_.File("config.json"), "<!DOCTYPE html>");
  EXPECT_THAT(Open(), Fails(kCorrupt, {"config.json", "HTML"}));
  WriteFile(folder_.File("config.json"), R"({"architectures":["Qwen2ForCausalLM"]})");
  EXPECT_THAT(Open(), Fails(kUnsupported, {"config.json", "Qwen2ForCausalLM", "dense"}));
}

// ---- index and shards

TEST_F(CheckpointTest, ShardsOpenWithCompanionsInOtherShards) {
  checkpoint_.MakeFp8(kQA);
  checkpoint_.MakeInt4(kExpert, 32, Dtype::kBf16);
  checkpoint_.WriteSharded(folder_.path(), 3);
  EXPECT_THAT(Open(), IsOk());
}

TEST_F(CheckpointTest, IndexNamesAnAbsentShard) {
  checkpoint_.WriteSharded(folder_.path(), 3);
  std::filesystem::remove(folder_.File(TestCheckpoint::ShardName(1, 3)));
  EXPECT_THAT(Open(), Fails(kContradiction, {"model.safetensors.index.json", "expected 3 shards", "absent are 1",
                                             TestCheckpoint::ShardName(1, 3)}));
}

TEST_F(CheckpointTest, IndexNamesATensorThatItsShardDoesNotHold) {
  auto index = checkpoint_.WriteSharded(folder_.path(), 2);
  index["weight_map"]["model.extra.weight"] = TestCheckpoint::ShardName(0, 2);
  TestCheckpoint::WriteIndex(folder_.path(), index);
  EXPECT_THAT(Open(), Fails(kContradiction, {"index.json", "shard does not hold", "model.extra.weight in",
                                             TestCheckpoint::ShardName(0, 2)}));
}

TEST_F(CheckpointTest, IndexPlacesATensorInTheWrongShard) {
  auto index = checkpoint_.WriteSharded(folder_.path(), 2);
  std::string& place = index["weight_map"][kQA].get_ref<std::string&>();
  place = TestCheckpoint::ShardName(place == TestCheckpoint::ShardName(0, 2) ? 1 : 0, 2);
  TestCheckpoint::WriteIndex(folder_.path(), index);
  EXPECT_THAT(Open(), Fails(kContradiction, {"shard does not hold", kQA}));
}

TEST_F(CheckpointTest, ShardHoldsATensorThatTheIndexDoesNotName) {
  auto index = checkpoint_.WriteSharded(folder_.path(), 2);
  index["weight_map"].erase(kQA);
  TestCheckpoint::WriteIndex(folder_.path(), index);
  EXPECT_THAT(Open(), Fails(kContradiction, {"index does not name", kQA}));
}

TEST_F(CheckpointTest, ShardThatTheIndexDoesNotListIsLookedInto) {
  checkpoint_.WriteSharded(folder_.path(), 2);
  WriteFile(folder_.File("model-00003-of-000003.safetensors"), SafetensorsBytes({{"extra", F32Tensor({1}, {1})}}));
  EXPECT_THAT(Open(), Fails(kContradiction, {"index does not name", "extra", "model-00003-of-000003"}));
}

TEST_F(CheckpointTest, TensorInTwoShardsNamesBoth) {
  checkpoint_.WriteSharded(folder_.path(), 2);
  for (int shard : {0, 1}) {
    const std::string path = folder_.File(TestCheckpoint::ShardName(shard, 2));
    const auto file = SafetensorsFile::Open(path);
    ASSERT_THAT(file, IsOk());
    if (file->Find(kQA) != nullptr) continue;
    TestTensors tensors;
    for (const SafetensorsEntry& entry : file->entries()) tensors[entry.name] = checkpoint_.at(entry.name);
    tensors[kQA] = checkpoint_.at(kQA);
    WriteFile(path, SafetensorsBytes(tensors));
  }
  EXPECT_THAT(Open(), Fails(kContradiction, {kQA, "expected in one shard", TestCheckpoint::ShardName(0, 2),
                                             TestCheckpoint::ShardName(1, 2)}));
}

TEST_F(CheckpointTest, FileNamesThatLeaveTheFolderAreRefused) {
  auto index = checkpoint_.WriteSharded(folder_.path(), 2);
  for (const char* name : {"../model.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", "a\\b.safetensors"}) {
    index["weight_map"][kQA] = name;
    TestCheckpoint::WriteIndex(folder_.path(), index);
    EXPECT_THAT(Open(), Fails(kContradiction, {"index.json", kQA, "same folder", absl::StrCat("\"", name, "\"")}));
  }
  index["weight_map"][kQA] = "pytorch_model.bin";
  TestCheckpoint::WriteIndex(folder_.path(), index);
  EXPECT_THAT(Open(), Fails(kUnsupported, {"pytorch_model.bin", ".safetensors"}));
}

TEST_F(CheckpointTest, MalformedIndexIsRefused) {
  checkpoint_.WriteSharded(folder_.path(), 2);
  const std::string path = folder_.File("model.safetensors.index.json");
  WriteFile(path, "{\"metadata\":{}}");
  EXPECT_THAT(Open(), Fails(kCorrupt, {path, "weight_map"}));
  WriteFile(path, "{\"weight_map\":{\"a\":7}}");
  EXPECT_THAT(Open(), Fails(kCorrupt, {path, "a: expected a file name, found 7"}));
  WriteFile(path, R"({"weight_map":{"a":"x.safetensors","a":"y.safetensors"}})");
  EXPECT_THAT(Open(), Fails(kCorrupt, {path, "\"a\" appears twice"}));
  WriteFile(path, "version https://git-lfs.github.com/spec/v1\n");
  EXPECT_THAT(Open(), Fails(kCorrupt, {path, "Git LFS"}));
}

TEST_F(CheckpointTest, ShardInPlaceOfWhichAnLfsPointerLies) {
  checkpoint_.WriteSharded(folder_.path(), 2);
  const std::string shard = folder_.File(TestCheckpoint::ShardName(1, 2));
  WriteFile(shard, "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 1\n");
  EXPECT_THAT(Open(), Fails(kCorrupt, {shard, "Git LFS pointer"}));
}

TEST_F(CheckpointTest, TruncatedShardSaysExpectedAndFoundSize) {
  checkpoint_.WriteSharded(folder_.path(), 2);
  const std::string shard = folder_.File(TestCheckpoint::ShardName(1, 2));
  const auto size = std::filesystem::file_size(shard);
  std::filesystem::resize_file(shard, size - 100);
  EXPECT_THAT(Open(), Fails(kCorrupt,
                            {shard, "truncated", absl::StrCat("expected ", size), absl::StrCat("found ", size - 100)}));
}

// ---- expected tensors against found ones

TEST_F(CheckpointTest, MissingAndSurplusTensorsAreNamedWithTheirCounts) {
  for (int e = 0; e < 4; ++e) {
    for (const char* part : {"gate", "up", "down"}) {
      const std::string name = absl::StrCat("model.layers.1.mlp.experts.", e, ".", part, "_proj.weight");
      checkpoint_.tensors[absl::StrCat("wrong.", e, ".", part)] = checkpoint_.Take(name);
    }
  }
  EXPECT_THAT(WriteAndOpen(),
              Fails(kContradiction, {folder_.path(), "missing 12 (the first 10: model.layers.1.mlp.experts.0.gate_proj",
                                     "surplus 12 (the first 10: wrong.0.down", "wrong.3.down"}));
}

TEST_F(CheckpointTest, OneMissingTensorAndNoSurplus) {
  checkpoint_.Take("model.norm.weight");
  EXPECT_THAT(WriteAndOpen(), Fails(kContradiction, {"missing 1 (model.norm.weight), surplus 0"}));
}

TEST_F(CheckpointTest, OneSurplusTensor) {
  checkpoint_.tensors["model.layers.0.self_attn.q_a_proj.bias"] = F32Tensor({1}, {1});
  EXPECT_THAT(WriteAndOpen(), Fails(kContradiction, {"missing 0, surplus 1 (model.layers.0.self_attn.q_a_proj.bias)"}));
}

TEST_F(CheckpointTest, NamesMatchAsAWhole) {
  // mlp.gate.weight is the router, mlp.gate_proj.weight the dense FFN.
  checkpoint_.tensors["model.layers.1.mlp.gate_proj.weight"] = checkpoint_.Take("model.layers.1.mlp.gate.weight");
  EXPECT_THAT(WriteAndOpen(), Fails(kContradiction, {"missing 1 (model.layers.1.mlp.gate.weight)",
                                                     "surplus 1 (model.layers.1.mlp.gate_proj.weight)"}));
}

TEST_F(CheckpointTest, WrongShapeSaysExpectedAndFound) {
  checkpoint_.at(kQA).shape = {64, 32};
  EXPECT_THAT(WriteAndOpen(),
              Fails(kContradiction, {"model.safetensors", kQA, "expected shape [32, 64], found [64, 32]"}));
  checkpoint_ = TestCheckpoint::Tiny();
  checkpoint_.at("model.norm.weight").shape = {1, 64};
  EXPECT_THAT(WriteAndOpen(), Fails(kContradiction, {"model.norm.weight", "expected shape [64], found [1, 64]"}));
}

TEST_F(CheckpointTest, DtypeThatIsNoWeightIsRefused) {
  TestTensor& weight = checkpoint_.at(kQA);
  weight.dtype = Dtype::kI16;
  EXPECT_THAT(WriteAndOpen(), Fails(kUnsupported, {kQA, "F8_E4M3", "found I16"}));
  weight.dtype = Dtype::kBf16;
  checkpoint_.at("model.norm.weight").dtype = Dtype::kI16;
  EXPECT_THAT(WriteAndOpen(), Fails(kUnsupported, {"model.norm.weight", "found I16"}));
}

TEST_F(CheckpointTest, InvFreqIsIgnored) {
  checkpoint_.tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = F32Tensor({4}, {1, 2, 3, 4});
  EXPECT_THAT(WriteAndOpen(), IsOk());
}

TEST_F(CheckpointTest, MtpLayersAreSkippedUpToTheirCountAndSurplusBeyond) {
  checkpoint_.config["num_nextn_predict_layers"] = 1;
  checkpoint_.tensors["model.layers.2.eh_proj.weight"] = F32Tensor({2}, {1, 2});
  const auto source = WriteAndOpen();
  ASSERT_THAT(source, IsOk());
  EXPECT_THAT((*source)->notices(), testing::Contains(testing::HasSubstr("MTP layer 2")));
  EXPECT_THAT((*source)->notices(), testing::Contains(testing::HasSubstr("1 tensors, 8 bytes")));

  checkpoint_.tensors["model.layers.3.eh_proj.weight"] = F32Tensor({2}, {1, 2});
  EXPECT_THAT(WriteAndOpen(), Fails(kContradiction, {"surplus 1 (model.layers.3.eh_proj.weight)"}));
}

TEST_F(CheckpointTest, MtpLayersThatTheFilesLackAreNoticed) {
  checkpoint_.config["num_nextn_predict_layers"] = 1;
  const auto source = WriteAndOpen();
  ASSERT_THAT(source, IsOk());
  EXPECT_THAT((*source)->notices(), testing::Contains(testing::HasSubstr("the files hold none")));
}

TEST_F(CheckpointTest, TiedHeadMayBeAbsentOrASpareCopy) {
  checkpoint_.config["tie_word_embeddings"] = true;
  const auto spare = WriteAndOpen();
  ASSERT_THAT(spare, IsOk());
  EXPECT_THAT((*spare)->notices(), testing::Contains(testing::HasSubstr("lm_head.weight is skipped")));
  checkpoint_.Take("lm_head.weight");
  EXPECT_THAT(WriteAndOpen(), IsOk());
  checkpoint_.config["tie_word_embeddings"] = false;
  EXPECT_THAT(WriteAndOpen(), Fails(kContradiction, {"missing 1 (lm_head.weight)"}));
}

TEST_F(CheckpointTest, ConfigThatClaimsAnImplausibleModelIsRefusedBeforeItCostsMemory) {
  checkpoint_.config["num_hidden_layers"] = 4000;
  checkpoint_.config["n_routed_experts"] = 4096;
  EXPECT_THAT(WriteAndOpen(), Fails(kContradiction, {"num_hidden_layers 4000", "4096"}));
}

// ---- naming of the files

TEST_F(CheckpointTest, ConsolidatedFilesAreReadAloneNumberedOrByTheirIndex) {
  const std::string model = folder_.File("model.safetensors");
  checkpoint_.Write(folder_.path());
  std::filesystem::rename(model, folder_.File("consolidated.safetensors"));
  EXPECT_THAT(Open(), IsOk());
  std::filesystem::remove(folder_.File("consolidated.safetensors"));

  nlohmann::json index = checkpoint_.WriteSharded(folder_.path(), 2);
  std::filesystem::remove(folder_.File("model.safetensors.index.json"));
  for (int i = 0; i < 2; ++i) {
    std::filesystem::rename(folder_.File(TestCheckpoint::ShardName(i, 2)),
                            folder_.File(absl::StrCat("consolidated-0000", i + 1, "-of-000002.safetensors")));
  }
  EXPECT_THAT(Open(), IsOk());
  for (auto& name : index["weight_map"]) {
    name = absl::StrCat("consolidated", name.get<std::string>().substr(std::string("model").size()));
  }
  WriteFile(folder_.File("consolidated.safetensors.index.json"), index.dump());
  EXPECT_THAT(Open(), IsOk());
  std::filesystem::rename(folder_.File("consolidated-00002-of-000002.safetensors"), folder_.File("elsewhere"));
  EXPECT_THAT(Open(), Fails(kContradiction, {"consolidated.safetensors.index.json", "consolidated-00002-of-000002"}));
  std::filesystem::remove(folder_.File("consolidated.safetensors.index.json"));
  EXPECT_THAT(Open(), Fails(kContradiction, {"one of each number", "found 1 (consolidated-00001-of-000002"}));
}

TEST_F(CheckpointTest, SeveralWeightsWithoutAnIndexThatChoosesAreRefused) {
  checkpoint_.Write(folder_.path());
  const std::string bytes = ReadFile(folder_.File("model.safetensors"));
  WriteFile(folder_.File("consolidated.safetensors"), bytes);
  EXPECT_THAT(Open(), Fails(kContradiction, {"model.safetensors and consolidated.safetensors", "expected one"}));
  std::filesystem::remove(folder_.File("model.safetensors"));
  checkpoint_.WriteSharded(folder_.path(), 2);
  EXPECT_THAT(Open(), IsOk()) << "the index chooses";
  WriteFile(folder_.File("consolidated.safetensors.index.json"), "{}");
  EXPECT_THAT(Open(), Fails(kContradiction, {"model.safetensors.index.json and consolidated.safetensors.index.json"}));
}

TEST_F(CheckpointTest, HfQuantConfigSaysWhatConfigDoesNot) {
  WriteFile(folder_.File("hf_quant_config.json"), R"({"quantization": {"quant_algo": "NVFP4", "group_size": 16}})");
  EXPECT_THAT(WriteAndOpen(), IsOk());
  WriteFile(folder_.File("hf_quant_config.json"), R"({"quantization": {"quant_algo": "INT4_AWQ"}})");
  EXPECT_THAT(WriteAndOpen(), Fails(kUnsupported, {"hf_quant_config.json", "quant_algo \"INT4_AWQ\""}));
}

// ---- companions

TEST_F(CheckpointTest, Fp8WeightWithoutScale) {
  checkpoint_.MakeFp8(kQA);
  checkpoint_.Take(std::string(kQA) + "_scale_inv");
  EXPECT_THAT(WriteAndOpen(), Fails(kContradiction, {kQA, "FP8 weight without scale", "q_a_proj.weight_scale_inv"}));
}

TEST_F(CheckpointTest, Fp8WeightWithTwoScales) {
  checkpoint_.MakeFp8(kQA);
  checkpoint_.tensors[std::string(kQA) + "_scale"] = F32Tensor({1}, {1});
  EXPECT_THAT(WriteAndOpen(),
              Fails(kContradiction, {"expected one scale", "q_a_proj.weight_scale_inv and", "q_a_proj.weight_scale"}));
}

TEST_F(CheckpointTest, ScaleWithoutFp8Weight) {
  checkpoint_.tensors[std::string(kQA) + "_scale_inv"] = F32Tensor({1, 1}, {1});
  EXPECT_THAT(WriteAndOpen(), Fails(kContradiction, {"q_a_proj.weight_scale_inv", "scale without FP8 weight", "BF16"}));
  checkpoint_.tensors["model.other.weight_scale_inv"] = checkpoint_.Take(std::string(kQA) + "_scale_inv");
  EXPECT_THAT(WriteAndOpen(), Fails(kContradiction, {"surplus 1 (model.other.weight_scale_inv)"}));
}

TEST_F(CheckpointTest, Fp8ScaleOfTheWrongShapeOrDtype) {
  checkpoint_.MakeFp8(kQA);
  TestTensor& scale = checkpoint_.at(std::string(kQA) + "_scale_inv");
  const TestTensor good = scale;
  scale = F32Tensor({1, 2}, {1, 1});
  EXPECT_THAT(WriteAndOpen(), Fails(kContradiction, {"weight_scale_inv", "expected shape [1, 1]", "found [1, 2]"}));
  scale = {Dtype::kI32, {1, 1}, std::string(4, '\1')};
  EXPECT_THAT(WriteAndOpen(),
              Fails(kContradiction, {"weight_scale_inv", "dtype F32, BF16, F16 or F8_E8M0, found I32"}));
  scale = good;
  EXPECT_THAT(WriteAndOpen(), IsOk());
}

TEST_F(CheckpointTest, PackedInt4WithoutOrWithWrongCompanions) {
  checkpoint_.MakeInt4(kExpert, 32, Dtype::kBf16);
  const std::string stem = "model.layers.1.mlp.experts.2.gate_proj";
  const TestTensors good = checkpoint_.tensors;
  checkpoint_.Take(stem + ".weight_scale");
  EXPECT_THAT(WriteAndOpen(),
              Fails(kContradiction, {stem + ".weight_packed", "expected " + stem + ".weight_scale", "none"}));
  checkpoint_.tensors = good;
  checkpoint_.Take(stem + ".weight_shape");
  EXPECT_THAT(WriteAndOpen(),
              Fails(kContradiction, {stem + ".weight_packed", "expected " + stem + ".weight_shape", "none"}));
  checkpoint_.tensors = good;
  checkpoint_.at(stem + ".weight_scale").shape = {80, 1};
  EXPECT_THAT(WriteAndOpen(), Fails(kContradiction, {stem + ".weight_scale", "found [80, 1]"}));
  checkpoint_.tensors = good;
  checkpoint_.at(stem + ".weight_packed").shape = {8, 40};
  EXPECT_THAT(WriteAndOpen(),
              Fails(kContradiction, {stem + ".weight_packed", "expected shape [40, 8]", "found [8, 40]"}));
  checkpoint_.tensors = good;
  checkpoint_.at(stem + ".weight_packed").dtype = Dtype::kF32;
  EXPECT_THAT(WriteAndOpen(), Fails(kUnsupported, {stem + ".weight_packed", "I32", "found F32"}));
  checkpoint_.tensors = good;
  for (const char* companion : {".weight_zero_point", ".weight_g_idx"}) {
    checkpoint_.tensors[stem + companion] = {Dtype::kI32, {1}, std::string(4, '\0')};
    EXPECT_THAT(WriteAndOpen(), Fails(kContradiction, {stem + companion, "expected shape", "found [1]"}));
    checkpoint_.Take(stem + companion);
  }
}

TEST_F(CheckpointTest, PackedInt4WithAnotherGroupThanTheConfigSays) {
  checkpoint_.MakeInt4(kExpert, 32, Dtype::kBf16);
  checkpoint_.config["quantization_config"] = nlohmann::json::parse(
      R"({"quant_method":"compressed-tensors","format":"pack-quantized","config_groups":{"group_0":{"weights":
          {"num_bits":4,"type":"int","symmetric":true,"strategy":"group","group_size":16}}}})");
  EXPECT_THAT(WriteAndOpen(), Fails(kContradiction, {"weight_scale", "expected shape [40, 4] for groups of 16 columns",
                                                     "found [40, 2]"}));
}

// ---- vocabulary and assets

TEST_F(CheckpointTest, VocabularySmallerThanTheTokenizer) {
  checkpoint_.files["tokenizer.json"] =
      R"({"model":{"type":"BPE","vocab":{"a":0,"b":46}},"added_tokens":[{"id":47,"content":"<s>"}]})";
  EXPECT_THAT(WriteAndOpen(), IsOk());
  checkpoint_.files["tokenizer.json"] =
      R"({"model":{"type":"BPE","vocab":{"a":0,"b":46}},"added_tokens":[{"id":48,"content":"<s>"}]})";
  EXPECT_THAT(WriteAndOpen(),
              Fails(kContradiction, {"config.json", "vocab_size", "at least 49", "tokenizer.json", "found 48"}));
  checkpoint_.files["tokenizer.json"] = R"({"model":{"vocab":{"a":300}}})";
  EXPECT_THAT(WriteAndOpen(), Fails(kContradiction, {"at least 301", "found 48"}));
}

TEST_F(CheckpointTest, VocabularySmallerThanTiktokenRanksOrItsAddedTokens) {
  checkpoint_.files["tiktoken.model"] = "YQ== 0\nYg== 1\n\nYw== 47\n";
  EXPECT_THAT(WriteAndOpen(), IsOk());
  checkpoint_.files["tokenizer_config.json"] = R"({"added_tokens_decoder":{"60":{"content":"[BOS]"}}})";
  EXPECT_THAT(WriteAndOpen(), Fails(kContradiction, {"at least 61", "tiktoken.model", "found 48"}));
  checkpoint_.files.erase("tokenizer_config.json");
  std::filesystem::remove(folder_.File("tokenizer_config.json"));
  checkpoint_.files["tiktoken.model"] = "YQ== 0\nYg==\n";
  EXPECT_THAT(WriteAndOpen(), Fails(kCorrupt, {"tiktoken.model", "line 2", "base64 rank"}));
}

TEST_F(CheckpointTest, BosAndStopIdsOutOfRange) {
  checkpoint_.config["bos_token_id"] = 48;
  EXPECT_THAT(WriteAndOpen(), Fails(kContradiction, {"bos_token_id", "below vocab_size 48", "found 48"}));
  checkpoint_.config["bos_token_id"] = 0;
  checkpoint_.config["eos_token_id"] = {1, 99};
  EXPECT_THAT(WriteAndOpen(), Fails(kContradiction, {"eos_token_id", "below vocab_size 48", "found 99"}));
}

TEST_F(CheckpointTest, BrokenTokenizerFilesAreNamed) {
  checkpoint_.files["tokenizer.json"] = "version https://git-lfs.github.com/spec/v1\n";
  EXPECT_THAT(WriteAndOpen(), Fails(kCorrupt, {"tokenizer.json", "Git LFS"}));
  checkpoint_.files["tokenizer.json"] = "{}";
  EXPECT_THAT(WriteAndOpen(), Fails(kCorrupt, {"tokenizer.json", "model.vocab"}));
  checkpoint_.files["tokenizer.json"] = R"({"model":{"vocab":{"a":-1}}})";
  EXPECT_THAT(WriteAndOpen(), Fails(kCorrupt, {"tokenizer.json", "\"a\"", "found -1"}));
  checkpoint_.files["tokenizer.json"] = R"({"model":{"vocab":{"a":4294967296}}})";
  EXPECT_THAT(WriteAndOpen(), Fails(kCorrupt, {"tokenizer.json", "\"a\"", "4294967296"}));
  checkpoint_.files.erase("tokenizer.json");
  std::filesystem::remove(folder_.File("tokenizer.json"));
  checkpoint_.files["generation_config.json"] = R"({"eos_token_id":"</s>"})";
  EXPECT_THAT(WriteAndOpen(), Fails(kCorrupt, {"generation_config.json", "eos_token_id", "token id"}));
}

TEST_F(CheckpointTest, GenerationConfigDecidesTheStopIds) {
  checkpoint_.files["generation_config.json"] = R"({"eos_token_id":[7,9,7],"bos_token_id":5})";
  const auto source = WriteAndOpen();
  ASSERT_THAT(source, IsOk());
  EXPECT_THAT((*source)->assets().stop_ids(), testing::ElementsAre(7, 9));
  EXPECT_EQ((*source)->assets().bos_id(), 0u) << "config.json comes first for BOS";
}

TEST_F(CheckpointTest, KimiTokensAreFoundByNameInTheAddedTokensDecoder) {
  checkpoint_.config.erase("bos_token_id");
  checkpoint_.config.erase("eos_token_id");
  checkpoint_.files["tiktoken.model"] = "YQ== 0\nYg== 1\n";
  checkpoint_.files["tokenizer_config.json"] =
      R"({"bos_token":"[BOS]","eos_token":{"content":"[EOS]"},
          "added_tokens_decoder":{"40":{"content":"[BOS]"},"41":{"content":"[EOS]"}}})";
  const auto source = WriteAndOpen();
  ASSERT_THAT(source, IsOk());
  EXPECT_TRUE((*source)->assets().has_bos_id());
  EXPECT_EQ((*source)->assets().bos_id(), 40u);
  EXPECT_THAT((*source)->assets().stop_ids(), testing::ElementsAre(41));
}

TEST_F(CheckpointTest, ModelWithoutBosHasNone) {
  checkpoint_.config["bos_token_id"] = nullptr;
  const auto source = WriteAndOpen();
  ASSERT_THAT(source, IsOk());
  EXPECT_FALSE((*source)->assets().has_bos_id());
}

}  // namespace
}  // namespace kompakt
