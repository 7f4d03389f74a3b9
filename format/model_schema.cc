#include "format/model_schema.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "format/arch_spec.h"
#include "format/near_names.h"
#include "format/status.h"

namespace kompakt {
namespace {

struct Shape {
  int64_t rows;
  int64_t cols;
};

int64_t QueryKeyDim(const ArchSpec& a) { return a.mla().qk_nope_head_dim() + a.mla().qk_rope_head_dim(); }
int64_t Heads(const ArchSpec& a) { return a.mla().num_attention_heads(); }
int64_t IndexHeads(const ArchSpec& a) { return a.indexer().index_n_heads(); }
int64_t IndexDim(const ArchSpec& a) { return a.indexer().index_head_dim(); }
int64_t SharedWidth(const ArchSpec& a) { return a.moe().n_shared_experts() * a.moe().moe_intermediate_size(); }

bool Always(const ArchSpec&, int64_t) { return true; }
bool Untied(const ArchSpec& a, int64_t) { return !a.tie_word_embeddings(); }
bool PlainQuery(const ArchSpec& a, int64_t) { return a.mla().q_lora_rank() == 0; }
bool LatentQuery(const ArchSpec& a, int64_t) { return a.mla().q_lora_rank() > 0; }
bool Dense(const ArchSpec& a, int64_t layer) { return !IsMoeLayer(a, layer); }
bool Moe(const ArchSpec& a, int64_t layer) { return IsMoeLayer(a, layer); }
bool Biased(const ArchSpec& a, int64_t layer) { return Moe(a, layer) && a.moe().topk_method() == TOPK_NOAUX_TC; }
bool Mtp(const ArchSpec& a, int64_t layer) { return IsMtpLayer(a, layer); }
bool Shared(const ArchSpec& a, int64_t layer) { return Moe(a, layer) && a.moe().n_shared_experts() > 0; }

// A role's row: what it is called, when a model has it and how large it is.
struct RoleRow {
  RoleInfo info;
  bool (*present)(const ArchSpec&, int64_t layer);
  Shape (*shape)(const ArchSpec&);
};

using R = TensorRole;
using S = TensorScope;
using C = TensorClass;

// In file order within its scope.
// clang-format off
constexpr RoleRow kRoles[] = {
    {{R::kEmbedTokens, "embed_tokens", S::kModel, C::kEmbedding, false}, Always,
     [](const ArchSpec& a) { return Shape{a.vocab_size(), a.hidden_size()}; }},
    {{R::kFinalNorm, "norm", S::kModel, C::kNorm, true}, Always,
     [](const ArchSpec& a) { return Shape{1, a.hidden_size()}; }},
    {{R::kLmHead, "lm_head", S::kModel, C::kHead, false}, Untied,
     [](const ArchSpec& a) { return Shape{a.vocab_size(), a.hidden_size()}; }},
    {{R::kInputNorm, "input_layernorm", S::kLayer, C::kNorm, true}, Always,
     [](const ArchSpec& a) { return Shape{1, a.hidden_size()}; }},
    {{R::kPostAttentionNorm, "post_attention_layernorm", S::kLayer, C::kNorm, true}, Always,
     [](const ArchSpec& a) { return Shape{1, a.hidden_size()}; }},
    {{R::kQProj, "self_attn.q_proj", S::kLayer, C::kAttention, false}, PlainQuery,
     [](const ArchSpec& a) { return Shape{Heads(a) * QueryKeyDim(a), a.hidden_size()}; }},
    {{R::kQAProj, "self_attn.q_a_proj", S::kLayer, C::kAttention, false}, LatentQuery,
     [](const ArchSpec& a) { return Shape{a.mla().q_lora_rank(), a.hidden_size()}; }},
    {{R::kQANorm, "self_attn.q_a_layernorm", S::kLayer, C::kNorm, true}, LatentQuery,
     [](const ArchSpec& a) { return Shape{1, a.mla().q_lora_rank()}; }},
    {{R::kQBProj, "self_attn.q_b_proj", S::kLayer, C::kAttention, false}, LatentQuery,
     [](const ArchSpec& a) { return Shape{Heads(a) * QueryKeyDim(a), a.mla().q_lora_rank()}; }},
    {{R::kKvAProj, "self_attn.kv_a_proj_with_mqa", S::kLayer, C::kAttention, false}, Always,
     [](const ArchSpec& a) { return Shape{LatentCacheWidth(a), a.hidden_size()}; }},
    {{R::kKvANorm, "self_attn.kv_a_layernorm", S::kLayer, C::kNorm, true}, Always,
     [](const ArchSpec& a) { return Shape{1, a.mla().kv_lora_rank()}; }},
    {{R::kKvBProj, "self_attn.kv_b_proj", S::kLayer, C::kAttention, false}, Always,
     [](const ArchSpec& a) {
       return Shape{Heads(a) * (a.mla().qk_nope_head_dim() + a.mla().v_head_dim()), a.mla().kv_lora_rank()};
     }},
    {{R::kOProj, "self_attn.o_proj", S::kLayer, C::kAttention, false}, Always,
     [](const ArchSpec& a) { return Shape{a.hidden_size(), Heads(a) * a.mla().v_head_dim()}; }},
    {{R::kIndexQB, "self_attn.indexer.wq_b", S::kLayer, C::kIndexer, false, 1}, HasIndexer,
     [](const ArchSpec& a) { return Shape{IndexHeads(a) * IndexDim(a), a.mla().q_lora_rank()}; }},
    {{R::kIndexK, "self_attn.indexer.wk", S::kLayer, C::kIndexer, false, 1}, HasIndexer,
     [](const ArchSpec& a) { return Shape{IndexDim(a), a.hidden_size()}; }},
    {{R::kIndexKNorm, "self_attn.indexer.k_norm", S::kLayer, C::kNorm, true, 1}, HasIndexer,
     [](const ArchSpec& a) { return Shape{1, IndexDim(a)}; }},
    {{R::kIndexKNormBias, "self_attn.indexer.k_norm.bias", S::kLayer, C::kNorm, true, 1}, HasIndexer,
     [](const ArchSpec& a) { return Shape{1, IndexDim(a)}; }},
    {{R::kIndexWeights, "self_attn.indexer.weights_proj", S::kLayer, C::kIndexer, false, 1}, HasIndexer,
     [](const ArchSpec& a) { return Shape{IndexHeads(a), a.hidden_size()}; }},
    {{R::kDenseGate, "mlp.gate_proj", S::kLayer, C::kDenseFfn, false}, Dense,
     [](const ArchSpec& a) { return Shape{a.intermediate_size(), a.hidden_size()}; }},
    {{R::kDenseUp, "mlp.up_proj", S::kLayer, C::kDenseFfn, false}, Dense,
     [](const ArchSpec& a) { return Shape{a.intermediate_size(), a.hidden_size()}; }},
    {{R::kDenseDown, "mlp.down_proj", S::kLayer, C::kDenseFfn, false}, Dense,
     [](const ArchSpec& a) { return Shape{a.hidden_size(), a.intermediate_size()}; }},
    {{R::kRouter, "mlp.gate", S::kLayer, C::kRouter, false}, Moe,
     [](const ArchSpec& a) { return Shape{a.moe().n_routed_experts(), a.hidden_size()}; }},
    {{R::kRouterBias, "mlp.gate.e_score_correction_bias", S::kLayer, C::kRouter, true}, Biased,
     [](const ArchSpec& a) { return Shape{1, a.moe().n_routed_experts()}; }},
    {{R::kExpertGate, "mlp.experts.gate_proj", S::kExpert, C::kRoutedExpert, false}, Moe,
     [](const ArchSpec& a) { return Shape{a.moe().moe_intermediate_size(), a.hidden_size()}; }},
    {{R::kExpertUp, "mlp.experts.up_proj", S::kExpert, C::kRoutedExpert, false}, Moe,
     [](const ArchSpec& a) { return Shape{a.moe().moe_intermediate_size(), a.hidden_size()}; }},
    {{R::kExpertDown, "mlp.experts.down_proj", S::kExpert, C::kRoutedExpert, false}, Moe,
     [](const ArchSpec& a) { return Shape{a.hidden_size(), a.moe().moe_intermediate_size()}; }},
    {{R::kSharedGate, "mlp.shared_experts.gate_proj", S::kLayer, C::kSharedExpert, false}, Shared,
     [](const ArchSpec& a) { return Shape{SharedWidth(a), a.hidden_size()}; }},
    {{R::kSharedUp, "mlp.shared_experts.up_proj", S::kLayer, C::kSharedExpert, false}, Shared,
     [](const ArchSpec& a) { return Shape{SharedWidth(a), a.hidden_size()}; }},
    {{R::kSharedDown, "mlp.shared_experts.down_proj", S::kLayer, C::kSharedExpert, false}, Shared,
     [](const ArchSpec& a) { return Shape{a.hidden_size(), SharedWidth(a)}; }},
    {{R::kMtpEmbedNorm, "enorm", S::kLayer, C::kNorm, true, 1}, Mtp,
     [](const ArchSpec& a) { return Shape{1, a.hidden_size()}; }},
    {{R::kMtpHiddenNorm, "hnorm", S::kLayer, C::kNorm, true, 1}, Mtp,
     [](const ArchSpec& a) { return Shape{1, a.hidden_size()}; }},
    {{R::kMtpProj, "eh_proj", S::kLayer, C::kMtp, false, 1}, Mtp,
     [](const ArchSpec& a) { return Shape{a.hidden_size(), 2 * a.hidden_size()}; }},
    {{R::kMtpHeadNorm, "shared_head.norm", S::kLayer, C::kNorm, true, 1}, Mtp,
     [](const ArchSpec& a) { return Shape{1, a.hidden_size()}; }},
};
// clang-format on

constexpr size_t kRoleCount = std::size(kRoles);

constexpr bool RowsAreInEnumOrder() {
  for (size_t i = 0; i < kRoleCount; ++i) {
    if (static_cast<size_t>(kRoles[i].info.role) != i) return false;
  }
  return true;
}
static_assert(RowsAreInEnumOrder(), "InfoOf indexes kRoles by the enum");
static_assert(kRoleCount == static_cast<size_t>(TensorRole::kMtpHeadNorm) + 1, "one row per role");

constexpr auto kInfos = [] {
  std::array<RoleInfo, kRoleCount> infos{};
  for (size_t i = 0; i < kRoleCount; ++i) infos[i] = kRoles[i].info;
  return infos;
}();

const RoleRow& RowOf(TensorRole role) { return kRoles[static_cast<size_t>(role)]; }

}  // namespace

absl::Span<const RoleInfo> AllRoles() { return kInfos; }

const RoleInfo& InfoOf(TensorRole role) { return RowOf(role).info; }

absl::StatusOr<TensorRole> RoleFromName(absl::string_view name) {
  std::vector<absl::string_view> names;
  for (const RoleRow& row : kRoles) {
    if (row.info.name == name) return row.info.role;
    names.push_back(row.info.name);
  }
  return UsageError("unknown tensor role \"", name, "\"", DidYouMean(name, names));
}

TensorClass ClassOf(const ArchSpec& arch, TensorRole role, int64_t layer) {
  return IsMtpLayer(arch, layer) ? TensorClass::kMtp : InfoOf(role).tensor_class;
}

std::string RoleLabel(const ArchSpec& arch, TensorRole role, int64_t layer) {
  return absl::StrCat(IsMtpLayer(arch, layer) ? kMtpPrefix : "", InfoOf(role).name);
}

absl::string_view ClassName(TensorClass tensor_class) {
  switch (tensor_class) {
    case TensorClass::kEmbedding:
      return "embedding";
    case TensorClass::kHead:
      return "head";
    case TensorClass::kNorm:
      return "norms";
    case TensorClass::kAttention:
      return "attention";
    case TensorClass::kIndexer:
      return "indexer";
    case TensorClass::kDenseFfn:
      return "dense FFN";
    case TensorClass::kRouter:
      return "router";
    case TensorClass::kRoutedExpert:
      return "routed experts";
    case TensorClass::kSharedExpert:
      return "shared experts";
    case TensorClass::kMtp:
      return "MTP";
  }
  return "unknown";
}

std::string TensorInfo::Name() const {
  const RoleInfo& info = InfoOf(role);
  const bool is_bias = role == TensorRole::kRouterBias || role == TensorRole::kIndexKNormBias;
  const absl::string_view suffix = is_bias ? "" : ".weight";
  switch (info.scope) {
    case TensorScope::kModel:
      return absl::StrCat(role == TensorRole::kLmHead ? "" : "model.", info.name, suffix);
    case TensorScope::kLayer:
      return absl::StrCat("model.layers.", layer, ".", info.name, suffix);
    case TensorScope::kExpert: {
      // "mlp.experts.gate_proj" -> "mlp.experts.E.gate_proj"
      constexpr absl::string_view kPrefix = "mlp.experts.";
      return absl::StrCat("model.layers.", layer, ".", kPrefix, expert, ".", info.name.substr(kPrefix.size()), suffix);
    }
  }
  return "";
}

absl::StatusOr<ModelSchema> ModelSchema::Create(const ArchSpec& arch) {
  KOMPAKT_RETURN_IF_ERROR(ValidateArchSpec(arch));
  ModelSchema schema;
  schema.arch_ = arch;
  const int64_t layers = LayerCount(arch);
  const int64_t experts = arch.moe().n_routed_experts();
  // A schema of more than 2^26 tensors is no model of this family; refusing keeps a damaged manifest from eating
  // memory.
  if (layers * experts > (int64_t{1} << 24)) {
    return absl::FailedPreconditionError(absl::StrCat("model: num_hidden_layers ", arch.num_hidden_layers(),
                                                      " x n_routed_experts ", experts, " is implausibly large"));
  }
  schema.first_index_.assign(static_cast<size_t>(layers + 1), std::vector<int64_t>(kRoleCount, -1));

  const auto add = [&](const RoleRow& row, int64_t layer, int64_t expert) {
    const Shape shape = row.shape(arch);
    int64_t& first = schema.first_index_[static_cast<size_t>(layer + 1)][static_cast<size_t>(row.info.role)];
    if (first < 0) first = static_cast<int64_t>(schema.tensors_.size());
    schema.tensors_.push_back(
        {row.info.role, static_cast<int32_t>(layer), static_cast<int32_t>(expert), shape.rows, shape.cols});
    schema.parameter_count_ += shape.rows * shape.cols;
  };
  const auto add_model_role = [&](TensorRole role) {
    if (RowOf(role).present(arch, -1)) add(RowOf(role), -1, -1);
  };

  const auto add_layer = [&](int64_t layer) {
    for (const RoleRow& row : kRoles) {
      if (row.info.scope == TensorScope::kLayer && row.present(arch, layer)) add(row, layer, -1);
    }
    if (!IsMoeLayer(arch, layer)) return;
    for (int64_t expert = 0; expert < experts; ++expert) {
      for (const RoleRow& row : kRoles) {
        if (row.info.scope == TensorScope::kExpert) add(row, layer, expert);
      }
    }
  };
  add_model_role(TensorRole::kEmbedTokens);
  for (int64_t layer = 0; layer < arch.num_hidden_layers(); ++layer) add_layer(layer);
  add_model_role(TensorRole::kFinalNorm);
  add_model_role(TensorRole::kLmHead);
  schema.main_parameter_count_ = schema.parameter_count_;
  for (int64_t layer = arch.num_hidden_layers(); layer < layers; ++layer) add_layer(layer);
  return schema;
}

int64_t ModelSchema::Find(TensorRole role, int64_t layer, int64_t expert) const {
  if (layer < -1 || layer >= LayerCount(arch_)) return -1;
  const int64_t first = first_index_[static_cast<size_t>(layer + 1)][static_cast<size_t>(role)];
  if (first < 0) return -1;
  if (InfoOf(role).scope != TensorScope::kExpert) return expert == -1 ? first : -1;
  if (expert < 0 || expert >= arch_.moe().n_routed_experts()) return -1;
  constexpr int64_t kRolesPerExpert = 3;
  return first + expert * kRolesPerExpert;
}

}  // namespace kompakt
