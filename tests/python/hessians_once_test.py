"""Statistics of the original model are gathered once, whatever number of formats, methods and sweeps asks for them.

    hessians_once_test.py PROGRAM
"""
import json
import os
import tempfile
import unittest

from program import OK, TINY_LLAMA, main, run

TEXT = os.path.join(TINY_LLAMA, "selfgen.safetensors")
CALIBRATION = {"corpus": TEXT, "windows": 4, "length": 256, "sample": "first"}
METHODS = ["gptq", "mr-gptq", "awq"]


def layers(name, formats):
    return {"name": name, "task": "layer", "model": {"path": TINY_LLAMA}, "calibration": CALIBRATION, "sites": ["layers.0.*"],
            "axes": {"format": formats, "method": METHODS}}


class HessiansOnce(unittest.TestCase):
    def files(self, folder):
        """Of the cache: a file that is written again has another inode."""
        cache = os.path.join(folder, "cache")
        return {e.name: e.inode() for e in os.scandir(cache) if e.name.endswith(".safetensors")}

    def test_once(self):
        with tempfile.TemporaryDirectory() as folder:
            def go(sweep):
                path = os.path.join(folder, sweep["name"] + ".json")
                with open(path, "w") as f:
                    json.dump(sweep, f)
                code, _, err = run("run", path, "--results", folder)
                self.assertEqual(code, OK, err)
                return self.files(folder)

            first = go(layers("first", ["nvfp4"]))
            self.assertEqual(len(first), 4)  # qkv, o, gate_up, down
            self.assertEqual(go(layers("all", ["nvfp4", "mxfp4", "mxfp4-even", "int4", "nvint4"])), first)
            # A model cell on the original model's inputs takes these, and gathers the blocks that are missing.
            model = {"name": "model", "task": "model", "model": {"path": TINY_LLAMA}, "calibration": CALIBRATION,
                     "evaluate": {"corpora": [TEXT], "windows": 1, "length": 256, "offset": 8},
                     "axes": {"format": ["nvfp4", "mxfp4"],
                              "method": [{"base": m, "hessian_inputs": "full_precision", "label": m} for m in METHODS]}}
            everything = go(model)
            self.assertEqual({k: v for k, v in everything.items() if k in first}, first)
            self.assertEqual(len(everything) % 4, 0)
            self.assertGreater(len(everything), len(first))
            self.assertEqual(go(layers("again", ["int4-g128", "mxint4"])), everything)


if __name__ == "__main__":
    main(__doc__)
