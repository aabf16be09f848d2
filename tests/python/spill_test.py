"""--spill-above: hidden states of calibration windows in a file give the same bits as in memory, and leave nothing.

    python3 tests/python/spill_test.py build/cpu/fp4lab
"""
import os

import h5py
import numpy as np

import program
from models import LENGTH, WithModel
from program import CELLS_FAILED, CONFIG, OK, content

CALIBRATION = {"corpus": "c.npy", "windows": 4, "length": LENGTH}
EVALUATE = {"corpora": ["c.npy"], "windows": 4, "length": LENGTH, "offset": 20}
METHODS = ["gptq", "gptaq", {"base": "gptq", "hessian_inputs": "full_precision"}]


class Spill(WithModel):
    def sweeps(self):
        """{name: sweep file}: the walk of the quantized and of the original model, single layers, captures."""
        calibration = {**CALIBRATION, "sample": "first"}
        axes = {"format": ["nvfp4"], "method": METHODS}
        return {"walk": self.model_sweep("walk.json", name="walk", evaluate=EVALUATE, calibration=calibration, axes=axes),
                "static": self.model_sweep("static.json", name="static", evaluate=EVALUATE, calibration=calibration,
                                           axes={"format": ["nvfp4"]}, activation_scale="static"),
                "layer": self.sweep("layer.json", name="layer", task="layer", source=None, model={"path": "m"},
                                    calibration=calibration, axes={"format": ["nvfp4"], "method": ["rtn", "gptq"]}),
                "capture": self.capture_sweep("capture.json", name="capture")}

    def files(self, results):
        return [name for _, _, names in os.walk(self.path(results)) for name in names]

    def test_same_results(self):
        for name, file in self.sweeps().items():
            with self.subTest(sweep=name):
                tables = [self.expect(OK, "run", file, "--results", "memory", "--spill-above", "8T")]
                expected = content(self.path("memory", name + ".h5"))
                for results, options in (("file", []), ("jobs", ["--jobs", "2"])):
                    tables.append(self.expect(OK, "run", file, "--results", results, "--spill-above", "0", *options))
                    self.assertEqual(content(self.path(results, name + ".h5")), expected)
                    self.assertEqual([n for n in self.files(results) if "spill" in n or n.endswith(".tmp")], [])
                    self.assertTrue(os.path.isdir(self.path(results, "cache")), "it was not used")
                self.assertEqual(tables[1:], tables[:1] * 2)
                # The keys are the same: nothing is computed again.
                _, _, err = self.run_here("run", file, "--results", "memory", "--spill-above", "0", "--no-table")
                self.assertIn("cells done (", err)
                self.assertEqual(program.computed_by(err), 0)
        self.assertEqual(sorted(os.listdir(self.path("memory", "cache"))), sorted(os.listdir(self.path("file", "cache"))))

    def test_it_is_used(self):
        """Where the folder cannot be made, a cell that needs it says so; the others do not mind."""
        file = self.sweeps()["walk"]
        os.mkdir(self.path("results"))
        self.write("results/cache", "not a folder")
        self.expect(CELLS_FAILED, "run", file, "--no-table", "--spill-above", "0", "--set", 'axes.method=["rtn","gptq"]',
                    says=["walk: 1 of 2 cells done, 1 failed", "results/cache"])
        with h5py.File(self.path("results", "walk.h5"), "r") as found:
            self.assertEqual(list(found["errors/method"].asstr()), ["gptq"])
        self.expect(OK, "run", file, "--no-table", "--spill-above", "1G", "--set", 'axes.method=["rtn","gptq"]')

    def test_leftovers(self):
        """A name that a process left as it died goes with the next file."""
        os.makedirs(self.path("results", "cache"))
        self.write("results/cache/.spill.1999999999.tmp", "x")
        self.write("results/cache/mine.tmp", "x")
        self.expect(OK, "run", self.sweeps()["static"], "--spill-above", "0")
        self.assertEqual(os.listdir(self.path("results", "cache")), ["mine.tmp"])

    def test_sizes(self):
        file = self.sweeps()["walk"]
        for command in ("run", "plan"):
            for bad in ("8GB", "-1", "", "1.5G", "much"):
                self.expect(CONFIG, command, file, "--spill-above", bad,
                            says=f"--spill-above {bad}: expected a number of bytes, as 0, 500M or 8G")
            self.expect(CONFIG, command, file, "--spill-above", says="--spill-above")
        for command in ("check", "merge"):
            self.expect(CONFIG, command, file, "--spill-above", "0", says="spill-above")
        self.assertFalse(os.path.exists(self.path("results", "cache")))

    def test_plan(self):
        """States of 20 million tokens of 64 numbers: 5 GB, unless they are in a file."""
        np.save(self.path("long.npy"), np.zeros(20_000_000, np.uint16))
        file = self.model_sweep(calibration={"corpus": "long.npy", "windows": 1_250_000, "length": LENGTH, "sample": "first"},
                                evaluate=EVALUATE, axes={"format": ["nvfp4"]}, method="gptq")
        self.assertRegex(self.expect(OK, "plan", file, "--spill-above", "8T"), r"at most 5\.\d+ GB of memory")
        self.assertRegex(self.expect(OK, "plan", file, "--spill-above", "5G"), r"at most \d+(\.\d+)? MB of memory")


if __name__ == "__main__":
    program.main(__doc__)
