#!/usr/bin/env python3
"""Reads a .kpk file: a second implementation of docs/format.md, with numpy and zstandard and nothing of ours.

    read_kpk.py FILE [--list]              what is in it; every tensor: name, format, shape, offset
    read_kpk.py FILE TENSOR -o out.npy     one tensor as float32        (FILE: one, or any volume)
    read_kpk.py FILE --dump DIR            every tensor as DIR/NAME.npy

Checksums are not checked: XXH3 is not in the standard library. Use `kompakt verify` for that.
"""
import argparse
import os
import re
import struct
import sys

import numpy as np
import zstandard

TABLES = {  # of the formats q3_..., q4_..., and so on: the values, then the shift
    2: "-79 -20 31 104 19",
    3: "-95 -62 -37 -14 7 30 59 106 12",
    4: "-119 -82 -63 -48 -37 -26 -17 -8 1 10 19 30 41 54 69 86 5",
    5: "-124 -97 -88 -79 -68 -59 -52 -45 -38 -33 -28 -23 -18 -13 -8 -3 2 7 12 17 22 27 32 39 46 53 60 67 76 85 102 119 2",
    6: "-124 -115 -110 -101 -94 -89 -84 -79 -74 -69 -64 -61 -58 -55 -52 -49 -46 -43 -40 -37 -34 -31 -28 -25 -22 -19 -16 -13 -10 -7 -4 -1 "
       "2 5 8 11 14 17 20 23 26 29 32 35 38 41 44 47 50 53 56 59 62 65 70 75 78 83 88 95 106 111 116 125 1",
}
TABLES = {bits: np.array(values.split(), np.int32) for bits, values in TABLES.items()}
TILE_BYTES = dict(f32=2048, f16=1024, bf16=1024, fp8_b128=512, int4_g32=288, q8_g32=528, q4_g32=272, q4_g16=288, mxfp4=272, nvfp4=288,
                  q6_g32=400, q5_g32=336, q3_g32=208, q3_g16=224, q2_g32=144, q2_g16=160)
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


def check(condition, message):
    condition or sys.exit(f"read_kpk: {message}")


def fields(data):
    """The Protocol Buffers wire format as {field number: [values]}; embedded messages stay bytes."""
    found, at = {}, 0
    def varint():
        nonlocal at
        value, shift, byte = 0, 0, 128
        while byte & 128:
            check(at < len(data) and shift < 64, "manifest: bad varint")
            byte = data[at]
            value, at, shift = value | (byte & 127) << shift, at + 1, shift + 7
        return value
    while at < len(data):
        kind = (key := varint()) & 7
        check(kind in (0, 1, 2, 5), f"manifest: wire type {kind}")
        value = varint() if kind in (0, 2) else None
        if kind != 0:
            length = {1: 8, 5: 4}.get(kind, value)
            value = data[at : at + length]
            check(len(value) == length, "manifest: a field runs past its message")
            at += length
        found.setdefault(key >> 3, []).append(value)
    return found


number = lambda message, field: message.get(field, [0])[-1]
text = lambda message, field: message.get(field, [b""])[-1].decode()


class Tensor:  # one matrix or vector: what it is and where it lies
    def __init__(self, extent, part, record):
        zigzag = number(extent, 3)
        layer = (zigzag >> 1) ^ -(zigzag & 1)
        role, self.format = text(part, 1), text(part, 2)
        check(self.format in TILE_BYTES, f"{role}: unknown number format {self.format}")
        self.offset = number(extent, 1) + record * number(extent, 2) + number(part, 3)
        self.bytes, self.rows, self.cols = (number(part, field) for field in (4, 5, 6))
        self.is_vector = role.endswith(("norm", "bias"))
        prefix = "" if role == "lm_head" else "model." if layer < 0 else f"model.layers.{layer}."
        role = role.replace("mlp.experts.", f"mlp.experts.{record}.")
        self.name = prefix + role + ("" if role.endswith("bias") else ".weight")


class Volume:  # one file with its frame; most models are one
    def __init__(self, path):
        check(os.path.exists(path) and (size := os.path.getsize(path)) >= 128, f"{path}: missing, or too short")
        self.data = np.memmap(path, np.uint8, "r")
        head, foot = self.data[:64].tobytes(), self.data[-64:].tobytes()
        check(head[:8] == b"\x89KPK\r\n\x1a\n", f"{path}: not a .kpk file")
        check(foot[56:] == b"KPK-END\n", f"{path}: truncated")
        major, self.minor, header_bytes, file_bytes, required = struct.unpack_from("<HHIQQ", head, 8)
        check((major, header_bytes) == (1, 64) and not any(head[40:56]), f"{path}: damaged header, or not version 1")
        check(file_bytes == size, f"{path}: {size} bytes, expected {file_bytes}")
        offset, stored, full = struct.unpack_from("<QQQ", foot)
        in_place = offset % 64 == 0 and 64 <= offset and offset + stored + 64 == size and full <= 256 << 20
        check(in_place, f"{path}: manifest out of place")
        compressed = self.data[offset : offset + stored].tobytes()
        raw = zstandard.ZstdDecompressor().stream_reader(compressed, read_across_frames=True).read(full + 1)
        check(len(raw) == full, f"{path}: manifest is not {full} bytes")
        self.manifest = fields(raw)
        check(required in (0, 1), f"{path}: needs features that this reader does not know: {required:#x}")
        of_set = fields(b"".join(self.manifest.get(7, [])))
        self.set_id, self.index = of_set.get(1), number(of_set, 2)
        self.ends = list(struct.iter_unpack("<Q", b"".join(of_set.get(3, [])))) if required else [(offset,)]


class PackedFile:
    def __init__(self, path):
        path = re.sub(r"-\d{5}-of-(\d{5}\.kpk)$", r"-00001-of-\1", path)
        first = Volume(path)
        self.manifest, self.minor, self.parts, begin = first.manifest, first.minor, [], 0
        for i, (end,) in enumerate(first.ends):
            volume = Volume(path.replace("-00001-of-", f"-{i + 1:05}-of-")) if i else first
            as_named = (volume.set_id, volume.index) == (first.set_id, i + 1 if first.set_id else 0)
            check(as_named, f"{path}: volume {i + 1} is of another set or has another's name")
            self.parts.append((begin, end, volume.data[4096 if i else 0 :]))
            begin = end
        self.tensors, end = {}, 64
        for extent in map(fields, self.manifest.get(2, [])):
            records = sum(map(len, extent.get(5, []))) // 8
            check(number(extent, 1) >= end, f"{path}: extents overlap or do not ascend")
            end = number(extent, 1) + records * number(extent, 2)
            check(end <= begin, f"{path}: an extent runs past the end of the data")
            for record in range(records):
                for part in map(fields, extent.get(6, [])):
                    check(number(part, 3) + number(part, 4) <= number(extent, 2), f"{path}: a part outside its record")
                    check((t := Tensor(extent, part, record)).name not in self.tensors, f"{path}: {t.name} twice")
                    self.tensors[t.name] = t

    def weights(self, tensor):  # float32, [rows, cols] or [cols]
        begin, data = next((begin, data) for begin, end, data in self.parts if begin <= tensor.offset < end)
        blob = data[tensor.offset - begin : tensor.offset - begin + tensor.bytes]
        return vector(tensor, blob) if tensor.is_vector else matrix(tensor, blob)


def floats(name, raw):
    wide = (raw.view("<u2").astype(np.uint32) << 16).view(np.float32) if name == "bf16" else raw
    return wide.view({"f32": "<f4", "bf16": "<f4", "f16": "<f2"}[name]).astype(np.float32)


def vector(tensor, blob):
    check(tensor.format in ("f32", "f16", "bf16"), f"{tensor.name}: a vector in {tensor.format}")
    check(tensor.bytes == -(-tensor.cols * (width := TILE_BYTES[tensor.format] // 512) // 64) * 64, f"{tensor.name}: wrong size {tensor.bytes}")
    return floats(tensor.format, blob[: tensor.cols * width])


def fp8_values():
    code = np.arange(256)
    exponent, mantissa = code >> 3 & 15, code & 7
    value = np.where(exponent == 0, mantissa * 2.0**-9, (1 + mantissa / 8) * 2.0 ** (exponent - 7))
    return np.where(code < 128, value, -value).astype(np.float32)  # NaN codes do not occur


def matrix(tensor, blob):
    name, rows, cols, tile_bytes = tensor.format, tensor.rows, tensor.cols, TILE_BYTES[tensor.format]
    tile_rows, tile_cols, block_rows, block_cols = -(-rows // 16), -(-cols // 32), -(-rows // 128), -(-cols // 128)
    side_at = -(-tile_rows * tile_cols * tile_bytes // 64) * 64
    side_bytes = {"fp8_b128": 4 * block_rows * block_cols, "nvfp4": 8}.get(name, 64 * tile_rows * (name[0] == "q"))
    check(tensor.bytes == -(-(side_at + side_bytes) // 64) * 64, f"{tensor.name}: wrong size {tensor.bytes}")
    tiles = np.ascontiguousarray(blob[: tile_rows * tile_cols * tile_bytes]).reshape(tile_rows, tile_cols, tile_bytes)
    side = np.ascontiguousarray(blob[side_at : side_at + side_bytes]).view("<f4")

    in_rows = lambda codes: codes.reshape(tile_rows, 16, tile_cols, 32).astype(np.int32)

    def groups(at, n, kind=np.uint8):  # n scales per row of a tile, group after group: [R, 16, C, 32]
        scales = np.ascontiguousarray(tiles[:, :, at:]).view(kind).reshape(tile_rows, tile_cols, n, 16)
        return np.repeat(scales.transpose(0, 3, 1, 2), 32 // n, axis=3).astype(np.int32)

    if name in ("f32", "f16", "bf16"):  # [R, C, k / n, row, k % n]
        n = TILE_BYTES["f32"] // tile_bytes
        w = floats(name, tiles.reshape(-1)).reshape(tile_rows, tile_cols, 32 // n, 16, n).transpose(0, 3, 1, 2, 4)
    elif name in ("fp8_b128", "q8_g32"):  # codes [R, C, k / 4, row, k % 4]
        codes = in_rows(tiles[:, :, :512].reshape(tile_rows, tile_cols, 8, 16, 4).transpose(0, 3, 1, 2, 4))
        w = fp8_values()[codes] if name == "fp8_b128" else groups(512, 1) * (codes - 128)
    else:
        def plane(at, bits):  # codes of 1, 2 or 4 bits [R, C, k / (32 / bits), row, k % 4, bits from the lowest up]
            packed = tiles[:, :, at : at + 64 * bits].reshape(tile_rows, tile_cols, bits, 16, 4)
            parts = [packed >> bit & (1 << bits) - 1 for bit in range(0, 8, bits)]
            return in_rows(np.stack(parts, axis=4).transpose(0, 3, 1, 2, 4, 5))

        bits = int(name[1]) if name[0] == "q" else 4
        low = 2 if bits < 4 else 4
        codes = plane(0, low) | plane(64 * low, bits - low) << low if bits > low else plane(0, low)
        if name == "int4_g32":
            w = (codes - 8).astype(np.float32) * (groups(256, 1, np.uint16) << 16).view(np.float32)
        elif name == "mxfp4":
            w = E2M1[codes] * np.where((e := groups(256, 1)) == 0, 0x400000, e << 23).astype(np.int32).view(np.float32)
        elif name == "nvfp4":
            w = E2M1[codes] * fp8_values()[groups(256, 2)] * side[0] / side[1]
        else:
            g, b = (groups(64 * bits, 1), 7) if name.endswith("_g32") else (groups(64 * bits, 2), 6)
            w = ((g & (1 << b) - 1) - (1 << b - 1)) * (TABLES[bits][codes] + TABLES[bits][-1] * (g >> b & 1))
    w = w.reshape(tile_rows * 16, tile_cols * 32).astype(np.float32)
    w = (side[:, None] * w if name[0] == "q" else w)[:rows, :cols]
    blocks = side.reshape(block_rows, block_cols) if name == "fp8_b128" else None
    return w if blocks is None else w * blocks.repeat(128, axis=0).repeat(128, axis=1)[:rows, :cols]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("tensor", nargs="?")
    parser.add_argument("-o", "--output")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--dump", metavar="DIR")
    args = parser.parse_args()
    packed = PackedFile(args.file)
    for t in packed.tensors.values():
        if args.list:
            print(t.name, t.format, t.cols if t.is_vector else f"{t.rows}x{t.cols}", t.offset)
        if args.dump:
            np.save(os.path.join(args.dump, t.name + ".npy"), packed.weights(t))
    if args.tensor:
        check(args.output and args.tensor in packed.tensors, f"no tensor {args.tensor}, or -o OUT.npy is missing")
        np.save(args.output, packed.weights(packed.tensors[args.tensor]))
    elif not args.list and not args.dump:
        print(text(fields(packed.manifest[1][0]), 1), f"version 1.{packed.minor}, {len(packed.tensors)} tensors")

if __name__ == "__main__":
    main()
