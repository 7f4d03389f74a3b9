// The published models as headers without data: plan must find their exact parameter counts, tensor counts and bytes.
// Names and shapes are written out here from the published tables, not taken from the schema that is tested.
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "converters/checkpoint.h"
#include "quant/convert.h"
#include "tests/fixtures/published_configs.h"
#include "tests/fixtures/scratch_folder.h"

namespace kompakt {
namespace {

using nlohmann::json;

enum class Form { kBf16, kFp8, kInt4Experts };

struct PublishedModel {
  const char* name;
  json config;
  Form form;
  int64_t parameters;
  int64_t parameters_with_mtp;  // as stored; 0: none
  uint64_t tensor_bytes;
  int64_t tensors;
};

// Headers of a checkpoint; data that nobody reads, as holes.
class HeaderWriter {
 public:
  explicit HeaderWriter(const ScratchFolder& folder) : folder_(folder) {}

  void Add(const std::string& name, const char* dtype, std::vector<int64_t> shape) {
    static const std::map<std::string, int64_t> kBytes = {
        {"BF16", 2}, {"F32", 4}, {"F8_E4M3", 1}, {"I32", 4}, {"I64", 8}};
    int64_t bytes = kBytes.at(dtype);
    for (const int64_t n : shape) bytes *= n;
    if (!header_.empty()) header_ += ",";
    absl::StrAppend(&header_, "\"", name, "\":{\"dtype\":\"", dtype, "\",\"shape\":", json(shape).dump(),
                    ",\"data_offsets\":[", offset_, ",", offset_ + bytes, "]}");
    absl::StrAppend(&index_, index_.empty() ? "" : ",", "\"", name, "\":\"", FileName(), "\"");
    offset_ += bytes;
    // Shards of about 16 GB.
    if (offset_ > (int64_t{16} << 30)) Close();
  }

  void Finish(const json& config) {
    Close();
    std::ofstream(folder_ / "config.json") << config.dump();
    std::ofstream(folder_ / "model.safetensors.index.json") << "{\"metadata\":{},\"weight_map\":{" << index_ << "}}";
  }

 private:
  std::string FileName() const { return absl::StrFormat("model-%05d-of-000163.safetensors", shard_); }

  void Close() {
    if (header_.empty()) return;
    const std::string text = "{" + header_ + "}";
    const std::string path = folder_ / FileName();
    uint64_t size = text.size();
    {
      std::ofstream file(path, std::ios::binary);
      file.write(reinterpret_cast<const char*>(&size), sizeof(size));
      file << text;
    }
    ASSERT_EQ(truncate(path.c_str(), static_cast<off_t>(8 + text.size()) + offset_), 0) << path;
    header_.clear();
    offset_ = 0;
    ++shard_;
  }

  const ScratchFolder& folder_;
  std::string header_, index_;
  int64_t offset_ = 0;
  int shard_ = 1;
};

class ModelWriter {
 public:
  ModelWriter(const PublishedModel& model, const ScratchFolder& folder)
      : c_(model.config), form_(model.form), out_(folder) {}

  void Write() {
    out_.Add("model.embed_tokens.weight", "BF16", {Int("vocab_size"), Int("hidden_size")});
    out_.Add("model.norm.weight", "BF16", {Int("hidden_size")});
    out_.Add("lm_head.weight", "BF16", {Int("vocab_size"), Int("hidden_size")});
    const int64_t layers = Int("num_hidden_layers");
    const int64_t mtp = c_.value("num_nextn_predict_layers", 0);
    for (int64_t l = 0; l < layers + mtp; ++l) Layer(l, l >= layers);
    out_.Finish(c_);
  }

 private:
  int64_t Int(const char* key) const { return c_.at(key).get<int64_t>(); }

  void Linear(const std::string& name, int64_t rows, int64_t cols) {
    if (form_ != Form::kFp8) return out_.Add(name + ".weight", "BF16", {rows, cols});
    out_.Add(name + ".weight", "F8_E4M3", {rows, cols});
    out_.Add(name + ".weight_scale_inv", "F32", {(rows + 127) / 128, (cols + 127) / 128});
  }
  void Expert(const std::string& name, int64_t rows, int64_t cols) {
    if (form_ != Form::kInt4Experts) return Linear(name, rows, cols);
    out_.Add(name + ".weight_packed", "I32", {rows, cols / 8});
    out_.Add(name + ".weight_scale", "BF16", {rows, cols / 32});
    out_.Add(name + ".weight_shape", "I64", {2});
  }
  void Vector(const std::string& name, int64_t n, const char* dtype = "BF16") { out_.Add(name, dtype, {n}); }

  void Layer(int64_t l, bool mtp) {
    const std::string p = absl::StrCat("model.layers.", l, ".");
    const int64_t h = Int("hidden_size");
    Vector(p + "input_layernorm.weight", h);
    Vector(p + "post_attention_layernorm.weight", h);
    Attention(p + "self_attn.", h);
    const int64_t m = Int("moe_intermediate_size");
    if (l < Int("first_k_dense_replace")) {
      Ffn(p + "mlp.", h, Int("intermediate_size"));
    } else {
      const int64_t experts = Int("n_routed_experts");
      out_.Add(p + "mlp.gate.weight", "BF16", {experts, h});
      if (c_.at("topk_method") == "noaux_tc") Vector(p + "mlp.gate.e_score_correction_bias", experts, "F32");
      for (int64_t e = 0; e < experts; ++e) {
        const std::string expert = absl::StrCat(p, "mlp.experts.", e, ".");
        Expert(expert + "gate_proj", m, h);
        Expert(expert + "up_proj", m, h);
        Expert(expert + "down_proj", h, m);
      }
      Ffn(p + "mlp.shared_experts.", h, m * Int("n_shared_experts"));
    }
    if (!mtp) return;
    out_.Add(p + "embed_tokens.weight", "BF16", {Int("vocab_size"), h});
    Vector(p + "enorm.weight", h);
    Vector(p + "hnorm.weight", h);
    out_.Add(p + "eh_proj.weight", "BF16", {h, 2 * h});
    Vector(p + "shared_head.norm.weight", h);
    out_.Add(p + "shared_head.head.weight", "BF16", {Int("vocab_size"), h});
  }

  void Attention(const std::string& p, int64_t h) {
    const int64_t heads = Int("num_attention_heads"), rkv = Int("kv_lora_rank");
    const int64_t dn = Int("qk_nope_head_dim"), dr = Int("qk_rope_head_dim"), dv = Int("v_head_dim");
    if (c_.at("q_lora_rank").is_null()) {
      Linear(p + "q_proj", heads * (dn + dr), h);
    } else {
      const int64_t rq = Int("q_lora_rank");
      Linear(p + "q_a_proj", rq, h);
      Vector(p + "q_a_layernorm.weight", rq);
      Linear(p + "q_b_proj", heads * (dn + dr), rq);
    }
    Linear(p + "kv_a_proj_with_mqa", rkv + dr, h);
    Vector(p + "kv_a_layernorm.weight", rkv);
    Linear(p + "kv_b_proj", heads * (dn + dv), rkv);
    Linear(p + "o_proj", h, heads * dv);
    if (!c_.contains("index_topk")) return;
    const int64_t ih = Int("index_n_heads"), id = Int("index_head_dim");
    Linear(p + "indexer.wq_b", ih * id, Int("q_lora_rank"));
    Linear(p + "indexer.wk", id, h);
    Vector(p + "indexer.k_norm.weight", id, "F32");
    Vector(p + "indexer.k_norm.bias", id, "F32");
    out_.Add(p + "indexer.weights_proj.weight", "BF16", {ih, h});
  }

  void Ffn(const std::string& p, int64_t h, int64_t width) {
    Linear(p + "gate_proj", width, h);
    Linear(p + "up_proj", width, h);
    Linear(p + "down_proj", h, width);
  }

  const json& c_;
  Form form_;
  HeaderWriter out_;
};

class PublishedModels : public testing::TestWithParam<PublishedModel> {};

INSTANTIATE_TEST_SUITE_P(
    Headers, PublishedModels,
    testing::Values(
        PublishedModel{"V2", published::V2(), Form::kBf16, 235'741'434'880, 0, 471'482'869'760, 29'102},
        PublishedModel{"V2Lite", published::V2Lite(), Form::kBf16, 15'706'484'224, 0, 31'412'968'448, 5'291},
        PublishedModel{"V3", published::V3(), Form::kFp8, 671'026'419'200, 684'489'845'504, 688'574'839'360, 91'991},
        PublishedModel{"V32", published::V32(), Form::kFp8, 671'877'944'064, 685'355'329'792, 689'469'018'240, 92'425},
        PublishedModel{"K2", published::KimiK2(), Form::kFp8, 1'026'408'232'448, 0, 1'029'173'249'888, 139'583},
        PublishedModel{"K2Thinking", published::KimiK2Thinking(), Form::kInt4Experts, 1'026'408'232'448, 0,
                       594'206'457'856, 208'215},
        PublishedModel{"GlmFlash", published::GlmFlash(), Form::kBf16, 29'943'393'920, 31'221'488'576, 62'442'983'168,
                       9'703}),
    [](const auto& info) { return std::string(info.param.name); });

TEST_P(PublishedModels, PlanFindsTheExactCounts) {
  const PublishedModel& model = GetParam();
  const ScratchFolder folder;
  ModelWriter(model, folder).Write();
  const auto start = std::chrono::steady_clock::now();
  const auto source = OpenCheckpoint(folder.path());
  ASSERT_TRUE(source.ok()) << source.status();
  const auto plan = PlanConversion(**source, *QuantRecipe::Builtin("q4"), 2);
  ASSERT_TRUE(plan.ok()) << plan.status();
  RecordProperty("seconds",
                 std::to_string(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count()));

  EXPECT_EQ((*source)->schema().main_parameter_count(), model.parameters);
  EXPECT_EQ(plan->parameters, model.parameters);
  const SourceInventory inventory = (*source)->Inventory();
  EXPECT_EQ(inventory.tensors, model.tensors);
  EXPECT_EQ(inventory.tensor_bytes, model.tensor_bytes);
  EXPECT_EQ(inventory.mtp_parameters, std::max<int64_t>(0, model.parameters_with_mtp - model.parameters));
  for (const std::string& notice : (*source)->notices()) {
    EXPECT_FALSE(absl::StartsWith(notice, "warning: ")) << notice;
  }
  if (model.parameters_with_mtp == 0) {
    EXPECT_EQ(plan->source_bytes, model.tensor_bytes);
    return;
  }
  // Kept, the MTP layer is read whole but for its copies of embedding and head.
  const auto kept = OpenCheckpoint(folder.path(), {.keep_mtp = true});
  ASSERT_TRUE(kept.ok()) << kept.status();
  const auto kept_plan = PlanConversion(**kept, *QuantRecipe::Builtin("q4"), 2);
  ASSERT_TRUE(kept_plan.ok()) << kept_plan.status();
  const int64_t copies = 2 * model.config["vocab_size"].get<int64_t>() * model.config["hidden_size"].get<int64_t>();
  EXPECT_EQ(kept_plan->parameters, model.parameters_with_mtp - copies);
  EXPECT_EQ(kept_plan->source_bytes, model.tensor_bytes - 2 * static_cast<uint64_t>(copies));
  EXPECT_EQ((*kept)->schema().main_parameter_count(), model.parameters);
  for (const ConversionPlan::Line& line : kept_plan->lines) {
    if (line.tensor_class != "MTP" || line.parameters < 10'000'000) continue;
    EXPECT_EQ(line.format, "q8_g32") << line.role;
  }
}

}  // namespace
}  // namespace kompakt
