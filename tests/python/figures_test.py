"""Figures: each from a small file made here, and from files of the program; what is missing, what must not be mixed.

    python3 tests/python/figures_test.py build/cpu/fp4lab
"""
import json
import math
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import h5py
import matplotlib

import program
import result_files
from figure_cells import ACTIVATIONS, MADE, NEEDS, WEIGHTS, ablation, by_size, frontier, lemma, scale_types
from program import OK, ROOT, TINY_LLAMA, InFolder

sys.path.insert(0, ROOT)
from analysis.figures import figures_of, png, save, svg  # noqa: E402
from analysis.figures.data import paper  # noqa: E402


class Figures(InFolder):
    def made(self, cells, name="made.h5"):
        return result_files.write(self.path(name), cells, name)

    def names(self, *paths):
        return [figure.name for figure in figures_of(paths)]

    def only(self, cells):
        found = figures_of([self.made(cells)])
        self.assertEqual(len(found), 1, [f.name for f in found])
        return found[0]

    def axes(self, figure):
        """The panels with something in them."""
        return [a for a in figure.draw().axes if a.get_visible()]

    def test_each_from_its_own_data(self):
        for name, cells in MADE.items():
            with self.subTest(name):
                figure = self.only(cells())
                self.assertEqual(figure.name, name)
                self.assertEqual(tuple(figure.sources), ("made.h5",))
                self.assertGreater(len(figure.title), 10)
                self.assertGreater(len(figure.caption), 100)
                self.assertNotIn("nan", figure.caption.lower().split())
                drawing = figure.draw()
                self.assertAlmostEqual(drawing.get_figwidth(), 7.0)
                for panel in (a for a in drawing.axes if a.get_visible()):
                    # A panel in a row shares the left one's label; rows of names have a title or an x label.
                    said = panel.get_ylabel(), panel.get_xlabel(), panel.get_title("left"), panel.get_title()
                    self.assertTrue(any(said), "a panel that does not say what it shows")
                root = ElementTree.fromstring(svg(figure))
                self.assertEqual(root.tag, "{http://www.w3.org/2000/svg}svg")
                self.assertTrue(png(figure).startswith(b"\x89PNG\r\n\x1a\n"))

    def test_nothing_is_cut_off(self):
        for name, cells in MADE.items():
            with self.subTest(name):
                drawing = self.only(cells()).draw()
                canvas = matplotlib.backends.backend_agg.FigureCanvasAgg(drawing)
                canvas.draw()
                box, inside = drawing.get_tightbbox(canvas.get_renderer()), drawing.bbox_inches
                self.assertGreaterEqual(min(box.x0, box.y0), -0.01, box)
                self.assertLessEqual(box.x1, inside.x1 + 0.01, box)
                self.assertLessEqual(box.y1, inside.y1 + 0.01, box)

    def test_equal_data_equal_bytes(self):
        for name, cells in MADE.items():
            with self.subTest(name):
                path = self.made(cells())
                first, second = figures_of([path])[0], figures_of([path])[0]
                self.assertEqual(svg(first), svg(second))
                self.assertEqual(png(first), png(second))
                self.assertNotIn("<dc:date>", svg(first))

    def test_pictures_share_a_page(self):
        ids = set()
        for name, cells in MADE.items():
            text = svg(self.only(cells()))
            own = re.findall(r'\bid="([^"]*)"', text)
            self.assertEqual(len(own), len(set(own)), name)
            self.assertTrue(ids.isdisjoint(own), name)
            ids |= set(own)
            for used in re.findall(r'href="#([^"]*)"', text) + re.findall(r"url\(#([^)]*)\)", text):
                self.assertIn(used, own, name)
            self.assertNotIn("<text", text, "text is outlines: a browser need not have the font")

    def test_style_of_the_caller_does_not_matter(self):
        figure = self.only(MADE["figure3"]())
        before = svg(figure)
        with matplotlib.rc_context({"font.size": 30, "axes.grid": False, "svg.fonttype": "none"}):
            self.assertEqual(svg(figure), before)
            self.assertEqual(matplotlib.rcParams["font.size"], 30)

    def test_all_in_the_papers_order_and_once(self):
        paths = [self.made(cells(), f"{i}.h5") for i, cells in enumerate(reversed(list(MADE.values())))]
        self.assertEqual(self.names(*paths), list(MADE))

    def test_several_files_make_one_figure(self):
        found = figures_of([self.made(by_size(WEIGHTS), "w.h5"), self.made(by_size(ACTIVATIONS), "a.h5")])
        self.assertEqual([f.name for f in found], ["figure3"])
        self.assertEqual(found[0].sources, ("w.h5", "a.h5"))
        self.assertEqual([a.get_title("left") for a in self.axes(found[0])][:2], ["weights", "activations"])

    def test_without_a_column_no_figure(self):
        for name, needs in NEEDS.items():
            for needed in needs:
                with self.subTest(name, needed=needed):
                    cells = MADE[name]()
                    for cell in cells:
                        cell["row"].pop(needed, None)
                        cell.get("arrays", {}).pop(needed, None)
                    self.assertEqual(self.names(self.made(cells)), [])

    def test_nan_and_failed_cells_count_as_missing(self):
        for name, needs in NEEDS.items():
            with self.subTest(name):
                cells = MADE[name]()
                for cell in cells:
                    cell["status"] = "failed"
                self.assertEqual(self.names(self.made(cells)), [])
                if needs[0] in cells[0]["row"]:
                    cells = MADE[name]()
                    for cell in cells:
                        cell["row"][needs[0]] = math.nan
                    self.assertEqual(self.names(self.made(cells)), [])

    def test_other_results_give_nothing(self):
        self.assertEqual(figures_of([]), [])
        self.assertEqual(self.names(self.made([{"settings": {"task": "kernel"}, "row": {"mse_rel": 1.0}}])), [])
        self.assertEqual(self.names(self.made([{"settings": {}}])), [])
        # One group size, or only one of native and rotated, shows no effect.
        cells = by_size(WEIGHTS)
        self.assertEqual(self.names(self.made([c for c in cells if c["settings"]["format"]["group_size"] == 8])), [])
        self.assertEqual(self.names(self.made([c for c in cells if "transform" in c["settings"]["method"]])), [])
        # Without the unrounded scale there is nothing to compare with; four others make an ablation.
        self.assertEqual(self.names(self.made(scale_types(WEIGHTS)[1:])), [])
        self.assertEqual(self.names(self.made(scale_types(WEIGHTS)[:4])), [])

    def test_tensors_are_not_mixed(self):
        # The same kind of tensors from another place: a ratio across both would mean nothing.
        other = {"checkpoint": "c1", "tensors": ["a"]}
        figure = figures_of([self.made(scale_types(other, 99.0)[1:], "x.h5"),
                             self.made(scale_types(WEIGHTS), "y.h5")])[0]
        self.assertEqual(figure.sources, ("y.h5",))
        self.assertIn("E4M3 +20 %", figure.caption)
        figure = figures_of([self.made(by_size(other)[:4], "x.h5"), self.made(by_size(WEIGHTS), "y.h5")])[0]
        self.assertEqual(figure.sources, ("y.h5",))
        # Names alone do not make two cells seeds of one another.
        points, again = frontier(), frontier()
        for cell in again:
            cell["row"]["kl"] = 1e-6
        figure = figures_of([self.made(points, "x.h5"), self.made(again, "y.h5")])[0]
        self.assertEqual(figure.sources, ("x.h5",))
        # Another model or other text is another picture.
        for cell in again:
            cell["settings"]["evaluate"] = ["other"]
        self.assertEqual(self.names(self.made(points, "x.h5"), self.made(again, "y.h5")), ["frontier", "frontier2"])
        for cell in again:
            cell["settings"].update(evaluate=["e"], activations=None)
        self.assertEqual(self.names(self.made(points, "x.h5"), self.made(again, "y.h5")), ["frontier", "frontier_weights"])

    def test_what_is_drawn_is_what_was_measured(self):
        figure = self.only(MADE["figure2"]())
        self.assertIn("weights 3.21 native, 0.02 rotated", figure.caption)
        self.assertIn("blocks of 128", self.axes(figure)[1].get_title("left"))  # the largest block
        figure = self.only(MADE["figure3"]())
        self.assertIn("E4M3 -50 % at G = 16, -50 % at 32", figure.caption)
        line = self.axes(figure)[0].lines[0]
        self.assertEqual((list(line.get_xdata()), list(line.get_ydata())), ([8, 16, 32], [0.02] * 3))
        figure = self.only(MADE["figure8"]())
        self.assertIn("weights E4M3 +20 %, E8M0 fpq +40 %", figure.caption)
        # Of two cells for one place the one that knows better.
        known = [lemma("lemma1", s, width=0.5) for s in (16, 32)] + [lemma("lemma1", 32, estimate=1.04, width=0.001)]
        self.assertIn("e2m1, FP32 1.0400 at G = 32", self.only(known).caption)
        # At a single scale Lemma 4 does not apply.
        self.assertEqual(self.names(self.made([lemma("lemma4", s, log_normal_sigma=0.0) for s in (16, 32)])), [])
        # Deviations over seeds: 96, 97, 98.
        bars = self.axes(self.only(ablation()))[0]
        self.assertEqual({round(p.get_height(), 6) for p in bars.patches}, {97.0})

    def test_hostile_names(self):
        formats = ("$\\frac{$", "<script>&", "_^{", "a" * 60, "e", "f", "g")
        cells = frontier(formats)
        for cell in cells:
            cell["row"]["method"] += " $\\bad{$ <b>"
        ElementTree.fromstring(svg(self.only(cells)))

    def test_papers_numbers(self):
        """paper.json says what analysis/paper.cpp, which `compare` prints, says."""
        with open(os.path.join(ROOT, "analysis", "paper.cpp"), encoding="utf-8") as file:
            rows = re.findall(r'\{"table12", "(\w+)", "(\w+)\+(\w+)\+(\w+)", kNone, ([\d.]+), ([\d.]+)\}', file.read())
        names = {"minmax": "rule", "mse": "mse_shrink", "actorder": "static_activation", "default": "natural"}
        expected = {"nvfp4": [], "mxfp4": []}
        for format, block, scales, order, recovery, deviation in rows:
            k = 0 if block == "ident" else int(block[3:])
            expected[format].append([k, names[scales], names[order], float(recovery), float(deviation)])
        self.assertEqual(len(rows), 16)
        self.assertEqual({f: paper()["table12_recovery_percent"][f] for f in expected}, expected)

    def command(self, *arguments, cwd=ROOT):
        return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=cwd)

    def test_command(self):
        path, to = self.made(MADE["figure8"]()), self.path("to", "pictures here")
        done = self.command("-m", "analysis.figures", path, "--to", to)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(sorted(os.listdir(to)), ["figure8.png", "figure8.svg"])
        self.assertEqual(done.stdout.split("\n")[:2], [os.path.join(to, "figure8.svg"), os.path.join(to, "figure8.png")])
        before = program.read(os.path.join(to, "figure8.svg"))
        elsewhere = self.command(os.path.join(ROOT, "analysis", "figures"), path, "--to", to, cwd=self.folder)
        self.assertEqual((elsewhere.returncode, program.read(os.path.join(to, "figure8.svg"))), (0, before), elsewhere.stderr)
        nothing = self.command("-m", "analysis.figures", self.made([{"settings": {}}]), "--to", to)
        self.assertEqual(nothing.returncode, 0)
        self.assertIn("no figure has its data", nothing.stderr)
        self.write("broken.h5", "not HDF5")
        with h5py.File(self.path("empty.h5"), "w"):
            pass
        for name in ("missing.h5", "broken.h5", "empty.h5"):
            refused = self.command("-m", "analysis.figures", self.path(name), "--to", to)
            self.assertEqual(refused.returncode, 1, name)
            self.assertTrue(refused.stderr.startswith("analysis.figures: "), refused.stderr)
            self.assertIn(name, refused.stderr)
            self.assertNotIn("Traceback", refused.stderr)

    def test_save(self):
        figure = self.only(MADE["lemma4"]())
        paths = save(figure, self.path("a", "b"))
        self.assertEqual([os.path.basename(p) for p in paths], ["lemma4.svg", "lemma4.png"])
        self.assertEqual([program.read(p) for p in paths], [svg(figure).encode(), png(figure)])
        self.assertEqual(len(os.listdir(self.path("a", "b"))), 2)


class OfTheProgram(InFolder):
    """The program's own files hold what the figures look for."""

    def test_every_task(self):
        weights = {"model": {"path": TINY_LLAMA}, "source": {"weights": "layers.0.*k_proj"}}
        sizes = {"format.group_size": [16, 32], "method": ["rtn", "rtn+ht"]}
        e2m1 = {"element": "e2m1"}
        scales = [dict(e2m1, scale=s) for s in ("fp32", "e4m3", "e5m2", "e3m4")] + [dict(e2m1, scale="ue8m0", rule="fpq")]
        sweeps = [
            {"name": "d", "task": "distribution", **weights, "axes": {"transform": [None, "hadamard"]}},
            {"name": "r", "task": "scale_range", **weights, "format": "nvfp4", "axes": {"transform": [None, "hadamard"]}},
            {"name": "h", "task": "tensor_error", **weights,
             "axes": {"format": [dict(e2m1, scale="ue8m0"), {"element": "int4", "scale": "e4m3"}], **sizes}},
            {"name": "t", "task": "tensor_error", **weights, "axes": {"format": scales, "format.group_size": [16]}},
            {"name": "l1", "task": "lemma", "lemma": "lemma1", "blocks": 2000, "format": "e2m1-fp32",
             "axes": {"group_size": [16, 32]}},
            {"name": "l2", "task": "lemma", "lemma": "lemma2_crossover", "samples": 1000000, "format": "e2m1-fp32"},
            {"name": "l3", "task": "lemma", "lemma": "lemma2_rate", "format": "e2m1-fp32", "distribution": "laplace"},
            {"name": "l4", "task": "lemma", "lemma": "lemma4", "blocks": 2000, "format": "mxfp4",
             "axes": {"group_size": [16, 32]}}]
        self.write("s.json", json.dumps(sweeps))
        self.expect(OK, "run", "s.json")
        found = figures_of([self.path("results", f"{sweep['name']}.h5") for sweep in sweeps])
        self.assertEqual([f.name for f in found],
                         ["figure2", "figure3", "figure4_g16", "lemma1", "lemma2", "lemma4", "figure8", "figure10"])
        for figure in found:
            ElementTree.fromstring(svg(figure))
        by_name = {f.name: f for f in found}
        self.assertEqual(by_name["lemma2"].sources, ("l2.h5", "l3.h5"))
        self.assertEqual(len(by_name["lemma2"].draw().axes), 2)


if __name__ == "__main__":
    program.main(__doc__)
