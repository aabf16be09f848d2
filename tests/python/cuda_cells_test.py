"""Cells on a GPU give the CPU's numbers: every column of `tensor_error`, `layer` and `model` cells, to the bit in float32.

    cuda_cells_test.py PROGRAM [-v]
"""
import json
import os
import re
import subprocess
import sys
import tempfile
import unittest

from program import ROOT

try:
    import h5py
except ImportError as e:
    print("[fp4lab-skipped]", e)
    sys.exit(0)

PROGRAM = os.path.abspath(sys.argv.pop(1)) if len(sys.argv) > 1 else ""
MODEL = os.path.join(ROOT, "experiments/data/tiny-llama")
TEXT = os.path.join(MODEL, "selfgen.safetensors")
CALIBRATION = {"corpus": TEXT, "windows": 4, "length": 256, "sample": "first"}
EVALUATE = {"corpora": [TEXT], "windows": 3, "length": 192, "offset": 8}
# Where a GPU sums or factors in another order than the CPU: GPTQ's Cholesky is cuSOLVER's.
FACTORED = re.compile("gptq|quarot")


def listed(kind):
    text = subprocess.run([PROGRAM, "list", kind], capture_output=True, text=True, check=True).stdout
    return [line.split()[0] for line in text.splitlines() if re.match("  [a-z]", line) and not line.startswith("  keys")]


class CudaCells(unittest.TestCase):
    def cells(self, sweep, *options):
        """{axes without the device: {device: {column: value}}}"""
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "s.json")
            with open(path, "w") as f:
                json.dump({"name": "s", **sweep}, f)
            done = subprocess.run([PROGRAM, "run", path, "--results", folder, "--no-table", *options],
                                  capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stderr[-3000:])
            with h5py.File(os.path.join(folder, "s.h5")) as f:
                table = {name: [v.decode() if isinstance(v, bytes) else v for v in column[()]]
                         for name, column in f["table"].items()}
        axes = [a for a in sweep["axes"] if a != "device"]
        out = {}
        for i in range(len(table["key"])):
            device = table.get("device", [sweep.get("device")] * len(table["key"]))[i]
            row = {c: v[i] for c, v in table.items() if c not in ("key", "device", "seconds", "provenance", "on_cpu")}
            out.setdefault(tuple(table[a][i] for a in axes), {})[device] = row
        return out

    def same(self, cells, but=lambda cell: False):
        self.assertTrue(cells)
        for cell, by_device in cells.items():
            if but(cell):
                continue
            for column, value in by_device["cpu"].items():
                with self.subTest(cell=cell, column=column):
                    self.assertEqual(repr(by_device["cuda"][column]), repr(value))

    def test_tensors(self):
        self.same(self.cells({"task": "tensor_error", "source": {"checkpoint": MODEL, "tensors": "*layers.0.*proj*"},
                              "axes": {"format": listed("formats"), "method": ["rtn", "rtn+ht"], "device": ["cpu", "cuda"]}}))
        searches = ["alternate", "mse_shrink", "nearby", "paper", {"type": "sweep"}, {"type": "four_over_six"}]
        self.same(self.cells({"task": "tensor_error", "source": {"checkpoint": MODEL, "tensors": "*layers.1.*proj*"},
                              "format": "nvfp4",
                              "axes": {"method": [{"base": "rtn", "weight_scales": s, "label": str(i)} for i, s in enumerate(searches)],
                                       "device": ["cpu", "cuda"]}}))

    def test_layers(self):
        self.same(self.cells({"task": "layer", "model": {"path": MODEL}, "calibration": CALIBRATION,
                              "axes": {"format": ["nvfp4", "mxfp4"], "method": ["rtn", "rtn+ht", "awq", "osfp4"],
                                       "activations": ["same", None], "device": ["cpu", "cuda"]}}))

    def test_models(self):
        cells = self.cells({"task": "model", "model": {"path": MODEL}, "calibration": CALIBRATION, "evaluate": EVALUATE,
                            "axes": {"format": ["nvfp4", "mxfp4-paper", "int4"], "method": listed("methods"),
                                     "device": ["cpu", "cuda"]}})
        self.same(cells, lambda cell: FACTORED.search(cell[1]))
        for cell, by_device in cells.items():
            with self.subTest(cell=cell):
                cpu, gpu = by_device["cpu"], by_device["cuda"]
                self.assertLess(abs(gpu["perplexity"] / cpu["perplexity"] - 1), 1e-3)

    def test_static_scales(self):
        self.same(self.cells({"task": "model", "model": {"path": MODEL}, "calibration": CALIBRATION, "evaluate": EVALUATE,
                              "format": "nvfp4", "method": "rtn", "activation_scale": "static",
                              "axes": {"device": ["cpu", "cuda"]}}))

    def test_bfloat16(self):
        cells = self.cells({"task": "model", "model": {"path": MODEL}, "calibration": CALIBRATION, "evaluate": EVALUATE,
                            "format": "nvfp4", "device": "cuda",
                            "axes": {"method": ["rtn", "mr-gptq"], "compute": ["float32", "bfloat16"]}})
        for method in ("rtn", "mr-gptq"):
            exact, rounded = (next(iter(cells[(method, c)].values())) for c in ("float32", "bfloat16"))
            self.assertLess(abs(rounded["perplexity_full"] / exact["perplexity_full"] - 1), 0.01)
            self.assertLess(abs(rounded["perplexity"] / exact["perplexity"] - 1), 0.08)  # codes turn, and errors of W4A4 with them

    def test_jobs(self):
        sweep = {"task": "model", "model": {"path": MODEL}, "evaluate": EVALUATE,
                 "axes": {"format": ["nvfp4", "mxfp4", "int4", "nf4"], "device": ["cuda"]}}
        self.assertEqual(repr(self.cells(sweep)), repr(self.cells(sweep, "--jobs", "2")))

    def test_memory(self):
        """A cell that does not fit is an error record, and the sweep goes on."""
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "s.json")
            with open(path, "w") as f:
                json.dump({"name": "s", "task": "model", "model": {"path": MODEL}, "evaluate": EVALUATE,
                           "axes": {"format": ["nvfp4"], "device": ["cuda", "cpu"]}}, f)
            done = subprocess.run([PROGRAM, "run", path, "--results", folder], capture_output=True, text=True,
                                  env={**os.environ, "FP4LAB_GPU_MEMORY": "1"})
            self.assertEqual(done.returncode, 4, done.stderr[-3000:])
            self.assertIn("out of memory on cuda:0", done.stderr)
            self.assertIn("1 of 2 cells done", done.stderr)


if __name__ == "__main__":
    probe = subprocess.run([PROGRAM, "run", os.path.join(ROOT, "experiments/sweeps/quickstart.json"), "--device", "cuda", "--shard",
                            "999/1000", "--results", tempfile.mkdtemp()], capture_output=True, text=True)
    if "without CUDA" in probe.stderr or "no CUDA device" in probe.stderr:
        print("[fp4lab-skipped] no CUDA device, or built without CUDA")
        sys.exit(0)
    unittest.main()
