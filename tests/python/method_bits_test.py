"""Every named method gives the same codes and the same numbers for any number of threads and processes, either instruction
set, and whether the calibration's hidden states are in memory or in a file.

    method_bits_test.py PROGRAM
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
TEXT = os.path.join(ROOT, "experiments/data/tiny-llama/selfgen.safetensors")


def sweep(methods):
    return {"name": "bits", "task": "model", "seed": 1,
            "model": {"path": os.path.join(ROOT, "experiments/data/tiny-llama")},
            "calibration": {"corpus": TEXT, "windows": 4, "length": 256, "sample": "first"},
            "evaluate": {"corpora": [TEXT], "windows": 2, "length": 256, "offset": 8},
            "axes": {"format": ["nvfp4", "mxfp4-even"], "method": methods}}


class MethodBits(unittest.TestCase):
    def run_with(self, folder, path, threads, *options, **environment):
        subprocess.run([PROGRAM, "run", path, "--results", folder, *options], check=True, stdout=subprocess.DEVNULL,
                       env={**os.environ, "OMP_NUM_THREADS": str(threads), **environment})
        with h5py.File(os.path.join(folder, "bits.h5")) as f:
            read = lambda name: [v.decode() if isinstance(v, bytes) else v for v in f["table"][name][()]]
            return {(a, b): (digest, kl, nll, loss) for a, b, digest, kl, nll, loss in
                    zip(*map(read, ("format", "method", "digest", "kl", "perplexity", "condition_max")))}

    def test_bits(self):
        known = subprocess.run([PROGRAM, "list", "methods"], capture_output=True, text=True, check=True).stdout
        methods = [line.split()[0] for line in known.splitlines() if re.match("  [a-z]", line) and not line.startswith("  keys")]
        for name in ("gptq", "mr-gptq", "quarot", "osfp4"):
            self.assertIn(name, methods)
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "bits.json")
            with open(path, "w") as f:
                json.dump(sweep(methods), f)
            first = self.run_with(os.path.join(folder, "a"), path, 2)
            self.assertEqual(len(first), 2 * len(methods))
            self.assertEqual(len({v[0] for v in first.values()}), 2 * len(methods))  # no two methods give the same codes
            others = {"one thread, states in a file": self.run_with(os.path.join(folder, "b"), path, 1, "--spill-above", "0"),
                      "AVX2, three threads, two processes": self.run_with(os.path.join(folder, "c"), path, 3, "--jobs", "2",
                                                                          FP4LAB_ISA="x86-64-v3")}
        for what, found in others.items():
            for cell, values in first.items():
                with self.subTest(what, cell=cell):
                    self.assertEqual(repr(found[cell]), repr(values))


if __name__ == "__main__":
    unittest.main()
