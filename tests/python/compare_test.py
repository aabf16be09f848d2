"""The paper's rows beside ours, through the whole program: after a run, from `table`, and what it leaves alone.

    python3 tests/python/compare_test.py build/cpu/fp4lab
"""
import csv
import io
import json
import os
import re

import program
from models import WithModel
from program import CONFIG, OK, column

AXES = {"format": ["nvfp4", "mxfp4-paper"], "method": ["rtn", "rtn+ht"], "activations": ["same", None]}
# Recoveries of arXiv 2509.23202, Tables 1 and 2.
PAPER = {"table1": {("nvfp4", "rtn"): 94.67, ("nvfp4", "rtn+ht"): 93.82,
                    ("mxfp4-paper", "rtn"): 87.83, ("mxfp4-paper", "rtn+ht"): 89.26},
         "table2": {("nvfp4", "rtn"): 98.02, ("nvfp4", "rtn+ht"): 96.8,
                    ("mxfp4-paper", "rtn"): 95.58, ("mxfp4-paper", "rtn+ht"): 93.51}}


class Compare(WithModel):
    def tables(self, *options):
        """The csv tables that are printed, each as a list of dicts."""
        text = self.expect(OK, "table", *options, "--format", "csv")
        blocks = [[line for line in block.splitlines() if not line.startswith("#")] for block in text.split("\n\n")]
        return [list(csv.DictReader(io.StringIO("\n".join(block)))) for block in blocks]

    def test_beside_ours(self):
        self.model_sweep(axes=AXES)
        plain = self.expect(OK, "run", "s.json")
        file = self.path("results", "s.h5")
        keys = column(file, "key")
        cells = dict(zip(zip(*(column(file, axis) for axis in AXES)), zip(column(file, "kl"), column(file, "recovery_percent"))))
        for table, activations in (("table1", "same"), ("table2", "null")):
            with self.subTest(table=table):
                # The key may come later: no cell is computed again.
                self.model_sweep(axes=AXES, compare={"paper": table})
                out = self.expect(OK, "run", "s.json", says="8 of 8 cells done (8 from earlier runs)")
                self.assertEqual(column(file, "key"), keys)
                self.assertTrue(out.startswith(plain + "\n**m, c beside " + table), out)
                self.assertIn("of paper: Llama-3.1-8B-Instruct, 4-task average**\n", out)
                # Without --rows and the like, `table` prints the same; of the result file too.
                self.assertEqual(self.expect(OK, "table", "s.json"), out)
                self.assertTrue(self.expect(OK, "table", file).endswith(out[len(plain):]))
                _, rows = self.tables("s.json")
                rows = {(row["format"], row["method"]): row for row in rows}
                total = {"same": 0, "opposite": 0, "undecided": 0}
                for f in ("nvfp4", "mxfp4-paper"):
                    ours = [cells[f, m, activations][0] for m in ("rtn", "rtn+ht")]
                    theirs = [PAPER[table][f, m] for m in ("rtn", "rtn+ht")]
                    opposite = (ours[0] < ours[1]) == (theirs[0] < theirs[1])  # kl is better low
                    total["opposite" if opposite else "same"] += 1
                    for i, m in enumerate(("rtn", "rtn+ht")):
                        row = rows[f, m]
                        kl, recovery = cells[f, m, activations]
                        self.assertEqual(float(row["m, c: kl"]), kl)
                        self.assertEqual(float(row["m, c: recovery_percent"]), recovery)
                        self.assertEqual(float(row["paper: recovery_percent"]), theirs[i])
                        self.assertEqual(int(row["our rank (kl, lower is better)"]), 1 + (ours[i] > ours[1 - i]))
                        self.assertEqual(int(row["paper's rank (recovery)"]), 1 + (theirs[i] < theirs[1 - i]))
                        self.assertEqual(row["disagrees with"], ("rtn", "rtn+ht")[1 - i] if opposite else "")
                self.assertEqual(rows["nvfp4", "gptq"]["m, c: kl"], "")  # the paper's alone
                self.assertIn(f"\nall: pairs in the same order: {total['same']} of 2 ({total['opposite']} opposite, "
                              "0 undecided)\n", out)

    def test_pivots_stand_alone(self):
        self.model_sweep(axes=AXES, compare={"paper": "table1"})
        self.expect(OK, "run", "s.json", "--no-table")
        for options in (["--value", "kl"], ["--where", "format=nvfp4"], ["--rows", "format", "method", "activations"]):
            self.assertNotIn("paper:", self.expect(OK, "table", "s.json", *options))
        latex = self.expect(OK, "table", "s.json", "--format", "latex")
        self.assertEqual(latex.count("\\begin{tabular}"), 2)
        self.assertIn("\n% m, c beside table1", latex)

    def test_seeds(self):
        # Random signs differ by seed; rtn draws nothing, and its cells are one.
        signs = {"base": "rtn+ht", "transform": {"type": "hadamard", "randomize": True}, "label": "rtn+ht"}
        self.model_sweep(axes={"format": ["nvfp4"], "method": ["rtn", signs], "seed": [1, 2, 3]},
                         compare={"paper": "table1"})
        out = self.expect(OK, "run", "s.json")
        self.assertIn("twice the standard error of the paired difference over seeds", out)
        self.assertRegex(out.split("**m, c")[1], r"\| nvfp4  \| rtn +\| +[\d.]+ ± 0 \| +[\d.]+ ± 0 \|")
        self.assertRegex(out.split("**m, c")[1], r"\| nvfp4  \| rtn\+ht +\| +[\d.]+ ± [\d.]+ \| +[\d.]+ ± \S+ \|")

    def test_lists_and_settings(self):
        """In a list, and with --set, the result file says what it was compared with."""
        self.model_sweep(axes={"format": ["nvfp4"]})
        with open(self.path("s.json")) as text:
            sweep = json.load(text)
        self.write("list.json", json.dumps([{**sweep, "name": "a", "compare": {"paper": "table2"}, "activations": None},
                                            {**sweep, "name": "b"}]))
        out = self.expect(OK, "run", "list.json")
        self.assertEqual(re.findall(r"beside (\w+),", out), ["table2"])
        self.assertIn("beside table2", self.expect(OK, "table", "results/a.h5"))
        self.assertNotIn("beside", self.expect(OK, "table", "results/b.h5"))
        out = self.expect(OK, "run", "s.json", "--set", 'compare={"paper": "table11"}')
        self.assertIn("beside table11", out)
        self.assertIn("| mxfp4-fitted | ", out)

    def test_mistakes(self):
        for value, says in (({"paper": "table10"}, 's.json at /compare/paper: unknown table of the paper "table10"; did you '
                             'mean "table1"? known: table1, table2, table11, table12'),
                            ("table1", "s.json at /compare: expected an object"),
                            ({"papers": "table1"}, 's.json at /compare: missing key "paper"')):
            with self.subTest(value=value):
                self.model_sweep(axes=AXES, compare=value)
                self.expect(CONFIG, "check", "s.json", says=says)
        self.model_sweep(axes={"format": ["nvfp4"], "compare": [{"paper": "table1"}]})
        self.expect(CONFIG, "check", "s.json", says='"compare" is not a key of the task\'s cells')
        self.sweep(compare={"paper": "table1"})
        self.expect(CONFIG, "check", "s.json", says="which only the task model measures")
        self.assertFalse(os.path.exists(self.path("results", "s")))


if __name__ == "__main__":
    program.main(__doc__)
