"""Compares GPTQ and the scale searches on a Hessian with an independent float64 implementation in NumPy (numpy_gptq.py).

    python3 tests/python/gptq_reference_test.py build/cpu/fp4lab

The model is made up, and the inputs of its sites are those of NumPy's own forward pass. A value within float32 rounding of a
tie may take the other code, and what follows it in its row may then differ everywhere, so rows are what is compared: most
cases agree in all of their 896 rows, the worst has one or two others. Each case names a wrong reading of it, of whose rows
the program must share less than FAR_ROWS.
"""
import json
import unittest

import h5py
import numpy as np

import models
import program
from numpy_formats import SCALE_BYTES
from numpy_gptq import Method, quantize
from numpy_model import FORMATS, SITES, Block, Cell, Model, full_precision, hadamard
from numpy_model import quantize as fake_quantize

CHANNELS, MLP = 128, 192
LENGTH, WINDOWS = 48, 16  # 768 tokens: the sample, 1024 at most, is all of them
SAME_ROWS, SAME_SCALES, SAME_CODES, FAR_ROWS = 0.995, 0.999, 0.999, 0.9
DEAD = ("layers.1.mlp.down_proj", (5, 100, *range(16, 32)))  # a whole group of 16 among them


def config():
    return models.config(hidden_size=CHANNELS, intermediate_size=MLP, num_hidden_layers=2, num_attention_heads=4,
                         num_key_value_heads=2, vocab_size=512)


def tensors(c):
    """Channels of unlike size that depend on each other, and inputs of a down_proj that are always 0."""
    draw = np.random.default_rng(5)
    found = models.random_tensors(c, 3)
    mix = draw.standard_normal((CHANNELS // 4, CHANNELS))
    table = draw.standard_normal((c["vocab_size"], CHANNELS // 4)) @ mix / 4
    found["model.embed_tokens.weight"] = np.float32(table + draw.standard_normal(table.shape))
    for name in found:
        if name.endswith("layernorm.weight"):
            found[name] = np.float32(np.exp(0.5 * draw.standard_normal(CHANNELS)))
    found["model.layers.1.mlp.up_proj.weight"][list(DEAD[1])] = 0
    return found


class Inputs(Block):
    """A block that keeps what flows into its sites, (tokens, K)."""

    def site(self, index, X, calibrating):
        self.seen = {**getattr(self, "seen", {}), index: X.reshape(-1, X.shape[-1])}
        return super().site(index, X, calibrating)


def stored_codes(record, name, coder):
    codes = record["codes." + name].astype(int)
    return codes if coder.element.bits > 4 else np.stack([codes & 15, codes >> 4], axis=2).reshape(len(codes), -1)


def stored_scales(record, name, coder):
    """Codes of the scales (rows, groups)."""
    raw = np.ascontiguousarray(record["scales." + name])
    return (raw if coder.scale not in SCALE_BYTES else raw.view(f"<u{SCALE_BYTES[coder.scale]}")).astype(int)


def quadratic(d, H):
    """tr(d H d^T)"""
    return np.sum((d @ H) * d)


MX, EVEN = FORMATS["mxfp4"], {**FORMATS["mxfp4"], "rule": "even"}
SPECS = {"nvfp4": FORMATS["nvfp4"], "mxfp4": MX, "mxfp4-even": EVEN, "mxfp4-paper": FORMATS["mxfp4-paper"],
         "mxint4": dict(element="int4", group_size=32, scale="ue8m0", rule="fpq"),
         "nvint4": dict(element="int4", group_size=16, scale="e4m3", rule="absmax", tensor_scale="dynamic"),
         "int4-peer": FORMATS["int4-peer-fp32"],
         "int4-asym": dict(element="int4-asym", group_size=32, scale="fp16", rule="absmax"),
         "nf4": dict(element="nf4", group_size=64, scale="fp32", rule="absmax"),
         "mxfp6-e2m3": dict(element="e2m3", group_size=32, scale="ue8m0", rule="floor")}


def rule(name, lo=None, hi=None, metric=None, k=None):
    keys = {"type": name, "lo": lo, "hi": hi, "metric": metric, "k": k}
    return {key: value for key, value in keys.items() if value is not None}


NEAR, NEAR_MX = rule("sweep", -8, 7), rule("search", k=4)
STATIC, DYNAMIC = {"order": "static_activation"}, {"order": "dynamic_activation"}
START, IN_LOOP = {"scales": "at_group_start"}, {"scales": "in_loop"}
RTN, WEIGHTED = {"rounding": "rtn"}, rule("sweep", -8, 7, "hessian_diagonal")

# name: (format, keys of the method, a wrong reading of it as changes of Method)
PLAIN = {f: (f, {}, {"rounding": "rtn"}) for f in SPECS}
UP_FRONT = {
    "nvfp4 ht": ("nvfp4", {"k": 16}, {"k": 32}),
    "mxfp4-paper ht": ("mxfp4-paper", {"k": 32}, {"k": 0}),
    "int4-peer ht": ("int4-peer", {"k": 32}, {"k": 16}),
    "mxint4 ht": ("mxint4", {"k": 32}, {"damping": 0.02}),
    "nvfp4 static": ("nvfp4", STATIC, {"moved_groups": True}),
    "mxfp4-even static": ("mxfp4-even", STATIC, {"order": "natural"}),
    "mxint4 static": ("mxint4", STATIC, {"moved_groups": True}),
    "mxfp4-paper static ht": ("mxfp4-paper", {**STATIC, "k": 32}, {"order": "natural"}),
    "nvfp4 static ht": ("nvfp4", {**STATIC, "k": 16}, {"moved_groups": True}),
    "nvfp4 dynamic": ("nvfp4", DYNAMIC, {"scales": "at_group_start"}),
    "int4-peer dynamic": ("int4-peer", DYNAMIC, {"damping": 0.02}),
    "nvfp4 dynamic ht": ("nvfp4", {**DYNAMIC, "k": 64}, {"k": 16}),
    "nvfp4 dynamic sweep": ("nvfp4", {**DYNAMIC, "weight_scales": rule("sweep", -3, 7)}, {"weight_scales": None}),
    "nvfp4 damping": ("nvfp4", {"damping": 0.3}, {"damping": 0.01}),
    "nvfp4 weighted": ("nvfp4", {**RTN, "weight_scales": WEIGHTED}, {"flat_metric": True}),
    "nvfp4 weighted gptq": ("nvfp4", {**STATIC, "weight_scales": WEIGHTED}, {"flat_metric": True}),
    "mxfp4 weighted": ("mxfp4", {**RTN, "weight_scales": rule("search", k=4, metric="hessian_diagonal")},
                       {"weight_scales": None}),
    "nvfp4 local": ("nvfp4", {**RTN, "weight_scales": "local_hessian"}, {"weight_scales": WEIGHTED}),
    "nvint4 local gptq ht": ("nvint4", {**STATIC, "weight_scales": "local_hessian", "k": 16}, {"flat_metric": True}),
}
# Not int4-peer: a scale of amax / 7.5 puts a group's first column, where it is the largest, on the tie of -7 and -8.
IN_THE_LOOP = {
    "nvfp4 start": ("nvfp4", START, {"scales": "up_front"}),
    "nvfp4 start ht": ("nvfp4", {**START, "k": 16}, {"scales": "up_front"}),
    "mxfp4-even start": ("mxfp4-even", START, {"scales": "up_front"}),
    "mxint4 start": ("mxint4", START, {"scales": "up_front"}),
    "nvint4 start": ("nvint4", START, {"scales": "up_front"}),
    "nvfp4 start sweep": ("nvfp4", {**START, "weight_scales": rule("sweep", -3, 7)}, {"weight_scales": None}),
    "nvfp4 start weighted": ("nvfp4", {**START, "weight_scales": WEIGHTED}, {"flat_metric": True}),
    "nvfp4 in loop": ("nvfp4", {**IN_LOOP, "weight_scales": NEAR}, {"flat_metric": True}),
    "nvfp4 in loop ht": ("nvfp4", {**IN_LOOP, "weight_scales": NEAR, "k": 16}, {"scales": "at_group_start"}),
    "nvfp4 in loop narrow": ("nvfp4", {**IN_LOOP, "weight_scales": rule("sweep", -1, 2)}, {"weight_scales": NEAR}),
    "nvfp4 in loop dynamic": ("nvfp4", {**IN_LOOP, **DYNAMIC, "weight_scales": NEAR}, {"order": "natural"}),
    "nvint4 in loop": ("nvint4", {**IN_LOOP, "weight_scales": NEAR}, {"flat_metric": True}),
    "mxfp4 in loop": ("mxfp4", {**IN_LOOP, "weight_scales": NEAR_MX}, {"flat_metric": True}),
}


def keys_of(name, keys):
    format = {"base": "int4-peer", "scale": "fp32"} if name == "int4-peer" else name
    method = {"rounding": "gptq", **keys}
    k = method.pop("k", 0)
    if k:
        method["transform"] = {"type": "hadamard", "k": k}
    return {"format": format, "method": method}


def method_of(format, keys, **changes):
    return Method(SPECS[format], **{"rounding": "gptq", **keys, **changes})


class Theirs:
    """What a record says of one site, next to the reference `mine` for it."""

    def __init__(self, record, site, mine):
        coder = mine.quantizer.coder
        self.codes, self.scales = stored_codes(record, site, coder), stored_scales(record, site, coder)
        self.s = coder.effective(self.scales, mine.quantizer.factor)
        rows, groups = self.scales.shape
        values = coder.values(self.codes.reshape(rows, groups, -1), mine.zeros[:, :, None], self.s[:, :, None])
        self.W = np.float64(values).reshape(rows, -1)
        self.same_rows = np.all(self.codes == mine.codes, axis=1)


class GptqReference(program.InFolder):
    maxDiff = None

    def setUp(self):
        super().setUp()
        c = config()
        models.write_model(self.path("m"), c, tensors(c))
        self.model = Model(self.path("m"))
        self.ids = np.random.default_rng(4).integers(0, c["vocab_size"], (WINDOWS, LENGTH))
        np.save(self.path("c.npy"), self.ids.ravel().astype("<i4"))

    def inputs(self, windows=WINDOWS, length=LENGTH):
        """Of the sites of block 1: {first linear: (its linears, X)}."""
        ids = self.ids.ravel()[:windows * length].reshape(windows, length)
        block = Inputs(self.model, Cell(), 1)
        block(full_precision(self.model, ids, 1))
        return {f"layers.1.{names[0]}": ([f"layers.1.{n}" for n in names], block.seen[i])
                for i, names in enumerate(SITES)}

    def run_cases(self, cases, windows=WINDOWS, length=LENGTH, **more):
        """{name: what the program recorded}; cases {name: (format, method keys, ...)}."""
        calibration = {"corpus": "c.npy", "windows": windows, "length": length, "sample": "first"}
        sweeps = [{"name": f"s{i}", "task": "layer", "model": {"path": "m"}, "calibration": calibration,
                   "keep": ["codes"], "sites": ["layers.1.*"], "activations": None, **keys_of(*case[:2]), **more}
                  for i, case in enumerate(cases.values())]
        self.write("sweeps.json", json.dumps(sweeps))
        self.expect(program.OK, "run", "sweeps.json", "--results", "results", "--no-table", "--fresh")
        return {name: self.record(self.path("results", f"s{i}.h5")) for i, name in enumerate(cases)}

    def record(self, path):
        with h5py.File(path, "r") as file:
            if len(file["cells"]) != 1:
                raise AssertionError(file["errors/message"].asstr()[()])
            group, = file["cells"].values()
            found = {name: data.asstr()[()] if data.dtype == object else data[()] for name, data in group.items()}
            found.update({name: data[0] for name, data in file["table"].items()})
        return found

    def sites(self, record, format, keys, inputs, **changes):
        """Of each site: its linears, X, W, the reference and what the program says."""
        for first, (names, X) in inputs.items():
            W = np.concatenate([self.model.linear(name) for name in names])
            mine = quantize(W, X.T @ X, method_of(format, keys, **changes))
            yield names, X, W, mine, Theirs(record, first, mine)

    def by_linear(self, names):
        ends = np.cumsum([len(self.model.linear(name)) for name in names])
        return [slice(end - len(self.model.linear(name)), end) for name, end in zip(names, ends)]

    def close(self, found, expected, relative, what):
        np.testing.assert_allclose(found, expected, rtol=relative, atol=0, err_msg=what)

    def check_codes(self, cases):
        inputs = self.inputs()
        records = self.run_cases(cases)
        for name, (format, keys, wrong) in cases.items():
            with self.subTest(name):
                same, scales, codes = [], [], []
                for names, X, W, mine, theirs in self.sites(records[name], format, keys, inputs):
                    same.append(theirs.same_rows), codes.append((theirs.codes == mine.codes).ravel())
                    # Wide scales of rotated weights, which the program rotates in float32, are an ulp or two apart.
                    s = mine.quantizer.coder.effective(mine.scales, mine.quantizer.factor)
                    scales.append(np.isclose(theirs.s, s, rtol=1e-6, atol=0).ravel())
                    self.check_numbers(records[name], names, mine, theirs)
                self.assertGreaterEqual(np.mean(np.concatenate(same)), SAME_ROWS)
                self.assertGreaterEqual(np.mean(np.concatenate(scales)), SAME_SCALES)
                self.assertGreaterEqual(np.mean(np.concatenate(codes)), SAME_CODES)
                far = [t.same_rows for *_, t in self.sites(records[name], format, keys, inputs, **wrong)]
                self.assertLess(np.mean(np.concatenate(far)), FAR_ROWS, f"{wrong} is not told apart")

    def check_numbers(self, record, names, mine, theirs):
        """The recorded errors are those of the recorded codes."""
        d = theirs.W - mine.W
        linears = list(record["linears.name"])
        for name, rows in zip(names, self.by_linear(names)):
            expected = quadratic(d[rows], mine.H) / quadratic(mine.W[rows], mine.H)
            self.close(record["linears.weight_output_mse_rel"][linears.index(name)], expected, 1e-4, name)
        if "sites.name" not in record:
            return
        site = list(record["sites.name"]).index(names[0])
        def of_site(key):
            return record["sites." + key][site]
        self.close(of_site("gptq_loss"), quadratic(d, mine.H) / (WINDOWS * LENGTH), 1e-4, names[0])
        self.assertEqual(of_site("damping"), mine.damping)
        self.assertEqual(of_site("dead_channels"), mine.dead)
        self.assertEqual(of_site("fell_back"), 0)
        live = np.diag(mine.H) > 0  # dead channels stand alone, at 1 in whatever the unit is
        condition = np.linalg.cond(mine.Hd[live][:, live], 1)
        self.assertLessEqual(of_site("condition"), condition * (1 + 1e-6))
        self.assertGreaterEqual(of_site("condition"), condition / 3)

    def test_formats(self):
        self.check_codes(PLAIN)

    def test_orders_and_searches(self):
        self.check_codes(UP_FRONT)

    def test_scales_chosen_in_the_loop(self):
        self.check_codes(IN_THE_LOOP)

    def test_dead_channels(self):
        """Their weights become 0 before any scale is chosen, that of the tensor too."""
        changed = dict(self.model.weights)
        name = f"model.{DEAD[0]}.weight"
        changed[name] = changed[name].copy()
        changed[name][3, DEAD[1][0]] = 30  # the tensor's largest
        models.write_model(self.path("m"), self.model.config, changed)
        self.model = Model(self.path("m"))
        records, inputs = self.run_cases({"d": ("nvfp4", {})}), self.inputs()
        self.assertEqual(records["d"]["dead_channels"], len(DEAD[1]))
        for names, _, _, mine, theirs in self.sites(records["d"], "nvfp4", {}, inputs):
            dead = np.flatnonzero(np.diag(mine.H) == 0)
            np.testing.assert_array_equal(dead, sorted(DEAD[1]) if names == [DEAD[0]] else [])
            np.testing.assert_array_equal(theirs.W[:, dead], 0)
            self.assertGreaterEqual(np.mean(theirs.same_rows), SAME_ROWS)
            self.check_numbers(records["d"], names, mine, theirs)
            self.assertEqual(np.float32(records["d"]["factors." + names[0]][0]), mine.quantizer.factor)
            if names == [DEAD[0]]:
                np.testing.assert_array_equal(theirs.scales[:, 1], 0)  # of channels 16 to 31
        *_, kept = self.sites(records["d"], "nvfp4", {}, inputs, keep_dead=True)
        self.assertLess(np.mean(kept[-1].same_rows), FAR_ROWS)

    def test_singular(self):
        """48 tokens for 128 and 192 channels: the damping is raised tenfold up to three times, then codes are rtn's."""
        cases = {d: ("nvfp4", {"damping": d}) for d in (0.01, 1e-16, 1e-20, 0)}
        records, inputs = self.run_cases(cases, windows=1), self.inputs(windows=1)
        # No damping is raised to 1e-3; 1e-13 leaves a condition of 1e15, of which no factor has right digits.
        for damping, used in ((0.01, 0.01), (1e-16, 1e-13), (1e-20, 1e-17), (0, 1e-3)):
            record, fell_back = records[damping], damping in (1e-16, 1e-20)
            with self.subTest(damping):
                self.assertEqual(record["fallbacks"], 4 * fell_back)
                np.testing.assert_array_equal(record["sites.fell_back"], fell_back)
                for found in record["sites.damping"]:
                    self.assertTrue(np.isclose(found, used, rtol=1e-9, atol=0), found)
                self.assertEqual(record["damping_max"], record["sites.damping"].max())
                for *_, theirs in self.sites(record, "nvfp4", RTN if fell_back else {"damping": used}, inputs):
                    self.assertGreaterEqual(np.mean(theirs.same_rows), SAME_ROWS)

    def test_outputs(self):
        """output_mse_rel with inputs as they are, and quantized with a tensor scale per token."""
        inputs = self.inputs()
        cases = {f: (f, keys) for f, keys in (("nvfp4", {}), ("mxfp4-paper", {"k": 32}), ("mxint4", STATIC),
                                              ("nvint4", {**DYNAMIC, "k": 16}), ("nf4", {}))}
        for activations in (None, "same"):
            records = self.run_cases(cases, activations=activations)
            for name, (format, keys) in cases.items():
                with self.subTest(name, activations=activations):
                    self.check_outputs(records[name], format, keys, inputs, activations)

    def check_outputs(self, record, format, keys, inputs, activations):
        spec, errors, energy = SPECS[format], 0, 0
        if "tensor_scale" in spec:
            spec = {**spec, "tensor_scale": "per_token"}
        for names, X, W, mine, theirs in self.sites(record, format, keys, inputs):
            X_hat = (hadamard(X, keys["k"]) if "k" in keys else X)[:, mine.order]
            if activations:
                X_hat = fake_quantize(X_hat, spec)
            Y = X @ np.float64(W).T
            D = X_hat @ theirs.W.T - Y
            for name, rows in zip(names, self.by_linear(names)):
                found = record["linears.output_mse_rel"][list(record["linears.name"]).index(name)]
                self.close(found, np.sum(D[:, rows] ** 2) / np.sum(Y[:, rows] ** 2), 1e-3, name)
            errors, energy = errors + np.sum(D ** 2), energy + np.sum(Y ** 2)
        self.close(record["output_mse_rel"], errors / energy, 1e-3, "over all linears")


if __name__ == "__main__":
    program.main(__doc__)
