// A small checkpoint of the V3 family in memory: tests change its config, tensors and files, then write it out.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "converters/config.h"
#include "format/model_schema.h"
#include "tests/converters/safetensors_writer.h"

namespace kompakt {

// Numbers that depend on a name only, so that a fixture does not change when its order does.
class NamedNumbers {
 public:
  explicit NamedNumbers(const std::string& name) {
    for (const char c : name) state_ = (state_ ^ static_cast<uint8_t>(c)) * 1099511628211u;
  }
  uint32_t Next() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<uint32_t>(state_ >> 33);
  }
  float Uniform(float low, float high) { return low + (high - low) * static_cast<float>(Next() % 4096) / 4096.0f; }

 private:
  uint64_t state_ = 14695981039346656037u;
};

struct TestCheckpoint {
  nlohmann::json config;
  TestTensors tensors;
  std::map<std::string, std::string> files;  // whatever else goes into the folder

  // 2 layers (1 dense), 4 experts of width 40, hidden 64, BF16 throughout, the correction bias in F32.
  static TestCheckpoint Tiny() {
    TestCheckpoint checkpoint;
    checkpoint.config = nlohmann::json::parse(R"({
      "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "attention_bias": false,
      "hidden_act": "silu", "vocab_size": 48, "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 96,
      "max_position_embeddings": 256, "rms_norm_eps": 1e-6, "rope_theta": 10000, "rope_scaling": null,
      "tie_word_embeddings": false, "num_attention_heads": 2, "q_lora_rank": 32, "kv_lora_rank": 32,
      "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16, "n_routed_experts": 4, "n_shared_experts": 1,
      "num_experts_per_tok": 2, "moe_intermediate_size": 40, "first_k_dense_replace": 1, "moe_layer_freq": 1,
      "scoring_func": "sigmoid", "topk_method": "noaux_tc", "n_group": 2, "topk_group": 1, "norm_topk_prob": true,
      "routed_scaling_factor": 2.5, "num_nextn_predict_layers": 0, "bos_token_id": 0, "eos_token_id": 1})");
    checkpoint.FillTensors();
    return checkpoint;
  }

  // Every tensor that the config calls for.
  void FillTensors() {
    tensors.clear();
    const auto parsed = ParseConfig(config.dump(), "config.json");
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    const auto schema = ModelSchema::Create(parsed->arch);
    ASSERT_TRUE(schema.ok()) << schema.status();
    for (const TensorInfo& t : schema->tensors()) {
      NamedNumbers numbers(t.Name());
      std::vector<float> values;
      for (int64_t i = 0; i < t.elements(); ++i) values.push_back(numbers.Uniform(-1, 1));
      std::vector<uint64_t> shape = {static_cast<uint64_t>(t.rows), static_cast<uint64_t>(t.cols)};
      if (t.is_vector()) shape = {static_cast<uint64_t>(t.cols)};
      tensors[t.Name()] = t.role == TensorRole::kRouterBias ? F32Tensor(shape, values) : Bf16Tensor(shape, values);
    }
  }

  TestTensor& at(const std::string& name) {
    EXPECT_EQ(tensors.count(name), 1u) << name;
    return tensors[name];
  }
  TestTensor Take(const std::string& name) {
    TestTensor tensor = at(name);
    tensors.erase(name);
    return tensor;
  }

  // Random finite FP8 codes and positive scales in place of `name`, whose last two dimensions are the matrix.
  void MakeFp8(const std::string& name, uint64_t block_rows = 128, uint64_t block_cols = 128) {
    TestTensor& weight = at(name);
    NamedNumbers numbers(name + " as FP8");
    const size_t rank = weight.shape.size();
    uint64_t elements = 1;
    for (const uint64_t n : weight.shape) elements *= n;
    weight.dtype = Dtype::kF8E4M3;
    weight.data.clear();
    for (uint64_t i = 0; i < elements; ++i) {
      const uint8_t code = static_cast<uint8_t>(numbers.Next());
      weight.data.push_back(static_cast<char>((code & 0x7f) == 0x7f ? 0x30 : code));
    }
    std::vector<uint64_t> shape = weight.shape;
    shape[rank - 2] = (shape[rank - 2] + block_rows - 1) / block_rows;
    shape[rank - 1] = (shape[rank - 1] + block_cols - 1) / block_cols;
    std::vector<float> scales;
    for (uint64_t i = 0, n = (rank == 3 ? shape[0] : 1) * shape[rank - 2] * shape[rank - 1]; i < n; ++i) {
      scales.push_back(numbers.Uniform(0.001f, 0.01f));
    }
    tensors[name + "_scale_inv"] = F32Tensor(shape, scales);
  }

  // Random INT4 codes with scales of dtype `scale_dtype` per `group` columns in place of matrix `name`.
  void MakeInt4(const std::string& name, uint64_t group, Dtype scale_dtype) {
    const TestTensor weight = Take(name);
    const uint64_t rows = weight.shape[0];
    const uint64_t cols = weight.shape[1];
    const uint64_t words = (cols + 7) / 8;
    NamedNumbers numbers(name + " as INT4");
    std::vector<uint32_t> packed;
    for (uint64_t i = 0; i < rows * words; ++i) packed.push_back(numbers.Next() ^ (numbers.Next() << 1));
    const std::vector<uint64_t> scale_shape = {rows, (cols + group - 1) / group};
    std::vector<float> scales;
    for (uint64_t i = 0; i < scale_shape[0] * scale_shape[1]; ++i) scales.push_back(numbers.Uniform(0.01f, 0.1f));
    const std::string stem = name.substr(0, name.rfind(".weight"));
    tensors[stem + ".weight_packed"] = {Dtype::kI32, {rows, words}, BytesOf(packed)};
    tensors[stem + ".weight_scale"] = scale_dtype == Dtype::kBf16  ? Bf16Tensor(scale_shape, scales)
                                      : scale_dtype == Dtype::kF16 ? F16Tensor(scale_shape, scales)
                                                                   : F32Tensor(scale_shape, scales);
    tensors[stem + ".weight_shape"] = {
        Dtype::kI64, {2}, BytesOf(std::vector<int64_t>{static_cast<int64_t>(rows), static_cast<int64_t>(cols)})};
  }

  void WriteOtherFiles(const std::string& folder) const {
    WriteFile(folder + "/config.json", config.dump());
    for (const auto& [name, content] : files) WriteFile(folder + "/" + name, content);
  }

  void Write(const std::string& folder) const {
    WriteOtherFiles(folder);
    WriteFile(folder + "/model.safetensors", SafetensorsBytes(tensors));
  }

  static std::string ShardName(int shard, int count) {
    return absl::StrCat("model-0000", shard + 1, "-of-00000", count, ".safetensors");
  }

  // Tensors dealt out to `count` shards in turn, so that companions part from their weights. Returns the index.
  nlohmann::json WriteSharded(const std::string& folder, int count) const {
    WriteOtherFiles(folder);
    std::vector<TestTensors> shards(static_cast<size_t>(count));
    nlohmann::json index = {{"metadata", nlohmann::json::object()}, {"weight_map", nlohmann::json::object()}};
    int next = 0;
    for (const auto& [name, tensor] : tensors) {
      shards[static_cast<size_t>(next)][name] = tensor;
      index["weight_map"][name] = ShardName(next, count);
      next = (next + 1) % count;
    }
    for (int i = 0; i < count; ++i) {
      WriteFile(folder + "/" + ShardName(i, count), SafetensorsBytes(shards[static_cast<size_t>(i)]));
    }
    WriteIndex(folder, index);
    return index;
  }

  static void WriteIndex(const std::string& folder, const nlohmann::json& index) {
    WriteFile(folder + "/model.safetensors.index.json", index.dump(1));
  }
};

}  // namespace kompakt
