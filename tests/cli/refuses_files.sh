# Checkpoints whose files are not what they seem.
source "$CLI/refuses.bash"
accepts_the_unharmed_copy

shard='model-00002-of-000002\.safetensors'
refuses_early lfs_pointer "$shard" 'Git.?LFS'
refuses_early html_page "$shard" 'HTML'
refuses_early truncated_shard "$shard" '5649144' '5648144'
refuses_early trailing_bytes "$shard"
refuses_early empty_shard "$shard"
refuses_early cut_header "$shard"
refuses_early huge_header "$shard" '1099511627776'
refuses_early absent_shard "$shard"
refuses_early index_names_wrong_shard 'model\.safetensors\.index\.json|model-00001' 'layers\.1\.self_attn\.o_proj\.weight'
refuses_early index_lacks_tensor 'layers\.1\.self_attn\.o_proj\.weight'
refuses_early index_leaves_folder '\.\./model-00002'
refuses_early index_is_no_json 'model\.safetensors\.index\.json'
refuses_early config_is_no_json 'config\.json'
refuses_early tensor_in_two_shards 'layers\.1\.self_attn\.o_proj\.weight' 'model-00001' "$shard"
refuses_early overlapping_tensors "$shard" '"?b"?'
refuses_early duplicate_name "$shard" 'tensor_a'

# A folder without config.json is not a checkpoint, and an absent one is nothing at all: I/O, not corruption.
bad_checkpoint no_config
expect 4 "$KOMPAKT" convert bad out.kpk
stderr_has 'config\.json'
expect 4 "$KOMPAKT" convert no-such-folder out.kpk
stderr_has 'no-such-folder'
# A file that is neither folder nor packed file.
echo "hello" >plain.txt
expect 3 "$KOMPAKT" convert plain.txt out.kpk
stderr_has 'plain\.txt'
