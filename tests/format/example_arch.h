// ArchSpecs of published models, for tests. Values: upstream config.json files.
#pragma once

#include "format/arch_spec.pb.h"

namespace kompakt {

// DeepSeek-V3: 61 layers, 256 experts, noaux_tc.
inline ArchSpec DeepSeekV3Arch() {
  ArchSpec a;
  a.set_architecture("DeepseekV3ForCausalLM");
  a.set_model_type("deepseek_v3");
  a.set_vocab_size(129280);
  a.set_hidden_size(7168);
  a.set_num_hidden_layers(61);
  a.set_intermediate_size(18432);
  a.set_max_position_embeddings(163840);
  a.set_num_nextn_predict_layers(1);
  a.set_rms_norm_eps(1e-6);
  a.set_attention(ATTENTION_MLA);
  a.set_residual(RESIDUAL_SINGLE_STREAM);
  MlaSpec& mla = *a.mutable_mla();
  mla.set_num_attention_heads(128);
  mla.set_q_lora_rank(1536);
  mla.set_kv_lora_rank(512);
  mla.set_qk_nope_head_dim(128);
  mla.set_qk_rope_head_dim(64);
  mla.set_v_head_dim(128);
  mla.set_latent_norm_eps(1e-6);
  a.mutable_rope()->set_rope_theta(10000);
  YarnSpec& yarn = *a.mutable_rope()->mutable_yarn();
  yarn.set_factor(40);
  yarn.set_original_max_position_embeddings(4096);
  yarn.set_beta_fast(32);
  yarn.set_beta_slow(1);
  yarn.set_mscale(1);
  yarn.set_mscale_all_dim(1);
  MoeSpec& moe = *a.mutable_moe();
  moe.set_n_routed_experts(256);
  moe.set_n_shared_experts(1);
  moe.set_num_experts_per_tok(8);
  moe.set_moe_intermediate_size(2048);
  moe.set_first_k_dense_replace(3);
  moe.set_moe_layer_freq(1);
  moe.set_scoring_func(ROUTER_SCORING_SIGMOID);
  moe.set_topk_method(TOPK_NOAUX_TC);
  moe.set_n_group(8);
  moe.set_topk_group(4);
  moe.set_norm_topk_prob(true);
  moe.set_scale_after_norm(true);
  moe.set_routed_scaling_factor(2.5);
  return a;
}

// DeepSeek-V2-Lite: 27 layers, 64 experts, no query compression, greedy softmax routing.
inline ArchSpec DeepSeekV2LiteArch() {
  ArchSpec a = DeepSeekV3Arch();
  a.set_architecture("DeepseekV2ForCausalLM");
  a.set_model_type("deepseek_v2");
  a.set_vocab_size(102400);
  a.set_hidden_size(2048);
  a.set_num_hidden_layers(27);
  a.set_intermediate_size(10944);
  a.set_num_nextn_predict_layers(0);
  a.mutable_mla()->set_num_attention_heads(16);
  a.mutable_mla()->set_q_lora_rank(0);
  MoeSpec& moe = *a.mutable_moe();
  moe.set_n_routed_experts(64);
  moe.set_n_shared_experts(2);
  moe.set_num_experts_per_tok(6);
  moe.set_moe_intermediate_size(1408);
  moe.set_first_k_dense_replace(1);
  moe.set_scoring_func(ROUTER_SCORING_SOFTMAX);
  moe.set_topk_method(TOPK_GREEDY);
  moe.set_n_group(1);
  moe.set_topk_group(1);
  moe.set_norm_topk_prob(false);
  moe.set_scale_after_norm(false);
  moe.set_routed_scaling_factor(1);
  return a;
}

}  // namespace kompakt
