"""Sweep files and options: what is refused and how, --set, lists of sweeps, comments, paths.

    python3 tests/python/sweep_files_test.py build/cpu/fp4lab
"""
import json
import os
import re
import subprocess
import time

import h5py
import numpy as np

import program
from program import CONFIG, DATA, GOOD, OK, SYNTHETIC, InFolder, column


class Mistakes(InFolder):
    def refused(self, *says, code=CONFIG, **keys):
        """A sweep with these keys (None: without) is refused at once, and nothing is written."""
        self.sweep(**keys)
        self.expect(code, "check", "s.json", says=says)
        self.expect(code, "run", "s.json", says=says)
        self.assertFalse(os.path.exists(self.path("results", "s")))

    def refused_text(self, text, *says):
        self.write("s.json", text)
        self.expect(CONFIG, "check", "s.json", says=says)

    def test_files(self):
        self.expect(CONFIG, "run", "none.json", says="none.json: cannot open: No such file or directory")
        self.expect(CONFIG, "run", ".", says=".: cannot read: Is a directory")
        self.expect(CONFIG, "run", says="which sweep?")
        self.refused_text("", "s.json: the text is empty")
        self.refused_text(" \n", "s.json: the text is empty")
        self.refused_text(b"\xff{}", "s.json:1:1: the text is not valid UTF-8")

    def test_syntax(self):
        self.refused_text('{"name": "a",\n  "task" }', "s.json:2:10: expected ':' after the key, found '}'")
        self.refused_text('{"name": "a",\n\n "b": [1, 2', "s.json:3:")
        self.refused_text('{"a": 1e999}', "s.json:1:", "too large")
        self.refused_text("{'a': 1}", "s.json:1:2: ")
        self.refused_text("{} {}", "s.json:1:4: ")
        self.refused_text("{\"name\": \"a\", \"name\": \"b\"}", 's.json: key "name" is given twice')
        text = json.dumps(GOOD)[:-1].replace('"mxfp4"', '{"base": "mxfp4", "base": "nvfp4"}') + "}"
        self.refused_text(text, "s.json at /axes/format/0: key \"base\" is given twice")

    def test_sweeps(self):
        self.refused_text("3", "s.json: expected an object, found 3")
        self.refused_text("[]", "s.json: an empty list of sweeps")
        self.refused_text("[3]", "s.json at /0: expected an object, found 3")
        self.refused_text(json.dumps([GOOD, GOOD]), 's.json at /1: two sweeps of this list are named "s"')
        self.refused('missing key "name"', name=None)
        self.refused('missing key "task"', task=None)
        self.refused('missing key "source"', source=None)
        self.refused('missing key "format"', axes=None)
        for name in ("../s", "a/b", "", ".s", "a b", "x" * 101):
            self.refused("s.json at /name: a sweep's name is a file name", name=name)

    def test_unknown_keys(self):
        shape = SYNTHETIC["synthetic"]
        for says, keys in (
                ('s.json: unknown key "sorce"; did you mean "source"? task tensor_error reads:', {"sorce": 1}),
                ('s.json at /source: unknown key "x"; a source reads: synthetic', {"source": {**SYNTHETIC, "x": 1}}),
                ('s.json at /source/synthetic: unknown key "shpe"; did you mean "shape"?',
                 {"source": {"synthetic": {**shape, "shpe": 1}}}),
                ('s.json at /format: unknown key "grup_size"; did you mean "group_size"?',
                 {"axes": {"seed": [1]}, "format": {"base": "mxfp4", "grup_size": 16}}),
                ('s.json at /axes/format/1: unknown key "grup_size"; did you mean "group_size"?',
                 {"axes": {"format": ["mxfp4", {"base": "mxfp4", "grup_size": 16}]}}),
                ('s.json at /axes/format/0/rule: unknown key "x"; a rule reads: type',
                 {"axes": {"format": [{"base": "mxfp4", "rule": {"type": "floor", "x": 1}}]}}),
                ('s.json at /method: unknown key "wieght_scales"; did you mean "weight_scales"?',
                 {"method": {"base": "rtn", "wieght_scales": "rule"}}),
                ('s.json at /overrides/0: unknown key "z"; an override reads: match, format',
                 {"overrides": [{"match": "*", "format": "int4", "z": 1}]})):
            with self.subTest(says=says):
                self.refused(says, **keys)

    def test_unknown_names(self):
        for says, keys in (
                ('s.json at /task: unknown task "tensor_eror"; did you mean "tensor_error"? known: ',
                 {"task": "tensor_eror"}),
                ('s.json at /axes/format/1: unknown format "mxfp5"; did you mean "mxfp4"? known: mxfp4, ',
                 {"axes": {"format": ["mxfp4", "mxfp5"]}}),
                ('unknown format "something"; known: mxfp4, ', {"axes": {"format": ["something"]}}),
                ('s.json at /axes/format/0/rule: unknown rule "flor"; did you mean "floor"?',
                 {"axes": {"format": [{"base": "mxfp4", "rule": "flor"}]}}),
                ('s.json at /method: unknown method "rtm"; did you mean "rtn"?', {"method": "rtm"}),
                ('s.json at /source/synthetic/distribution: unknown distribution "norml"; did you mean "normal"?',
                 {"source": {"synthetic": {"distribution": "norml", "shape": [8, 64]}}}),
                ('s.json at /metrics: unknown metric "mse_rl"; did you mean "mse_rel"?', {"metrics": ["mse_rl"]}),
                ('s.json at /keep: unknown thing to keep "code"; did you mean "codes"?', {"keep": ["code"]}),
                ('s.json at /source: a source has one of the keys checkpoint, weights, activations, file, synthetic', {"source": {"x": 1}}),
                ('a source is one thing, but this one has', {"source": {**SYNTHETIC, "file": "a.npy"}}),
                ('s.json at /exclude/0: unknown axis "frmat"; did you mean "format"?', {"exclude": [{"frmat": 1}]})):
            with self.subTest(says=says):
                self.refused(says, **keys)

    def test_wrong_types(self):
        for says, keys in (
                ("s.json at /name: expected a string, found 3", {"name": 3}),
                ('s.json at /seed: expected an integer in [0, 9007199254740992], found a string "a"', {"seed": "a"}),
                ("s.json at /seed: expected an integer in [0, 9007199254740992], found -1", {"seed": -1}),
                ("s.json at /axes/seed/1: expected an integer in [0, 9007199254740992], found 1.5",
                 {"axes": {"format": ["mxfp4"], "seed": [1, 1.5]}}),
                ("s.json at /source: expected an object, found 7", {"source": 7}),
                ('s.json at /source/synthetic/shape: expected a list of integers, found a string "8"',
                 {"source": {"synthetic": {"distribution": "normal", "shape": "8"}}}),
                ("s.json at /axes: expected an object of axes, found a list [1]", {"axes": [1]}),
                ('s.json at /axes/format: expected a list of values, found a string "mxfp4"',
                 {"axes": {"format": "mxfp4"}}),
                ("s.json at /axes/format: the axis has no values", {"axes": {"format": []}}),
                ("s.json at /exclude: expected a list of {axis: value}", {"exclude": {"format": "mxfp4"}}),
                ("s.json at /exclude/0: expected an object", {"exclude": [{}]}),
                ("s.json at /overrides: expected a list", {"overrides": {"match": "*"}}),
                ("s.json at /axes/format/0: ", {"axes": {"format": [None]}})):
            with self.subTest(says=says):
                self.refused(says, **keys)

    def test_axes(self):
        self.refused('s.json at /axes/format/1: "mxfp4" stands twice in this axis', axes={"format": ["mxfp4", "mxfp4"]})
        for pair in ([1, 1], [1, 1.0], [1.0, 1]):
            self.refused("s.json at /axes/seed/1: ", "stands twice", axes={"format": ["mxfp4"], "seed": pair})
        for key in ("name", "axes.seed", "task.x", "", ".x"):
            self.refused(f's.json at /axes: "{key}" is not a key of the task\'s cells', axes={key: [1]})
        self.refused("s.json at /axes/seed.x: ", "leads through something that is not an object", seed=1,
                     axes={"format": ["mxfp4"], "seed.x": [1]})
        student = {"distribution": "student_t", "shape": [8, 64]}
        self.refused('s.json at /axes/source: its values would replace what the axis "source.synthetic.nu"',
                     source=None, format="mxfp4",
                     axes={"source.synthetic.nu": [3, 5], "source": [{"synthetic": student}]})
        self.sweep(source=None, format="mxfp4",
                   axes={"source": [{"synthetic": student}], "source.synthetic.nu": [3, 5]})
        self.assertIn("s: 2 cells", self.expect(OK, "check", "s.json"))

    def test_excludes_and_overrides(self):
        both = ["mxfp4", "nvfp4"]
        self.refused('s.json at /exclude/0/format: unknown value "int4"', exclude=[{"format": "int4"}])
        self.refused('s.json at /exclude/1/format: unknown value "mxfp5"; did you mean "mxfp4"?',
                     exclude=[{"format": "mxfp4"}, {"format": ["nvfp4", "mxfp5"]}])
        self.refused("s.json at /exclude: every combination of the axes is excluded", exclude=[{"format": both}])
        self.refused("s.json at /overrides/0/match: matches no tensor of the source",
                     overrides=[{"match": "layers.*", "format": "int4"}])
        self.sweep(axes={"format": both, "seed": [1, 2]}, exclude=[{"format": "mxfp4", "seed": 2}])
        self.assertIn("s: 3 cells", self.expect(OK, "check", "s.json"))

    def test_sizes(self):
        for bracket in ("[", '{"a":'):
            began = time.monotonic()
            self.refused_text(bracket * (10_000_000 // len(bracket)), "s.json at /", "nested deeper than 64 levels")
            self.assertLess(time.monotonic() - began, 5)
        many = list(range(1001))
        began = time.monotonic()
        self.refused("s.json at /axes: more than 1000000 cells",
                     axes={"format": ["mxfp4"], "seed": many, "outlier_share": [i / 2000 for i in range(1, 1001)]})
        self.assertLess(time.monotonic() - began, 5)

    def test_columns_that_do_not_divide(self):
        self.refused("s.json at /axes/format/1: tensor normal is (8, 48)", "32", axes={"format": ["nvfp4", "mxfp4"]},
                     source={"synthetic": {"distribution": "normal", "shape": [8, 48]}})

    def test_options(self):
        self.sweep()
        for options, says in (
                (["--shard", "3/3"], "--shard 3/3: expected i/n with 0 <= i < n"),
                (["--shard", "1"], "--shard 1: expected i/n"), (["--shard", "-1/3"], "--shard -1/3: expected i/n"),
                (["--shard", "0/0"], "--shard 0/0: expected i/n"), (["--shard", "1/2x"], "--shard 1/2x: expected i/n"),
                (["--jobs", "0"], "--jobs: expected 1 to 256"), (["--jobs", "a"], "'a'"),
                (["--threads", "-1"], "--threads: expected 0 to 4096"),
                (["--job", "2"], 'run: unknown option "--job"; did you mean "--jobs"?'),
                (["--results"], "--results' is missing"), (["extra.json"], "run: too many arguments"),
                (["--device", "tpu"], 'unknown device "tpu"; known: cpu, cuda, cuda:0, cuda:1, ...'),
                (["--device", "cuda:x"], 'unknown device "cuda:x"')):
            with self.subTest(options=options):
                self.expect(CONFIG, "run", "s.json", *options, says=says)
        self.expect(CONFIG, "rn", says='unknown command "rn"; did you mean "run"?')
        self.expect(CONFIG, "list", "frmats", says='unknown kind "frmats"; did you mean "formats"?')
        self.expect(CONFIG, "list", "formats", "mxfp5", says='"mxfp5"; did you mean "mxfp4"?')
        self.expect(CONFIG, "schema", "x", says="schema: takes no arguments")
        self.expect(CONFIG, "table", says="which results?")
        self.expect(DATA, "table", "s.json", says="results/s.h5: not there yet")
        self.assertFalse(os.path.exists(self.path("results", "s")))


class Settings(InFolder):
    def cells(self, *settings, file="s.json"):
        options = [o for s in settings for o in ("--set", s)]
        return {m[1]: int(m[2]) for m in re.finditer(r"^(\S+): (\d+) cells", self.expect(OK, "check", file, *options),
                                                     re.M)}

    def refused(self, setting, *says, file="s.json", before=()):
        self.expect(CONFIG, "check", file, *before, "--set", setting, says=says)

    def test_one_sweep(self):
        self.sweep()
        self.assertEqual(self.cells("axes.seed=[1,2,3]"), {"s": 6})
        self.assertEqual(self.cells('axes.format=["int4"]', "axes.seed=[1,2]"), {"s": 2})
        self.assertEqual(self.cells('axes={"format": ["int4"]}'), {"s": 1})
        self.assertEqual(self.cells("axes.source.synthetic.shape=[[1,32],[2,32],[3,32]]"), {"s": 6})
        self.assertEqual(self.cells("name=other"), {"other": 2})  # what is not JSON is text
        self.assertEqual(self.cells("seed=5", "source.synthetic.log_normal_sigma=0.5", "method=rtn"), {"s": 2})
        self.refused("name=a=b", "s.json at /name: a sweep's name is a file name")  # the first '=' splits
        self.refused("seed", "--set seed: expected key.path=value")
        self.refused("=1", "--set =1: expected key.path=value")
        self.refused("seed=x", 's.json at /seed: expected an integer', 'found a string "x"')
        self.refused("sed=1", 'unknown key "sed"')
        self.refused("name.x=1", "--set name.x: leads through something that is not an object")
        self.refused("axes.seed=1", "s.json at /axes/seed: expected a list of values, found 1")
        self.refused("axes.seed=[1]", '--set axes.seed: "axes" is not an object', before=["--set", "axes=[1]"])

    def test_order_of_axes(self):
        self.sweep(axes={"seed": [2, 1], "format": ["nvfp4", "mxfp4"]})
        self.expect(OK, "run", "s.json", "--set", 'axes.format=["int4","mxfp4"]', "--set", "axes.method=[\"rtn\"]")
        self.assertEqual(column(self.path("results", "s.h5"), "seed"), [2, 2, 1, 1])
        self.assertEqual(column(self.path("results", "s.h5"), "format"), ["int4", "mxfp4"] * 2)

    def test_lists(self):
        b = {k: v for k, v in GOOD.items() if k != "axes"}
        self.write("s.json", json.dumps([{**GOOD, "name": "a"}, {**b, "name": "b", "format": "int4", "seed": 3}]))
        self.assertEqual(self.cells(), {"a": 2, "b": 1})
        self.assertEqual(self.cells('axes.format=["int4"]'), {"a": 1, "b": 1})  # only where the key is
        self.assertEqual(self.cells("seed=4", "format=int8"), {"a": 2, "b": 1})
        self.refused("method=rtn", "--set method: no sweep of s.json has this key")
        self.refused("axes.seed=[1]", "--set axes.seed: no sweep of s.json has this key")
        out = self.expect(OK, "run", "s.json", "--set", "seed=4")
        self.assertRegex(out, r"(?s)\na\n\n\| format.*\nb\n\n\|")
        self.assertTrue(os.path.exists(self.path("results", "a.h5")) and os.path.exists(self.path("results", "b.h5")))
        out = self.expect(OK, "merge", "s.json", "--set", "seed=4")
        self.assertIn("b: 1 of 1 cells done, 0 failed, 0 missing", out)

    def test_lists_of_files(self):
        os.makedirs(self.path("deep", "data"))
        program.safetensors(self.path("deep", "data", "w.safetensors"), {"a": np.ones((2, 32), "float32")})
        self.write("deep/c.json", json.dumps([{**GOOD, "name": "c", "source": {"file": "data/w.safetensors"}},
                                              {**GOOD, "name": "d", "seed": 3}]))
        self.write("lone.json", json.dumps({**GOOD, "name": "lone"}))
        self.write("s.json", json.dumps(["lone.json", {**GOOD, "name": "a"},
                                         {"file": "deep/c.json", "set": {"seed": 5, "axes.format": ["int4"]}}]))
        self.assertEqual(self.cells(), {"lone": 2, "a": 2, "c": 1, "d": 1})  # in the order written; paths from c.json
        self.assertEqual(self.cells('axes.format=["int4","nvfp4","int8"]'), {"lone": 3, "a": 3, "c": 3, "d": 3})
        self.expect(OK, "run", "s.json", "--set", "seed=7")
        with h5py.File(self.path("results", "d.h5"), "r") as file:
            self.assertEqual(json.loads(file["experiment/written"].asstr()[()])["seed"], 7)  # the setting is the last word
        for says, text in (
                ("s.json at /1: none.json: cannot open", '["lone.json", "none.json"]'),
                ("s.json at /0/set/sed: no sweep of ", '[{"file": "deep/c.json", "set": {"sed": 1}}]'),
                ("s.json at /0/set: expected an object, found 1", '[{"file": "deep/c.json", "set": 1}]'),
                ('s.json at /0: unknown key "sets"', '[{"file": "deep/c.json", "sets": {}}]'),
                ('lone.json: two sweeps of this list are named "lone"', '["lone.json", "lone.json"]'),
                ("s.json names itself", '["lone.json", "s.json"]')):
            self.write("s.json", text)
            self.expect(CONFIG, "check", "s.json", says=says)
        self.write("s.json", '["other.json"]')
        self.write("other.json", '["s.json"]')
        self.expect(CONFIG, "check", "s.json", says=["other.json at /0: s.json names itself, by way of s.json, other.json"])

    def test_comments_and_pipes(self):
        text = "// a sweep\n" + json.dumps(GOOD).replace('"axes"', '/* axes */ "axes"') + " // end\n"
        self.write("s.json", text)
        self.assertEqual(self.cells(), {"s": 2})
        self.expect(OK, "run", "s.json")
        with h5py.File(self.path("results", "s.h5"), "r") as file:
            self.assertEqual(file["experiment/written"].asstr()[()], text)  # comments are kept
        piped = subprocess.run([program.program, "check", "/dev/stdin"], input=text, capture_output=True, text=True,
                               cwd=self.folder)
        self.assertEqual((piped.returncode, piped.stdout), (OK, "s: 2 cells, no errors\n"), piped.stderr)

    def test_paths_are_relative_to_the_sweep(self):
        os.makedirs(self.path("deep", "data"))
        program.safetensors(self.path("deep", "data", "w.safetensors"),
                            {"a": np.ones((2, 32), "float32")})
        self.sweep("deep/s.json", source={"file": "data/w.safetensors"})
        self.expect(OK, "run", "deep/s.json", "--results", "here")
        self.assertTrue(os.path.exists(self.path("here", "s.h5")))
        self.expect(OK, "run", "s.json", "--results", "../here", cwd=self.path("deep"),
                    says="(2 from earlier runs)")
        self.sweep("v.json", source={"file": "${FP4LAB_TEST_PLACE}/w.safetensors"})
        self.expect(OK, "check", "v.json", env={"FP4LAB_TEST_PLACE": self.path("deep", "data")})
        self.expect(CONFIG, "check", "v.json", says=["v.json at /source/file", 'no variable "FP4LAB_TEST_PLACE"'])


if __name__ == "__main__":
    program.main(__doc__)
