#include "runtime/binding.h"

#include <utility>

#include "format/arch_spec.h"
#include "format/status.h"

namespace kompakt {
namespace {

// Looks tensors up in the schema, takes them from the store, checks their shape.
class Binder {
 public:
  explicit Binder(const WeightStore& weights) : weights_(weights) {}

  absl::Status Matrix(TensorRole role, int64_t layer, int64_t expert, MatrixView* out) const {
    KOMPAKT_ASSIGN_OR_RETURN(const TensorInfo* const info, Find(role, layer, expert));
    KOMPAKT_ASSIGN_OR_RETURN(*out, weights_.Matrix(*info));
    const bool has_data = out->data != nullptr || (expert >= 0 && weights_.experts() != nullptr);
    if (out->format == nullptr || !has_data || out->shape.rows != info->rows || out->shape.cols != info->cols) {
      return absl::InternalError(absl::StrCat(weights_.origin(), ": ", info->Name(), ": expected [", info->rows, ", ",
                                              info->cols, "], found [", out->shape.rows, ", ", out->shape.cols, "]"));
    }
    return absl::OkStatus();
  }

  absl::Status Vector(TensorRole role, int64_t layer, std::vector<float>* out) const {
    KOMPAKT_ASSIGN_OR_RETURN(const TensorInfo* const info, Find(role, layer, -1));
    KOMPAKT_ASSIGN_OR_RETURN(*out, weights_.Vector(*info));
    if (std::ssize(*out) != info->cols) {
      return absl::InternalError(absl::StrCat(weights_.origin(), ": ", info->Name(), ": expected ", info->cols,
                                              " values, found ", out->size()));
    }
    return absl::OkStatus();
  }

  absl::Status Ffn(TensorRole gate, TensorRole up, TensorRole down, int64_t layer, int64_t expert,
                   FfnWeights* out) const {
    KOMPAKT_RETURN_IF_ERROR(Matrix(gate, layer, expert, &out->gate));
    KOMPAKT_RETURN_IF_ERROR(Matrix(up, layer, expert, &out->up));
    return Matrix(down, layer, expert, &out->down);
  }

 private:
  absl::StatusOr<const TensorInfo*> Find(TensorRole role, int64_t layer, int64_t expert) const {
    const int64_t index = weights_.schema().Find(role, layer, expert);
    if (index < 0) {
      return absl::InternalError(absl::StrCat(weights_.origin(), ": the schema has no ", InfoOf(role).name,
                                              " in layer ", layer, ", expert ", expert));
    }
    return &weights_.schema().tensors()[static_cast<size_t>(index)];
  }

  const WeightStore& weights_;
};

RouterRule RuleOf(const MoeSpec& moe) {
  RouterRule rule;
  rule.sigmoid = moe.scoring_func() == ROUTER_SCORING_SIGMOID;
  rule.n_experts = moe.n_routed_experts();
  rule.experts_per_token = moe.num_experts_per_tok();
  rule.n_group = moe.n_group();
  rule.topk_group = moe.topk_group();
  if (moe.topk_method() == TOPK_GROUP_LIMITED_GREEDY) rule.group_score = GroupScore::kBest;
  if (moe.topk_method() == TOPK_NOAUX_TC) rule.group_score = GroupScore::kSumOfTwoBest;
  // V3 normalises whenever it is told to and always scales; V2 leaves a single expert alone and scales only where it
  // did not normalise.
  rule.normalize = moe.norm_topk_prob() && (moe.scale_after_norm() || moe.num_experts_per_tok() > 1);
  const bool scale = moe.scale_after_norm() || !rule.normalize;
  rule.factor = scale ? static_cast<float>(moe.routed_scaling_factor()) : 1.0f;
  return rule;
}

absl::Status BindAttention(const Binder& binder, const ArchSpec& arch, int64_t layer, AttentionBinding* out) {
  if (arch.mla().q_lora_rank() == 0) {
    KOMPAKT_RETURN_IF_ERROR(binder.Matrix(TensorRole::kQProj, layer, -1, &out->q_proj));
  } else {
    KOMPAKT_RETURN_IF_ERROR(binder.Matrix(TensorRole::kQAProj, layer, -1, &out->q_a_proj));
    KOMPAKT_RETURN_IF_ERROR(binder.Vector(TensorRole::kQANorm, layer, &out->q_a_norm));
    KOMPAKT_RETURN_IF_ERROR(binder.Matrix(TensorRole::kQBProj, layer, -1, &out->q_b_proj));
  }
  KOMPAKT_RETURN_IF_ERROR(binder.Matrix(TensorRole::kKvAProj, layer, -1, &out->kv_a_proj));
  KOMPAKT_RETURN_IF_ERROR(binder.Vector(TensorRole::kKvANorm, layer, &out->kv_a_norm));
  KOMPAKT_RETURN_IF_ERROR(binder.Matrix(TensorRole::kKvBProj, layer, -1, &out->kv_b_proj));
  return binder.Matrix(TensorRole::kOProj, layer, -1, &out->o_proj);
}

absl::Status BindIndexer(const Binder& binder, int64_t layer, IndexerBinding* out) {
  KOMPAKT_RETURN_IF_ERROR(binder.Matrix(TensorRole::kIndexQB, layer, -1, &out->wq_b));
  KOMPAKT_RETURN_IF_ERROR(binder.Matrix(TensorRole::kIndexK, layer, -1, &out->wk));
  KOMPAKT_RETURN_IF_ERROR(binder.Vector(TensorRole::kIndexKNorm, layer, &out->k_norm));
  KOMPAKT_RETURN_IF_ERROR(binder.Vector(TensorRole::kIndexKNormBias, layer, &out->k_bias));
  return binder.Matrix(TensorRole::kIndexWeights, layer, -1, &out->weights);
}

absl::Status BindFfn(const Binder& binder, const ArchSpec& arch, int64_t layer, LayerBinding* out) {
  out->moe = IsMoeLayer(arch, layer);
  if (!out->moe) {
    return binder.Ffn(TensorRole::kDenseGate, TensorRole::kDenseUp, TensorRole::kDenseDown, layer, -1, &out->dense);
  }
  KOMPAKT_RETURN_IF_ERROR(binder.Matrix(TensorRole::kRouter, layer, -1, &out->router));
  if (arch.moe().topk_method() == TOPK_NOAUX_TC) {
    KOMPAKT_RETURN_IF_ERROR(binder.Vector(TensorRole::kRouterBias, layer, &out->router_bias));
  }
  out->experts.resize(static_cast<size_t>(arch.moe().n_routed_experts()));
  for (int64_t e = 0; e < arch.moe().n_routed_experts(); ++e) {
    KOMPAKT_RETURN_IF_ERROR(binder.Ffn(TensorRole::kExpertGate, TensorRole::kExpertUp, TensorRole::kExpertDown, layer,
                                       e, &out->experts[static_cast<size_t>(e)]));
  }
  out->has_shared = arch.moe().n_shared_experts() > 0;
  if (!out->has_shared) return absl::OkStatus();
  return binder.Ffn(TensorRole::kSharedGate, TensorRole::kSharedUp, TensorRole::kSharedDown, layer, -1, &out->shared);
}

absl::StatusOr<LayerBinding> BindLayer(const Binder& binder, const ArchSpec& arch, int64_t layer) {
  LayerBinding out;
  out.number = static_cast<int32_t>(layer);
  KOMPAKT_RETURN_IF_ERROR(binder.Vector(TensorRole::kInputNorm, layer, &out.input_norm));
  KOMPAKT_RETURN_IF_ERROR(binder.Vector(TensorRole::kPostAttentionNorm, layer, &out.post_attention_norm));
  KOMPAKT_RETURN_IF_ERROR(BindAttention(binder, arch, layer, &out.attention));
  out.has_indexer = HasIndexer(arch, layer);
  if (out.has_indexer) KOMPAKT_RETURN_IF_ERROR(BindIndexer(binder, layer, &out.indexer));
  KOMPAKT_RETURN_IF_ERROR(BindFfn(binder, arch, layer, &out));
  return out;
}

}  // namespace

ModelBinding::ModelBinding(const ArchSpec& spec)
    : arch(spec), router_rule(RuleOf(spec.moe())), rope(spec), softmax_scale(static_cast<float>(SoftmaxScale(spec))) {}

absl::StatusOr<ModelBinding> BindModel(const WeightStore& weights) {
  const ArchSpec& arch = weights.schema().arch();
  const Binder binder(weights);
  ModelBinding model(arch);
  model.expert_cache = weights.experts();
  KOMPAKT_RETURN_IF_ERROR(binder.Matrix(TensorRole::kEmbedTokens, -1, -1, &model.embed));
  KOMPAKT_RETURN_IF_ERROR(binder.Vector(TensorRole::kFinalNorm, -1, &model.final_norm));
  if (arch.tie_word_embeddings()) {
    model.head = model.embed;
  } else {
    KOMPAKT_RETURN_IF_ERROR(binder.Matrix(TensorRole::kLmHead, -1, -1, &model.head));
  }
  for (int64_t l = 0; l < arch.num_hidden_layers(); ++l) {
    KOMPAKT_ASSIGN_OR_RETURN(LayerBinding layer, BindLayer(binder, arch, l));
    model.moe_layers += layer.moe ? 1 : 0;
    model.index_layers += layer.has_indexer ? 1 : 0;
    model.layers.push_back(std::move(layer));
  }
  for (int64_t l = arch.num_hidden_layers(); l < LayerCount(arch); ++l) {
    MtpBinding mtp;
    KOMPAKT_RETURN_IF_ERROR(binder.Vector(TensorRole::kMtpEmbedNorm, l, &mtp.embed_norm));
    KOMPAKT_RETURN_IF_ERROR(binder.Vector(TensorRole::kMtpHiddenNorm, l, &mtp.hidden_norm));
    KOMPAKT_RETURN_IF_ERROR(binder.Matrix(TensorRole::kMtpProj, l, -1, &mtp.projection));
    KOMPAKT_RETURN_IF_ERROR(binder.Vector(TensorRole::kMtpHeadNorm, l, &mtp.head_norm));
    KOMPAKT_ASSIGN_OR_RETURN(mtp.layer, BindLayer(binder, arch, l));
    model.mtp.push_back(std::move(mtp));
  }
  return model;
}

}  // namespace kompakt
