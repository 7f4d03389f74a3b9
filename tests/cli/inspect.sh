# inspect and plan: what is in the file, what would be, and why.
expect 0 "$KOMPAKT" convert "$DATA/checkpoints/tiny-v3" q4.kpk
expect 0 "$KOMPAKT" inspect q4.kpk
stdout_has 'DeepseekV3ForCausalLM'
stdout_has '14,?073,?648'
stdout_has 'mlp\.experts\.down_proj.*q4_g16'
stdout_has 'mlp\.experts\.gate_proj.*q4_g32'
stdout_has 'self_attn\.kv_b_proj.*q8_g32'
stdout_has 'mlp\.gate\.e_score_correction_bias.*f32'
stdout_has 'model-00003-of-000003\.safetensors'
expect 0 "$KOMPAKT" inspect q4.kpk --json
check "one JSON object" "$PYTHON" -c 'import json; json.load(open(".stdout"))'

expect 0 "$KOMPAKT" inspect q4.kpk --tensor model.layers.2.mlp.experts.7.down_proj.weight
stdout_has '256, ?256'
stdout_has 'q4_g16'
stdout_has '-[0-9]+\.[0-9]+ dB'
stdout_has '#{20}'
expect 0 "$KOMPAKT" inspect q4.kpk --tensor model.layers.2.mlp.experts.7.down_proj.weight --json
check "one JSON object" "$PYTHON" -c 'import json; d = json.load(open(".stdout")); assert d["nmse_db"] < -20, d'
expect 0 "$KOMPAKT" inspect q4.kpk --tensor model.norm.weight
stdout_has 'bf16'
expect 2 "$KOMPAKT" inspect q4.kpk --tensor model.layers.2.mlp.experts.7.donw_proj.weight
stderr_has '[Dd]id you mean.*down_proj'

expect 0 "$KOMPAKT" plan "$DATA/checkpoints/v3"
stdout_has 'q4_g32'
stdout_has 'RAM|memory'
stdout_has 'disk'
# The MTP layer of v3 is recognised and left out, and the user is told.
stderr_has 'MTP'
expect 0 "$KOMPAKT" plan "$DATA/checkpoints/kimi" --json
check "one JSON object" "$PYTHON" -c 'import json; json.load(open(".stdout"))'
stdout_has 'int4_g32'
