#!/usr/bin/env python3
"""Compares tensors of safetensors files or folders: compare_tensors.py FOUND EXPECTED [--values | --subset]

Names, dtypes, shapes and bytes must be equal. --values: F32 and BF16 values, -0 equal to +0. --subset: EXPECTED may hold
more (MTP layers, which a packed file leaves out).
"""
import glob
import json
import os
import struct
import sys

import numpy as np


def tensors(path):
    files = sorted(glob.glob(os.path.join(path, "model*.safetensors"))) if os.path.isdir(path) else [path]
    found = {}
    for file in files:
        with open(file, "rb") as f:
            length = struct.unpack("<Q", f.read(8))[0]
            header = json.loads(f.read(length))
            data = f.read()
        for name, entry in header.items():
            if name != "__metadata__":
                begin, end = entry["data_offsets"]
                found[name] = (entry["dtype"], entry["shape"], data[begin:end])
    return found


def values(tensor):
    dtype, shape, data = tensor
    if dtype == "BF16":
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32).reshape(shape)
    assert dtype == "F32", dtype
    return np.frombuffer(data, "<f4").reshape(shape)


def main():
    found, expected = tensors(sys.argv[1]), tensors(sys.argv[2])
    subset, by_value = "--subset" in sys.argv, "--values" in sys.argv
    if by_value:  # the tensor that is not quantized passes through, and not every golden lists it
        found = {name: tensor for name, tensor in found.items() if name in expected or not name.endswith("mlp.gate.weight")}
    missing = sorted(set(expected) - set(found))
    surplus = sorted(set(found) - set(expected))
    if surplus or (missing and not subset) or not found:
        sys.exit(f"surplus {surplus[:5]}, missing {missing[:5]} of {len(expected)}")
    for name in found:
        if by_value:
            a, b = values(found[name]), values(expected[name])
            same = a.shape == b.shape and np.array_equal(a, b)
        else:
            same = found[name] == expected[name]
        if not same:
            sys.exit(f"{name} differs: {found[name][:2]}, expected {expected[name][:2]}")


if __name__ == "__main__":
    main()
