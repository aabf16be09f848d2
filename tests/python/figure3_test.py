"""What Figures 3, 8, 9 and 10 of arXiv 2509.23202 say, as assertions on the sweeps that draw ours.

Runs the Laplace part of experiments/sweeps/figure3.json and the weights of figure8.json.
    python3 tests/python/figure3_test.py build/cpu/fp4lab
"""
import json
import re
import shutil
import tempfile
import unittest
from pathlib import Path

import h5py

import program
from program import ROOT

SWEEPS = Path(ROOT) / "experiments" / "sweeps"
SIZES = [4, 8, 16, 32, 64, 128, 256, 512, 1024]
# The largest element's relative error without rotation, when amax/scale has no preferred place (SPEC: phi(2c), Lemma 4).
TOP = {"E8M0 floor": 0.017164, "E8M0 fpq": 0.010723, "E4M3": 0.000702}
PAPER_TOP_E8M0 = 8e-3  # "about", as the paper reports it


def run(sweep_file, name):
    """Runs one sweep of a list; returns its table: one dict per cell."""
    text = re.sub(r"^\s*//.*$", "", (SWEEPS / sweep_file).read_text(), flags=re.M)
    sweep = next(s for s in json.loads(text) if s["name"] == name)
    if "model" in sweep:
        sweep["model"]["path"] = program.TINY_LLAMA
    folder = tempfile.mkdtemp(prefix="fp4lab-test-")
    try:
        path = Path(folder, "sweep.json")
        path.write_text(json.dumps(sweep))
        code, _, errors = program.run("run", path, "--results", folder)
        assert code == 0, errors
        with h5py.File(Path(folder, name + ".h5"), "r") as file:
            columns = {c: (d.asstr()[()] if h5py.check_string_dtype(d.dtype) else d[()]) for c, d in file["table"].items()}
        return [dict(zip(columns, row)) for row in zip(*columns.values())]
    finally:
        shutil.rmtree(folder)


class Hadamard(unittest.TestCase):
    """Laplace samples, native and under a Hadamard of the group's size."""

    @classmethod
    def setUpClass(cls):
        cls.cells = {(c["format"], int(c["format.group_size"]), c["method"]): c
                     for c in run("figure3.json", "figure3_laplace")}

    def value(self, metric, format, size, method="rtn"):
        return self.cells[format, size, method][metric]

    def change(self, metric, format, size):
        """By the rotation, relative."""
        return self.value(metric, format, size, "rtn+ht") / self.value(metric, format, size) - 1

    def test_every_cell_is_there(self):
        self.assertEqual(len(self.cells), 6 * len(SIZES) * 2)

    def test_nvfp4_the_rotation_hurts_small_groups_and_helps_large_ones(self):
        changes = [self.change("mse_rel", "e2m1 E4M3", size) for size in SIZES]
        self.assertEqual(changes, sorted(changes, reverse=True))
        of_size = dict(zip(SIZES, changes))
        self.assertGreater(of_size[16], 0.04)  # .00904 / .00859 of independent blocks: +5 %; H of 16 is not yet Normal
        self.assertLess(of_size[16], 0.08)
        self.assertTrue(-0.05 < of_size[32] < 0, of_size)  # Lemma 2: the crossover is at G = 26 without rounded scales
        self.assertLess(of_size[128], -0.1)
        self.assertLess(of_size[1024], -0.3)

    def test_mxfp4_the_rotation_helps(self):
        for rule in ("floor", "fpq"):
            changes = [self.change("mse_rel", f"e2m1 E8M0 {rule}", size) for size in SIZES]
            self.assertEqual(changes, sorted(changes, reverse=True))
            self.assertLess(changes[0], -0.02)
            self.assertLess(changes[SIZES.index(32)], -0.1)

    def test_int4_the_rotation_helps(self):
        for scale in ("E8M0 floor", "E8M0 fpq", "E4M3"):
            for size in SIZES:
                self.assertLess(self.change("mse_rel", f"int4 {scale}", size), -0.1, (scale, size))

    def test_native_top_errors_are_flat(self):
        for scale, expected in TOP.items():
            for size in SIZES:
                measured = self.value("mse_top_rel", f"e2m1 {scale}", size)
                self.assertLess(abs(measured / expected - 1), 0.02, (scale, size, measured))

    def test_top_errors_and_the_paper(self):
        # Near 0 under E4M3, as reported. E8M0: about 8e-3 reported, a third more measured and computed: stated, not met.
        for size in SIZES:
            self.assertLess(self.value("mse_top_rel", "e2m1 E4M3", size), 0.1 * PAPER_TOP_E8M0)
            ratio = self.value("mse_top_rel", "e2m1 E8M0 fpq", size) / PAPER_TOP_E8M0
            self.assertTrue(1.3 < ratio < 1.38, ratio)

    def test_rotated_top_errors(self):
        # The top element gets what every element gets, relative to its larger square: less in larger groups. That is a
        # gain under E8M0 at any size, a loss under E4M3 but in the largest groups.
        for scale in TOP:
            rotated = [self.value("mse_top_rel", f"e2m1 {scale}", size, "rtn+ht") for size in SIZES]
            self.assertEqual(rotated, sorted(rotated, reverse=True), scale)
        for size in SIZES:
            for rule in ("floor", "fpq"):
                self.assertLess(self.change("mse_top_rel", f"e2m1 E8M0 {rule}", size), -0.5)
        self.assertGreater(self.change("mse_top_rel", "e2m1 E4M3", 16), 1)


class ScaleTypes(unittest.TestCase):
    """Appendix C: the shipped model's weights, above the error of unrounded scales, in percent."""

    @classmethod
    def setUpClass(cls):
        cells = run("figure8.json", "figure8_weights")
        value = {(c["format"], int(c["format.group_size"])): c["mse_rel"] for c in cells}
        cls.rise = {key: 100 * (mse / value["FP32", key[1]] - 1) for key, mse in value.items()}

    def of_16(self, name):
        return self.rise[name, 16]

    def test_order(self):
        for size in (16, 32):
            names = ["E3M4", "E4M3", "E5M2", "E6M1", "E7M0"]  # a mantissa bit less, each
            rises = [self.rise[name, size] for name in names]
            self.assertEqual(rises, sorted(rises), size)
            self.assertLess(self.rise["E8M0 even", size], self.rise["E8M0 fpq", size])
            self.assertLess(self.rise["E8M0 fpq", size], self.rise["E7M0", size])
            self.assertEqual(self.rise["INT8", size], self.rise["E1M6", size])  # the same numbers

    def test_measured(self):
        for name, low, high in (("FP16", -0.01, 0.01), ("E1M6", 0.1, 0.4), ("E2M5", 0.05, 0.3), ("E3M4", 0.4, 0.7),
                                ("E4M3", 1.9, 2.4), ("E4M3 alone", 2.5, 3.1), ("E5M2", 8.0, 9.0), ("E6M1", 33, 36),
                                ("E8M0 even", 36, 39), ("E8M0 fpq", 45, 48), ("E8M0 floor", 54, 58), ("E7M0", 104, 112)):
            self.assertTrue(low < self.of_16(name) < high, (name, self.of_16(name)))

    def test_beside_the_paper(self):
        # Close to 0 for E1M6 to E3M4 and INT8: met.
        for name in ("E1M6", "E2M5", "E3M4", "INT8"):
            self.assertLess(abs(self.of_16(name)), 1, name)
        # About +40 % for E8M0: met by the paper's rule and by `even` to 7 points.
        for name in ("E8M0 fpq", "E8M0 even"):
            self.assertLess(abs(self.of_16(name) - 40), 7, name)
        # About +10 % for E4M3: not met, with a scale of the tensor or without; E5M2 comes near it.
        for name in ("E4M3", "E4M3 alone"):
            self.assertLess(self.of_16(name), 4, name)


if __name__ == "__main__":
    program.main(__doc__)
