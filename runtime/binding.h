// ModelBinding: every tensor of a model under the name that the forward pass uses, and the constants that follow from
// its ArchSpec. Matrices stay where the WeightStore has them; vectors are decoded to F32.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/kernel_set.h"
#include "runtime/rope.h"
#include "runtime/weights.h"

namespace kompakt {

struct AttentionBinding {
  MatrixView q_proj;  // [H (dn + dr), h]; only when q_lora_rank is 0
  MatrixView q_a_proj, q_b_proj;
  std::vector<float> q_a_norm;  // [rq]
  MatrixView kv_a_proj;
  std::vector<float> kv_a_norm;  // [rkv]
  MatrixView kv_b_proj;
  MatrixView o_proj;
};

struct IndexerBinding {
  MatrixView wq_b;            // [Hi di, rq]
  MatrixView wk;              // [di, h]
  std::vector<float> k_norm;  // [di]
  std::vector<float> k_bias;  // [di]
  MatrixView weights;         // [Hi, h]
};

struct LayerBinding {
  int32_t number = 0;                      // of the decoder layer
  std::vector<float> input_norm;           // [h]
  std::vector<float> post_attention_norm;  // [h]
  AttentionBinding attention;
  bool has_indexer = false;  // of its own
  IndexerBinding indexer;
  bool moe = false;
  FfnWeights dense;  // only when !moe
  MatrixView router;
  std::vector<float> router_bias;   // [E], or empty
  std::vector<FfnWeights> experts;  // without data where there is an expert_cache
  FfnWeights shared;
  bool has_shared = false;
};

// An MTP layer: predicts one token further than the main model (DeepSeek-V3 report, section 2.2).
struct MtpBinding {
  std::vector<float> embed_norm;   // [h]
  std::vector<float> hidden_norm;  // [h]
  MatrixView projection;           // [h, 2 h]
  LayerBinding layer;
  std::vector<float> head_norm;  // [h]
};

struct ModelBinding {
  ArchSpec arch;
  MatrixView embed;
  MatrixView head;                // the embedding itself when tied
  std::vector<float> final_norm;  // [h]
  std::vector<LayerBinding> layers;
  std::vector<MtpBinding> mtp;
  RouterRule router_rule;
  Rope rope;
  float softmax_scale = 0;
  int64_t moe_layers = 0;
  int64_t index_layers = 0;             // layers with an indexer of their own
  ExpertCache* expert_cache = nullptr;  // that of the WeightStore; null: all experts are in memory

  explicit ModelBinding(const ArchSpec& spec);
};

// kInternal when the store's schema lacks a tensor of the forward pass or a view has another shape than the schema.
absl::StatusOr<ModelBinding> BindModel(const WeightStore& weights);

}  // namespace kompakt
