"""Exports that are refused, interrupted, killed, or do not fit: the program as a process.

    python3 tests/python/export_faults_test.py build/cpu/fp4lab
"""
import json
import os
import resource
import signal

import models
import program

NVFP4, MXFP4, INT4 = "nvfp4-pack-quantized", "mxfp4-pack-quantized", "pack-quantized"
CALIBRATION = {"corpus": "c.npy", "windows": 4, "length": models.LENGTH, "sample": "first"}


class Exports(models.WithModel):
    def one(self, **keys):
        """A sweep of one cell, weights alone."""
        evaluate = {"corpora": ["c.npy"], "windows": 4, "length": models.LENGTH}
        self.write("s.json", json.dumps({"name": "s", "task": "model", "model": {"path": "m"}, "evaluate": evaluate,
                                         "format": "nvfp4", "activations": None, **keys}))

    def export(self, layout=NVFP4, *options, code=program.OK, **more):
        return self.expect(code, "export", "s.json", "--layout", layout, "--to", "x", *options, **more)

    def litter(self):
        return [name for name in os.listdir(self.path()) if name.endswith(".tmp")]

    def content(self, folder):
        return {name: program.read(self.path(folder, name)) for name in os.listdir(self.path(folder))
                if name != "fp4lab.json"}  # which has the time


class Refusals(Exports):
    def test_what_a_layout_cannot_say(self):
        """With the reason and the nearest thing that it can."""
        turned = {"base": "rtn", "transform": {"type": "hadamard", "k": 32}}
        static = {"activation_scale": "static", "calibration": CALIBRATION,
                  "evaluate": {"corpora": ["c.npy"], "windows": 4, "length": models.LENGTH, "offset": 8}}
        for layout, keys, says in (
                (MXFP4, {"format": "mxfp4-paper"}, ["a third of a power of two", "mxfp4-even"]),
                (MXFP4, {"format": "mxfp4-even", "activations": "mxfp4"}, ["inputs to mxfp4-even"]),
                (NVFP4, {"format": "mxfp4"}, ["e2m1 in groups of 16", "nvfp4 is the nearest"]),
                (NVFP4, {"activations": "nvfp4"}, ['"activation_scale": "static"']),
                (NVFP4, {"method": turned}, ["no rotation", "fp_quant"]),
                (INT4, {"format": "int4-asym"}, ["int4"]),
                (INT4, {"format": "int4", "activations": "int4"}, ["by amax/7.5", "int4-peer"]),
                (INT4, {"format": "int4", "activations": {"base": "int4-peer", "scale": "bf16"}}, ["type of the weights' scales"]),
                ("fp_quant", {"format": "nvfp4"}, ["nvfp4-pack-quantized"]),
                ("fp_quant", {"format": "mxfp4", "activations": "same"}, ["mxfp4-paper"]),
                ("fp_quant", {"activations": "nvfp4", "method": {"base": "rtn", "transform": "wush"}, **static},
                 ["fitted to data", "hadamard"]),
                ("modelopt-nvfp4", {"format": "int4"}, ["nvfp4"]),
                (NVFP4, {"fuse": False}, ["one tensor scale", '"fuse": true']),
                (NVFP4, {"overrides": [{"match": "*q_proj*", "format": None}]}, ["quantized all or none"]),
                (MXFP4, {"format": "mxfp4-even", "overrides": [{"match": "*down_proj*", "format": "mxfp4-ceil"}]},
                 ["other formats than"]),
                (NVFP4, {"format": None}, ["nothing is quantized"]),
                ("gguf", {}, ["gguf", NVFP4])):
            with self.subTest(layout=layout, **keys):
                self.one(**keys)
                self.export(layout, code=program.CONFIG, says=says)
                self.assertFalse(os.path.exists(self.path("x")))
                self.assertEqual(self.litter(), [])

    def test_a_cell_that_makes_no_model(self):
        self.write("s.json", json.dumps({"name": "s", "task": "tensor_error", "format": "nvfp4",
                                         "source": program.SYNTHETIC}))
        self.export(code=program.CONFIG, says=["tensor_error makes no model", "task model"])

    def test_options(self):
        self.one()
        for options, says in ((["export", "s.json", "--to", "x"], "which layout"),
                              (["export", "s.json", "--layout", NVFP4], "where to"),
                              (["export", "s.json", "--layout", NVFP4, "--to", "x", "--max-shard-size", "5Q"], "--max-shard-size 5Q"),
                              (["export", "s.json", "--layout", NVFP4, "--to", "x", "--cell", "nf4"], "no cell has this name"),
                              (["import"], "which checkpoint"), (["convert", "m"], "which layout")):
            with self.subTest(options=options):
                self.expect(program.CONFIG, *options, says=says)
        self.expect(program.DATA, "import", "m", says=["m: not a quantized checkpoint", "no quantization_config"])
        self.expect(program.DATA, "import", "nowhere", says="nowhere")

    def test_stored_needs_a_quantized_checkpoint(self):
        self.one(format="stored", activations="same")
        self.expect(program.CONFIG, "plan", "s.json", says=['"stored" is what a quantized checkpoint holds'])
        self.one()
        self.export()
        self.one(model={"path": "x"}, format="stored", activations="same", method="gptq")
        self.expect(program.CONFIG, "plan", "s.json", says="the weights are quantized already, as they are stored")
        self.one(model={"path": "m", "quantized": "m"}, format="stored", activations="same")
        self.expect(program.DATA, "plan", "s.json", says="m: not a quantized checkpoint")


class Existing(Exports):
    def test_force(self):
        self.one()
        self.export()
        before = self.content("x")
        self.export(code=program.DATA, says="x: exists already; --force replaces it")
        self.assertEqual(self.content("x"), before)
        self.write("s.json", program.read(self.path("s.json")).decode().replace("nvfp4", "mxfp4-even"))
        self.export(MXFP4, "--force")
        self.assertNotEqual(self.content("x"), before)

    def test_the_cell_that_was_run(self):
        """The digest is the stored cell's; bytes that differ from what was measured are not written."""
        self.one(method="gptq", calibration=CALIBRATION,
                 evaluate={"corpora": ["c.npy"], "windows": 4, "length": models.LENGTH, "offset": 8})
        self.assertIn("compared with none", self.export())
        self.expect(program.OK, "run", "s.json", "--results", "r", "--no-table")
        self.assertIn("the bytes that the stored cell was measured with", self.export(NVFP4, "--force", "--results", "r"))
        with open(self.path("x", "fp4lab.json")) as file:
            about = json.load(file)
        self.assertTrue(about["equals_stored_cell"])
        self.assertIn("gptq", json.dumps(about["cell"]["resolved"]["method"]))
        self.assertEqual(len(about["digest"]), 64)
        before = self.content("x")
        models.write_model(self.path("m"), seed=2)  # other weights under the same name have another key
        self.assertIn("compared with none", self.export(NVFP4, "--force", "--results", "r"))
        self.assertNotEqual(self.content("x"), before)


class Faults(Exports):
    def test_full_disk(self):
        self.one()
        limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (30000, 30000))
        self.export(code=program.DATA, preexec_fn=limit, says=[".safetensors", "File too large"])
        self.assertFalse(os.path.exists(self.path("x")))
        self.assertEqual(self.litter(), [])
        self.export()
        before = self.content("x")
        self.export(NVFP4, "--force", code=program.DATA, preexec_fn=limit, says="File too large")
        self.assertEqual(self.content("x"), before)
        for command in (["import", "x", "--to", "y"], ["convert", "x", "--layout", "modelopt-nvfp4", "--to", "y"]):
            self.expect(program.DATA, *command, preexec_fn=limit, says="File too large")
            self.assertFalse(os.path.exists(self.path("y")))
            self.assertEqual(self.litter(), [])

    def slow(self):
        """Takes some seconds: GPTQ of tiny-llama."""
        corpus = os.path.join(program.TINY_LLAMA, "selfgen.safetensors")
        calibration = {"corpus": corpus, "windows": 64, "length": 256}
        self.write("s.json", json.dumps({
            "name": "s", "task": "model", "model": {"path": program.TINY_LLAMA}, "format": "nvfp4", "activations": None,
            "method": "gptq", "calibration": calibration,
            "evaluate": {"corpora": [corpus], "windows": 1, "length": 64, "offset": 400}}))
        process = program.start("export", "s.json", "--layout", NVFP4, "--to", "x", "--max-shard-size", "1M", cwd=self.path())
        def half_way():
            found = self.litter()
            return found and any(name.endswith(".safetensors") for name in os.listdir(self.path(found[0])))
        program.wait_until(half_way, process)
        return process

    def test_interrupt(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            with self.subTest(signal=number):
                process = self.slow()
                process.send_signal(number)
                code, _, err = program.finish(process)
                self.assertEqual(code, program.INTERRUPTED, err)
                self.assertIn("interrupted; nothing was written", err)
                self.assertFalse(os.path.exists(self.path("x")))
                self.assertEqual(self.litter(), [])

    def test_kill(self):
        process = self.slow()
        process.kill()
        program.finish(process)
        self.assertFalse(os.path.exists(self.path("x")))
        self.assertEqual(len(self.litter()), 1)
        self.one()
        self.export()
        self.assertEqual(self.litter(), [])
        self.expect(program.OK, "import", "x")

    def test_damaged_afterwards(self):
        """Cut short, or a scale that is NaN: named."""
        self.one()
        self.export()
        file = self.path("x", "model.safetensors")
        whole = program.read(file)
        with open(file, "wb") as out:
            out.write(whole[:-100])
        self.expect(program.DATA, "import", "x", says="x/model.safetensors")
        header = json.loads(whole[8:8 + int.from_bytes(whole[:8], "little")])
        name = "model.layers.2.mlp.down_proj.weight_scale"
        at = 8 + int.from_bytes(whole[:8], "little") + header[name]["data_offsets"][0]
        with open(file, "wb") as out:
            out.write(whole[:at] + b"\x7f" + whole[at + 1:])
        self.expect(program.DATA, "import", "x", says=["x/model.safetensors", name, "row 0, group 0"])
        self.one(name="e", model={"path": "x"}, format="stored", activations="same")
        self.expect(program.CELLS_FAILED, "run", "s.json", "--results", "r", "--no-table", says=[name, "row 0, group 0"])


if __name__ == "__main__":
    program.main(__doc__)
