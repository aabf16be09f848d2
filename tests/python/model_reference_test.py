"""Compares the task `model` with an independent float64 forward pass in NumPy (numpy_model.py).

    python3 tests/python/model_reference_test.py build/cpu/fp4lab

How near two right programs are depends on what is quantized (model_cases.py says which case is which):

exact        Nothing that flows is quantized. A float32 product of K terms is off by about sqrt(K) 2^-24 of its size; 42
             products of 256 to 768 terms follow each other, so logits are off by about 42^.5 768^.5 2^-24 = 1e-5 of
             their deviation from their mean, about 3, and the mean over a window's 63 tokens by an eighth of that: 4e-6.
             The bounds are 1e-5 for nll and 1e-6 for KL, whose errors are a token's times its small log ratio.
             Measured: 1e-6 and 3e-7 at worst.
most         Activations are quantized in few places. An input that lies within 1e-6 of a tie takes the other code, which
             moves its window by 1e-4 to 1e-2; most windows have none. At least half of them are within these bounds.
statistical  Everywhere: a code that flips early moves others after it, and soon the window's rounding errors have little
             to do with what they were. Changing the reference's own inputs by 1e-7 moves its window nll by .03 (rms) and
             its KL by 7 %, as far as the program is away. Only means over windows are compared.

Each case names wrong readings of it, and the program must be far from them by the same measure.
"""
import collections
import json
import os
import unittest
from dataclasses import replace

import h5py
import numpy as np

import program
from model_cases import CASES, NV, V
from numpy_model import Cell, Model, log_probabilities, logits, metrics, read_safetensors

DATA = os.environ.get("FP4LAB_DATA", os.path.join(os.path.dirname(program.ROOT), "shared", "data"))
WINDOWS, LENGTH = 8, 64
EXACT_WINDOWS = 3              # `exact` needs no majority, and its cells are the slow ones
NLL, KL = 1e-5, 1e-6           # nats per token: the bounds of `exact`
FAR = 30                       # a wrong reading is at least so many bounds away; measured: at least 60
FAR_ON_AVERAGE = 2             # measured: at least 5


def columns(path):
    with h5py.File(path, "r") as file:
        if len(file["cells"]) != 1:
            raise AssertionError(file["errors/message"].asstr()[()])
        return {name: column[0] for name, column in file["table"].items()}


def windows(path, corpus):
    """{name: an element per window}."""
    with h5py.File(path, "r") as file:
        group, = file["cells"].values()
        prefix = f"windows.{corpus}."
        return {name[len(prefix):]: data[()] for name, data in group.items() if name.startswith(prefix)}


def p99(values):
    """Nearest rank."""
    return np.sort(values, axis=None)[int(np.ceil(0.99 * values.size)) - 1]


def by_window(theirs, mine):
    """How far windows are in units of the exact bounds: the worst, and the least that half of them are within."""
    n = len(mine.nll)
    far = np.maximum(np.abs(theirs["nll"][:n] - mine.nll) / NLL, np.abs(theirs["kl"][:n] - mine.kl) / KL)
    return far.max(), np.sort(far)[(n - 1) // 2]


def on_average(theirs, mine):
    """How far means over windows are, in units of what independent rounding errors explain: they move a token's nll by
    sqrt(2 KL), and four deviations of the mean over all tokens are allowed; for KL, 20 %."""
    kl = mine.kl.mean()
    nll = 4 * np.sqrt(2 * kl / mine.token_kl.size)
    return max(abs(np.mean(theirs["nll"] - mine.nll)) / nll, abs(theirs["kl"].mean() / kl - 1) / 0.2)


def bfloat16(x):
    bits = np.float32(x).view(np.uint32).astype(np.int64)
    return (((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16) << 16).astype(np.uint32).view(np.float32).astype(np.float64)


class Programs(program.InFolder):
    def results(self, *sweeps):
        """Runs them as one list; the result files' paths."""
        self.write("sweeps.json", json.dumps([{"task": "model", **sweep} for sweep in sweeps]))
        self.expect(program.OK, "run", "sweeps.json", "--results", "results", "--no-table", timeout=900)
        return [self.path("results", sweep["name"] + ".h5") for sweep in sweeps]

    def close(self, found, expected, bound, what=""):
        np.testing.assert_allclose(found, expected, rtol=0, atol=bound, err_msg=what)


class OnTinyLlama(Programs):
    @classmethod
    def setUpClass(cls):
        cls.model = Model(program.TINY_LLAMA)
        cls.corpus = os.path.join(program.TINY_LLAMA, "selfgen.safetensors")
        cls.tokens = read_safetensors(cls.corpus)["tokens"].astype(np.int64)  # (64, 512)
        cls.ids = cls.tokens[0].reshape(WINDOWS, LENGTH)
        cls.calibration = cls.tokens[40:42, :2 * LENGTH].reshape(4, LENGTH)
        cls.full = log_probabilities(cls.model, cls.ids)

    def sweep(self, name, keys):
        sweep = {"name": name, "model": {"path": program.TINY_LLAMA},
                 "evaluate": {"corpora": [self.corpus], "windows": WINDOWS, "length": LENGTH}, **keys}
        if keys.get("activation_scale") == "static":
            np.save(self.path("calibration.npy"), self.calibration.astype("<i4"))
            sweep["calibration"] = {"corpus": "calibration.npy", "windows": 4, "length": LENGTH, "sample": "first"}
        return sweep

    def mine(self, cell, n=WINDOWS):
        calibration = self.calibration if cell.scale == "static" else None
        found = log_probabilities(self.model, self.ids[:n], cell, calibration)
        return metrics(self.full[:n], found, self.ids[:n])

    def check_saturated(self, case):
        path, = self.results(self.sweep("s", case.keys))
        count = collections.Counter()
        self.mine(replace(case.cell, count=count))
        self.assertGreater(count["above"], 5)
        found = columns(path)["activation_saturated_share"] * count["inputs"]
        self.close(found, count["above"], 2)  # codes that flipped before


class TinyLlama(OnTinyLlama):
    def check_exact(self, case, theirs):
        mine = self.mine(case.cell, EXACT_WINDOWS)
        self.assertLess(by_window(theirs, mine)[0], 1)
        changed = np.abs(theirs["top1_agreement"][:EXACT_WINDOWS] - mine.top1_agreement) * (LENGTH - 1)
        self.assertLess(changed.sum(), 1.5)  # a tie
        for wrong, changes in case.wrong.items():
            other = self.mine(replace(case.cell, **changes), EXACT_WINDOWS)
            self.assertGreater(by_window(theirs, other)[1], FAR, wrong)

    def check_inexact(self, case, table, theirs):
        mine, most = self.mine(case.cell), case.kind == "most"
        if most:
            self.assertLess(by_window(theirs, mine)[1], 1)
        self.assertLess(on_average(theirs, mine), 1)
        share = mine.top1_agreement.mean()
        self.close(theirs["top1_agreement"].mean(), share, 4 * (share * (1 - share) / self.ids.size) ** 0.5, "top-1")
        self.close(table["kl_p99"] / p99(mine.token_kl), 1, 0.25 if most else 0.5, "p99")
        for wrong, changes in case.wrong.items():
            other = self.mine(replace(case.cell, **changes))
            if most:
                self.assertGreater(by_window(theirs, other)[1], FAR, wrong)
            else:
                self.assertGreater(on_average(theirs, other), FAR_ON_AVERAGE, wrong)

    def check_summary(self, table, theirs):
        """The columns, from the stored windows, which are of one length."""
        self.assertEqual(table["predictions"], WINDOWS * (LENGTH - 1))
        def error(x):
            return np.std(x, ddof=1) / np.sqrt(len(x))
        ppl, full = (np.exp(theirs[name].mean()) for name in ("nll", "nll_full"))
        expected = {"perplexity": ppl, "perplexity_full": full, "perplexity_se": ppl * error(theirs["nll"]),
                    "recovery_percent": 100 * full / ppl, "kl": theirs["kl"].mean(), "kl_se": error(theirs["kl"]),
                    "top1_agreement": theirs["top1_agreement"].mean(), "top1_agreement_se": error(theirs["top1_agreement"])}
        for name, value in expected.items():
            self.close(table[name], value, 1e-11 * abs(value), name)

    def test_cases(self):
        paths = self.results(*(self.sweep(name, case.keys) for name, case in CASES.items()))
        full = metrics(self.full, self.full, self.ids)
        for (name, case), path in zip(CASES.items(), paths):
            with self.subTest(name):
                table, theirs = columns(path), windows(path, "selfgen")
                self.close(theirs["start"], LENGTH * np.arange(WINDOWS), 0)
                self.close(theirs["nll_full"], full.nll, NLL)
                self.check_summary(table, theirs)
                if case.kind == "exact":
                    self.check_exact(case, theirs)
                else:
                    self.check_inexact(case, table, theirs)

    def test_nothing_quantized(self):
        path, = self.results(self.sweep("s", {"format": None}))
        table, theirs = columns(path), windows(path, "selfgen")
        self.assertEqual(theirs["nll"].tolist(), theirs["nll_full"].tolist())
        self.assertEqual((table["kl"], table["kl_p99"], table["top1_agreement"], table["recovery_percent"]), (0, 0, 1, 100))

    def test_p99(self):
        """Exact where the tokens' KL are: all windows of one weight-only cell."""
        path, = self.results(self.sweep("s", {"format": "nvfp4", "activations": None}))
        expected = p99(self.mine(Cell(NV, None)).token_kl)
        self.close(columns(path)["kl_p99"], expected, 1e-4 * expected)  # a token's KL; measured: 1e-6 of it

    def test_saturated_share(self):
        """Inputs above the calibration's amax, counted once per site."""
        self.check_saturated(CASES["static-last"])

    def test_windows_and_corpora(self):
        """A row's tail is dropped, an offset skips windows; a second corpus is a stream."""
        stream = self.tokens[50].astype("<i8")
        np.save(self.path("stream.npy"), stream)
        evaluate = {"corpora": [self.corpus, "stream.npy"], "windows": 4, "length": 100, "offset": 3}
        path, = self.results({**self.sweep("s", {"format": None}), "evaluate": {**evaluate, "windows": 2}})
        self.close(windows(path, "stream")["start"], [300, 400], 0)
        path, = self.results({**self.sweep("t", {"format": None}), "evaluate": {**evaluate, "corpora": [self.corpus]}})
        found = windows(path, "selfgen")
        self.close(found["start"], [300, 400, 512, 612], 0)
        ids = self.tokens[:2, :500].reshape(10, 100)[3:7]
        mine = log_probabilities(self.model, ids)
        self.close(found["nll_full"], metrics(mine, mine, ids).nll, NLL)
        ids = stream[300:500].reshape(2, 100)
        mine = log_probabilities(self.model, ids)
        nll = metrics(mine, mine, ids).nll
        path = self.path("results", "s.h5")
        self.close(windows(path, "stream")["nll_full"], nll, NLL)
        self.close(columns(path)["perplexity@stream"], np.exp(nll.mean()), 1e-5 * np.exp(nll.mean()))
        self.assertEqual(columns(path)["perplexity"], columns(path)["perplexity@selfgen"])


class Disagreements(OnTinyLlama):
    """Where the program is known to leave the design. An unexpected success here says that one of them is gone."""

    def test_a_named_linear_takes_its_site_apart(self):
        """"Where a cell names a single linear, every linear is its own site": q and k too when v is named, not only q and
        v when k, which lies between them, is."""
        path, = self.results(self.sweep("s", {"format": "nvfp4", "activations": None, "overrides": [V[0]]}))
        mine = self.mine(Cell(NV, None, overrides=(V[1],)), EXACT_WINDOWS)
        self.assertLess(by_window(windows(path, "selfgen"), mine)[0], 1)

    def test_nothing_skipped(self):
        """An empty list of what to skip is a list."""
        path, = self.results(self.sweep("s", {"format": "nvfp4", "activations": None, "skip": []}))
        mine = self.mine(Cell(NV, None, skip=()), EXACT_WINDOWS)
        self.assertLess(by_window(windows(path, "selfgen"), mine)[0], 1)

    def test_saturated_inputs_of_the_head(self):
        """"Later overflow saturates and is counted", in the head as well."""
        self.check_saturated(CASES["static-head"])


class Random(Programs):
    """Two models with random weights: Qwen3 (norms of q and k), Llama 3.1 (stretched frequencies); heads of their own."""

    def open(self, name):
        folder = os.path.join(DATA, "models", name)
        if not os.path.isdir(folder):
            self.skipTest(f"{folder} is not there")
        return folder, Model(folder)

    def check(self, name, wrongs):
        folder, model = self.open(name)
        golden = read_safetensors(os.path.join(folder, "golden.safetensors"))
        exact = model.frequencies
        # What made the golden logits had the frequencies in bfloat16; the rest of it was float32. Measured: 1e-5.
        model.frequencies = bfloat16(exact)
        self.close(logits(model, golden["ids"][None])[0], golden["logits"], 5e-5, "the reference itself")
        model.frequencies, model.before = exact, {}

        ids = np.random.default_rng(1).integers(0, 384, (3, 128))
        np.save(self.path("ids.npy"), ids.astype("<u2"))
        cell = Cell(NV, None, skip=("embed_tokens",))
        path, = self.results({"name": "s", "model": {"path": folder}, "format": "nvfp4", "activations": None,
                              "skip": "embed_tokens", "evaluate": {"corpora": ["ids.npy"], "windows": 3, "length": 128}})
        theirs, full = windows(path, "ids"), log_probabilities(model, ids)
        nll = metrics(full, full, ids).nll
        self.close(theirs["nll_full"], nll, NLL)
        self.assertLess(by_window(theirs, metrics(full, log_probabilities(model, ids, cell), ids))[0], 1)
        for change in wrongs:
            model.before = {}
            change(model)
            other = log_probabilities(model, ids)
            self.assertGreater(np.abs(metrics(other, other, ids).nll - nll).max(), FAR * NLL)

    def test_qwen3(self):
        def no_norms(model):
            model.config["model_type"] = "llama"
        def rounded(model):
            model.frequencies = bfloat16(model.frequencies)
        self.check("qwen3-random", [rounded, no_norms])

    def test_llama31(self):
        def plain(model):
            model.frequencies = model.config["rope_theta"] ** (-np.arange(0, 32, 2) / 32)
        def rounded(model):
            model.frequencies = bfloat16(model.frequencies)
        self.check("llama31-random", [rounded, plain])


if __name__ == "__main__":
    program.main(__doc__)
