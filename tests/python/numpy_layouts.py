"""Checkpoints of quantized models in NumPy, from the layouts' public documentation alone: plain tables, no speed,
nothing shared with the program.

    tensors = read_checkpoint(folder)                      # {name: Tensor}, shards through their index
    q = DECODERS["fp_quant"](tensors, "model.layers.0.mlp.up_proj", config["quantization_config"])
    q.codes, q.scales, q.global_scale, q.values            # (N, K), (N, groups), a float or None, (N, K) float32

Everywhere: (N, K) = (out, in) in row-major order, groups along K; two elements of four bits in a byte have the even one in
the low nibble. Values are FP32, each operation rounded: element * (scale / divisor), or element * (scale * factor).
"""
import json
import os
import struct
from collections import namedtuple

import numpy as np

F = np.float32
ITEM = {"U8": 1, "F8_E4M3": 1, "BF16": 2, "F16": 2, "F32": 4, "I32": 4, "I64": 8}
INDEX = "model.safetensors.index.json"

Tensor = namedtuple("Tensor", "dtype shape data")                # data: bytes
Decoded = namedtuple("Decoded", "codes scales global_scale values")


def read_file(path):
    """{name: Tensor} of a safetensors file, and its __metadata__; ValueError where a reader might stumble."""
    with open(path, "rb") as file:
        raw = file.read()
    size, = struct.unpack("<Q", raw[:8])
    header, body = json.loads(raw[8:8 + size]), raw[8 + size:]
    metadata = header.pop("__metadata__", None)
    found, end = {}, 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, stop = entry["data_offsets"]
        if begin != end or stop - begin != ITEM[entry["dtype"]] * int(np.prod(entry["shape"], dtype=np.int64)):
            raise ValueError(f"{path}: {name} has bytes [{begin}, {stop}) after {end}, {entry}")
        found[name], end = Tensor(entry["dtype"], tuple(entry["shape"]), body[begin:stop]), stop
    if end != len(body):
        raise ValueError(f"{path}: {len(body) - end} bytes belong to no tensor")
    return found, metadata


def read_shards(folder):
    """{file: ({name: Tensor}, metadata)}; with an index, exactly the files and tensors that it names."""
    if not os.path.exists(os.path.join(folder, INDEX)):
        return {"model.safetensors": read_file(os.path.join(folder, "model.safetensors"))}
    with open(os.path.join(folder, INDEX)) as file:
        index = json.load(file)
    files = {name: read_file(os.path.join(folder, name)) for name in set(index["weight_map"].values())}
    held = [(name, file) for file, (tensors, _) in files.items() for name in tensors]
    if sorted(held) != sorted(index["weight_map"].items()):
        raise ValueError(f"{folder}: the index and the files differ in {set(held) ^ set(index['weight_map'].items())}")
    bytes_held = sum(len(t.data) for tensors, _ in files.values() for t in tensors.values())
    if index["metadata"]["total_size"] != bytes_held:
        raise ValueError(f"{folder}: total_size {index['metadata']['total_size']}, the files hold {bytes_held}")
    return files


def read_checkpoint(folder):
    return {name: tensor for tensors, _ in read_shards(folder).values() for name, tensor in tensors.items()}


# What the bits of small types stand for, as float32: E2M1 by 4 bits, E4M3 and E8M0 by bytes.
E2M1 = np.array([0, .5, 1, 1.5, 2, 3, 4, 6, -0., -.5, -1, -1.5, -2, -3, -4, -6], F)


def e4m3_value(byte):
    """S EEEE MMM, bias 7, subnormals; no infinities, NaN is S.1111.111."""
    sign, exponent, mantissa = -1.0 if byte >> 7 else 1.0, (byte >> 3) & 15, byte & 7
    if exponent == 15 and mantissa == 7:
        return sign * np.nan
    return sign * (mantissa * 2.0 ** -9 if exponent == 0 else (8 + mantissa) * 2.0 ** (exponent - 10))


E4M3 = np.array([e4m3_value(byte) for byte in range(256)], F)
E8M0 = np.array([2.0 ** (byte - 127) for byte in range(255)] + [np.nan], F)


def bfloat16(bits):
    return (np.asarray(bits).astype(np.uint32) << np.uint32(16)).view(F)


def array(tensor):
    """The tensor's numbers; of BF16 and F16, and of everything in bytes, the bits."""
    kind = {"BF16": "<u2", "F16": "<u2", "F32": "<f4", "I32": "<i4", "I64": "<i8"}.get(tensor.dtype, "u1")
    return np.frombuffer(tensor.data, kind).reshape(tensor.shape)


def typed(tensors, name, *dtypes):
    if tensors[name].dtype not in dtypes:
        raise ValueError(f"{name} is {tensors[name].dtype}, expected {' or '.join(dtypes)}")
    return array(tensors[name])


def floats(tensors, name):
    """A tensor of F32, BF16 or F16 as float32, which holds all three."""
    numbers = typed(tensors, name, "F32", "BF16", "F16")
    return {"F32": lambda x: x, "BF16": bfloat16, "F16": lambda x: x.view(np.float16).astype(F)}[tensors[name].dtype](numbers)


def one(tensors, name):
    number, = typed(tensors, name, "F32")  # one element, of shape (1)
    return number


def nibbles(packed):
    """(N, K/2) bytes -> (N, K) codes."""
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(len(packed), -1)


def times(elements, scales):
    group = elements.shape[1] // scales.shape[1]
    return (elements * np.repeat(scales, group, axis=1)).astype(F)


def nvfp4_pack_quantized(tensors, linear, config=None):
    """compressed-tensors; the global scale divides."""
    codes = nibbles(typed(tensors, linear + ".weight_packed", "U8"))
    scales = typed(tensors, linear + ".weight_scale", "F8_E4M3")
    divisor = one(tensors, linear + ".weight_global_scale")
    return Decoded(codes, scales, divisor, times(E2M1[codes], E4M3[scales] / divisor))


def mxfp4_pack_quantized(tensors, linear, config=None):
    """compressed-tensors; E8M0 bytes of dtype U8."""
    codes = nibbles(typed(tensors, linear + ".weight_packed", "U8"))
    scales = typed(tensors, linear + ".weight_scale", "U8")
    return Decoded(codes, scales, None, times(E2M1[codes], E8M0[scales]))


def pack_quantized(tensors, linear, config=None):
    """compressed-tensors, INT4: eight to an I32 from the low bits up, q + 8; codes are q, scales their own bits."""
    words = typed(tensors, linear + ".weight_packed", "I32").view(np.uint32)
    codes = (words[:, :, None] >> (4 * np.arange(8, dtype=np.uint32)) & 15).astype(int).reshape(len(words), -1) - 8
    rows, cols = typed(tensors, linear + ".weight_shape", "I64")
    if codes.shape != (rows, cols):
        raise ValueError(f"{linear}: codes {codes.shape}, weight_shape {(rows, cols)}")
    scales = typed(tensors, linear + ".weight_scale", "BF16", "F16")
    return Decoded(codes, scales, None, times(codes.astype(F), floats(tensors, linear + ".weight_scale")))


def fp_quant(tensors, linear, config):
    """FP-Quant; the values are of the weight that forward_hadamard_matrix has rotated (see `unrotated`)."""
    codes, scales = (nibbles(typed(tensors, linear + ".qweight", "U8")), typed(tensors, linear + ".scales", "U8"))
    divisor = one(tensors, linear + ".weight_global_scale")
    table = {"mxfp4": E8M0, "nvfp4": E4M3}[config["forward_dtype"]]
    return Decoded(codes, scales, divisor, times(E2M1[codes], table[scales] / divisor))


def unrotated(values, matrix):
    """W from W H, block by block along K; H (k, k) orthogonal."""
    blocks = np.float64(values).reshape(len(values), -1, len(matrix))
    return (blocks @ np.float64(matrix).T).reshape(values.shape)


def modelopt_nvfp4(tensors, linear, config=None):
    """Model-Optimizer; weight_scale_2 multiplies."""
    codes = nibbles(typed(tensors, linear + ".weight", "U8"))
    scales = typed(tensors, linear + ".weight_scale", "F8_E4M3")
    factor, = typed(tensors, linear + ".weight_scale_2", "F32").ravel()
    return Decoded(codes, scales, factor, times(E2M1[codes], E4M3[scales] * factor))


DECODERS = {"nvfp4-pack-quantized": nvfp4_pack_quantized, "mxfp4-pack-quantized": mxfp4_pack_quantized,
            "pack-quantized": pack_quantized, "fp_quant": fp_quant, "modelopt-nvfp4": modelopt_nvfp4}
