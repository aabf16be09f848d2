"""Broken tensors, files and folders: the message names them, the exit code tells, and nothing stored is lost.

    python3 tests/python/bad_data_test.py build/cpu/fp4lab
"""
import glob
import json
import os
import random
import re
import shutil
import subprocess

import h5py
import numpy as np

import program
from program import CELLS_FAILED, CONFIG, DATA, OK, InFolder, computed_by, content, read


class BadData(InFolder):
    """Tensors and files that are not as they should be."""
    FORMATS = ["mxfp4", "nvfp4", "int4"]

    def setUp(self):
        super().setUp()
        self.good = np.random.default_rng(1).standard_normal((4, 64)).astype(np.float32)

    def files_sweep(self, *files, **keys):
        return self.sweep(source=None, axes={"source.file": list(files), "format": self.FORMATS}, **keys)

    def check_repair(self, bad, what, repair, tensor):
        self.files_sweep("good.npy", bad)
        for options in (["--jobs", "1"], ["--jobs", "2"]):  # the second tries the failed cells again, each once
            out = self.run_here("run", "s.json", *options)
            self.assertEqual(out[0], CELLS_FAILED, out)
            self.assertIn("s: 3 of 6 cells done", out[2])
            self.assertIn(", 3 failed; results in results/s.h5", out[2])
            self.assertEqual(len(re.findall(r"^failed after ", out[2], re.M)), 3, out[2])
        with h5py.File(self.path("results", "s.h5"), "r") as file:
            self.assertEqual(list(file["table/status"].asstr()), ["done"] * 3 + ["failed"] * 3)
            self.assertEqual(list(file["errors/source.file"].asstr()), [bad] * 3)
            for message in file["errors/message"].asstr():
                for part in (bad, tensor, what, "row 2, column 33", "expected finite"):
                    self.assertIn(part, message)
        before = self.parts("results")
        repair()
        out = self.run_here("run", "s.json")
        self.assertEqual(out[0], OK, out)
        self.assertIn("s: 6 of 6 cells done (3 from earlier runs)", out[2])
        self.assertEqual(computed_by(out[2]), 3)
        now = self.parts("results")
        finished = {name: identity for name, identity in before.items() if "error" not in name}
        self.assertEqual({name: now.get(name) for name in finished}, finished)

    def test_nan_and_inf(self):
        for value, what in ((np.nan, "NaN"), (np.inf, "Inf"), (-np.inf, "-Inf")):
            with self.subTest(value=what):
                shutil.rmtree(self.path("results"), ignore_errors=True)
                np.save(self.path("good.npy"), self.good)
                bad = self.good.copy()
                bad[2, 33] = value
                np.save(self.path("bad.npy"), bad)
                self.check_repair("bad.npy", what, lambda: np.save(self.path("bad.npy"), -self.good), "bad")
                shutil.rmtree(self.path("results"))
                tensors = {"layers.0.w": self.good, "layers.1.w": bad}
                program.safetensors(self.path("bad.safetensors"), tensors)
                repaired = {**tensors, "layers.1.w": self.good}
                self.check_repair("bad.safetensors", what,
                                  lambda: program.safetensors(self.path("bad.safetensors"), repaired), "layers.1.w")

    def test_truncated_checkpoint(self):
        shutil.copytree(program.TINY_LLAMA, self.path("model"))
        path = self.path("model", "model.safetensors")
        size = os.path.getsize(path)
        self.sweep(source={"checkpoint": "model"})
        for cut, says in ((1000, "tensor \""), (size - 8, None), (4, None), (size, None)):
            with self.subTest(cut=cut):
                shutil.copy(os.path.join(program.TINY_LLAMA, "model.safetensors"), path)
                os.truncate(path, size - cut)
                self.expect(DATA, "run", "s.json", says=["model.safetensors"] + ([says] if says else []))
                self.assertEqual(self.parts("results"), {})

    def test_changed_shards_are_new_cells(self):
        os.makedirs(self.path("model"))
        index = {"weight_map": {"layers.0.q_proj.weight": "w-1.safetensors"}}
        self.write("model/model.safetensors.index.json", json.dumps(index))
        for path in ("model", "model/model.safetensors.index.json"):
            with self.subTest(path=path):
                self.sweep(source={"checkpoint": path})
                found = []
                for sign in (1, 2):
                    program.safetensors(self.path("model", "w-1.safetensors"), {"layers.0.q_proj.weight": self.good * sign + 1})
                    self.expect(OK, "run", "s.json")
                    found.append(program.column(self.path("results", "s.h5"), "digest"))
                self.assertNotEqual(found[0], found[1])

    def test_odd_tensors(self):
        tiny = np.float32(1e-45)
        tensors = {
            "zeros": np.zeros((4, 64)), "denormals": np.full((4, 64), tiny), "largest": np.full((4, 64), 3.4028235e38),
            "one_row": self.good[:1], "one_group": self.good[:1, :32], "mixed": np.where(self.good > 0, self.good, 0)}
        for name, array in tensors.items():
            np.save(self.path(name + ".npy"), array.astype(np.float32))
        self.files_sweep(*(n + ".npy" for n in tensors))
        self.expect(OK, "run", "s.json", says=f"s: {3 * len(tensors)} of {3 * len(tensors)} cells done")
        with h5py.File(self.path("results", "s.h5"), "r") as file:
            names, mse = list(file["table/source.file"].asstr()), file["table/mse_rel"][()]
            elements = file["table/elements"][()]
        for name, array in tensors.items():
            rows = [i for i, n in enumerate(names) if n == name + ".npy"]
            self.assertEqual([elements[i] for i in rows], [array.size] * 3)
            for i in rows:
                self.assertFalse(np.isinf(mse[i]), name)
                if name == "zeros":
                    self.assertTrue(mse[i] == 0 or np.isnan(mse[i]), mse[i])
                elif name not in ("denormals", "largest"):
                    self.assertTrue(0 < mse[i] < 0.1, (name, mse[i]))

    def test_columns_that_do_not_divide(self):
        np.save(self.path("odd.npy"), self.good[:, :40])
        self.sweep(source={"file": "odd.npy"}, axes={"format": ["nvfp4"]})
        self.expect(CONFIG, "run", "s.json", says=["tensor odd is (4, 40)", "16", "s.json at /axes/format/0"])
        self.assertEqual(self.parts("results"), {})

    def test_missing_and_empty_files(self):
        self.sweep(source={"file": "none.npy"})
        self.expect(DATA, "run", "s.json", says=["none.npy", "No such file"])
        self.write("none.npy", "")
        self.expect(DATA, "run", "s.json", says="none.npy")


class Places(InFolder):
    """Results that cannot be written or read."""

    def setUp(self):
        super().setUp()
        self.sweep()

    def test_a_file_in_place_of_the_folder(self):
        self.write("r", "mine")
        self.expect(DATA, "run", "s.json", "--results", "r", says=["r/s/parts", "cannot create", "Not a directory"])
        with open(self.path("r")) as file:
            self.assertEqual(file.read(), "mine")

    def test_a_folder_in_place_of_the_file(self):
        os.makedirs(self.path("results", "s.h5"))
        self.expect(DATA, "run", "s.json", says=["results/s.h5: cannot consolidate", "Is a directory"])
        self.assertEqual(self.litter("results"), [])
        os.rmdir(self.path("results", "s.h5"))
        self.expect(OK, "run", "s.json", says="(2 from earlier runs)")

    def test_read_only_folder(self):
        os.mkdir(self.path("r"))
        os.chmod(self.folder, 0o755)
        os.chmod(self.path("r"), 0o555)
        nobody = {}
        if os.geteuid() == 0:  # root may write anywhere
            nobody = {"user": 65534, "group": 65534, "extra_groups": []}
            try:
                code = subprocess.run([program.program, "--version"], stdout=subprocess.DEVNULL, **nobody).returncode
            except OSError as e:
                self.skipTest(f"another user cannot run the program where it is: {e}")
            if code != OK:
                self.skipTest("another user cannot run the program")
        self.expect(DATA, "run", "s.json", "--results", "r", says=["r/s/parts", "Permission denied"], **nobody)
        self.assertEqual(os.listdir(self.path("r")), [])
        os.chmod(self.path("r"), 0o755)
        self.expect(OK, "run", "s.json", "--results", "r")
        os.chmod(self.path("r", "s.h5"), 0)
        if nobody:
            self.expect(DATA, "table", "r/s.h5", says=["r/s.h5", "Permission denied"], **nobody)

    def test_a_result_that_is_none(self):
        os.mkdir(self.path("results"))
        for text in ("", "no HDF5", "\x89HDF\r\n\x1a\n" + "x" * 1000):
            with self.subTest(text=text[:8]):
                self.write("results/s.h5", text.encode("latin-1"))
                self.expect(DATA, "table", "results/s.h5", says="results/s.h5")
                self.expect(DATA, "table", "s.json", says="results/s.h5")
        self.expect(OK, "run", "s.json")  # replaces it
        self.expect(OK, "table", "results/s.h5")
        with h5py.File(self.path("other.h5"), "w") as file:
            file["x"] = 1
        self.expect(DATA, "table", "other.h5", says="other.h5: not a result file of fp4lab")
        whole = read(self.path("results", "s.h5"))
        for length in (100, len(whole) // 2, len(whole) - 1):
            self.write("cut.h5", whole[:length])
            self.expect(DATA, "table", "cut.h5", says="cut.h5")

    def test_damaged_parts_are_computed_again(self):
        self.expect(OK, "run", "s.json")
        expected = content(self.path("results", "s.h5"))
        paths = sorted(glob.glob(self.path("results", "s", "parts", "*.h5")))
        whole = read(paths[0])
        chance = random.Random(1)
        for _ in range(10):
            damaged = bytearray(whole)
            for _ in range(chance.randrange(1, 4)):
                damaged[chance.randrange(len(whole))] ^= chance.randrange(1, 256)
            if damaged == whole:
                continue
            for image in (bytes(damaged), whole[:chance.randrange(len(whole))]):
                with open(paths[0], "wb") as file:
                    file.write(image)
                kept = os.stat(paths[1]).st_ino
                self.expect(OK, "run", "s.json", says="s: 2 of 2 cells done (1 from earlier runs)")
                self.assertEqual(content(self.path("results", "s.h5")), expected)
                self.assertEqual(os.stat(paths[1]).st_ino, kept)
        # A part under another cell's name is none either.
        shutil.copy(paths[1], paths[0])
        self.expect(OK, "run", "s.json", says="s: 2 of 2 cells done (1 from earlier runs)")
        self.assertEqual(content(self.path("results", "s.h5")), expected)

    def test_temporary_files_of_the_dead_are_swept(self):
        self.expect(OK, "run", "s.json")
        dead = subprocess.Popen(["true"])
        dead.wait()
        for name in (f"results/.s.h5.{dead.pid}.tmp", f"results/s/parts/.{'0' * 64}.h5.{dead.pid}.tmp"):
            self.write(name, "half")
        self.expect(OK, "run", "s.json")
        self.assertEqual(self.litter("results"), [])


if __name__ == "__main__":
    program.main(__doc__)
