# Models that this program does not know, and configurations that contradict themselves.
source "$CLI/refuses.bash"

refuses_early unknown_architecture 'MixtralForCausalLM'
refuses_early dense_distill 'Qwen2ForCausalLM' 'dense|distill'
refuses_early unknown_rope 'longrope'
refuses_early unknown_scoring 'sqrtsoftplus'
refuses_early unknown_topk 'expert_choice'
refuses_early unknown_activation 'gelu_tanh'
refuses_early unknown_quantization 'quip_sharp'
refuses_early missing_key 'kv_lora_rank'
refuses_early wrong_type 'num_hidden_layers'
refuses_early zero_heads 'num_attention_heads' '0'
refuses_early huge_layer_count 'num_hidden_layers' '1099511627776'
refuses_early topk_beyond_experts 'num_experts_per_tok' '17' '16'
refuses_early groups_do_not_divide 'n_group' '3' '16'
refuses_early odd_rope_dim 'qk_rope_head_dim' '31'
refuses_early vocabulary_smaller_than_tokenizer '320' '4,?096'
