"""The report: pages that are valid, harmless and complete, and what happens when there can be none.

    python3 tests/python/report_test.py build/cpu/fp4lab
"""
import base64
import hashlib
import json
import os
import resource
import shlex
import signal
import sys
import time
import unittest
from types import SimpleNamespace

import h5py
import matplotlib.figure
import numpy as np

import program
from html_page import Page
from models import WithModel
from program import CELLS_FAILED, CONFIG, DATA, FAULT, GOOD, INTERRUPTED, OK, InFolder, finish, read, start, wait_until

sys.path.insert(0, program.ROOT)
from analysis.report import markup, pictures, sections  # noqa: E402
from analysis.report.result import parse  # noqa: E402

os.environ["FP4LAB_PYTHON"] = sys.executable  # the program's Python is the one of this test
HOSTILE = """<script>alert(1)</script>" onload='x' </title></style>&amp;]]>-->"""


class WithPage(InFolder):
    def page(self, name):
        text = read(self.path(name)).decode()
        page = Page(text)
        self.assertEqual(page.problems, [])
        self.assertEqual(len(page.scripts), 1)  # ours, and only ours may run
        digest = base64.b64encode(hashlib.sha256(page.scripts[0].encode()).digest()).decode()
        self.assertEqual(page.policy, f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
                                      "img-src data:")
        self.assertEqual([h for h, _ in page.headings].count("h1"), 1)
        return page


class Pages(WithPage):
    def test_of_one_file(self):
        self.sweep(description="Which is nearer?", metrics=["mse_rel", "qsnr_db"])
        self.expect(OK, "run", "s.json", "--no-table")
        self.expect(OK, "report", "results/s.h5", says="report in results/s.html")
        page = self.page("results/s.html")
        self.assertEqual(page.headings[0], ["h1", "s"])
        rows = page.table("s: results")
        self.assertEqual(rows[0], ["format", "mse_rel", "qsnr_db", "time s per cell"])
        with h5py.File(self.path("results", "s.h5")) as file:
            error, commit = file["table/mse_rel"][()], file.attrs["git_commit"]
            key, seconds = file["table/key"].asstr()[0], file["table/seconds"][()]
            cpu = file["provenance/cpu"].asstr()[0]
            resolved = json.loads(file["experiment/resolved"].asstr()[()])
        self.assertEqual([row[0] for row in rows[1:]], ["mxfp4", "nvfp4"])
        for row, value, time_ in zip(rows[1:], error, seconds):
            self.assertAlmostEqual(float(row[1]) / value, 1, delta=5e-5)
            self.assertAlmostEqual(float(row[3].replace("−", "-")) / time_, 1, delta=5e-3)
        checkout = "" if commit == "unknown" else f"git checkout {commit}\n"  # a machine without git
        for part in ("Which is nearer?", "Task tensor_error: 2 of 2 cells done", commit, cpu,
                     checkout + "./lab run s.json", read(self.path("s.json")).decode(), "fp4lab report results/s.h5"):
            self.assertIn(part, page.text)
        begin = page.text.index('{\n "name": "s",\n "task": "tensor_error"')  # the resolved sweep: nothing of it is lost
        shown, _ = json.JSONDecoder().raw_decode(page.text[begin:])
        shared = shown.pop("in every cell")
        self.assertEqual({**shown, "cells": [{**shared, **own} for own in shown["cells"]]}, resolved)
        self.assertEqual(page.table("s: every cell")[1][0], key[:12])
        self.assertIn(["seconds", "s", "wall time of the cell"], page.table("s: columns"))
        # Right-aligned, sorted by the whole number and not by its five digits.
        self.assertIn(f'<td class="number" data-key="{error[0]!r}">', read(self.path("results/s.html")).decode())

    def test_the_same_twice(self):
        self.sweep()
        self.expect(OK, "run", "s.json", "--no-table")
        for _ in range(2):
            self.expect(OK, "report", "results/s.h5", "--to", "p.html")
            self.write("first.html", read(self.path("p.html"))) if not os.path.exists(self.path("first.html")) else None
        self.assertEqual(read(self.path("p.html")), read(self.path("first.html")))

    def test_run_of_a_list(self):
        """One page of all sweeps, at a path that a shell would trip over; seeds become mean and deviation."""
        self.write("list.json", json.dumps([{**GOOD, "name": "a", "axes": {"format": ["mxfp4"], "seed": [1, 2, 3]}},
                                            {**GOOD, "name": "b", "description": "the other"}]))
        os.mkdir(self.path("a folder"))
        name = "a folder/it's $HOME; \"x\".html"
        self.expect(OK, "run", "list.json", "--no-table", "--report", name, says=f"report in {name}")
        page = self.page(name)
        self.assertEqual([h for h in page.headings if h[0] != "h3"], [["h1", "2 sweeps: a, b"], ["h2", "a"], ["h2", "b"]])
        self.assertEqual([row[0] for row in page.table("Contents")], ["sweep", "a", "b"])
        self.assertEqual(page.table("Contents")[2][:5], ["b", "tensor_error", "2", "2", "0"])
        self.assertEqual(shlex.split(page.text.strip().splitlines()[-1].partition(" with")[2]),
                         ["fp4lab", "run", "list.json", "--no-table", "--report", name])
        rows = page.table("a: results; mean ± standard deviation over the seeds")
        with h5py.File(self.path("results", "a.h5")) as file:
            error = file["table/mse_rel"][()]
        mean, deviation = rows[1][rows[0].index("mse_rel")].split(" ± ")
        self.assertAlmostEqual(float(mean) / np.mean(error), 1, delta=5e-5)
        self.assertAlmostEqual(float(deviation) / np.std(error, ddof=1), 1, delta=5e-2)
        self.assertEqual(len(rows), 2)

    def test_failed_cells(self):
        values = np.ones((4, 64), np.float32)
        np.save(self.path("good.npy"), values)
        values[1, 2] = np.nan
        np.save(self.path("bad.npy"), values)
        self.sweep(source={}, axes={"source.file": ["good.npy", "bad.npy"], "format": ["mxfp4"]})
        self.expect(CELLS_FAILED, "run", "s.json", "--no-table", "--report", "p.html")
        page = self.page("p.html")
        self.assertIn("1 of 2 cells done, 1 failed", page.text)
        failed = page.table("s: failed cells")
        self.assertEqual(failed[1][:2], ["bad.npy", "mxfp4"])
        self.assertIn("NaN at row 1, column 2", failed[1][2])
        rows = page.table("s: results")
        self.assertEqual(rows[0][-1], "status")
        self.assertEqual([row[-1] for row in rows[1:]], ["done", "failed"])
        self.assertEqual(rows[2][rows[0].index("mse_rel")], "–")
        # Nothing but failures, and cells that nobody has computed: still a page.
        self.sweep(source={"file": "bad.npy"}, axes={"format": ["mxfp4", "nvfp4"]}, name="none")
        self.expect(CELLS_FAILED, "run", "s.json", "--no-table", "--shard", "0/2", "--report", "p.html")
        page = self.page("p.html")
        self.assertIn("0 of 2 cells done, 1 failed, 1 not computed yet", page.text)
        self.assertIn("No cell is done yet", page.text)

    def test_hostile_names(self):
        label = {"base": "nvfp4", "label": HOSTILE}
        self.sweep(description=HOSTILE, axes={"format": ["mxfp4", label]}, source={"file": "x\x01\u2028<b>.npy"})
        np.save(self.path("x\x01\u2028<b>.npy"), np.ones((4, 64), np.float32))
        self.expect(OK, "run", "s.json", "--no-table", "--report", "p.html")
        page = self.page("p.html")
        self.assertEqual(page.table("s: results")[2][0], HOSTILE)
        self.assertIn(HOSTILE, page.text)
        self.assertNotIn("<script>alert", read(self.path("p.html")).decode())
        self.assertNotIn("\x01", page.text)

    def test_where_it_is_written(self):
        """A sweep of experiments/sweeps is repeated by its file's name, one that was changed is not."""
        file = os.path.join(program.ROOT, "experiments", "sweeps", "quickstart.json")
        self.expect(OK, "run", file, "--no-table", "--results", "r", "--report", "p.html")
        self.assertIn("./lab run experiments/sweeps/quickstart.json", self.page("p.html").text)
        self.expect(OK, "run", file, "--no-table", "--results", "r", "--report", "p.html", "--set", 'axes.format=["mxfp4"]')
        page = self.page("p.html")
        self.assertIn("./lab run quickstart.json", page.text)
        self.assertIn("Save the sweep below, as written, as quickstart.json first", page.text)

    def test_lemmas(self):
        self.write("s.json", json.dumps({"name": "l", "task": "lemma", "lemma": "lemma4", "blocks": 65536, "seed": 1,
                                         "axes": {"format": ["nvfp4", "mxfp4-paper"], "group_size": [16, 32]}}))
        self.expect(OK, "run", "s.json", "--no-table", "--report", "p.html")
        page = self.page("p.html")
        with h5py.File(self.path("results", "l.h5")) as file:
            column = {name: d.asstr()[()] if d.dtype.kind == "O" else d[()] for name, d in file["table"].items()}
        found = [t for t in page.tables if "99 % interval" in t["rows"][0]]
        self.assertTrue(found)
        self.assertEqual(sorted(row[t["rows"][0].index("verdict")] for t in found for row in t["rows"][1:]),
                         sorted(column["verdict"]))
        for statement in set(column["statement"]):
            self.assertIn(statement, [t["caption"][:len(statement)] for t in found])
        estimates = [row[t["rows"][0].index("estimate")] for t in found for row in t["rows"][1:]]
        self.assertEqual(sorted(estimates), sorted(markup.number(v) for v in column["estimate"]))
        self.assertGreater(page.figures, 0)
        self.assertIn("From l.h5.", page.text)


class BesideThePaper(WithModel, WithPage):
    def test_rows(self):
        self.model_sweep(axes={"format": ["nvfp4"], "method": ["rtn", "rtn+ht"], "seed": [1, 2]}, compare={"paper": "table1"})
        out = self.expect(OK, "run", "s.json", "--report", "p.html")
        page = self.page("p.html")
        rows = page.table("m, c beside table1")
        rtn = dict(zip(rows[0], next(row for row in rows if row[:2] == ["nvfp4", "rtn"])))
        self.assertEqual(rtn["paper: recovery_percent"], "94.67")  # arXiv 2509.23202, Table 1
        printed = next(line for line in out.split("beside table1")[1].splitlines() if line.startswith("| nvfp4 ") and " rtn " in line)
        self.assertEqual(rtn["m, c: recovery_percent"], printed.split("|")[3].split("±")[0].strip())
        for line in out.splitlines():
            if "pairs in the same order" in line or line.startswith("Ranks are"):
                self.assertIn(line, page.text)
        self.assertEqual(rtn["disagrees with"], printed.split("|")[-2].strip())

    def test_none_to_compare(self):
        np.save(self.path("c.npy"), np.zeros(8, np.uint16))  # too short: no cell can run
        self.model_sweep(axes={"format": ["nvfp4"]}, compare={"paper": "table1"})
        code, _, _ = self.run_here("run", "s.json", "--report", "p.html")
        self.assertIn(code, (CONFIG, DATA))
        self.assertFalse(os.path.exists(self.path("p.html")))


class NoPage(WithPage):
    def setUp(self):
        super().setUp()
        self.sweep()
        self.expect(OK, "run", "s.json", "--no-table")
        self.write("p.html", "old")

    def refused(self, code, *arguments, says, **options):
        self.expect(code, *arguments, says=says, **options)
        self.assertEqual(read(self.path("p.html")), b"old")
        self.assertEqual(self.litter("."), [])
        self.assertEqual([n for n in os.listdir(self.folder) if n.startswith(".p")], [])

    def fake(self, body):
        """A Python that has all that a report needs, and then does something else."""
        path = self.write("fake", f'#!/bin/sh\n[ "$2" = --check ] && exit 0\n{body}\n')
        os.chmod(path, 0o755)
        return {"FP4LAB_PYTHON": path}

    def test_command_line(self):
        self.refused(CONFIG, "report", says="which results? Name .h5 files")
        self.refused(CONFIG, "report", "s.json", says="s.json: a sweep; its results are in")
        self.refused(CONFIG, "report", "results/s.h5", "--to", "results/s.h5", says="results/s.h5: a page's name ends in .html")
        self.refused(DATA, "report", "results/s.h5", "--to", "no/p.html", says="no/p.html: there is no folder no")
        self.refused(CONFIG, "report", "results/s.h5", "--two", "p.html", says='unknown option "--two"; did you mean "--to"?')
        os.mkdir(self.path("d.html"))
        self.refused(DATA, "report", "results/s.h5", "--to", "d.html", says="d.html: is a folder")
        # Known before a run, not after it.
        for page, code in (("no/p.html", DATA), ("s.json", CONFIG)):
            self.refused(code, "run", "s.json", "--results", "fresh", "--report", page, says=page)
            self.assertFalse(os.path.exists(self.path("fresh", "s")))
        self.refused(DATA, "run", "s.json", "--results", "fresh", "--report", "p.html", env={"FP4LAB_PYTHON": "/bin/false"},
                     says="FP4LAB_PYTHON")
        self.assertFalse(os.path.exists(self.path("fresh", "s")))

    def test_files(self):
        self.refused(DATA, "report", "no.h5", "--to", "p.html", says="no.h5: cannot open as HDF5: No such file")
        self.write("broken.h5", read(self.path("results", "s.h5"))[:3000])
        self.refused(DATA, "report", "results/s.h5", "broken.h5", "--to", "p.html", says="broken.h5: ")
        with h5py.File(self.path("other.h5"), "w") as file:
            file["x"] = 1
        self.refused(DATA, "report", "other.h5", "--to", "p.html", says="other.h5: ")
        for missing in ("provenance", "errors/message", "table/status", "table/seconds", "experiment/resolved"):
            with self.subTest(missing=missing):
                self.write("half.h5", read(self.path("results", "s.h5")))
                with h5py.File(self.path("half.h5"), "a") as file:
                    del file[missing]
                self.refused(DATA, "report", "half.h5", "--to", "p.html", says=["half.h5: no whole result file",
                                                                              "p.html: not written"])

    def test_python(self):
        self.refused(DATA, "report", "results/s.h5", "--to", "p.html", env={"FP4LAB_PYTHON": "", "PATH": self.folder},
                     says=["needs a Python 3 with h5py, NumPy and matplotlib; found no python3 in PATH",
                           "Install python3-h5py and python3-matplotlib"])
        self.refused(DATA, "report", "results/s.h5", "--to", "p.html", env={"FP4LAB_PYTHON": "/bin/false"},
                     says="found /bin/false (exit code 1) from FP4LAB_PYTHON")
        self.refused(DATA, "report", "results/s.h5", "--to", "p.html", env={"FP4LAB_PYTHON": "/no/python"},
                     says="found /no/python (")
        # The first python3 of PATH has no h5py: the next is taken, and a reason is given when there is none.
        os.mkdir(self.path("bin"))
        poor = self.write("bin/python3", "#!/bin/sh\necho Traceback\necho \"ModuleNotFoundError: No module named 'that'\" >&2\nexit 1\n")
        os.chmod(poor, 0o755)
        self.refused(DATA, "report", "results/s.h5", "--to", "p.html", env={"FP4LAB_PYTHON": "", "PATH": self.path("bin")},
                     says=f"found {poor} (ModuleNotFoundError: No module named 'that') in PATH")
        os.mkdir(self.path("rich"))
        os.symlink(sys.executable, self.path("rich", "python3"))
        self.expect(OK, "report", "results/s.h5", env={"FP4LAB_PYTHON": "", "PATH": f"{self.path('bin')}::{self.path('rich')}"})
        self.page("results/s.html")

    def test_python_fails(self):
        for body, says in (("exit 7", "ended with exit code 7"), ("kill -9 $$", "was ended by signal 9"),
                           ("exit 0", "ended with exit code 0"), ("echo why >&2; exit 3", "why\nfp4lab: p.html: not written")):
            with self.subTest(body=body):
                self.refused(DATA, "report", "results/s.h5", "--to", "p.html", env=self.fake(body), says=says)
        self.refused(FAULT, "report", "results/s.h5", "--to", "p.html", env=self.fake("echo half; exit 1"),
                     says="a fault of the program itself: p.html: not written")

    def test_interrupted(self):
        """Ctrl-C at a terminal reaches both; a signal to the program alone is passed on."""
        for send in (lambda p: os.killpg(p.pid, signal.SIGINT), lambda p: os.kill(p.pid, signal.SIGINT),
                     lambda p: os.kill(p.pid, signal.SIGTERM)):
            for command in (["report", "results/s.h5", "--to", "p.html"], ["run", "s.json", "--no-table", "--report", "p.html"]):
                process = start(*command, cwd=self.folder, env=self.fake("echo $$ > pid.new; mv pid.new pid; exec sleep 100"))
                wait_until(lambda: os.path.exists(self.path("pid")), process)
                child = int(read(self.path("pid")))
                os.unlink(self.path("pid"))
                send(process)
                began = time.monotonic()
                self.assertEqual(finish(process, 60)[0], INTERRUPTED)
                self.assertLess(time.monotonic() - began, 30)
                self.assertFalse(os.path.exists(f"/proc/{child}"))
                self.assertEqual(read(self.path("p.html")), b"old")

    def test_full_disk(self):
        def limit():
            resource.setrlimit(resource.RLIMIT_FSIZE, (12000, 12000))

        self.refused(DATA, "report", "results/s.h5", "--to", "p.html", preexec_fn=limit, says="p.html: cannot write: File too large")
        self.expect(OK, "report", "results/s.h5", "--to", "p.html")
        self.page("p.html")


class Parts(unittest.TestCase):
    def test_numbers(self):
        for value, shown in ((0, "0"), (16, "16"), (-3, "−3"), (1 / 3, "0.33333"), (4.25, "4.2500"), (18.7871, "18.787"),
                             (12345.678, "12346"), (999999.7, "1000000"), (1234567.5, "1.2346e6"), (0.00012345678, "0.00012346"),
                             (2.4486e-16, "2.4486e-16"), (-5.5e-5, "−5.5000e-5"), (float("nan"), "–"),
                             (float("inf"), "∞"), (float("-inf"), "−∞"), (1e300, "1.0000e300")):
            self.assertEqual(markup.number(value), shown)
        self.assertEqual(markup.mean_cell([1.0, 2.0, float("nan")]).shown, "1.5000 ± 0.71")
        self.assertEqual(markup.mean_cell([0.1, 0.1, 0.1]).shown, "0.10000 ± 0")
        self.assertEqual(markup.mean_cell([]).shown, "–")

    def test_escaping(self):
        self.assertEqual(markup.tag("p", "<&\"'", markup.tag("b", 1), None, class_="<\"x", data_key=None),
                         '<p class="&lt;&quot;x">&lt;&amp;&quot;&#x27;<b>1</b></p>')
        self.assertEqual(markup.Markup("<b>") + "<i>", "<b>&lt;i&gt;")
        self.assertEqual(markup.text("a\0b\ud800c\n"), "a\ufffdb\ufffdc\n")

    def test_comments_of_sweeps(self):
        self.assertEqual(parse('// one\n{"a": "http://x", // two "\n "b\\"//": 1}'), {"a": "http://x", 'b"//': 1})
        self.assertIsNone(parse("{"))

    def test_comparison_keeps_what_it_cannot_place(self):
        text = '# ours beside table1\nformat,method,x,paper: y,disagrees with\n"a,b",<i>,0.123456789,94.60,"rtn, gptq"\n# note, one\n'
        page = Page('<!DOCTYPE html>\n<html lang="en">' + sections.comparison(text, "") + "</html>")
        self.assertEqual(page.problems, [])
        self.assertEqual(page.table("ours beside table1")[1], ["a,b", "<i>", "0.12346", "94.60", "rtn, gptq"])
        self.assertIn("note, one", page.text)
        self.assertEqual(sections.comparison("", ""), "")
        self.assertIn("could not be made: why", sections.comparison("", "why"))

    def test_pictures(self):
        svg = ('<?xml version="1.0"?><!DOCTYPE svg PUBLIC "x" "http://x"><svg xmlns="http://www.w3.org/2000/svg" '
               'xmlns:xlink="http://www.w3.org/1999/xlink" width="1pt" height="2pt" viewBox="0 0 1 2"><metadata>m</metadata>'
               '<script>alert(1)</script><!-- c --><use xlink:href="#a"/><use xlink:href="http://x/y"/><path id="a"/></svg>')
        found = pictures.inline(svg, 'a "label"')
        for gone in ("script", "metadata", "<!--", "DOCTYPE", "http://x", 'height="2pt"'):
            self.assertNotIn(gone, found)
        for kept in ('xlink:href="#a"', "viewBox", 'aria-label="a &quot;label&quot;"'):
            self.assertIn(kept, found)

    def figure(self, draw):
        return SimpleNamespace(name="f", title="T <b>", caption="c", sources=("a.h5",), draw=draw)

    def test_figures(self):
        def plain():
            drawing = matplotlib.figure.Figure(figsize=(2, 1))
            drawing.subplots().plot([1, 2], label="<script>")
            return drawing

        page = Page('<!DOCTYPE html>\n<html lang="en">' + pictures.figure_element(self.figure(plain), 1) + "</html>")
        self.assertEqual((page.problems, page.figures, page.scripts), ([], 1, []))
        self.assertIn("T <b>.", page.text)
        found = pictures.figure_element(self.figure(lambda: 1 // 0), 2)  # one figure fails, the page lives
        self.assertIn("could not be drawn: ZeroDivisionError", found)


if __name__ == "__main__":
    program.main(__doc__)
