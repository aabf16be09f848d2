"""Llama and Qwen3 with quantized linears in NumPy, from the specification alone: float64, no speed, nothing shared
with the program; the quantizers are those of numpy_formats.py.

    model = Model(folder)
    full = log_probabilities(model, ids)                        # ids (windows, length) -> (windows, length - 1, vocabulary)
    mine = log_probabilities(model, ids, Cell(format=FORMATS["nvfp4"]))
    found = metrics(full, mine, ids)

Products, norms, attention and softmax are float64; what enters a quantizer is rounded to float32 first, as the
specification has quantizers in float32.
"""
import collections
import fnmatch
import json
import os
import struct
from dataclasses import dataclass, field

import numpy as np

from numpy_formats import Coder

# The rows of the specification's table of named formats that the tests use.
FORMATS = {
    "mxfp4": dict(element="e2m1", group_size=32, scale="ue8m0", rule="floor"),
    "mxfp4-paper": dict(element="e2m1", group_size=32, scale="ue8m0", rule="fpq"),
    "nvfp4": dict(element="e2m1", group_size=16, scale="e4m3", rule="absmax", tensor_scale="dynamic"),
    "int4-peer-fp32": dict(element="int4-full", group_size=32, scale="fp32", rule="absmax"),
    "mxfp8-e4m3": dict(element="e4m3", group_size=32, scale="ue8m0", rule="floor"),
    "int8": dict(element="int8", group_size="row", scale="fp32", rule="absmax"),
}
SITES = (("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), ("self_attn.o_proj",),
         ("mlp.gate_proj", "mlp.up_proj"), ("mlp.down_proj",))  # linears that read one input


def read_safetensors(path):
    """{name: array}; bfloat16 becomes float32, which holds it exactly."""
    with open(path, "rb") as file:
        raw = file.read()
    size, = struct.unpack("<Q", raw[:8])
    arrays = {}
    for name, entry in json.loads(raw[8:8 + size]).items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            data = raw[8 + size + begin:8 + size + end]
            if entry["dtype"] == "BF16":
                array = (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
            else:
                array = np.frombuffer(data, {"F32": "<f4", "I32": "<i4", "U16": "<u2"}[entry["dtype"]])
            arrays[name] = array.reshape(entry["shape"])
    return arrays


def frequencies(config):
    """Radians per position of each pair of channels (head_dim / 2), exact to float64."""
    rope = config.get("rope_parameters") or {**(config.get("rope_scaling") or {}), "rope_theta": config["rope_theta"]}
    size = config.get("head_dim", config["hidden_size"] // config["num_attention_heads"])
    inverse = rope["rope_theta"] ** (-np.arange(0, size, 2) / size)
    if rope.get("rope_type", "default") == "default":
        return inverse
    assert rope["rope_type"] == "llama3", rope
    # Llama 3.1: long wavelengths are stretched by `factor`, short ones kept, those between interpolated.
    turns = rope["original_max_position_embeddings"] * inverse / (2 * np.pi)
    keep = (turns - rope["low_freq_factor"]) / (rope["high_freq_factor"] - rope["low_freq_factor"])
    keep = np.clip(keep, 0, 1)
    return keep * inverse + (1 - keep) * inverse / rope["factor"]


class Model:
    def __init__(self, folder):
        with open(os.path.join(folder, "config.json")) as file:
            self.config = json.load(file)
        self.weights = read_safetensors(os.path.join(folder, "model.safetensors"))
        self.frequencies = frequencies(self.config)
        self.layers = self.config["num_hidden_layers"]
        self.quantized, self.before = {}, {}  # what several cells need: quantized linears, hidden states of whole blocks

    def tensor(self, name):
        return np.float64(self.weights[name])

    def linear(self, name):
        """`layers.3.mlp.up_proj`, `lm_head` or `embed_tokens`, float32."""
        if name == "lm_head" and self.config["tie_word_embeddings"]:
            name = "embed_tokens"
        return self.weights[name + ".weight" if name == "lm_head" else f"model.{name}.weight"]


@dataclass
class Cell:
    """What is quantized how. The last four are not options of the program: wrong readings for negative controls."""
    format: dict = None
    activations: object = "same"
    scale: str = "per_token"     # of activations: per_token, dynamic (a window), static (calibrated)
    hadamard: bool = False       # blocks of the weights' group, or without weights of the activations'; not of the head
    fuse: bool = True
    skip: tuple = ("lm_head", "embed_tokens")
    overrides: tuple = ()        # ({"match": pattern, "format": ..., "activations": ...}, ...), the last match counts
    full_inputs: bool = False    # calibrate on the inputs of the full-precision model
    frozen_before: bool = False  # blocks already calibrated run on their frozen scales
    rotate_inputs: bool = True   # False: only the weights are rotated
    rotate_head: bool = False    # the head is rotated as if it were a site
    count: collections.Counter = field(default_factory=collections.Counter, compare=False)  # see Part.input

    def formats(self, name):
        """(weights, activations) of a linear, each a format or None."""
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in self.skip):
            return None, None
        weights, activations = self.format, self.activations
        for entry in self.overrides:
            if fnmatch.fnmatchcase(name, entry["match"]):
                weights, activations = entry.get("format", weights), entry.get("activations", activations)
        return weights, weights if activations == "same" else activations

    def parts(self, names):
        """The linears of a site by what shares a tensor scale: all of them, or each its own where they differ."""
        together = self.fuse and all(self.formats(name) == self.formats(names[0]) for name in names)
        return [names] if together else [[name] for name in names]

    def touches(self, layer):
        return any(self.formats(f"layers.{layer}.{name}") != (None, None) for site in SITES for name in site)


def hadamard(x, k):
    """Blocks of k columns times H_k / sqrt(k), Sylvester's order."""
    h = np.ones((1, 1))
    while len(h) < k:
        h = np.block([[h, h], [h, -h]])
    return (np.float64(x).reshape(len(x), -1, k) @ h / np.sqrt(k)).reshape(x.shape)


def quantize(x, format):
    """Dequantized float64 values of x (rows, K)."""
    return np.float64(Coder(format).quantize(np.float32(x)).values)


class Part:
    """Linears quantized together: Y = Q(X T) W^T with the stored W = Q(W T); T orthogonal."""

    def __init__(self, model, cell, names):
        self.names, self.cell, self.amax = names, cell, 0.0
        weights, self.format = cell.formats(names[0])
        self.rows = np.cumsum([len(model.linear(name)) for name in names])[:-1]
        rotated = cell.hadamard and (names != ["lm_head"] or cell.rotate_head)
        group = (weights or self.format or {}).get("group_size") if rotated else None
        self.turned = group if cell.rotate_inputs else None
        key = json.dumps([names, weights, group])
        if key not in model.quantized:
            W = np.concatenate([model.linear(name) for name in names])
            W = hadamard(W, group) if group else np.float64(W)
            model.quantized[key] = quantize(W, weights) if weights else W
        self.W = model.quantized[key]

    def move(self, X):
        return hadamard(X, self.turned) if self.turned else X

    def input(self, X, scale):
        """What the product sees of X (tokens, K), one window. Counts inputs under static scales, and those above."""
        X = self.move(X)
        if self.format is None:
            return X
        if "tensor_scale" not in self.format:
            return quantize(X, self.format)
        if scale == "static":
            scale = {"static": np.float32(self.amax) / np.float32(448 * 6)}  # of e2m1 under e4m3
            self.cell.count.update(inputs=X.size, above=int(np.sum(np.abs(np.float32(X)) > np.float32(self.amax))))
        return quantize(X, {**self.format, "tensor_scale": scale})

    def see(self, X):
        self.amax = max(self.amax, np.abs(np.float32(self.move(X.reshape(-1, X.shape[-1])))).max())

    def __call__(self, X, calibrating):
        """{name: Y} of X (windows, tokens, K)."""
        if calibrating:
            self.see(X)
        scale = "dynamic" if calibrating else self.cell.scale
        Y = np.stack([self.input(x, scale) for x in X]) @ self.W.T
        return dict(zip(self.names, np.split(Y, self.rows, axis=-1)))


class Block:
    def __init__(self, model, cell, layer):
        self.model, self.prefix = model, f"layers.{layer}."
        self.sites = [[Part(model, cell, part) for part in cell.parts([self.prefix + n for n in site])] for site in SITES]

    def site(self, index, X, calibrating):
        found = {}
        for part in self.sites[index]:
            found.update(part(X, calibrating))
        return [found[self.prefix + name] for name in SITES[index]]

    def norm(self, x, name):
        return rms_norm(x, self.model.tensor(f"model.{self.prefix}{name}.weight"), self.model.config)

    def __call__(self, h, calibrating=False):
        """Hidden states (windows, tokens, hidden_size) after the block."""
        heads, shared = (self.model.config[k] for k in ("num_attention_heads", "num_key_value_heads"))
        q, k, v = self.site(0, self.norm(h, "input_layernorm"), calibrating)
        q, k, v = (x.reshape(*x.shape[:2], n, -1).swapaxes(1, 2) for x, n in ((q, heads), (k, shared), (v, shared)))
        if self.model.config["model_type"] == "qwen3":
            q, k = self.norm(q, "self_attn.q_norm"), self.norm(k, "self_attn.k_norm")
        q, k = rope(q, self.model.frequencies), rope(k, self.model.frequencies)
        k, v = (np.repeat(x, heads // shared, axis=1) for x in (k, v))
        scores = q @ k.swapaxes(2, 3) / np.sqrt(q.shape[-1])
        scores = np.where(np.tri(scores.shape[-1], dtype=bool), scores, -np.inf)
        mixed = np.exp(log_softmax(scores)) @ v
        o, = self.site(1, mixed.swapaxes(1, 2).reshape(*h.shape[:2], -1), calibrating)
        h = h + o
        gate, up = self.site(2, self.norm(h, "post_attention_layernorm"), calibrating)
        down, = self.site(3, gate / (1 + np.exp(-gate)) * up, calibrating)
        return h + down


def rms_norm(x, weight, config):
    return x / np.sqrt(np.mean(x ** 2, axis=-1, keepdims=True) + config["rms_norm_eps"]) * weight


def rope(x, frequencies):
    """x (..., tokens, head_dim): channel i turns with channel i + head_dim / 2."""
    angle = np.arange(x.shape[-2])[:, None] * frequencies
    a, b = np.split(x, 2, axis=-1)
    return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], axis=-1)


def log_softmax(x):
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.sum(np.exp(x), axis=-1, keepdims=True))


def full_precision(model, ids, layers):
    """Hidden states after that many blocks of the model as it is."""
    if layers == 0:
        return np.float64(model.linear("embed_tokens"))[ids]
    key = layers, ids.tobytes(), ids.shape
    if key not in model.before:
        model.before[key] = Block(model, Cell(), layers - 1)(full_precision(model, ids, layers - 1))
    return model.before[key]


def logits(model, ids, cell=Cell(), calibration=None):
    """(windows, length, vocabulary). Static scales: block after block is first run over `calibration` with dynamic
    ones, and its scales are fixed by the amax that its inputs had."""
    table, _ = cell.formats("embed_tokens")
    first = 0 if table else next((i for i in range(model.layers) if cell.touches(i)), model.layers)
    def start(tokens):
        return quantize(model.linear("embed_tokens"), table)[tokens] if table else full_precision(model, tokens, first)
    static = cell.scale == "static"
    h, seen = start(ids), start(calibration) if static else None
    for layer in range(first, model.layers):
        block = Block(model, cell, layer)
        if static:
            seen_next = block(seen, calibrating=True)
            if cell.frozen_before:
                seen_next = block(seen)
            seen = full_precision(model, calibration, layer + 1) if cell.full_inputs else seen_next
        h = block(h)
    head, norm = Part(model, cell, ["lm_head"]), model.tensor("model.norm.weight")
    if static:
        head.see(rms_norm(seen, norm, model.config))
    return head(rms_norm(h, norm, model.config), False)["lm_head"]


def log_probabilities(model, ids, cell=Cell(), calibration=None):
    """Of every token but the first of each window: (windows, length - 1, vocabulary)."""
    return log_softmax(logits(model, ids, cell, calibration)[:, :-1])


@dataclass
class Metrics:
    nll: np.ndarray             # (windows)
    kl: np.ndarray              # (windows)
    top1_agreement: np.ndarray  # (windows)
    token_kl: np.ndarray = field(repr=False)  # (windows, length - 1)


def metrics(full, mine, ids):
    nll = -np.take_along_axis(mine, ids[:, 1:, None], axis=2).mean(axis=(1, 2))
    kl = np.sum(np.exp(full) * (full - mine), axis=2)
    return Metrics(nll, kl.mean(axis=1), np.mean(full.argmax(2) == mine.argmax(2), axis=1), kl)
