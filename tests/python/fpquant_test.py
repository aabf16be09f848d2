"""Perplexities of the paper's own implementation (FP-Quant) on the shipped model and the same tokens, against ours.

    fpquant_test.py PROGRAM

Reads reference/fpquant_tiny.json beside the data folder (FP4LAB_DATA, by default ../shared/data); skips without it.

What differs, and what it costs:
- MXFP4 and INT4 are the same arithmetic (int4-peer's scale is a product with a float reciprocal, as PyTorch divides on
  a GPU); weight-only rows agree to 1e-5, the rest to what float32 sums in another order make of it.
- NVFP4: the reference keeps the divisor 2688/amax where we keep the multiplier s_T, and rounds max/6 on the way. Since
  2688 = 21 * 128 and weights are bf16, x/s and m/(6 s_T) often lie on a tie of e2m1 or E4M3, so an ulp moves a code. Its
  activations have one tensor scale, a running extreme over 128 calibration windows; ours have one per token. On books
  both cost a few tenths of a percent. On WikiText-2, where this model's perplexity is 440 and few logits decide, ulps
  alone move it by 1 % (weight-only, equal scales computed in five orders of rounding: 478.5 to 483.0; the reference's
  own order gives 482.97 against its 482.67, ours 479.83; on weights rounded in its order our W4A4 row is 507.2 against
  its 510.3, with our own order 501.7).
- GPTQ: on books all rows agree within 0.6 %. On WikiText-2 its rows are no yardstick at that scale: perturbing each
  input that the Hessian sees by a random 2^-11 of itself, or rounding it to TF32, moves books by 0.3 % and WikiText-2
  from 453.96 to 456.6..467.9 (NVFP4, weights; theirs 445.8), 491.9 to 501.8..503.8 (MXFP4; 548.7), 498.7 to 477.7..502.4
  (MXFP4 after Hadamard; 510.5), 503.1 to 498.2..510.9 (INT4; 494.2). Of what differs, its hook that scales the inputs of
  k, v and up in place was repeated here (58.42 and 493.3): not the cause. So the test compares GPTQ on books alone.
"""
import json
import os
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
DATA = os.environ.get("FP4LAB_DATA", os.path.join(ROOT, "..", "shared", "data"))
REFERENCE = os.path.join(DATA, "..", "reference", "fpquant_tiny.json")

FORMATS = {"nvfp": "nvfp4", "mxfp": "mxfp4-paper", "int": "int4-peer-fp32"}
CORPORA = ("books_heldout", "wikitext2_test")
TOLERANCE = {"nvfp": {"books_heldout": 0.01, "wikitext2_test": 0.02}, "mxfp": dict.fromkeys(CORPORA, 0.003),
             "int": dict.fromkeys(CORPORA, 0.003)}


# Rows of GPTQ, on books: what is left is the order of sums, which GPTQ's later columns take further than rounding does.
GPTQ_TOLERANCE = 0.015


def gptq_cell_of(row):
    """(format, method, activations) of fpquant_gptq.json for a row of the reference."""
    method = "gptq" if row["transform"] == "identity" else "gptq+ht, static order"
    return FORMATS[row["format"]], method, "same" if row["a"] == 4 else "null"


def cell_of(row):
    """(format, method, activations) of the sweep for a row of the reference, or None for what it does not hold."""
    if row.get("method") == "fp32" or row["gptq"] or row["observer"] != "minmax":
        return None
    group = 16 if row["format"] == "nvfp" else 32
    method = "rtn" if row["transform"] == "identity" else "rtn+ht" if row["had"] == group else "rtn+ht%d" % row["had"]
    return FORMATS[row["format"]], method, "same" if row["a"] == 4 else "null"


class FpQuant(unittest.TestCase):
    def setUp(self):
        with open(REFERENCE) as f:
            self.rows = json.load(f)["rows"]

    def run_sweep(self, name, *options):
        """Columns of the table, and the row of each (format, method, activations)."""
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([PROGRAM, "run", os.path.join(ROOT, "experiments/sweeps", name + ".json"), "--results", folder, *options],
                           check=True, stdout=subprocess.DEVNULL, env={**os.environ, "FP4LAB_DATA": DATA})
            with h5py.File(os.path.join(folder, name + ".h5")) as f:
                table = {k: list(f["table"][k][()]) for k in f["table"]}
        text = lambda v: v.decode() if isinstance(v, bytes) else v
        return table, {tuple(text(table[a][i]) for a in ("format", "method", "activations")): i
                       for i in range(len(table["format"]))}

    def test_gptq_rows(self):
        """On books alone: the full-precision model knows that text, and half a percent is half a percent."""
        books = os.path.join(DATA, "corpora/books_heldout.safetensors")
        table, cells = self.run_sweep("fpquant_gptq", "--set", "evaluate.corpora=" + json.dumps([os.path.abspath(books)]),
                                      "--set", 'metrics=["perplexity"]')
        rows = [r for r in self.rows if r.get("gptq") and gptq_cell_of(r) in cells]
        self.assertEqual(len(rows), 4)
        self.assertEqual(set(table["fallbacks"]), {0})
        for row in rows:
            found, theirs = table["perplexity"][cells[gptq_cell_of(row)]], row["books_heldout"]
            print("%-45s %-15s %9.3f, theirs %9.3f: %+.2f %%"
                  % (", ".join(gptq_cell_of(row)), "books_heldout", found, theirs, 100 * (found / theirs - 1)))
            with self.subTest(cell=gptq_cell_of(row)):
                self.assertLess(abs(found / theirs - 1), GPTQ_TOLERANCE)

    def test_rows(self):
        rows = self.rows
        table, cells = self.run_sweep("fpquant_rtn")
        compared = 0
        for corpus in CORPORA:  # full precision: every cell knows it
            for value in table["perplexity_full@" + corpus]:
                self.assertAlmostEqual(value / rows[0][corpus], 1, delta=1e-6)
        for row in rows:
            if cell_of(row) is None:
                continue
            for corpus in CORPORA:
                found, theirs = table["perplexity@" + corpus][cells[cell_of(row)]], row[corpus]
                print("%-45s %-15s %9.3f, theirs %9.3f: %+.2f %%"
                      % (", ".join(cell_of(row)), corpus, found, theirs, 100 * (found / theirs - 1)))
                with self.subTest(cell=cell_of(row), corpus=corpus):
                    self.assertLess(abs(found / theirs - 1), TOLERANCE[row["format"]][corpus])
                compared += 1
        self.assertEqual(compared, 22)  # eleven rows of round-to-nearest


if __name__ == "__main__":
    if not os.path.exists(REFERENCE):
        print("[fp4lab-skipped] %s is not there" % REFERENCE)
        sys.exit(0)
    unittest.main()
