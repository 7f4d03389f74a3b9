"""Quantizes the linear layers of an F32 checkpoint folder to four bits, and writes what they then are as F32 beside it.

    make_fp4_checkpoint.py mxfp4|nvfp4|nvfp4-modelopt F32_FOLDER FP4_FOLDER TWIN_FOLDER

Embedding, head, router and norms stay. The twin's values are exactly those of the codes and scales: scales are powers of
two times 1 or 1.25, so that no product rounds.
"""
import json
import os
import shutil
import struct
import sys

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from compare_tensors import tensors

MAGNITUDES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
KEPT = ("lm_head", "embed_tokens", "norm", "mlp.gate.")


def write(folder, out, config):
    os.makedirs(folder)
    header, at = {}, 0
    for name, (dtype, shape, data) in out.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    with open(os.path.join(folder, "model.safetensors"), "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + b"".join(t[2] for t in out.values()))
    with open(os.path.join(folder, "config.json"), "w") as file:
        json.dump(config, file)


def codes_of(scaled):
    """Nearest code of each value, and the values of the codes."""
    code = np.abs(np.abs(scaled)[..., None] - MAGNITUDES).argmin(-1).astype(np.uint8)
    values = MAGNITUDES[code] * np.where(scaled < 0, -1, 1).astype(np.float32)
    return code | np.where(scaled < 0, 8, 0).astype(np.uint8), values


def packed(codes):
    return (codes[:, 0::2] | codes[:, 1::2] << 4).tobytes()


def mxfp4(stem, w):
    rows, cols = w.shape
    groups = w.reshape(rows, cols // 32, 32)
    exponent = np.floor(np.log2(np.maximum(np.abs(groups).max(-1), 2.0**-100))).astype(np.int32) - 2
    scale = np.exp2(exponent.astype(np.float32))[..., None]
    codes, values = codes_of(groups / scale)
    stored = {
        stem + "weight_packed": ("U8", (rows, cols // 2), packed(codes.reshape(rows, cols))),
        stem + "weight_scale": ("U8", (rows, cols // 32), (exponent + 127).astype(np.uint8).tobytes()),
    }
    return stored, (values * scale).reshape(rows, cols)


def nvfp4(stem, w, divides):
    rows, cols = w.shape
    groups = w.reshape(rows, cols // 16, 16)
    tensor_scale = np.float32(2.0 ** (np.ceil(np.log2(np.abs(w).max() / 6)) - 7))
    largest = np.maximum(np.abs(groups).max(-1) / (6 * 1.25 * tensor_scale), 2.0**-6)
    exponent = np.minimum(np.ceil(np.log2(largest)), 8).astype(np.int32)
    scale = np.float32(1.25) * np.exp2(exponent.astype(np.float32))
    e4m3 = ((exponent + 7) << 3 | 2).astype(np.uint8)  # 1.25 is the mantissa 2 of 8
    codes, values = codes_of(groups / (scale * tensor_scale)[..., None])
    kept = np.float32(1) / tensor_scale if divides else tensor_scale
    stored = {
        stem + ("weight_packed" if divides else "weight"): ("U8", (rows, cols // 2), packed(codes.reshape(rows, cols))),
        stem + "weight_scale": ("F8_E4M3", (rows, cols // 16), e4m3.tobytes()),
        stem + ("weight_global_scale" if divides else "weight_scale_2"): (
            "F32", (1,) if divides else (), struct.pack("<f", kept)),
    }
    return stored, (values * (scale * tensor_scale)[..., None]).reshape(rows, cols)


def main():
    kind, source, folder, twin = sys.argv[1:]
    with open(os.path.join(source, "config.json")) as file:
        config = json.load(file)
    stored, plain = {}, {}
    for name, tensor in tensors(source).items():
        stored[name] = plain[name] = tensor
        if any(part in name for part in KEPT) or len(tensor[1]) != 2:
            continue
        del stored[name]
        w = np.frombuffer(tensor[2], "<f4").reshape(tensor[1])
        stem = name[: -len("weight")]
        more, values = mxfp4(stem, w) if kind == "mxfp4" else nvfp4(stem, w, kind == "nvfp4")
        stored.update(more)
        plain[name] = ("F32", tensor[1], values.astype("<f4").tobytes())
    write(twin, plain, config)
    if kind == "nvfp4-modelopt":
        quantization = {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16,
                        "exclude_modules": ["lm_head", "model.layers.*.mlp.gate"]}
    else:
        weights = {"num_bits": 4, "type": "float", "symmetric": True, "dynamic": False,
                   "strategy": "group" if kind == "mxfp4" else "tensor_group", "group_size": 32 if kind == "mxfp4" else 16}
        quantization = {"quant_method": "compressed-tensors", "format": kind + "-pack-quantized",
                        "quantization_status": "compressed", "ignore": ["lm_head", "re:.*mlp\\.gate$"],
                        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}}
    write(folder, stored, {**config, "quantization_config": quantization})
    for place in (folder, twin):
        for beside in ("tokenizer.json", "tokenizer_config.json"):
            if os.path.exists(os.path.join(source, beside)):
                shutil.copy(os.path.join(source, beside), place)


if __name__ == "__main__":
    main()
