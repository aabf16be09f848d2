"""What model_reference_test.py compares: cells of the task `model`, how near the reference is, and what it is not."""
from dataclasses import dataclass, field

from numpy_model import FORMATS, Cell

PEER = {"base": "int4-peer", "scale": "fp32"}
WHOLE = ("lm_head", "embed_tokens")
LAST = tuple(f"layers.{i}.*" for i in range(5)) + WHOLE               # what is skipped to quantize the last block alone
HEAD = tuple(f"layers.{i}.*" for i in range(6)) + ("embed_tokens",)   # ... the head alone
NV, MX, MX8, INT8 = (FORMATS[name] for name in ("nvfp4", "mxfp4", "mxfp8-e4m3", "int8"))


@dataclass
class Case:
    kind: str                                  # exact, most or statistical: see the test
    keys: dict                                 # of the sweep
    cell: Cell                                 # of the reference
    wrong: dict = field(default_factory=dict)  # {name: changes of the cell}


def exact(keys, format, wrong=None, **cell):
    return Case("exact", {"activations": None, **keys}, Cell(format, None, **cell), wrong or {})


def last(keys, format, activations="same", wrong=None, **cell):
    return Case("most", {"skip": LAST, **keys}, Cell(format, activations, skip=LAST, **cell), wrong or {})


def named(match, **formats):
    """An override for the sweep and for the reference; formats by name."""
    return {"match": match, **formats}, {"match": match, **{key: FORMATS.get(name) for key, name in formats.items()}}


def overridden(kind, keys, cell, overrides, wrong):
    theirs, mine = zip(*overrides)
    return Case(kind, {**keys, "overrides": theirs}, Cell(**cell, overrides=mine), wrong)


BLOCK_0 = named("layers.0.*", format="mxfp8-e4m3")
BLOCKS = named("layers.*", format="mxfp4")
K = named("layers.*.self_attn.k_proj", format="mxfp8-e4m3")
V = named("layers.*.self_attn.v_proj", format="mxfp8-e4m3")
MLP = named("layers.5.mlp.*", format="mxfp4")
DOWNS = [named(f"layers.{i}.mlp.down_proj", format="nvfp4", activations="nvfp4") for i in (4, 5)]
GATE = named("layers.5.mlp.gate_proj", format="int8", activations="int8")
O = named("layers.5.self_attn.o_proj", format="nvfp4", activations="mxfp8-e4m3")
FULL = {"format": None, "activations": None}
CASES = {
    "full": exact({"format": None}, None),
    # Weights alone.
    "w-mxfp4": exact({"format": "mxfp4"}, MX, {"mxfp4-paper": dict(format=FORMATS["mxfp4-paper"])}),
    "w-mxfp4-paper": exact({"format": "mxfp4-paper"}, FORMATS["mxfp4-paper"], {"mxfp4": dict(format=MX)}),
    "w-int4-peer": exact({"format": PEER}, FORMATS["int4-peer-fp32"]),
    "w-int8": exact({"format": "int8"}, INT8),
    "w-nvfp4": exact({"format": "nvfp4"}, NV, {"not fused": dict(fuse=False), "activations": dict(activations="same"),
                                               "head too": dict(skip=("embed_tokens",))}),
    "w-nvfp4-apart": exact({"format": "nvfp4", "fuse": False}, NV, {"fused": dict(fuse=True)}, fuse=False),
    "w-nvfp4-ht": exact({"format": "nvfp4", "method": "rtn+ht"}, NV, {"not rotated": dict(hadamard=False)}, hadamard=True),
    "w-mxfp4-ht": exact({"format": "mxfp4", "method": "rtn+ht"}, MX, {"not rotated": dict(hadamard=False)}, hadamard=True),
    "w-block-0": overridden("exact", {"format": "nvfp4", "activations": None}, {"format": NV, "activations": None},
                            [BLOCK_0], {"not": dict(overrides=())}),
    "w-k": overridden("exact", {"format": "nvfp4", "activations": None}, {"format": NV, "activations": None},
                      [K], {"not": dict(overrides=()), "v": dict(overrides=(V[1],))}),
    "w-last-override": overridden("exact", {"format": "nvfp4", "activations": None}, {"format": NV, "activations": None},
                                  [K, BLOCKS], {"the first": dict(overrides=(BLOCKS[1], K[1]))}),
    "w-skip-5": exact({"format": "nvfp4", "skip": ["layers.5.*", *WHOLE]}, NV, {"not": dict(skip=WHOLE)},
                      skip=("layers.5.*", *WHOLE)),
    "w-head-and-embedding": exact({"format": "nvfp4", "skip": "layers.5.*"}, NV,
                                  {"the head": dict(skip=("layers.5.*", "embed_tokens")),
                                   "the embedding": dict(skip=("layers.5.*", "lm_head"))}, skip=("layers.5.*",)),
    "w-head-ht": exact({"format": "nvfp4", "skip": "embed_tokens", "method": "rtn+ht"}, NV,
                       {"rotated": dict(rotate_head=True)}, skip=("embed_tokens",), hadamard=True),
    # Activations in the last block or in the head.
    "a-nvfp4": last({"format": "nvfp4"}, NV, wrong={
        "dynamic": dict(scale="dynamic"), "not fused": dict(fuse=False), "weights alone": dict(activations=None)}),
    "a-nvfp4-dynamic": last({"format": "nvfp4", "activation_scale": "dynamic"}, NV, scale="dynamic",
                            wrong={"per token": dict(scale="per_token")}),
    "a-nvfp4-alone": last({"format": None, "activations": "nvfp4"}, None, NV, {"weights too": dict(format=NV)}),
    "a-mxfp4-alone": last({"format": None, "activations": "mxfp4"}, None, MX, {"nvfp4": dict(activations=NV)}),
    "a-mxfp4-paper": last({"format": "mxfp4-paper"}, FORMATS["mxfp4-paper"], wrong={"mxfp4": dict(activations=MX)}),
    "a-nvfp4-ht": last({"format": "nvfp4", "method": "rtn+ht"}, NV, hadamard=True, wrong={
        "inputs as they are": dict(rotate_inputs=False), "not rotated": dict(hadamard=False)}),
    "a-alone-ht": last({"format": None, "activations": "nvfp4", "method": "rtn+ht"}, None, NV, hadamard=True,
                       wrong={"not rotated": dict(hadamard=False)}),
    "a-override": overridden("most", {"format": "nvfp4", "skip": LAST}, {"format": NV, "skip": LAST}, [MLP], {
        "not": dict(overrides=()), "activations stay": dict(overrides=({**MLP[1], "activations": NV},))}),
    # 8 bits have 16 times as many ties, so only one linear.
    "a-int8": overridden("most", FULL, {"activations": None}, [GATE], {
        "weights alone": dict(overrides=({**GATE[1], "activations": None},))}),
    "a-mixed": overridden("most", FULL, {"activations": None}, [O], {
        "same": dict(overrides=({**O[1], "activations": NV},))}),
    "a-head": Case("most", {"format": "nvfp4", "skip": HEAD}, Cell(NV, skip=HEAD),
                   {"weights alone": dict(activations=None), "dynamic": dict(scale="dynamic")}),
    # Scales from a calibration.
    "static-last": last({"format": "nvfp4", "activation_scale": "static"}, NV, scale="static",
                        wrong={"dynamic": dict(scale="dynamic"), "per token": dict(scale="per_token")}),
    "static-ht": last({"format": "nvfp4", "activation_scale": "static", "method": "rtn+ht"}, NV, scale="static",
                      hadamard=True, wrong={"not rotated": dict(hadamard=False), "dynamic": dict(scale="dynamic")}),
    "static-walk": overridden("most", {**FULL, "activation_scale": "static"}, {"activations": None, "scale": "static"},
                              DOWNS, {"inputs in full precision": dict(full_inputs=True),
                                      "frozen before": dict(frozen_before=True)}),
    "static-head": Case("most", {"format": "nvfp4", "skip": HEAD, "activation_scale": "static"},
                        Cell(NV, skip=HEAD, scale="static"), {"dynamic": dict(scale="dynamic")}),
    # All blocks. Products of two MXFP4 numbers are short enough for float32 sums to be exact: codes hardly ever flip.
    "mxfp4": Case("most", {"format": "mxfp4"}, Cell(MX), {"mxfp4-paper": dict(activations=FORMATS["mxfp4-paper"])}),
    "mxfp4-ht": Case("most", {"format": "mxfp4", "method": "rtn+ht"}, Cell(MX, hadamard=True),
                     {"not rotated": dict(hadamard=False)}),
    "nvfp4": Case("statistical", {"format": "nvfp4"}, Cell(NV), {"weights alone": dict(activations=None),
                                                                 "activations alone": dict(format=None, activations=NV)}),
    "nvfp4-static": Case("statistical", {"format": "nvfp4", "activation_scale": "static"}, Cell(NV, scale="static"),
                         {"weights alone": dict(activations=None)}),
    "mxfp4-paper": Case("statistical", {"format": "mxfp4-paper"}, Cell(FORMATS["mxfp4-paper"]),
                        {"weights alone": dict(activations=None)}),
    # -8..7 on amax/7.5 puts a group's largest negative number on the tie of -7 and -8: its code is chance everywhere.
    "int4-peer": Case("statistical", {"format": PEER}, Cell(FORMATS["int4-peer-fp32"]),
                      {"weights alone": dict(activations=None)}),
    "int8": Case("statistical", {"format": "int8"}, Cell(INT8), {"weights alone": dict(activations=None)}),
}
