#include "format/arch_spec.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>

#include "absl/strings/string_view.h"
#include "format/status.h"

namespace kompakt {
namespace {

constexpr int64_t kMaxDimension = int64_t{1} << 31;

struct Field {
  absl::string_view name;
  int64_t value;
};

absl::Status CheckRange(Field field, int64_t low, int64_t high) {
  if (field.value >= low && field.value <= high) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("model: ", field.name, " must lie in [", low, ", ", high, "], found ", field.value));
}

absl::Status CheckPositive(absl::string_view name, double value) {
  if (std::isfinite(value) && value > 0) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("model: ", name, " must be finite and > 0, found ", value));
}

absl::Status CheckEnum(absl::string_view name, int value, int last) {
  if (value > 0 && value <= last) return absl::OkStatus();
  return UnsupportedError("model: ", name, " has the unknown value ", value);
}

absl::Status ValidateMla(const MlaSpec& mla) {
  for (const Field& f : std::initializer_list<Field>{{"num_attention_heads", mla.num_attention_heads()},
                                                     {"kv_lora_rank", mla.kv_lora_rank()},
                                                     {"qk_nope_head_dim", mla.qk_nope_head_dim()},
                                                     {"qk_rope_head_dim", mla.qk_rope_head_dim()},
                                                     {"v_head_dim", mla.v_head_dim()}}) {
    KOMPAKT_RETURN_IF_ERROR(CheckRange(f, 1, int64_t{1} << 20));
  }
  KOMPAKT_RETURN_IF_ERROR(CheckRange({"q_lora_rank", mla.q_lora_rank()}, 0, int64_t{1} << 20));
  if (mla.qk_rope_head_dim() % 2 != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("model: qk_rope_head_dim must be even (rotary pairs), found ", mla.qk_rope_head_dim()));
  }
  const int64_t widest = std::max(mla.qk_nope_head_dim() + std::max(mla.qk_rope_head_dim(), mla.v_head_dim()),
                                  mla.qk_nope_head_dim() + mla.qk_rope_head_dim());
  KOMPAKT_RETURN_IF_ERROR(
      CheckRange({"num_attention_heads * head dimension", mla.num_attention_heads() * widest}, 1, kMaxDimension));
  return CheckPositive("latent_norm_eps", mla.latent_norm_eps());
}

absl::Status ValidateIndexer(const ArchSpec& arch) {
  const IndexerSpec& indexer = arch.indexer();
  if (arch.attention() != ATTENTION_MLA_INDEXED) {
    if (!arch.has_indexer()) return absl::OkStatus();
    return absl::FailedPreconditionError("model: an indexer, but the attention kind has none");
  }
  KOMPAKT_RETURN_IF_ERROR(CheckRange({"index_n_heads", indexer.index_n_heads()}, 1, int64_t{1} << 16));
  KOMPAKT_RETURN_IF_ERROR(CheckRange({"index_head_dim", indexer.index_head_dim()}, 1, int64_t{1} << 16));
  KOMPAKT_RETURN_IF_ERROR(CheckRange({"index_head_dim, which holds the rotary dimensions,", indexer.index_head_dim()},
                                     arch.mla().qk_rope_head_dim(), int64_t{1} << 16));
  KOMPAKT_RETURN_IF_ERROR(CheckRange(
      {"index_n_heads * index_head_dim", indexer.index_n_heads() * indexer.index_head_dim()}, 1, int64_t{1} << 24));
  KOMPAKT_RETURN_IF_ERROR(CheckRange({"index_topk", indexer.index_topk()}, 1, kMaxDimension));
  KOMPAKT_RETURN_IF_ERROR(CheckPositive("indexer.k_norm_eps", indexer.k_norm_eps()));
  // Queries of the indexer are made from the compressed query.
  KOMPAKT_RETURN_IF_ERROR(
      CheckRange({"q_lora_rank of a model with indexer", arch.mla().q_lora_rank()}, 1, int64_t{1} << 20));
  if (indexer.shared_size() == 0) return absl::OkStatus();
  if (indexer.shared_size() != arch.num_hidden_layers() || indexer.shared(0)) {
    return absl::FailedPreconditionError(
        absl::StrCat("model: the list of layers that share an indexer must name all ", arch.num_hidden_layers(),
                     " layers and begin with one that has its own, found ", indexer.shared_size(), " beginning with ",
                     indexer.shared(0) ? "a shared one" : "one of its own"));
  }
  return absl::OkStatus();
}

absl::Status ValidateRope(const RopeSpec& rope) {
  KOMPAKT_RETURN_IF_ERROR(CheckPositive("rope_theta", rope.rope_theta()));
  if (rope.rope_theta() <= 1) {
    return absl::FailedPreconditionError(absl::StrCat("model: rope_theta must exceed 1, found ", rope.rope_theta()));
  }
  if (!rope.has_yarn()) return absl::OkStatus();
  const YarnSpec& yarn = rope.yarn();
  KOMPAKT_RETURN_IF_ERROR(CheckPositive("rope_scaling.factor", yarn.factor()));
  KOMPAKT_RETURN_IF_ERROR(CheckPositive("rope_scaling.beta_fast", yarn.beta_fast()));
  KOMPAKT_RETURN_IF_ERROR(CheckPositive("rope_scaling.beta_slow", yarn.beta_slow()));
  if (!(yarn.mscale() >= 0) || !(yarn.mscale_all_dim() >= 0) || !std::isfinite(yarn.mscale()) ||
      !std::isfinite(yarn.mscale_all_dim())) {
    return absl::FailedPreconditionError(
        absl::StrCat("model: rope_scaling.mscale and mscale_all_dim must be finite and "
                     ">= 0, found ",
                     yarn.mscale(), " and ", yarn.mscale_all_dim()));
  }
  return CheckRange({"rope_scaling.original_max_position_embeddings", yarn.original_max_position_embeddings()}, 1,
                    kMaxDimension);
}

absl::Status ValidateMoe(const MoeSpec& moe, int64_t num_layers) {
  KOMPAKT_RETURN_IF_ERROR(CheckRange({"first_k_dense_replace", moe.first_k_dense_replace()}, 0, num_layers));
  KOMPAKT_RETURN_IF_ERROR(CheckRange({"moe_layer_freq", moe.moe_layer_freq()}, 1, num_layers));
  KOMPAKT_RETURN_IF_ERROR(CheckRange({"n_routed_experts", moe.n_routed_experts()}, 1, 65536));
  KOMPAKT_RETURN_IF_ERROR(CheckRange({"n_shared_experts", moe.n_shared_experts()}, 0, 1024));
  KOMPAKT_RETURN_IF_ERROR(CheckRange({"moe_intermediate_size", moe.moe_intermediate_size()}, 1, int64_t{1} << 24));
  KOMPAKT_RETURN_IF_ERROR(CheckRange({"num_experts_per_tok", moe.num_experts_per_tok()}, 1, moe.n_routed_experts()));
  KOMPAKT_RETURN_IF_ERROR(CheckEnum("scoring_func", moe.scoring_func(), RouterScoring_MAX));
  KOMPAKT_RETURN_IF_ERROR(CheckEnum("topk_method", moe.topk_method(), TopkMethod_MAX));
  KOMPAKT_RETURN_IF_ERROR(CheckPositive("routed_scaling_factor", moe.routed_scaling_factor()));
  KOMPAKT_RETURN_IF_ERROR(CheckRange({"n_group", moe.n_group()}, 1, moe.n_routed_experts()));
  KOMPAKT_RETURN_IF_ERROR(CheckRange({"topk_group", moe.topk_group()}, 1, moe.n_group()));
  if (moe.n_routed_experts() % moe.n_group() != 0) {
    return absl::FailedPreconditionError(absl::StrCat("model: n_group must divide n_routed_experts, found ",
                                                      moe.n_group(), " groups of ", moe.n_routed_experts(),
                                                      " experts"));
  }
  const bool grouped = moe.topk_method() != TOPK_GREEDY && moe.n_group() > 1;
  const int64_t group_size = moe.n_routed_experts() / moe.n_group();
  if (grouped && moe.num_experts_per_tok() > moe.topk_group() * group_size) {
    return absl::FailedPreconditionError(absl::StrCat("model: num_experts_per_tok ", moe.num_experts_per_tok(),
                                                      " exceeds the ", moe.topk_group() * group_size,
                                                      " experts of topk_group ", moe.topk_group()));
  }
  if (grouped && moe.topk_method() == TOPK_NOAUX_TC && group_size < 2) {
    return absl::FailedPreconditionError(
        absl::StrCat("model: noaux_tc scores a group by its two best experts, found groups of ", group_size));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ValidateArchSpec(const ArchSpec& arch) {
  for (const Field& f : std::initializer_list<Field>{{"vocab_size", arch.vocab_size()},
                                                     {"hidden_size", arch.hidden_size()},
                                                     {"intermediate_size", arch.intermediate_size()}}) {
    KOMPAKT_RETURN_IF_ERROR(CheckRange(f, 1, int64_t{1} << 24));
  }
  KOMPAKT_RETURN_IF_ERROR(CheckRange({"num_hidden_layers", arch.num_hidden_layers()}, 1, 4096));
  KOMPAKT_RETURN_IF_ERROR(CheckRange({"max_position_embeddings", arch.max_position_embeddings()}, 1, kMaxDimension));
  KOMPAKT_RETURN_IF_ERROR(CheckRange({"num_nextn_predict_layers", arch.num_nextn_predict_layers()}, 0, 64));
  KOMPAKT_RETURN_IF_ERROR(CheckRange({"mtp_layers", arch.mtp_layers()}, 0, arch.num_nextn_predict_layers()));
  KOMPAKT_RETURN_IF_ERROR(CheckPositive("rms_norm_eps", arch.rms_norm_eps()));
  KOMPAKT_RETURN_IF_ERROR(CheckEnum("attention kind", arch.attention(), AttentionKind_MAX));
  KOMPAKT_RETURN_IF_ERROR(CheckEnum("residual kind", arch.residual(), ResidualKind_MAX));
  KOMPAKT_RETURN_IF_ERROR(ValidateMla(arch.mla()));
  KOMPAKT_RETURN_IF_ERROR(ValidateIndexer(arch));
  KOMPAKT_RETURN_IF_ERROR(ValidateRope(arch.rope()));
  return ValidateMoe(arch.moe(), arch.num_hidden_layers());
}

int64_t LayerCount(const ArchSpec& arch) { return arch.num_hidden_layers() + arch.mtp_layers(); }

bool IsMtpLayer(const ArchSpec& arch, int64_t layer) { return layer >= arch.num_hidden_layers(); }

bool IsMoeLayer(const ArchSpec& arch, int64_t layer) {
  if (IsMtpLayer(arch, layer)) return true;
  return layer >= arch.moe().first_k_dense_replace() && layer % arch.moe().moe_layer_freq() == 0;
}

bool HasIndexer(const ArchSpec& arch, int64_t layer) {
  if (arch.attention() != ATTENTION_MLA_INDEXED) return false;
  return layer >= arch.indexer().shared_size() || !arch.indexer().shared(static_cast<int>(layer));
}

int64_t LatentCacheWidth(const ArchSpec& arch) { return arch.mla().kv_lora_rank() + arch.mla().qk_rope_head_dim(); }

}  // namespace kompakt
