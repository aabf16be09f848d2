"""Small made-up cells (for result_files.write) that hold just what each figure needs."""
import math

import numpy as np

WEIGHTS, ACTIVATIONS = {"checkpoint": "c0", "tensors": ["a"]}, {"activations": ["a"], "seed": 1}
LAPLACE = {"synthetic": {"distribution": "laplace", "shape": [8, 64]}}
FAMILIES = ("normal", "laplace", "student_t", "generalized_gaussian", "logistic")
FORMATS = {"floor": {"scale": "ue8m0", "rule": "floor"}, "fpq": {"scale": "ue8m0", "rule": "fpq"},
           "even": {"scale": "ue8m0", "rule": "even"},
           "e4m3": {"scale": "e4m3", "rule": "absmax", "tensor_scale": "dynamic"},
           "e5m2": {"scale": "e5m2", "rule": "absmax", "tensor_scale": "dynamic"},
           "e3m4": {"scale": "e3m4", "rule": "absmax", "tensor_scale": "dynamic"},
           "fp32": {"scale": "fp32", "rule": "absmax", "tensor_scale": "none"}}


def format_of(name, size, element="e2m1"):
    return {"element": element, "group_size": size, **FORMATS[name]}


def hadamard(k):
    return [{"type": "hadamard", "k": k, "randomize": False}] if k is not None else None


def distribution(source, k=None):
    edges = np.linspace(-8, 8, 41)
    centres = (edges[1:] + edges[:-1]) / 2
    density = np.exp(-centres ** 2 / 2) / math.sqrt(2 * math.pi)
    return {"settings": {"task": "distribution", "source": source, "transform": hadamard(k)},
            "row": {"excess_kurtosis": 0.02 if k else 3.21, "best_fit": "normal" if k else "laplace"},
            "arrays": {"histogram.edges": edges, "histogram.density": density,
                       **{f"fit.{family}": density * (1 + 0.1 * i) for i, family in enumerate(FAMILIES)}}}


def scale_range(source, size=16, k=None):
    return {"settings": {"task": "scale_range", "source": source, "transform": hadamard(k),
                         "format": {"element": "e2m1", "group_size": size}},
            "row": {f"{t}_{what}": 0.25 for t in ("e8m0", "e4m3") for what in ("clipped_share", "underflow_share")},
            "arrays": {"histogram.edges": np.linspace(-4, 1, 41), "histogram.counts": np.arange(40),
                       "scale_type.name": ["e8m0", "e4m3"], "scale_type.log2_min": [-127, -9],
                       "scale_type.log2_max": [127, 8.8]}}


def tensor_error(source, format, k=None, value=0.01, top=0.02):
    return {"settings": {"task": "tensor_error", "source": source, "format": format, "seed": 1,
                         "method": {"weight_scales": "rule", **({} if k is None else {"transform": hadamard(k)})}},
            "row": {"mse_rel": value, "mse_top_rel": top}}


def by_size(source, element="e2m1", names=("floor", "e4m3")):
    return [tensor_error(source, format_of(name, size, element), k, 0.01 * (2 if k is None else 1), 0.01)
            for name in names for size in (8, 16, 32) for k in (None, 0)]


def scale_types(source, base=0.01, names=("fp32", "e3m4", "e4m3", "e5m2", "fpq")):
    return [tensor_error(source, format_of(name, 16), value=base * (1 + 0.1 * i)) for i, name in enumerate(names)]


def model(method, seed, label, **row):
    """A cell whose axis `method` has this label; of the format NVFP4."""
    return {"settings": {"task": "model", "model": {"path": "m"}, "evaluate": ["e"], "activations": {"element": "e2m1"},
                         "format": format_of("e4m3", 16), "method": method, "seed": seed},
            "row": {"kl": 0.1, "bits_per_weight": 4.5, "recovery_percent": 95.0 + seed, "method": label, **row}}


def ablation():
    cells = []
    for k, order in ((16, "static_activation"), (None, "static_activation"), (None, "natural")):
        for scales in ("rule", "mse_shrink"):
            method = {"rounding": "gptq", "order": order, "scales": "up_front", "weight_scales": scales}
            if k:
                method["transform"] = hadamard(k)
            cells += [model(method, seed, f"{k} {scales} {order}") for seed in (1, 2, 3)]
    return cells


def frontier(formats=("nvfp4", "int4", "mxfp4")):
    return [model({}, seed, label, kl=0.1 / (i + 1) + 0.01 * seed, bits_per_weight=4.25 + 0.25 * (i % 3), format=name)
            for i, name in enumerate(formats) for label in ("rtn", "gptq") for seed in (1, 2)]


def lemma(name, size=16, estimate=1.0, width=0.01, arrays=None, **settings):
    return {"settings": {"task": "lemma", "lemma": name, "distribution": "normal", "confidence": 0.99,
                         "format": format_of("fp32", size), **settings},
            "row": {"estimate": estimate, "ci_low": estimate - width, "ci_high": estimate + width, "prediction": 1.0,
                    "tolerance": 0.005, "verdict": "holds"},
            "arrays": arrays or {}}


def lemma2():
    sizes = 2.0 ** np.arange(1, 13)
    curve = {"curve.group_size": sizes, "curve.laplace": 1e-3 * sizes, "curve.normal": 2e-3 * np.sqrt(sizes)}
    tens = np.arange(1, 300)  # no float is beyond 10^308
    rate = {"curve.group_size": 10.0 ** tens, "curve.estimate": 10.0 ** (-tens / 30),
            "curve.prediction": 10.0 ** (-tens / 29)}
    return [lemma("lemma2_crossover", estimate=25.0, arrays=curve),
            lemma("lemma2_rate", arrays=rate, energy="retained", form="derived"),
            lemma("lemma2_rate", arrays=rate, energy="retained", form="derived", distribution="laplace")]


# Name of the figure -> cells with just the data for it.
MADE = {
    "figure2": lambda: [distribution(s, k) for s in (WEIGHTS, ACTIVATIONS) for k in (None, 32, 128)],
    "figure3": lambda: by_size(LAPLACE) + by_size(WEIGHTS) + by_size(ACTIVATIONS),
    "figure4_g16": lambda: [scale_range(s, 16, k) for s in (WEIGHTS, ACTIVATIONS) for k in (None, 0)],
    "lemma1": lambda: [lemma(n, s) for n in ("lemma1", "lemma1_unbiased") for s in (16, 32)],
    "lemma2": lemma2,
    "lemma4": lambda: [lemma("lemma4", s, log_normal_sigma=0.5) for s in (16, 32, 128)],
    "figure8": lambda: scale_types(WEIGHTS) + scale_types(LAPLACE),
    "figure10": lambda: by_size(WEIGHTS, "int4"),
    "table12": ablation,
    "frontier": frontier,
}
# What each cannot do without: columns of the table, arrays of the cells.
NEEDS = {"figure2": ["excess_kurtosis", "histogram.density", "fit.logistic"], "figure3": ["mse_rel", "mse_top_rel"],
         "figure4_g16": ["histogram.counts", "scale_type.log2_max"], "lemma1": ["estimate", "ci_low", "prediction"],
         "lemma2": ["ci_high", "curve.group_size"], "lemma4": ["prediction"], "figure8": ["mse_rel"],
         "figure10": ["mse_top_rel"], "table12": ["recovery_percent"],
         "frontier": ["kl", "bits_per_weight", "method", "format"]}
