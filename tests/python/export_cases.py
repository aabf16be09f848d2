"""What export_layouts_test.py exports, and what the layouts' tables say must then be there."""
import json
from collections import namedtuple

import numpy as np

import models
from numpy_layouts import DECODERS

CT_NV, CT_MX, CT_INT, FPQ, MODELOPT = DECODERS
NVFP4 = dict(element="e2m1", group_size=16, scale="e4m3", rule="absmax", tensor_scale="dynamic")
MXFP4 = dict(element="e2m1", group_size=32, scale="ue8m0")
INT4 = dict(element="int4", group_size=32, rule="absmax")

# format of the sweep; spec: the same for numpy_formats; inputs: what readers quantize those to, where it is another
Case = namedtuple("Case", "layout format spec w4a4 inputs", defaults=("same",))
FORMATS = {
    "ct-nvfp4": (CT_NV, "nvfp4", NVFP4), "ct-mxfp4": (CT_MX, "mxfp4-even", dict(MXFP4, rule="even")),
    "ct-mxfp4-floor": (CT_MX, "mxfp4", dict(MXFP4, rule="floor")), "ct-int4": (CT_INT, "int4", dict(INT4, scale="fp16")),
    "ct-int4-peer": (CT_INT, {"base": "int4-peer", "scale": "bf16"}, dict(INT4, element="int4-full", scale="bf16")),
    "fpq-nvfp4": (FPQ, "nvfp4", NVFP4), "fpq-mxfp4": (FPQ, "mxfp4-paper", dict(MXFP4, rule="fpq")),
    "modelopt": (MODELOPT, "nvfp4", NVFP4)}
INPUTS = {"ct-mxfp4-floor": "mxfp4-even", "ct-int4": "int4-peer"}
CASES = {f"{name}-{'w4a4' if w4a4 else 'w4a16'}": Case(*row, w4a4, INPUTS.get(name, "same")) for name, row in FORMATS.items()
         for w4a4 in (True, False) if w4a4 or row[0] != FPQ}  # fp_quant's readers always quantize activations

INPUT = {CT_NV: "input_global_scale", FPQ: "act_global_scale", MODELOPT: "input_scale"}  # with the inputs' tensor scale
SITES = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))


def linear_shapes(c):
    """{linear: (N, K)}, without the head."""
    return {name[:-len(".weight")]: shape for name, shape in models.shapes(c).items() if "_proj." in name}


def sites(c):
    """The linears that are stacked and share their tensor scales, as lists of names."""
    for layer in range(c["num_hidden_layers"]):
        for names in SITES:
            yield [next(n for n in linear_shapes(c) if f"layers.{layer}." in n and n.endswith(name)) for name in names]


def stored(case, N, K):
    """{suffix: (dtype, shape)} of a linear."""
    group = case.spec["group_size"]
    codes, scales = (N, K // 2), (N, K // group)
    tensors = {
        CT_NV: {"weight_packed": ("U8", codes), "weight_scale": ("F8_E4M3", scales), "weight_global_scale": ("F32", (1,))},
        CT_MX: {"weight_packed": ("U8", codes), "weight_scale": ("U8", scales)},
        CT_INT: {"weight_packed": ("I32", (N, K // 8)), "weight_shape": ("I64", (2,)),
                 "weight_scale": ("BF16" if case.spec["scale"] == "bf16" else "F16", scales)},
        FPQ: {"qweight": ("U8", codes), "scales": ("U8", scales), "weight_global_scale": ("F32", (1,)),
              "forward_hadamard_matrix": ("BF16", (group, group))},
        MODELOPT: {"weight": ("U8", codes), "weight_scale": ("F8_E4M3", scales), "weight_scale_2": ("F32", (1,))},
    }[case.layout]
    if case.w4a4 and case.layout in INPUT:
        tensors[INPUT[case.layout]] = ("F32", (1,))
    return tensors


# compressed-tensors refuses every other key of a group and of its arguments.
CT_KEYS = {"quant_method", "format", "quantization_status", "ignore", "kv_cache_scheme", "global_compression_ratio",
           "config_groups", "sparsity_config", "transform_config", "version"}
CT_GROUP_KEYS = {"targets", "format", "weights", "input_activations", "output_activations"}
CT_ARGUMENT_KEYS = {"num_bits", "type", "symmetric", "group_size", "strategy", "block_structure", "dynamic", "actorder",
                    "scale_dtype", "zp_dtype", "observer", "observer_kwargs"}


def ct_arguments(case):
    """(weights, activations): the arguments that must be there."""
    type, strategy, scale, dynamic = {
        CT_NV: ("float", "tensor_group", {"scale_dtype": "torch.float8_e4m3fn"}, "local"),
        CT_MX: ("float", "group", {"scale_dtype": "torch.uint8"}, True), CT_INT: ("int", "group", {}, True)}[case.layout]
    both = {"num_bits": 4, "type": type, "symmetric": True, "strategy": strategy, "group_size": case.spec["group_size"], **scale}
    return {**both, "dynamic": False}, {**both, "dynamic": dynamic} if case.w4a4 else None


def required_config(case):
    """What config.json's quantization_config must hold, as a tree; for fp_quant and modelopt also what it may."""
    group = case.spec["group_size"]
    if case.layout == FPQ:
        return {"quant_method": "fp_quant", "forward_dtype": "mxfp4" if group == 32 else "nvfp4", "backward_dtype": "bf16",
                "forward_method": "abs_max", "hadamard_group_size": group, "modules_to_not_convert": ["lm_head"],
                "store_master_weights": False, "pseudoquantization": False}
    if case.layout == MODELOPT:
        return {"quant_method": "modelopt", "quant_algo": "NVFP4" if case.w4a4 else "W4A16_NVFP4", "ignore": ["lm_head"]}
    weights, activations = ct_arguments(case)
    return {"quant_method": "compressed-tensors", "format": case.layout, "quantization_status": "compressed",
            "ignore": ["lm_head"], "kv_cache_scheme": None, "config_groups": {"group_0": {
                "targets": ["Linear"], "format": case.layout, "weights": weights, "input_activations": activations,
                "output_activations": None}}}


def within(found, required):
    """`found` without the keys of its objects that `required` does not name."""
    if isinstance(required, dict) and isinstance(found, dict):
        return {key: within(found[key], required[key]) for key in required if key in found}
    return found


def write_bfloat16(path, tensors):
    """float32 arrays, cut to the BF16 below them, as a safetensors file."""
    header, data = {}, b""
    for name, x in tensors.items():
        raw = (np.ascontiguousarray(x, "<f4").view("<u4") >> 16).astype("<u2").tobytes()
        header[name] = {"dtype": "BF16", "shape": x.shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text + data)
