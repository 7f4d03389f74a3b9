#include "converters/config.h"

#include <string>

#include "absl/strings/match.h"
#include "converters/arch_table.h"
#include "converters/json.h"
#include "converters/suspicions.h"
#include "format/arch_spec.h"
#include "format/status.h"

namespace kompakt {
namespace {

// Both latent norms are built without an eps argument upstream and get the default, whatever rms_norm_eps says.
constexpr double kLatentNormEps = 1e-6;

// The row of the model, and the strings that chose it.
absl::StatusOr<const ArchRow*> ChooseRow(const JsonFields& config, ArchSpec* arch) {
  std::string architecture;
  if (config.Has("architectures")) {
    const nlohmann::json& list = *config.Find("architectures");
    if (!list.is_array() || list.empty() || !list[0].is_string()) {
      return config.Unexpected("architectures", "a list of names");
    }
    architecture = list[0].get<std::string>();
  }
  KOMPAKT_ASSIGN_OR_RETURN(const std::string model_type, config.TextOr("model_type", ""));
  if (architecture.empty() && model_type.empty()) return config.Unexpected("architectures", "a list of names");
  const ArchRow* row = architecture.empty() ? FindArchitectureByModelType(model_type) : FindArchitecture(architecture);
  if (row == nullptr) return RefuseArchitecture(architecture.empty() ? model_type : architecture, config.where());
  if (!model_type.empty() && model_type != row->model_types[0] && model_type != row->model_types[1]) {
    return UnsupportedError(config.where(), ": unknown model_type \"", model_type, "\" of ", row->architecture,
                            "; expected \"", row->model_types[0], "\"",
                            row->model_types[1].empty() ? "" : absl::StrCat(" or \"", row->model_types[1], "\""));
  }
  if (row->needs_latent && !config.Has("kv_lora_rank")) {
    return UnsupportedError(config.where(), ": architecture \"", row->architecture,
                            "\" without kv_lora_rank is DeepSeekMoE with plain multi-head attention, not MLA");
  }
  arch->set_architecture(std::string(row->architecture));
  arch->set_model_type(model_type.empty() ? std::string(row->model_types[0]) : model_type);
  return row;
}

absl::Status RefuseWhatIsComputedDifferently(const JsonFields& config, const ArchRow& row) {
  for (const absl::string_view key : {"attention_bias", "mlp_bias"}) {
    KOMPAKT_ASSIGN_OR_RETURN(const bool bias, config.BoolOr(key, false));
    if (bias) return UnsupportedError(config.where(), ": ", key, ": expected false, found true");
  }
  KOMPAKT_ASSIGN_OR_RETURN(const std::string act, config.TextOr("hidden_act", "silu"));
  if (act != "silu") {
    return UnsupportedError(config.where(), ": unsupported hidden_act \"", act, "\"; expected \"silu\"");
  }
  // Keys of DeepSeek-V3.2's indexer and of V4: a config with one of them is not the model it says it is.
  for (const absl::string_view key : {"index_topk", "index_n_heads", "compress_ratios", "hc_mult"}) {
    const bool of_indexer = absl::StartsWith(key, "index_");
    if (!config.Has(key) || (of_indexer && row.indexer != IndexerKind::kNone)) continue;
    return UnsupportedError(config.where(), ": ", key, ": expected no such key (", row.architecture,
                            " has no sparse attention), found ", JsonExcerpt(*config.Find(key)));
  }
  return absl::OkStatus();
}

absl::StatusOr<MlaSpec> ParseMla(const JsonFields& config) {
  MlaSpec mla;
  KOMPAKT_ASSIGN_OR_RETURN(const int64_t heads, config.Int("num_attention_heads"));
  // null means that queries are not compressed; leaving the key out means nothing.
  if (!config.Mentions("q_lora_rank")) return config.Unexpected("q_lora_rank", "an integer or null");
  KOMPAKT_ASSIGN_OR_RETURN(const int64_t q_rank, config.IntOr("q_lora_rank", 0));
  KOMPAKT_ASSIGN_OR_RETURN(const int64_t kv_rank, config.Int("kv_lora_rank"));
  KOMPAKT_ASSIGN_OR_RETURN(const int64_t nope, config.Int("qk_nope_head_dim"));
  KOMPAKT_ASSIGN_OR_RETURN(const int64_t rope, config.Int("qk_rope_head_dim"));
  KOMPAKT_ASSIGN_OR_RETURN(const int64_t value, config.Int("v_head_dim"));
  if (config.Has("q_lora_rank") && q_rank <= 0) return config.Unexpected("q_lora_rank", "a positive integer or null");
  mla.set_num_attention_heads(heads);
  mla.set_q_lora_rank(q_rank);
  mla.set_kv_lora_rank(kv_rank);
  mla.set_qk_nope_head_dim(nope);
  mla.set_qk_rope_head_dim(rope);
  mla.set_v_head_dim(value);
  mla.set_latent_norm_eps(kLatentNormEps);
  return mla;
}

// first_k_dense_replace, from that key or from the list of layer kinds that transformers 5 writes instead.
absl::StatusOr<int64_t> ParseDenseLayers(const JsonFields& config) {
  if (!config.Has("mlp_layer_types")) return config.Int("first_k_dense_replace");
  const nlohmann::json& kinds = *config.Find("mlp_layer_types");
  int64_t dense = 0;
  bool ok = kinds.is_array();
  if (ok) {
    bool sparse_seen = false;
    for (const nlohmann::json& kind : kinds) {
      sparse_seen = sparse_seen || kind == "sparse";
      ok = ok && kind == (sparse_seen ? "sparse" : "dense");
      dense += sparse_seen ? 0 : 1;
    }
  }
  if (!ok) return config.Unexpected("mlp_layer_types", "\"dense\" layers followed by \"sparse\" ones");
  KOMPAKT_ASSIGN_OR_RETURN(const int64_t layers, config.Int("num_hidden_layers"));
  KOMPAKT_ASSIGN_OR_RETURN(const int64_t named, config.IntOr("first_k_dense_replace", dense));
  if (static_cast<int64_t>(kinds.size()) != layers || named != dense) {
    return absl::FailedPreconditionError(absl::StrCat(config.where(), ": mlp_layer_types: expected ", layers,
                                                      " layers with ", named, " dense, found ", kinds.size(), " with ",
                                                      dense));
  }
  return dense;
}

absl::StatusOr<TopkMethod> ParseTopkMethod(const JsonFields& config, const ArchRow& row) {
  if (!config.Has("topk_method") && row.topk_method_implied) return row.topk_methods[0];
  KOMPAKT_ASSIGN_OR_RETURN(std::string name, config.Text("topk_method"));
  if (name == "gready") name = "greedy";  // the default of DeepSeek's own configuration class is spelt so
  std::string known;
  for (const TopkMethod method : row.topk_methods) {
    if (method == TOPK_METHOD_UNSPECIFIED) continue;
    if (name == TopkMethodName(method)) return method;
    absl::StrAppend(&known, known.empty() ? "" : " or ", "\"", TopkMethodName(method), "\"");
  }
  return UnsupportedError(config.where(), ": unsupported topk_method \"", name, "\" of ", row.architecture,
                          "; expected ", known);
}

absl::Status CheckScoring(const JsonFields& config, const ArchRow& row) {
  const absl::string_view known = ScoringName(row.scoring_func);
  KOMPAKT_ASSIGN_OR_RETURN(const std::string name, config.TextOr("scoring_func", known));
  if (name == known) return absl::OkStatus();
  return UnsupportedError(config.where(), ": unsupported scoring_func \"", name, "\" of ", row.architecture,
                          "; expected \"", known, "\"");
}

absl::StatusOr<MoeSpec> ParseMoe(const JsonFields& config, const ArchRow& row) {
  MoeSpec moe;
  if (config.Mentions("n_routed_experts") && !config.Has("n_routed_experts")) {
    return UnsupportedError(config.where(), ": n_routed_experts is null: a dense model, not DeepSeek MoE");
  }
  KOMPAKT_ASSIGN_OR_RETURN(const int64_t routed, config.Int("n_routed_experts"));
  if (!config.Mentions("n_shared_experts")) return config.Unexpected("n_shared_experts", "an integer or null");
  KOMPAKT_ASSIGN_OR_RETURN(const int64_t shared, config.IntOr("n_shared_experts", 0));
  KOMPAKT_ASSIGN_OR_RETURN(const int64_t top_k, config.Int("num_experts_per_tok"));
  KOMPAKT_ASSIGN_OR_RETURN(const int64_t width, config.Int("moe_intermediate_size"));
  KOMPAKT_ASSIGN_OR_RETURN(const int64_t dense, ParseDenseLayers(config));
  KOMPAKT_ASSIGN_OR_RETURN(const int64_t frequency, config.IntOr("moe_layer_freq", 1));
  KOMPAKT_RETURN_IF_ERROR(CheckScoring(config, row));
  KOMPAKT_ASSIGN_OR_RETURN(const TopkMethod method, ParseTopkMethod(config, row));
  KOMPAKT_ASSIGN_OR_RETURN(const bool normalize, config.Bool("norm_topk_prob"));
  KOMPAKT_ASSIGN_OR_RETURN(const double factor, config.Number("routed_scaling_factor"));
  int64_t groups = 1;
  int64_t kept_groups = 1;
  // Greedy selection ignores the groups, and configs leave them out or null.
  if (method != TOPK_GREEDY) {
    KOMPAKT_ASSIGN_OR_RETURN(groups, config.Int("n_group"));
    KOMPAKT_ASSIGN_OR_RETURN(kept_groups, config.Int("topk_group"));
  }
  moe.set_n_routed_experts(routed);
  moe.set_n_shared_experts(shared);
  moe.set_num_experts_per_tok(top_k);
  moe.set_moe_intermediate_size(width);
  moe.set_first_k_dense_replace(dense);
  moe.set_moe_layer_freq(frequency);
  moe.set_scoring_func(row.scoring_func);
  moe.set_topk_method(method);
  moe.set_n_group(groups);
  moe.set_topk_group(kept_groups);
  moe.set_norm_topk_prob(normalize);
  moe.set_scale_after_norm(row.scale_after_norm);
  moe.set_routed_scaling_factor(factor);
  return moe;
}

}  // namespace

absl::StatusOr<UpstreamConfig> ParseConfig(absl::string_view text, absl::string_view file) {
  KOMPAKT_ASSIGN_OR_RETURN(const nlohmann::json json, ParseJson(text, file));
  if (!json.is_object()) return CorruptError(file, ": expected an object, found ", JsonKind(json));
  const JsonFields config(json, std::string(file));

  UpstreamConfig upstream;
  ArchSpec& arch = upstream.arch;
  KOMPAKT_ASSIGN_OR_RETURN(const ArchRow* row, ChooseRow(config, &arch));
  KOMPAKT_RETURN_IF_ERROR(RefuseWhatIsComputedDifferently(config, *row));
  KOMPAKT_ASSIGN_OR_RETURN(const int64_t vocab, config.Int("vocab_size"));
  KOMPAKT_ASSIGN_OR_RETURN(const int64_t hidden, config.Int("hidden_size"));
  KOMPAKT_ASSIGN_OR_RETURN(const int64_t layers, config.Int("num_hidden_layers"));
  KOMPAKT_ASSIGN_OR_RETURN(const int64_t intermediate, config.Int("intermediate_size"));
  KOMPAKT_ASSIGN_OR_RETURN(const int64_t positions, config.Int("max_position_embeddings"));
  KOMPAKT_ASSIGN_OR_RETURN(const int64_t nextn, config.IntOr("num_nextn_predict_layers", 0));
  KOMPAKT_ASSIGN_OR_RETURN(const double eps, config.Number("rms_norm_eps"));
  KOMPAKT_ASSIGN_OR_RETURN(const bool tied, config.BoolOr("tie_word_embeddings", false));
  arch.set_vocab_size(vocab);
  arch.set_hidden_size(hidden);
  arch.set_num_hidden_layers(layers);
  arch.set_intermediate_size(intermediate);
  arch.set_max_position_embeddings(positions);
  arch.set_num_nextn_predict_layers(nextn);
  arch.set_rms_norm_eps(eps);
  arch.set_tie_word_embeddings(tied);
  arch.set_attention(row->indexer == IndexerKind::kNone ? ATTENTION_MLA : ATTENTION_MLA_INDEXED);
  arch.set_residual(RESIDUAL_SINGLE_STREAM);
  KOMPAKT_ASSIGN_OR_RETURN(*arch.mutable_mla(), ParseMla(config));
  if (row->indexer != IndexerKind::kNone) {
    KOMPAKT_ASSIGN_OR_RETURN(*arch.mutable_indexer(), ParseIndexer(config, row->indexer == IndexerKind::kInterleave));
  }
  KOMPAKT_ASSIGN_OR_RETURN(*arch.mutable_rope(), ParseRope(config));
  KOMPAKT_ASSIGN_OR_RETURN(*arch.mutable_moe(), ParseMoe(config, *row));
  KOMPAKT_ASSIGN_OR_RETURN(upstream.quantization, ParseQuantization(config));
  KOMPAKT_RETURN_IF_ERROR(WithContext(ValidateArchSpec(arch), file));
  upstream.warnings = ConfigWarnings(config, arch);
  return upstream;
}

}  // namespace kompakt
