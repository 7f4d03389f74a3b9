// ModelSchema: THE list of tensors that a model of a given ArchSpec has. Converter, planner, writer, reader, runtime
// and verifier all read this one list; nobody else spells a tensor name.
//
// Names, shapes and row layouts are those of the Hugging Face checkpoints of DeepSeek-V2/V3. A linear weight is
// [rows = out, cols = in] and computes y = x W^T.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "format/arch_spec.pb.h"

namespace kompakt {

enum class TensorRole : uint8_t {
  kEmbedTokens,        // embed_tokens                    [vocab, h]
  kFinalNorm,          // norm                            [h]
  kLmHead,             // lm_head                         [vocab, h]; absent when tie_word_embeddings
  kInputNorm,          // input_layernorm                 [h]
  kPostAttentionNorm,  // post_attention_layernorm        [h]
  kQProj,              // self_attn.q_proj                [H (dn + dr), h]; when q_lora_rank is 0
  kQAProj,             // self_attn.q_a_proj              [rq, h]
  kQANorm,             // self_attn.q_a_layernorm         [rq]
  kQBProj,             // self_attn.q_b_proj              [H (dn + dr), rq]
  kKvAProj,            // self_attn.kv_a_proj_with_mqa    [rkv + dr, h]
  kKvANorm,            // self_attn.kv_a_layernorm        [rkv]
  kKvBProj,            // self_attn.kv_b_proj             [H (dn + dv), rkv]
  kOProj,              // self_attn.o_proj                [h, H dv]
  kIndexQB,            // self_attn.indexer.wq_b          [Hi di, rq]; layers with an indexer
  kIndexK,             // self_attn.indexer.wk            [di, h]
  kIndexKNorm,         // self_attn.indexer.k_norm        [di]
  kIndexKNormBias,     // self_attn.indexer.k_norm.bias   [di]
  kIndexWeights,       // self_attn.indexer.weights_proj  [Hi, h]
  kDenseGate,          // mlp.gate_proj                   [inter, h]; dense layers
  kDenseUp,            // mlp.up_proj                     [inter, h]
  kDenseDown,          // mlp.down_proj                   [h, inter]
  kRouter,             // mlp.gate                        [E, h]; MoE layers
  kRouterBias,         // mlp.gate.e_score_correction_bias [E]; noaux_tc only, never below F32
  kExpertGate,         // mlp.experts.gate_proj           [moe_inter, h], one per expert
  kExpertUp,           // mlp.experts.up_proj             [moe_inter, h]
  kExpertDown,         // mlp.experts.down_proj           [h, moe_inter]
  kSharedGate,         // mlp.shared_experts.gate_proj    [n_shared moe_inter, h]
  kSharedUp,           // mlp.shared_experts.up_proj      [n_shared moe_inter, h]
  kSharedDown,         // mlp.shared_experts.down_proj    [h, n_shared moe_inter]
  kMtpEmbedNorm,       // enorm                           [h]; MTP layers
  kMtpHiddenNorm,      // hnorm                           [h]
  kMtpProj,            // eh_proj                         [h, 2 h]; embedding first
  kMtpHeadNorm,        // shared_head.norm                [h]
};

// What a tensor is for: the unit in which recipes decide and reports add up.
enum class TensorClass : uint8_t {
  kEmbedding,
  kHead,
  kNorm,
  kAttention,  // the MLA projections
  kIndexer,    // what selects the tokens that attention sees
  kDenseFfn,
  kRouter,  // router weight and correction bias
  kRoutedExpert,
  kSharedExpert,
  kMtp,  // everything of the MTP layers
};

enum class TensorScope : uint8_t { kModel, kLayer, kExpert };

// One row of the role table (model_schema.cc).
struct RoleInfo {
  TensorRole role;
  absl::string_view name;  // as in the comments of TensorRole
  TensorScope scope;
  TensorClass tensor_class;
  bool is_vector;
  uint16_t since_minor = 0;  // minor version of the file format that added it
};

absl::Span<const RoleInfo> AllRoles();
const RoleInfo& InfoOf(TensorRole role);
// Error kInvalidArgument with a "did you mean" when no role has that name.
absl::StatusOr<TensorRole> RoleFromName(absl::string_view name);
// The class of a tensor, and what recipes and reports call its role: "mtp.mlp.experts.down_proj" in an MTP layer.
TensorClass ClassOf(const ArchSpec& arch, TensorRole role, int64_t layer);
std::string RoleLabel(const ArchSpec& arch, TensorRole role, int64_t layer);
inline constexpr absl::string_view kMtpPrefix = "mtp.";
absl::string_view ClassName(TensorClass tensor_class);  // "embedding", "routed experts", ...

// One tensor of the model. A vector has rows = 1.
struct TensorInfo {
  TensorRole role;
  int32_t layer = -1;   // -1: not in a layer
  int32_t expert = -1;  // -1: not a routed expert
  int64_t rows = 0;
  int64_t cols = 0;

  bool is_vector() const { return InfoOf(role).is_vector; }
  int64_t elements() const { return rows * cols; }
  // The upstream name, for example "model.layers.3.mlp.experts.17.down_proj.weight".
  std::string Name() const;
};

class ModelSchema {
 public:
  // `arch` must have passed ValidateArchSpec.
  static absl::StatusOr<ModelSchema> Create(const ArchSpec& arch);

  const ArchSpec& arch() const { return arch_; }

  // File order: embed_tokens; per layer norms, attention, then the FFN with the routed experts last, ordered by expert
  // and within an expert gate, up, down; then norm and lm_head; then the MTP layers as the layers before.
  absl::Span<const TensorInfo> tensors() const { return tensors_; }

  // Index into tensors(), or -1 when the model has no such tensor.
  int64_t Find(TensorRole role, int64_t layer = -1, int64_t expert = -1) const;

  // Sum of elements() over tensors(), and without those of MTP layers: what a model's name counts.
  int64_t parameter_count() const { return parameter_count_; }
  int64_t main_parameter_count() const { return main_parameter_count_; }

 private:
  ArchSpec arch_;
  std::vector<TensorInfo> tensors_;
  // first_index_[layer + 1][role]: index of that role in that layer (expert 0), or -1.
  std::vector<std::vector<int64_t>> first_index_;
  int64_t parameter_count_ = 0;
  int64_t main_parameter_count_ = 0;
};

}  // namespace kompakt
