#include "converters/suspicions.h"

#include <algorithm>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "converters/json.h"

namespace kompakt {
namespace {

constexpr absl::string_view kWarning = "warning: ";

// Every key of the published configurations: what is read, and what says nothing about inference.
constexpr absl::string_view kKnownKeys[] = {
    "_attn_implementation_autoset",
    "_name_or_path",
    "add_cross_attention",
    "architectures",
    "attention_bias",
    "attention_dropout",
    "auto_map",
    "aux_loss_alpha",
    "bos_token_id",
    "compression_config",
    "dtype",
    "eos_token_id",
    "ep_size",
    "first_k_dense_replace",
    "head_dim",
    "hidden_act",
    "hidden_size",
    "id2label",
    "index_head_dim",
    "index_n_heads",
    "index_share_for_mtp_iteration",
    "index_skip_topk_offset",
    "index_topk",
    "index_topk_freq",
    "index_topk_pattern",
    "indexer_rope_interleave",
    "indexer_types",
    "initializer_range",
    "intermediate_size",
    "is_decoder",
    "is_encoder_decoder",
    "kv_lora_rank",
    "label2id",
    "max_position_embeddings",
    "mlp_bias",
    "mlp_layer_types",
    "model_type",
    "moe_intermediate_size",
    "moe_layer_freq",
    "moe_router_dtype",
    "n_group",
    "n_routed_experts",
    "n_shared_experts",
    "norm_topk_prob",
    "num_attention_heads",
    "num_experts_per_tok",
    "num_hidden_layers",
    "num_key_value_heads",
    "num_local_experts",
    "num_nextn_predict_layers",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "pad_token_id",
    "partial_rotary_factor",
    "pretraining_tp",
    "q_lora_rank",
    "qk_head_dim",
    "qk_nope_head_dim",
    "qk_rope_head_dim",
    "quantization_config",
    "return_dict",
    "rms_norm_eps",
    "rope_interleave",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "routed_scaling_factor",
    "router_aux_loss_coef",
    "scoring_func",
    "seq_aux",
    "tie_word_embeddings",
    "topk_group",
    "topk_method",
    "torch_dtype",
    "transformers_version",
    "unsloth_fixed",
    "use_cache",
    "v_head_dim",
    "vocab_size",
};
constexpr size_t kMostNamed = 10;

// Published models by their outline; `parameters` is exact for the main model.
struct Published {
  absl::string_view model;
  absl::string_view architecture;
  int64_t layers;
  int64_t hidden;
  int64_t experts;
  int64_t parameters;
};
constexpr Published kPublished[] = {
    {"DeepSeek-V2", "DeepseekV2ForCausalLM", 60, 5120, 160, 235'741'434'880},
    {"DeepSeek-V2-Lite", "DeepseekV2ForCausalLM", 27, 2048, 64, 15'706'484'224},
    {"DeepSeek-V3", "DeepseekV3ForCausalLM", 61, 7168, 256, 671'026'419'200},
    {"DeepSeek-V3.2", "DeepseekV32ForCausalLM", 61, 7168, 256, 671'877'944'064},
    {"Kimi-K2", "DeepseekV3ForCausalLM", 61, 7168, 384, 1'026'408'232'448},
    {"Moonlight", "DeepseekV3ForCausalLM", 27, 2048, 64, 15'960'110'208},
    {"GLM-4.7-Flash", "Glm4MoeLiteForCausalLM", 47, 2048, 64, 29'943'393'920},
};

}  // namespace

std::vector<std::string> ConfigWarnings(const JsonFields& config, const ArchSpec& arch) {
  std::vector<std::string> warnings;
  const auto warn = [&](const auto&... parts) {
    warnings.push_back(absl::StrCat(kWarning, "config.json: ", parts...));
  };
  std::vector<std::string> unknown;
  for (const std::string& key : config.Keys()) {
    if (!std::binary_search(std::begin(kKnownKeys), std::end(kKnownKeys), absl::string_view(key))) {
      unknown.push_back(key);
    }
  }
  if (!unknown.empty()) {
    const size_t rest = unknown.size() > kMostNamed ? unknown.size() - kMostNamed : 0;
    unknown.resize(unknown.size() - rest);
    warn("keys that this program does not know are ignored: ", absl::StrJoin(unknown, ", "),
         rest > 0 ? absl::StrCat(" and ", rest, " more") : "");
  }
  if (arch.rope().has_yarn()) {
    const YarnSpec& yarn = arch.rope().yarn();
    if (yarn.factor() > 1 && yarn.mscale_all_dim() == 0) {
      warn("rope_scaling: mscale_all_dim is 0 or missing, so that YaRN does not correct the softmax scale");
    } else if (yarn.factor() > 1 && yarn.mscale() != yarn.mscale_all_dim()) {
      warn("rope_scaling: mscale ", yarn.mscale(), " and mscale_all_dim ", yarn.mscale_all_dim(),
           " differ, so that rotations are scaled");
    }
  }
  if (const nlohmann::json* heads = config.Find("num_key_value_heads")) {
    if (*heads != arch.mla().num_attention_heads()) {
      warn("num_key_value_heads: expected num_attention_heads ", arch.mla().num_attention_heads(), ", found ",
           JsonExcerpt(*heads), "; latent attention has no groups, the key is ignored");
    }
  }
  return warnings;
}

std::vector<std::string> TensorWarnings(const ModelSchema& schema, const BoundTensors& bound, bool names_quantization) {
  std::vector<std::string> warnings;
  const ArchSpec& arch = schema.arch();
  for (const Published& p : kPublished) {
    if (p.architecture != arch.architecture() || p.layers != arch.num_hidden_layers() ||
        p.hidden != arch.hidden_size() || p.experts != arch.moe().n_routed_experts() ||
        p.parameters == schema.main_parameter_count()) {
      continue;
    }
    warnings.push_back(absl::StrCat(kWarning, "the model has the outline of ", p.model, " but ",
                                    schema.main_parameter_count(), " parameters, expected ", p.parameters));
  }
  if (names_quantization && !bound.quantized) {
    warnings.push_back(absl::StrCat(kWarning,
                                    "config.json has a quantization_config, but no tensor is quantized; was the "
                                    "model cast without its config?"));
  }
  if (!names_quantization && bound.quantized) {
    warnings.push_back(absl::StrCat(kWarning,
                                    "config.json has no quantization_config, but tensors are quantized; their block "
                                    "sizes are taken from the shapes of their scales"));
  }
  if (!bound.short_biases.empty()) {
    const SafetensorsEntry& first = *bound.short_biases[0].entry;
    warnings.push_back(absl::StrCat(kWarning, "tensor ", first.name, ": expected F32, found ", InfoOf(first.dtype).name,
                                    " (", bound.short_biases.size(),
                                    " of this role); a bias of 2 and more loses the digits that choose experts"));
  }
  return warnings;
}

std::vector<std::string> AssetWarnings(const FolderAssets& assets) {
  std::vector<std::string> warnings;
  if (!assets.tokenizer_file.empty() && assets.assets.stop_ids().empty()) {
    warnings.push_back(absl::StrCat(kWarning,
                                    "no eos_token_id in generation_config.json or config.json and no eos_token: an "
                                    "answer ends only at its length limit"));
  }
  return warnings;
}

}  // namespace kompakt
