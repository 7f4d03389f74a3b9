#!/usr/bin/env python3
"""Makes tests/data/checkpoints/glm5 and its goldens: a random GLM-5-shaped checkpoint (indexer whose rotary pairs are
adjacent, layers that share the selection of a layer below, an MTP layer) and a float64 forward pass over it, written
from the published formulas with numpy and nothing of this project's code.

    make_glm5.py OUT              write the checkpoint, golden.safetensors and golden_mtp.safetensors to the folder OUT
    make_glm5.py --check FOLDER   run the same forward pass over another checkpoint of this family and print how far its
                                  golden.safetensors lies away (checkpoints/v3 and v32, whose goldens are not ours)
"""
import json
import os
import struct
import sys

import numpy as np

CONFIG = {
    "architectures": ["GlmMoeDsaForCausalLM"], "model_type": "glm_moe_dsa", "vocab_size": 130, "hidden_size": 88,
    "num_hidden_layers": 4, "intermediate_size": 150, "moe_intermediate_size": 40, "num_attention_heads": 3,
    "num_key_value_heads": 3, "q_lora_rank": 36, "kv_lora_rank": 44, "qk_nope_head_dim": 20, "qk_rope_head_dim": 12,
    "v_head_dim": 28, "n_routed_experts": 9, "n_shared_experts": 1, "num_experts_per_tok": 3, "n_group": 1,
    "topk_group": 1, "norm_topk_prob": True, "routed_scaling_factor": 2.5, "scoring_func": "sigmoid",
    "topk_method": "noaux_tc", "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"], "rms_norm_eps": 1e-5,
    "hidden_act": "silu", "attention_bias": False, "tie_word_embeddings": False, "max_position_embeddings": 4096,
    "rope_parameters": {"rope_theta": 1000000, "rope_type": "default"}, "rope_interleave": True, "index_n_heads": 6,
    "index_head_dim": 30, "index_topk": 11, "indexer_rope_interleave": True,
    "indexer_types": ["full", "shared", "full", "shared"], "num_nextn_predict_layers": 1, "bos_token_id": 0,
    "eos_token_id": [1, 2], "torch_dtype": "bfloat16",
}


SEED = 28  # no choice of an expert or a row is closer than 1e-4


def bf16_round(x):
    bits = np.asarray(x, np.float32).view(np.uint32)
    return ((bits.astype(np.uint64) + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def write_safetensors(path, tensors):
    header, at = {}, 0
    for name, (dtype, array) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, array in tensors.values():
            file.write(array.tobytes())


def read_safetensors(path):
    with open(path, "rb") as file:
        data = file.read()
    size = struct.unpack_from("<Q", data)[0]
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__", None)
    kinds = {"BF16": "<u2", "F32": "<f4", "F8_E4M3": "u1", "I64": "<i8"}
    out = {}
    for name, info in header.items():
        begin, end = (8 + size + offset for offset in info["data_offsets"])
        out[name] = info["dtype"], np.frombuffer(data[begin:end], kinds[info["dtype"]]).reshape(info["shape"])
    return out


def fp8_table():
    code = np.arange(256)
    sign, e, m = np.where(code & 128, -1.0, 1.0), (code >> 3) & 15, code & 7
    return sign * np.where(e == 0, m * 2.0**-9, (1 + m / 8) * 2.0 ** (e - 7.0))


class Weights:  # float64 values by name
    def __init__(self, folder):
        self.stored = {}
        for file in sorted(os.listdir(folder)):
            if file.endswith(".safetensors") and not file.startswith("golden"):
                self.stored.update(read_safetensors(os.path.join(folder, file)))
        self.cache = {}

    def __contains__(self, name):
        return name in self.stored

    def __call__(self, name):
        if name not in self.cache:
            dtype, array = self.stored[name]
            if dtype == "BF16":
                value = (array.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
            elif dtype == "F8_E4M3":
                scale = self.stored[name + "_scale_inv"][1].astype(np.float64)
                rows, cols = array.shape
                value = fp8_table()[array] * scale.repeat(128, 0)[:rows].repeat(128, 1)[:, :cols]
            else:
                value = array.astype(np.float64)
            self.cache[name] = value
        return self.cache[name]


def rms(x, weight, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def layer_norm(x, weight, bias, eps):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred * centred).mean(-1, keepdims=True) + eps) * weight + bias


def silu(x):
    return x / (1 + np.exp(-x))


def rotate(x, angles, adjacent):  # x [T, ..., d], angles [T, d / 2]
    half = x.shape[-1] // 2
    shape = (len(angles),) + (1,) * (x.ndim - 2) + (half,)
    c, s = np.cos(angles).reshape(shape), np.sin(angles).reshape(shape)
    out = np.empty_like(x)
    a, b = (x[..., 0::2], x[..., 1::2]) if adjacent else (x[..., :half], x[..., half:])
    if adjacent:
        out[..., 0::2], out[..., 1::2] = a * c - b * s, a * s + b * c
    else:
        out[..., :half], out[..., half:] = a * c - b * s, a * s + b * c
    return out


class Model:
    def __init__(self, folder):
        self.w = Weights(folder)
        with open(os.path.join(folder, "config.json")) as file:
            self.c = json.load(file)
        c = self.c
        block = c.get("rope_parameters") or c.get("rope_scaling") or {}
        theta, d = c.get("rope_theta", block.get("rope_theta")), c["qk_rope_head_dim"]
        f = theta ** (-np.arange(0, d, 2) / d)
        self.scale = (c["qk_nope_head_dim"] + d) ** -0.5
        if block.get("type", block.get("rope_type")) == "yarn":
            dim = lambda r: d * np.log(block["original_max_position_embeddings"] / (2 * np.pi * r)) / (2 * np.log(theta))
            low, high = max(np.floor(dim(block["beta_fast"])), 0), min(np.ceil(dim(block["beta_slow"])), d - 1)
            ramp = np.clip((np.arange(d // 2) - low) / (high - low if high != low else 0.001), 0, 1)
            f = f / block["factor"] * ramp + f * (1 - ramp)
            self.scale *= (0.1 * block["mscale_all_dim"] * np.log(block["factor"]) + 1) ** 2
        self.frequencies = f
        self.gaps = []  # how clearly each choice was made

    def dense_layers(self):
        kinds = self.c.get("mlp_layer_types")
        return kinds.count("dense") if kinds else self.c["first_k_dense_replace"]

    def select(self, prefix, x, q_latent, angles):  # [T, T] bool
        c, w, T = self.c, self.w, len(x)
        heads, dim, rope, top = c["index_n_heads"], c["index_head_dim"], c["qk_rope_head_dim"], c["index_topk"]
        adjacent = c.get("indexer_rope_interleave", c["model_type"] == "glm_moe_dsa")
        q = (q_latent @ w(prefix + "wq_b.weight").T).reshape(T, heads, dim)
        k = layer_norm(x @ w(prefix + "wk.weight").T, w(prefix + "k_norm.weight"), w(prefix + "k_norm.bias"), 1e-6)
        q[..., :rope] = rotate(q[..., :rope], angles, adjacent)
        k[..., :rope] = rotate(k[..., :rope], angles, adjacent)
        gate = x @ w(prefix + "weights_proj.weight").T * heads**-0.5
        scores = np.einsum("th,thj->tj", gate, np.maximum(np.einsum("thd,jd->thj", q, k) * dim**-0.5, 0))
        seen = np.zeros((T, T), bool)
        for t in range(T):
            order = sorted(range(t + 1), key=lambda j: (-scores[t, j], j))
            seen[t, order[:top]] = True
            if t >= top:
                self.gaps.append((scores[t, order[top - 1]] - scores[t, order[top]]) / np.abs(scores[t, : t + 1]).max())
        return seen

    def layer(self, l, x, seen):
        c, w, T, p = self.c, self.w, len(x), f"model.layers.{l}."
        H, dn, dr, dv, rank = (c[k] for k in ("num_attention_heads", "qk_nope_head_dim", "qk_rope_head_dim",
                                              "v_head_dim", "kv_lora_rank"))
        angles = np.arange(T)[:, None] * self.frequencies
        y = rms(x, w(p + "input_layernorm.weight"), c["rms_norm_eps"])
        a = p + "self_attn."
        q_latent = rms(y @ w(a + "q_a_proj.weight").T, w(a + "q_a_layernorm.weight"), 1e-6)
        q = (q_latent @ w(a + "q_b_proj.weight").T).reshape(T, H, dn + dr)
        q[..., dn:] = rotate(q[..., dn:], angles, True)
        kv = y @ w(a + "kv_a_proj_with_mqa.weight").T
        key = rotate(kv[:, rank:], angles, True)
        kv = rms(kv[:, :rank], w(a + "kv_a_layernorm.weight"), 1e-6) @ w(a + "kv_b_proj.weight").T
        kv = kv.reshape(T, H, dn + dv)
        scores = np.einsum("thd,jhd->htj", q[..., :dn], kv[..., :dn]) + np.einsum("thd,jd->htj", q[..., dn:], key)
        if a + "indexer.wk.weight" in w:
            seen = self.select(a + "indexer.", y, q_latent, angles)
        mask = np.tril(np.ones((T, T), bool)) if seen is None else seen
        scores = np.where(mask[None], scores * self.scale, -np.inf)
        prob = np.exp(scores - scores.max(-1, keepdims=True))
        prob /= prob.sum(-1, keepdims=True)
        x = x + np.einsum("htj,jhd->thd", prob, kv[..., dn:]).reshape(T, H * dv) @ w(a + "o_proj.weight").T
        y = rms(x, w(p + "post_attention_layernorm.weight"), c["rms_norm_eps"])
        ffn = lambda name, z: (silu(z @ w(name + "gate_proj.weight").T) * (z @ w(name + "up_proj.weight").T)) @ w(
            name + "down_proj.weight").T
        if l < self.dense_layers():
            return x + ffn(p + "mlp.", y), seen, None
        K, E, G = c["num_experts_per_tok"], c["n_routed_experts"], c["n_group"]
        s = 1 / (1 + np.exp(-(y @ w(p + "mlp.gate.weight").T)))
        biased = s + w(p + "mlp.gate.e_score_correction_bias")
        ids, weights = np.empty((T, K), np.int64), np.empty((T, K))
        out = ffn(p + "mlp.shared_experts.", y)
        for t in range(T):
            b = biased[t].copy()
            if G > 1:
                best = np.sort(b.reshape(G, -1), -1)[:, -2:].sum(-1)
                for g in np.argsort(-best, kind="stable")[c["topk_group"] :]:
                    b[g * E // G : (g + 1) * E // G] = -np.inf
            order = np.argsort(-b, kind="stable")
            self.gaps.append(b[order[K - 1]] - b[order[K]])
            ids[t] = np.sort(order[:K])
            chosen = s[t, ids[t]]
            weights[t] = chosen / (chosen.sum() + 1e-20) * c["routed_scaling_factor"]
            for e, weight in zip(ids[t], weights[t]):
                out[t] += weight * ffn(p + f"mlp.experts.{e}.", y[t])
        return x + out, seen, (ids, weights)

    def forward(self, ids):
        c, w = self.c, self.w
        x, seen, hidden, routes = w("model.embed_tokens.weight")[ids], None, [], []
        for l in range(c["num_hidden_layers"]):
            hidden.append(x)
            x, seen, route = self.layer(l, x, seen)
            routes += [route] if route else []
        x = rms(x, w("model.norm.weight"), c["rms_norm_eps"])
        out = {"logits": x @ w("lm_head.weight").T, "hidden": np.array(hidden + [x]),
               "router_ids": np.array([r[0] for r in routes]), "router_weights": np.array([r[1] for r in routes])}
        l = c["num_hidden_layers"]
        if c.get("num_nextn_predict_layers") and f"model.layers.{l}.eh_proj.weight" in w:
            p, eps = f"model.layers.{l}.", c["rms_norm_eps"]
            z = np.concatenate([rms(w("model.embed_tokens.weight")[ids[1:]], w(p + "enorm.weight"), eps),
                                rms(x[:-1], w(p + "hnorm.weight"), eps)], -1) @ w(p + "eh_proj.weight").T
            y, _, route = self.layer(l, z, None)
            head = rms(y, w(p + "shared_head.norm.weight"), eps) @ w("lm_head.weight").T
            mtp = {"mtp_input": z, "mtp_layer_out": y, "mtp_logits": head, "router_ids": route[0],
                   "router_weights": route[1]}
            return out, mtp
        return out, {}


def make_checkpoint(folder, seed):
    c = CONFIG
    rng = np.random.default_rng(seed)
    h, H, dn, dr, dv = (c[k] for k in ("hidden_size", "num_attention_heads", "qk_nope_head_dim", "qk_rope_head_dim",
                                       "v_head_dim"))
    rq, rkv, E, M = c["q_lora_rank"], c["kv_lora_rank"], c["n_routed_experts"], c["moe_intermediate_size"]
    tensors = {}

    def put(name, rows, cols=None, gain=1.0, dtype="BF16"):
        if cols is None:
            array = 1 + 0.2 * rng.standard_normal(rows)
        else:
            array = rng.standard_normal((rows, cols)) * gain / np.sqrt(cols)
        tensors[name] = ("F32", array.astype("<f4")) if dtype == "F32" else ("BF16", bf16_round(array))

    def ffn(prefix, width):
        put(prefix + "gate_proj.weight", width, h)
        put(prefix + "up_proj.weight", width, h)
        put(prefix + "down_proj.weight", h, width)

    put("model.embed_tokens.weight", c["vocab_size"], h, gain=np.sqrt(h))
    put("model.norm.weight", h)
    put("lm_head.weight", c["vocab_size"], h, gain=3)
    for l in range(c["num_hidden_layers"] + 1):
        p = f"model.layers.{l}."
        mtp = l == c["num_hidden_layers"]
        put(p + "input_layernorm.weight", h)
        put(p + "post_attention_layernorm.weight", h)
        put(p + "self_attn.q_a_proj.weight", rq, h)
        put(p + "self_attn.q_a_layernorm.weight", rq)
        put(p + "self_attn.q_b_proj.weight", H * (dn + dr), rq, gain=1.5)
        put(p + "self_attn.kv_a_proj_with_mqa.weight", rkv + dr, h)
        put(p + "self_attn.kv_a_layernorm.weight", rkv)
        put(p + "self_attn.kv_b_proj.weight", H * (dn + dv), rkv, gain=1.5)
        put(p + "self_attn.o_proj.weight", h, H * dv)
        if mtp or c["indexer_types"][l] == "full":
            i = p + "self_attn.indexer."
            put(i + "wq_b.weight", c["index_n_heads"] * c["index_head_dim"], rq)
            put(i + "wk.weight", c["index_head_dim"], h)
            put(i + "k_norm.weight", c["index_head_dim"], dtype="F32" if l == 0 else "BF16")
            bias = 0.3 * rng.standard_normal(c["index_head_dim"])
            tensors[i + "k_norm.bias"] = ("F32", bias.astype("<f4")) if l == 0 else ("BF16", bf16_round(bias))
            put(i + "weights_proj.weight", c["index_n_heads"], h, gain=2)
        if not mtp and c["mlp_layer_types"][l] == "dense":
            ffn(p + "mlp.", c["intermediate_size"])
        else:
            put(p + "mlp.gate.weight", E, h)
            tensors[p + "mlp.gate.e_score_correction_bias"] = "F32", (2 + 0.1 * rng.standard_normal(E)).astype("<f4")
            for e in range(E):
                ffn(p + f"mlp.experts.{e}.", M)
            ffn(p + "mlp.shared_experts.", M)
        if mtp:
            tensors[p + "embed_tokens.weight"] = tensors["model.embed_tokens.weight"]
            tensors[p + "shared_head.head.weight"] = tensors["lm_head.weight"]
            for name in ("enorm", "hnorm", "shared_head.norm"):
                put(p + name + ".weight", h)
            put(p + "eh_proj.weight", h, 2 * h)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "config.json"), "w") as file:
        file.write(json.dumps(c, indent=1) + "\n")
    write_safetensors(os.path.join(folder, "model.safetensors"), tensors)
    return np.concatenate([[0], rng.integers(3, c["vocab_size"], 47)])


def main():
    if sys.argv[1] == "--check":
        model = Model(sys.argv[2])
        golden = {k: v[1] for k, v in read_safetensors(os.path.join(sys.argv[2], "golden.safetensors")).items()}
        for found in model.forward(golden["ids"])[:1]:
            for name in found:
                print(f"{name}: {np.abs(found[name] - golden[name]).max():.3g}, range {np.ptp(golden[name]):.3g}")
        return
    ids = make_checkpoint(sys.argv[1], SEED)
    model = Model(sys.argv[1])
    for file, values in zip(("golden", "golden_mtp"), model.forward(ids)):
        golden = {"ids": ("I64", ids.astype("<i8"))}
        for name, value in values.items():
            kind = ("I64", "<i8") if value.dtype == np.int64 else ("F32", "<f4")
            golden[name] = kind[0], np.ascontiguousarray(value.astype(kind[1]))
        write_safetensors(os.path.join(sys.argv[1], file + ".safetensors"), golden)
    print("closest choice:", min(model.gaps))


main()
