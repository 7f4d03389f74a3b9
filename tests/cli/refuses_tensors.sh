# Checkpoints whose tensors are not those of the model, or hold what no weight may hold.
source "$CLI/refuses.bash"

refuses_early missing_tensor 'model\.layers\.1\.input_layernorm\.weight'
# The first ten by name, and how many there are.
refuses_early missing_many 'model\.layers\.2\.mlp\.experts\.0\.up_proj\.weight' 'experts\.9\.up_proj' 'missing 12'
stderr_lacks 'experts\.10\.up_proj'
refuses_early surplus_tensor 'model\.layers\.1\.self_attn\.indexer\.wk\.weight'
refuses_early surplus_many 'model\.layers\.1\.adapter\.0\.weight' 'adapter\.7\.weight' 'surplus 12'
stderr_lacks 'adapter\.8\.weight'

expert='model\.layers\.2\.mlp\.experts\.3\.up_proj\.weight'
o_proj='model\.layers\.1\.self_attn\.o_proj\.weight'
refuses_early unknown_dtype "$expert" 'F8_E9M9'
refuses_early unsupported_dtype "$expert" 'U8'
refuses_early wrong_shape "$o_proj" '256, ?192' '192, ?256'
refuses_early dtype_against_size 'model\.norm\.weight'
refuses nan_code "$expert" 'NaN'
refuses negative_nan_code "$o_proj" 'NaN'
refuses nan_norm 'model\.norm\.weight' '[Nn]a[Nn]|finite'
refuses infinite_embedding 'model\.embed_tokens\.weight' '[Ii]nf|finite'
refuses nan_bias 'model\.layers\.1\.mlp\.gate\.e_score_correction_bias' '[Nn]a[Nn]|finite'

refuses zero_scale "${expert}_scale_inv" 'found.*0'
refuses negative_scale "${expert}_scale_inv" '-1'
refuses infinite_scale "${expert}_scale_inv" 'inf'
refuses nan_scale "${expert}_scale_inv" '[Nn]a[Nn]'
refuses_early missing_scale "${expert}_scale_inv"
refuses_early wrong_scale_shape "${o_proj}_scale_inv" '2, ?2' '\[4\]'
refuses_early scale_without_weight 'model\.norm\.weight_scale_inv'
refuses_early scale_of_other_dtype "${o_proj}_scale_inv" 'F8_E8M0' 'I32'
refuses scale_no_power_of_two "${expert}_scale_inv" '0\.75' 'power'

int4='model\.layers\.1\.mlp\.experts\.2\.down_proj\.weight'
refuses_early int4_missing_scale "${int4}_scale"
refuses int4_nan_scale "${int4}_scale" '[Nn]a[Nn]|finite'
refuses int4_wrong_shape_tensor "${int4}_shape" '64'
refuses_early int4_wrong_packed_shape "${int4}_packed"
refuses_early int4_zero_point 'symmetric'
