#include "tools/synthetic_model.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "converters/config.h"
#include "format/near_names.h"
#include "format/status.h"
#include "quant/recipe.h"
#include "runtime/synthetic_store.h"
#include "tools/machine_memory.h"
#include "tools/recipe_flags.h"
#include "tools/terminal.h"

namespace kompakt {
namespace {

// config.json of the published models, as far as it says something about their shape.
constexpr absl::string_view kV2LiteConfig = R"({
  "architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2", "vocab_size": 102400, "hidden_size": 2048,
  "num_hidden_layers": 27, "intermediate_size": 10944, "moe_intermediate_size": 1408, "num_attention_heads": 16,
  "num_key_value_heads": 16, "q_lora_rank": null, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
  "v_head_dim": 128, "n_routed_experts": 64, "n_shared_experts": 2, "num_experts_per_tok": 6,
  "first_k_dense_replace": 1, "moe_layer_freq": 1, "n_group": 1, "topk_group": 1, "topk_method": "greedy",
  "scoring_func": "softmax", "norm_topk_prob": false, "routed_scaling_factor": 1.0, "rms_norm_eps": 1e-6,
  "rope_theta": 10000, "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096,
  "beta_fast": 32, "beta_slow": 1, "mscale": 0.707, "mscale_all_dim": 0.707}, "max_position_embeddings": 163840,
  "hidden_act": "silu", "attention_bias": false, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
  "bos_token_id": 100000, "eos_token_id": 100001})";

// DeepSeek-V3, but for the number of layers: of 3 dense and 58 MoE ones the last dense and the first MoE one.
constexpr absl::string_view kV3LayerConfig = R"({
  "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "vocab_size": 129280, "hidden_size": 7168,
  "num_hidden_layers": 2, "intermediate_size": 18432, "moe_intermediate_size": 2048, "num_attention_heads": 128,
  "num_key_value_heads": 128, "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128,
  "qk_rope_head_dim": 64, "v_head_dim": 128, "n_routed_experts": 256, "n_shared_experts": 1, "num_experts_per_tok": 8,
  "first_k_dense_replace": 1, "moe_layer_freq": 1, "num_nextn_predict_layers": 0, "n_group": 8, "topk_group": 4,
  "topk_method": "noaux_tc", "scoring_func": "sigmoid", "norm_topk_prob": true, "routed_scaling_factor": 2.5,
  "rms_norm_eps": 1e-6, "rope_theta": 10000, "rope_scaling": {"type": "yarn", "factor": 40,
  "original_max_position_embeddings": 4096, "beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0},
  "max_position_embeddings": 163840, "hidden_act": "silu", "attention_bias": false, "tie_word_embeddings": false,
  "torch_dtype": "bfloat16", "bos_token_id": 0, "eos_token_id": 1})";

struct Shape {
  absl::string_view name;
  absl::string_view model;
  absl::string_view config;
};
constexpr Shape kShapes[] = {{"v2-lite", "DeepSeek-V2-Lite", kV2LiteConfig},
                             {"v3-layer", "DeepSeek-V3, one dense and one MoE layer", kV3LayerConfig}};

// A BF16 checkpoint as far as a recipe asks: forms, and no weights.
class ShapeSource : public TensorSource {
 public:
  explicit ShapeSource(ModelSchema schema) : schema_(std::move(schema)) {}

  const ModelSchema& schema() const override { return schema_; }
  const ModelAssets& assets() const override { return assets_; }
  std::vector<std::string> notices() const override { return {}; }
  absl::StatusOr<StoredForm> Form(const TensorInfo& tensor) const override {
    const bool f32 = tensor.role == TensorRole::kRouterBias;
    StoredForm form;
    form.exact_format = f32 ? FormatId::kF32 : FormatId::kBf16;
    form.dtype = f32 ? "F32" : "BF16";
    form.stored_bytes = static_cast<uint64_t>(tensor.elements()) * (f32 ? 4 : 2);
    return form;
  }
  absl::StatusOr<StoredRows> ReadStored(const TensorInfo& tensor, int64_t, int64_t, Xxh3Stream*) const override {
    return NoWeights(tensor);
  }
  absl::Status ReadF32(const TensorInfo& tensor, int64_t, int64_t, absl::Span<float>, Xxh3Stream*) const override {
    return NoWeights(tensor);
  }
  absl::StatusOr<std::vector<SourceFile>> Files() const override { return std::vector<SourceFile>(); }

 private:
  static absl::Status NoWeights(const TensorInfo& tensor) {
    return absl::InternalError(absl::StrCat(tensor.Name(), ": a shape has no weights to read"));
  }

  ModelSchema schema_;
  ModelAssets assets_;
};

absl::StatusOr<const Shape*> FindShape(const std::string& name) {
  std::vector<absl::string_view> names;
  for (const Shape& shape : kShapes) {
    if (shape.name == name) return &shape;
    names.push_back(shape.name);
  }
  return UsageError("--synthetic: unknown model \"", name, "\"", DidYouMean(name, names));
}

}  // namespace

absl::StatusOr<SyntheticModel> PlanSyntheticModel(const std::string& name, const std::string& recipe, int64_t layers) {
  KOMPAKT_ASSIGN_OR_RETURN(const Shape* const shape, FindShape(name));
  KOMPAKT_ASSIGN_OR_RETURN(UpstreamConfig config, ParseConfig(shape->config, shape->name));
  const int64_t all = config.arch.num_hidden_layers();
  if (layers < 0 || layers > all) {
    return UsageError("--layers: expected 1 to the model's ", all, ", or 0 for all of them, found ", layers);
  }
  if (layers > 0) config.arch.set_num_hidden_layers(layers);
  KOMPAKT_ASSIGN_OR_RETURN(ModelSchema schema, ModelSchema::Create(config.arch));
  const ShapeSource source(schema);
  RecipeFlags flags;
  flags.recipe = recipe;
  KOMPAKT_ASSIGN_OR_RETURN(const ChosenRecipe chosen, ChooseRecipe(flags, source, 1));
  KOMPAKT_ASSIGN_OR_RETURN(const std::vector<QuantRecipe::Choice> choices, chosen.recipe.Resolve(source));
  std::vector<FormatId> formats;
  for (const QuantRecipe::Choice& choice : choices) formats.push_back(choice.format);
  KOMPAKT_ASSIGN_OR_RETURN(const uint64_t bytes, SyntheticWeightBytes(schema, formats));
  std::string description = absl::StrCat(shape->model, ", ", config.arch.num_hidden_layers(),
                                         config.arch.num_hidden_layers() < all ? absl::StrCat(" of ", all) : "",
                                         " layers, recipe ", recipe, ", random weights");
  return SyntheticModel{std::move(description), std::move(schema), std::move(formats), bytes};
}

absl::StatusOr<std::shared_ptr<const WeightStore>> MakeSyntheticModel(const SyntheticModel& plan, uint64_t other_bytes,
                                                                      int threads) {
  const uint64_t available = AvailableMemoryBytes();
  if (available != 0 && plan.weight_bytes + other_bytes > available) {
    return absl::ResourceExhaustedError(
        absl::StrCat(plan.description, ": needs ", HumanBytes(plan.weight_bytes), " of memory for weights and ",
                     HumanBytes(other_bytes), " for cache and activations; ", HumanBytes(available),
                     " are free. Fewer layers (--layers) or a smaller recipe take less"));
  }
  Progress progress("random weights", "bytes");
  return MakeSyntheticWeights(plan.schema, plan.formats, plan.description, threads,
                              [&](uint64_t done, uint64_t total) { progress.Update(done, total); });
}

}  // namespace kompakt
