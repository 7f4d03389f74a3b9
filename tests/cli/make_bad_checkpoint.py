"""Copies a checkpoint of the test data with one thing wrong.

    make_bad_checkpoint.py DAMAGE CHECKPOINTS DESTINATION

CHECKPOINTS is tests/data/checkpoints. DAMAGE names a function below, whose comment says what is wrong; "none" is an
undamaged copy. What each damage must lead to stands in the cases (tests/cli/refuses_*.sh).
"""
import json
import os
import shutil
import struct
import sys

SHARD_1 = "model-00001-of-000002.safetensors"
SHARD_2 = "model-00002-of-000002.safetensors"
INDEX = "model.safetensors.index.json"

# Tensors of v3, FP8 with its scales in the other shard.
O_PROJ = "model.layers.1.self_attn.o_proj.weight"
EXPERT = "model.layers.2.mlp.experts.3.up_proj.weight"
BIAS = "model.layers.1.mlp.gate.e_score_correction_bias"
# Of kimi, packed INT4.
INT4_EXPERT = "model.layers.1.mlp.experts.2.down_proj."


class Checkpoint:
    """config.json and the tensors of every shard, in memory; save() writes them with a matching index."""

    def __init__(self, folder):
        with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
            self.config = json.load(file)
        self.shards = {}  # file name -> {tensor name: [dtype, shape, bytes]}
        self.extra_files = {}  # file name -> bytes
        for name in sorted(os.listdir(folder)):
            if name.startswith("model") and name.endswith(".safetensors"):
                self.shards[name] = self._read(os.path.join(folder, name))
        self.weight_map = {tensor: shard for shard, tensors in self.shards.items() for tensor in tensors}

    @staticmethod
    def _read(path):
        with open(path, "rb") as file:
            raw = file.read()
        (count,) = struct.unpack_from("<Q", raw)
        header = json.loads(raw[8 : 8 + count])
        header.pop("__metadata__", None)
        data = memoryview(raw)[8 + count :]
        return {
            name: [entry["dtype"], entry["shape"], bytearray(data[slice(*entry["data_offsets"])])]
            for name, entry in header.items()
        }

    def __getitem__(self, tensor):
        return self.shards[self.weight_map[tensor]][tensor]

    def remove(self, tensor):
        del self.shards[self.weight_map.pop(tensor)][tensor]

    def add(self, tensor, dtype, shape, content, shard=SHARD_2):
        self.shards[shard][tensor] = [dtype, shape, bytearray(content)]
        self.weight_map[tensor] = shard

    def poke(self, tensor, offset, content):
        self[tensor][2][offset : offset + len(content)] = content

    @staticmethod
    def encode(tensors):
        header, offset = {}, 0
        for name, (dtype, shape, content) in tensors.items():
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + len(content)]}
            offset += len(content)
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        return struct.pack("<Q", len(text)) + text + b"".join(bytes(t[2]) for t in tensors.values())

    def save(self, folder):
        os.makedirs(folder)
        files = {name: self.encode(tensors) for name, tensors in self.shards.items()}
        files["config.json"] = json.dumps(self.config, indent=2).encode()
        if len(self.shards) > 1:
            files[INDEX] = json.dumps({"metadata": {}, "weight_map": self.weight_map}).encode()
        files.update(self.extra_files)
        for name, content in files.items():
            if content is not None:
                with open(os.path.join(folder, name), "wb") as file:
                    file.write(content)


# ---- the files ----------------------------------------------------------------------------------------------------


def none(c):
    """Nothing is wrong."""


def lfs_pointer(c):
    """git clone without git-lfs."""
    c.extra_files[SHARD_2] = (
        b"version https://git-lfs.github.com/spec/v1\n"
        b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 5647472\n"
    )


def html_page(c):
    """A download that got the log-in page."""
    c.extra_files[SHARD_2] = b"<!DOCTYPE html>\n<html><head><title>401</title></head><body>Sign in</body></html>\n"


def truncated_shard(c):
    c.extra_files[SHARD_2] = c.encode(c.shards[SHARD_2])[:-1000]


def trailing_bytes(c):
    c.extra_files[SHARD_2] = c.encode(c.shards[SHARD_2]) + b"\0" * 16


def empty_shard(c):
    c.extra_files[SHARD_2] = b""


def cut_header(c):
    c.extra_files[SHARD_2] = c.encode(c.shards[SHARD_2])[:100]


def huge_header(c):
    c.extra_files[SHARD_2] = struct.pack("<Q", 1 << 40) + c.encode(c.shards[SHARD_2])[8:]


def absent_shard(c):
    c.extra_files[SHARD_2] = None


def index_names_wrong_shard(c):
    c.weight_map = {**c.weight_map, O_PROJ: SHARD_1}


def index_lacks_tensor(c):
    c.weight_map = {name: shard for name, shard in c.weight_map.items() if name != O_PROJ}


def index_leaves_folder(c):
    c.weight_map = {**c.weight_map, O_PROJ: "../" + SHARD_2}


def index_is_no_json(c):
    c.extra_files[INDEX] = b'{"weight_map": {'


def config_is_no_json(c):
    c.extra_files["config.json"] = b'{"architectures": ['


def no_config(c):
    c.extra_files["config.json"] = None


def tensor_in_two_shards(c):
    c.shards[SHARD_1][O_PROJ] = c[O_PROJ]


def overlapping_tensors(c):
    tensors = {"a": ["U8", [4], bytearray(4)], "b": ["U8", [4], bytearray(4)]}
    c.extra_files[SHARD_2] = c.encode(tensors).replace(b"[4, 8]", b"[2, 6]")


def duplicate_name(c):
    twice = {"tensor_a": ["U8", [4], bytearray(4)], "tensor_b": ["U8", [4], bytearray(4)]}
    c.extra_files[SHARD_2] = c.encode(twice).replace(b"tensor_b", b"tensor_a")


# ---- the tensors --------------------------------------------------------------------------------------------------


def missing_tensor(c):
    c.remove("model.layers.1.input_layernorm.weight")


def missing_many(c):
    for expert in range(12):
        c.remove(f"model.layers.2.mlp.experts.{expert}.up_proj.weight")
        c.remove(f"model.layers.2.mlp.experts.{expert}.up_proj.weight_scale_inv")


def surplus_tensor(c):
    c.add("model.layers.1.self_attn.indexer.wk.weight", "BF16", [2, 2], bytes(8))


def surplus_many(c):
    for number in range(12):
        c.add(f"model.layers.1.adapter.{number}.weight", "BF16", [2, 2], bytes(8))


def unknown_dtype(c):
    c[EXPERT][0] = "F8_E9M9"


def unsupported_dtype(c):
    """A dtype that safetensors has and no weight of this family uses."""
    c[EXPERT][0] = "U8"


def wrong_shape(c):
    c[O_PROJ][1] = c[O_PROJ][1][::-1]


def dtype_against_size(c):
    c["model.norm.weight"][0] = "F32"


def nan_code(c):
    c.poke(EXPERT, 12345, b"\x7f")


def negative_nan_code(c):
    c.poke(O_PROJ, 0, b"\xff")


def nan_norm(c):
    c.poke("model.norm.weight", 10, struct.pack("<H", 0x7FC0))


def infinite_embedding(c):
    c.poke("model.embed_tokens.weight", 2 * 777, struct.pack("<H", 0xFF80))


def nan_bias(c):
    c.poke(BIAS, 4 * 3, struct.pack("<f", float("nan")))


def zero_scale(c):
    c.poke(EXPERT + "_scale_inv", 4, struct.pack("<f", 0.0))


def negative_scale(c):
    c.poke(EXPERT + "_scale_inv", 4, struct.pack("<f", -1.0))


def infinite_scale(c):
    c.poke(EXPERT + "_scale_inv", 4, struct.pack("<f", float("inf")))


def nan_scale(c):
    c.poke(EXPERT + "_scale_inv", 4, struct.pack("<f", float("nan")))


def missing_scale(c):
    c.remove(EXPERT + "_scale_inv")


def wrong_scale_shape(c):
    tensor = c[O_PROJ + "_scale_inv"]
    tensor[1] = [4]


def scale_without_weight(c):
    """A scale whose weight is not FP8."""
    c.add("model.norm.weight_scale_inv", "F32", [1, 2], struct.pack("<2f", 1, 1))


def scale_of_other_dtype(c):
    tensor = c[O_PROJ + "_scale_inv"]
    tensor[0] = "I32"


def scale_no_power_of_two(c):
    c.config["quantization_config"]["scale_fmt"] = "ue8m0"
    for name in c.weight_map:
        if name.endswith("_scale_inv"):
            tensor = c[name]
            tensor[2][:] = struct.pack("<f", 0.5) * (len(tensor[2]) // 4)
    c.poke(EXPERT + "_scale_inv", 0, struct.pack("<f", 0.75))


def int4_missing_scale(c):
    c.remove(INT4_EXPERT + "weight_scale")


def int4_nan_scale(c):
    c.poke(INT4_EXPERT + "weight_scale", 6, struct.pack("<H", 0x7FC0))


def int4_wrong_shape_tensor(c):
    c.poke(INT4_EXPERT + "weight_shape", 0, struct.pack("<q", 64))


def int4_wrong_packed_shape(c):
    c[INT4_EXPERT + "weight_packed"][1] = c[INT4_EXPERT + "weight_packed"][1][::-1]


def int4_zero_point(c):
    c.config["quantization_config"]["config_groups"]["group_0"]["weights"]["symmetric"] = False


# ---- config.json --------------------------------------------------------------------------------------------------


def unknown_architecture(c):
    c.config["architectures"] = ["MixtralForCausalLM"]
    c.config["model_type"] = "mixtral"


def dense_distill(c):
    c.config = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": 192,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "intermediate_size": 320,
        "vocab_size": 320,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
    }


def unknown_rope(c):
    c.config["rope_scaling"]["type"] = "longrope"


def unknown_scoring(c):
    c.config["scoring_func"] = "sqrtsoftplus"


def unknown_topk(c):
    c.config["topk_method"] = "expert_choice"


def unknown_activation(c):
    c.config["hidden_act"] = "gelu_tanh"


def unknown_quantization(c):
    c.config["quantization_config"]["quant_method"] = "quip_sharp"


def missing_key(c):
    del c.config["kv_lora_rank"]


def wrong_type(c):
    c.config["num_hidden_layers"] = "three"


def zero_heads(c):
    c.config["num_attention_heads"] = 0


def huge_layer_count(c):
    c.config["num_hidden_layers"] = 1 << 40


def topk_beyond_experts(c):
    c.config["num_experts_per_tok"] = 17


def groups_do_not_divide(c):
    c.config["n_group"] = 3


def odd_rope_dim(c):
    c.config["qk_rope_head_dim"] = 31


def vocabulary_smaller_than_tokenizer(c):
    """The tokenizer of tiny-v3 has 4,096 tokens, the model 320 rows."""
    with open(os.path.join(sys.argv[2], "tiny-v3", "tokenizer.json"), "rb") as file:
        c.extra_files["tokenizer.json"] = file.read()


def main():
    damage, checkpoints, destination = sys.argv[1:]
    shutil.rmtree(destination, ignore_errors=True)
    checkpoint = Checkpoint(os.path.join(checkpoints, "kimi" if damage.startswith("int4_") else "v3"))
    globals()[damage](checkpoint)
    checkpoint.save(destination)


if __name__ == "__main__":
    main()
