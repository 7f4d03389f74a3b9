"""Quantizes the linear layers of an F32 checkpoint folder to four bits as GPTQ or AWQ store them, with a zero point of 8 and
scales that are powers of two, so that int4_g32 keeps every tensor exactly.

    make_int4_checkpoint.py gptq|gptq_v2|gptq_index|awq F32_FOLDER FOLDER
"""
import json
import os
import sys

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from compare_tensors import tensors
from make_fp4_checkpoint import KEPT, write

GROUP = 32
AWQ_SHIFTS = (0, 16, 4, 20, 8, 24, 12, 28)


def words(codes, axis, shifts):
    """Eight codes along `axis` to a word each."""
    codes = np.moveaxis(codes, axis, 0).astype(np.uint32)
    out = np.zeros((codes.shape[0] // 8, *codes.shape[1:]), np.uint32)
    for j, shift in enumerate(shifts):
        out |= codes[j::8] << np.uint32(shift)
    return np.ascontiguousarray(np.moveaxis(out, 0, axis))


def main():
    kind, source, folder = sys.argv[1:]
    with open(os.path.join(source, "config.json")) as file:
        config = json.load(file)
    out = {}
    for name, tensor in tensors(source).items():
        if any(part in name for part in KEPT) or len(tensor[1]) != 2 or tensor[1][0] % 8 or tensor[1][1] % GROUP:
            out[name] = tensor
            continue
        rows, cols = tensor[1]
        groups = np.frombuffer(tensor[2], "<f4").reshape(rows, cols // GROUP, GROUP)
        scale = np.exp2(np.ceil(np.log2(np.maximum(np.abs(groups).max(-1) / 7, 2.0**-14)))).astype(np.float16)
        codes = np.clip(np.rint(groups / scale[..., None].astype(np.float32)) + 8, 0, 15).reshape(rows, cols).T
        stem = name[: -len("weight")]
        count = cols // GROUP
        shape = (cols, rows // 8) if kind == "awq" else (cols // 8, rows)
        packed = words(codes, 1, AWQ_SHIFTS) if kind == "awq" else words(codes, 0, range(0, 32, 4))
        zero = 8 if kind in ("awq", "gptq_v2") else 7
        out[stem + "qweight"] = ("I32", shape, packed.astype("<u4").tobytes())
        out[stem + "qzeros"] = ("I32", (count, rows // 8), np.full((count, rows // 8), zero * 0x11111111, "<u4").tobytes())
        out[stem + "scales"] = ("F16", (count, rows), np.ascontiguousarray(scale.T).astype("<f2").tobytes())
        if kind == "gptq_index":
            out[stem + "g_idx"] = ("I32", (cols,), (np.arange(cols) // GROUP).astype("<i4").tobytes())
    if kind == "awq":
        quantization = {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm"}
    else:
        quantization = {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "sym": True, "desc_act": False,
                        "checkpoint_format": "gptq_v2" if kind == "gptq_v2" else "gptq"}
    write(folder, out, {**config, "quantization_config": quantization})


if __name__ == "__main__":
    main()
