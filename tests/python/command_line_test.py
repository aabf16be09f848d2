"""What each command prints, on a terminal and into a pipe; tables in all their forms.

    python3 tests/python/command_line_test.py build/cpu/fp4lab
"""
import copy
import csv
import io
import json
import os
import pty
import re
import signal
import statistics
import subprocess
import threading
import unittest

import program
from program import CONFIG, DATA, GOOD, OK, InFolder, column, finish, start

try:
    import jsonschema
except ImportError:
    jsonschema = None

class Commands(InFolder):
    def test_version_and_help(self):
        self.assertRegex(self.expect(OK, "--version"), r"^fp4lab \d+\.\d+\.\d+ \(\S+(, modified)?\)\n$")
        page = self.expect(OK, "help")
        self.assertEqual(page, self.expect(OK))
        commands = re.findall(r"^  fp4lab (\w+)", page, re.M)
        self.assertEqual(commands, ["run", "plan", "check", "table", "report", "merge", "export", "import", "convert", "list", "schema", "bench"])
        for command in commands:
            self.assertTrue(self.expect(OK, command, "--help"), command)

    def test_list(self):
        kinds = re.findall(r"^  (\w+)", self.expect(OK, "list"), re.M)
        self.assertEqual(kinds, ["formats", "elements", "scale_types", "rules", "scales", "methods", "transforms", "roundings",
                                 "tasks", "sources", "distributions", "metrics"])
        for kind in kinds:
            with self.subTest(kind=kind):
                names = re.findall(r"^  (\S+)  ", self.expect(OK, "list", kind), re.M)
                self.assertGreater(len(names), 0)
                for name in names:
                    self.assertIn(name, self.expect(OK, "list", kind, name))
        self.assertIn('"element"', self.expect(OK, "list", "formats", "nvfp4"))
        self.assertIn("outlier_share", self.expect(OK, "list", "tasks", "tensor_error"))

    def test_schema(self):
        schema = json.loads(self.expect(OK, "schema"))
        self.assertEqual(schema["$schema"], "https://json-schema.org/draft/2020-12/schema")
        self.assertIn("mxfp4", json.dumps(schema["$defs"]["format"]))

    @unittest.skipUnless(jsonschema, "no jsonschema in this Python")
    def test_schema_agrees(self):
        schema = json.loads(self.expect(OK, "schema"))
        jsonschema.Draft202012Validator.check_schema(schema)
        check = jsonschema.Draft202012Validator(schema)
        with open(os.path.join(program.ROOT, "experiments", "sweeps", "quickstart.json")) as file:
            quickstart = json.loads("".join(line for line in file if not line.startswith("//")))
        composed = {"base": "mxfp4", "group_size": 16, "label": "mx16"}
        for sweep in (quickstart, GOOD, [GOOD, quickstart], {**GOOD, "axes": {"format": [composed]}, "method": "rtn"}):
            check.validate(sweep)
            self.write("s.json", json.dumps(sweep).replace("../data/tiny-llama", program.TINY_LLAMA))
            self.expect(OK, "check", "s.json")
        for change in ({"sorce": 1}, {"name": 3}, {"axes": {"format": []}}, {"axes": {"format": ["mxfp5"]}},
                       {"task": "x"}, {"seed": -1}, {"source": {"x": 1}}, {"method": "rtm"}):
            sweep = {**copy.deepcopy(GOOD), **change}
            self.assertFalse(check.is_valid(sweep), change)
            self.write("s.json", json.dumps(sweep))
            self.expect(CONFIG, "check", "s.json")

        fits = {"name": "s", "task": "distribution", "source": GOOD["source"]}
        for transform in (None, "hadamard", {"type": "hadamard", "k": 16}, {"type": "hadamard", "label": "h"},
                          ["hadamard", {"type": "dct"}], {"qkv": "hadamard"}):
            check.validate({**fits, "transform": transform})
            self.write("s.json", json.dumps({**fits, "transform": transform}))
            found = self.run_here("check", "s.json")
            self.assertEqual(found[0], CONFIG if transform == {"qkv": "hadamard"} else OK, found)
        for transform in ("hadamrd", 3, {"type": "hadamrd", "label": "h"}, {"type": "hadamard", "size": 16}, ["x"]):
            self.assertFalse(check.is_valid({**fits, "transform": transform}), transform)
            self.write("s.json", json.dumps({**fits, "transform": transform}))
            self.expect(CONFIG, "check", "s.json")

    def test_plan(self):
        self.sweep()
        self.expect(OK, "run", "s.json", "--set", 'axes.format=["mxfp4"]')
        out = self.expect(OK, "plan", "s.json")
        self.assertRegex(out, r"^s: task tensor_error, 2 cells\n  [0-9a-f]{12}  stored .* mxfp4\n"
                              r"  [0-9a-f]{12}  to do .* nvfp4\nabout .* on one core, at most .* of memory")
        keys = column(self.path("results", "s.h5"), "key")
        self.assertIn(keys[0][:12], out)
        self.assertEqual(len(self.parts("results")), 1)

    def test_closed_pipe(self):
        self.sweep()
        self.expect(OK, "run", "s.json")
        for command in ("list formats", "schema", "table results/s.h5", "plan s.json", "run s.json", "help"):
            with self.subTest(command=command):
                done = subprocess.run(["bash", "-c", f'"$0" {command} | head -1', program.program], cwd=self.folder,
                                      capture_output=True, text=True, timeout=60)
                self.assertEqual(done.returncode, 0)
                self.assertLessEqual(len(done.stdout.splitlines()), 1)
                self.assertNotRegex(done.stderr, "(?i)fault|error|terminate|abort")
        with open("/dev/full", "w") as full:
            self.expect(DATA, "list", "formats", stdout=full, says="cannot write to the standard output")
            self.expect(DATA, "table", "results/s.h5", stdout=full, says="cannot write to the standard output")

    def test_progress(self):
        self.sweep(axes={"format": ["mxfp4"], "seed": list(range(1, 9))},
                   source={"synthetic": {"distribution": "normal", "shape": [1024, 4096]}})
        code, _, err = self.run_here("run", "s.json", "--no-table")
        self.assertEqual(code, OK)
        self.assertNotIn("\r", err)
        self.assertNotIn("\x1b", err)
        self.assertRegex(err, r"(?m)^8/8 cells, \d+ s: mxfp4, 8$")
        for jobs in ("1", "2"):
            try:
                ours, theirs = pty.openpty()
            except OSError as error:  # a bare chroot has no /dev/pts
                self.skipTest(str(error))
            process = start("run", "s.json", "--no-table", "--fresh", "--jobs", jobs, cwd=self.folder, stderr=theirs)
            os.close(theirs)
            alarm = threading.Timer(120, os.killpg, (process.pid, signal.SIGKILL))  # reads below wait for ever
            alarm.start()
            self.addCleanup(alarm.cancel)
            seen = b""
            while True:
                try:
                    some = os.read(ours, 65536)
                except OSError:  # the other end is closed
                    break
                if not some:
                    break
                seen += some
            os.close(ours)
            alarm.cancel()
            self.assertEqual(finish(process)[0], OK)
            text = seen.decode()
            self.assertRegex(text, r"\r\[\.{10}\] 0/8 cells")
            self.assertRegex(text, r"\r\[#{10}\] 8/8 cells")
            self.assertGreater(len(re.findall(r"\r\[", text)), 3)
            self.assertIn("s: 8 of 8 cells done", text)


class Tables(InFolder):
    def setUp(self):
        super().setUp()
        self.labelled = {"base": "mxfp4", "group_size": 16, "label": "50% & {x}_16 | a, b"}
        self.sweep(axes={"format": ["mxfp4", self.labelled], "outlier_share": [0.1, 0.25], "seed": [1, 2, 3]})
        self.expect(OK, "run", "s.json")
        self.file = self.path("results", "s.h5")
        self.mse = column(self.file, "mse_rel")  # seeds fastest, then shares, then formats

    def table(self, *options):
        """The cells of a csv table."""
        return list(csv.reader(io.StringIO(self.expect(OK, "table", "s.json", "--format", "csv", *options))))

    def test_csv(self):
        rows = self.table("--rows", "format", "outlier_share", "seed", "--value", "mse_rel,qsnr_db", "digest")
        self.assertEqual(rows[0][:4], ["format", "outlier_share", "seed", "mse_rel"])
        self.assertEqual(len(rows), 13)
        self.assertEqual([float(r[3]) for r in rows[1:]], self.mse)  # exactly
        self.assertEqual([float(r[4]) for r in rows[1:]], column(self.file, "qsnr_db"))
        self.assertEqual([r[5] for r in rows[1:]], column(self.file, "digest"))
        self.assertEqual({r[0] for r in rows[1:]}, {"mxfp4", self.labelled["label"]})
        self.assertEqual([r[1] for r in rows[1:4]], ["0.1"] * 3)
        self.assertEqual([r[2] for r in rows[1:4]], ["1", "2", "3"])

    def test_seeds(self):
        rows = self.table("--rows", "format", "--cols", "outlier_share", "--value", "mse_rel", "bits_per_element")
        self.assertEqual(rows[0], ["format"] + [f"{share} {metric}{sd}" for share in ("0.1", "0.25")
                                                for metric in ("mse_rel", "bits_per_element") for sd in ("", " sd")])
        for r, row in enumerate(rows[1:]):
            for c in range(2):
                three = self.mse[6 * r + 3 * c:6 * r + 3 * c + 3]
                mean, deviation, bits, no_deviation = (float(x) for x in row[1 + 4 * c:5 + 4 * c])
                self.assertAlmostEqual(mean, statistics.mean(three), delta=1e-14)
                self.assertAlmostEqual(deviation / statistics.stdev(three), 1, delta=1e-9)
                self.assertEqual((bits, no_deviation), (column(self.file, "bits_per_element")[6 * r], 0))
        shown = self.expect(OK, "table", "s.json", "--rows", "format", "--value", "bits_per_element")
        self.assertIn(" ± 0 |", shown)
        alone = self.table("--rows", "format", "--cols", "outlier_share", "--value", "mse_rel", "--where", "seed=2")
        self.assertEqual(float(alone[1][1]), self.mse[1])

    def test_where(self):
        rows = self.table("--value", "mse_rel", "--where", "seed=3", "outlier_share=0.1",
                          "format=" + self.labelled["label"])
        self.assertEqual(rows[1:], [[self.labelled["label"], "0.1", rows[1][2]]])
        self.assertEqual(float(rows[1][2]), self.mse[8])
        for options, says in ((["--where", "seed=9"], "no cell is left by --where"),
                              (["--where", "sed=1"], 'unknown axis "sed"; did you mean "seed"?'),
                              (["--where", "seed"], "--where seed: expected axis=value"),
                              (["--rows", "frmat"], 'unknown axis "frmat"; did you mean "format"?'),
                              (["--cols", "mse_rel"], 'unknown axis "mse_rel"'),
                              (["--value", "mse_rl"], 'unknown value "mse_rl"; did you mean "mse_rel"?'),
                              (["--format", "html"], 'unknown format "html"')):
            with self.subTest(options=options):
                self.expect(CONFIG, "table", "s.json", *options, says=says)

    def test_split(self):
        out = self.expect(OK, "table", "s.json", "--rows", "format", "--value", "mse_rel")
        self.assertEqual(re.findall(r"^\*\*(.*)\*\*$", out, re.M), ["outlier_share = 0.1", "outlier_share = 0.25"])

    def test_markdown_and_latex(self):
        options = ["--value", "mse_rel", "--where", "seed=1", "outlier_share=0.1"]
        lines = self.expect(OK, "table", "s.json", *options).splitlines()
        self.assertEqual(len({len(line) for line in lines}), 1, lines)  # aligned
        self.assertRegex(lines[1], r"^\| -+ \| -+ \| -+: \|$")
        self.assertTrue(lines[3].startswith(r"| 50% & {x}_16 \| a, b |"), lines[3])
        self.assertIn(f" {self.mse[0]:.5g}", lines[2].replace("0 |", " |"))
        latex = self.expect(OK, "table", "s.json", "--format", "latex", *options)
        self.assertTrue(latex.startswith("\\begin{tabular}{llr}\n\\toprule\n") and latex.endswith("\\end{tabular}\n"))
        self.assertIn(r"50\% \& \{x\}\_16 | a, b & ", latex)
        self.assertIn(r"outlier\_share & mse\_rel \\", latex)
        self.assertEqual(self.expect(OK, "table", self.file, *options), "\n".join(lines) + "\n")

    def test_unfinished_cells_are_empty(self):
        self.sweep(axes={"format": ["mxfp4", "int4"], "outlier_share": [0.1], "seed": [1]})
        self.expect(OK, "run", "s.json", "--shard", "0/2", "--results", "half", says="s: 1 of 2 cells done")
        rows = self.table("--results", "half", "--value", "mse_rel", "status")
        self.assertEqual([r[2:] for r in rows[1:]], [[rows[1][2], "done"], ["", "absent"]])
        self.assertEqual(float(rows[1][2]), self.mse[0])


if __name__ == "__main__":
    program.main(__doc__)
