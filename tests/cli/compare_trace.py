"""Compares a trace with a golden: compare_trace.py FOUND.safetensors GOLDEN.safetensors

A golden of an MTP layer may hold a tensor for diagnosis besides.
"""
import json
import struct
import sys

import numpy as np

DTYPES = {"F32": "<f4", "I64": "<i8"}


def read(path):
    with open(path, "rb") as file:
        raw = file.read()
    (count,) = struct.unpack_from("<Q", raw)
    header = json.loads(raw[8 : 8 + count])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        flat = np.frombuffer(raw[8 + count + begin : 8 + count + end], DTYPES[entry["dtype"]])
        tensors[name] = flat.reshape(entry["shape"])
    return tensors


found, golden = read(sys.argv[1]), read(sys.argv[2])
failures = []
if set(found) != set(golden) - {"mtp_logits_prenorm"}:
    failures.append(f"tensors expected {sorted(golden)}, found {sorted(found)}")
for name in sorted(set(found) & set(golden)):
    a, b = found[name], golden[name]
    if a.shape != b.shape or a.dtype != b.dtype:
        failures.append(f"{name}: expected {b.dtype} {b.shape}, found {a.dtype} {a.shape}")
        continue
    if name in ("ids", "router_ids"):
        wrong = int((a != b).sum())
        if wrong:
            failures.append(f"{name}: {wrong} of {a.size} differ")
        continue
    error = np.abs(a.astype(np.float64) - b)
    if name == "router_weights":
        limit = 1e-5 * np.abs(b).max()  # relative to the largest weight
    elif name == "hidden":
        # Each layer by its own range; the residual stream grows with depth.
        span = (b.max(axis=(1, 2)) - b.min(axis=(1, 2)))[:, None, None]
        error, limit = error / span, 1e-4
    else:
        limit = 1e-4 * float(b.max() - b.min())
    worst = float(error.max())
    if not worst <= limit:
        failures.append(f"{name}: largest error {worst:.3g}, limit {limit:.3g}")
print("\n".join(failures) or "as the golden")
sys.exit(bool(failures))
