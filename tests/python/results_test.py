"""Checks a consolidated result file against its layout, and analysis/results.py against h5py.

    python3 tests/python/results_test.py results/quickstart.h5
"""
import os
import sys
import tempfile
import unittest

import h5py
import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
from analysis import results  # noqa: E402

PATH = None  # the file under test, from the command line


def is_text(dataset):
    info = h5py.check_string_dtype(dataset.dtype)
    return info is not None and info.encoding == "utf-8" and info.length is None


class Layout(unittest.TestCase):
    def setUp(self):
        self.file = h5py.File(PATH, "r")
        self.table = self.file["table"]
        self.status = list(self.table["status"].asstr())
        self.keys = list(self.table["key"].asstr())
        self.axes = [n for n, d in self.table.items() if d.attrs["role"] == "axis"]

    def tearDown(self):
        self.file.close()

    def test_root(self):
        self.assertEqual(set(self.file), {"experiment", "provenance", "table", "cells", "errors"})
        attrs = self.file.attrs
        self.assertEqual(set(attrs), {"schema_version", "name", "created_utc", "fp4lab_version", "git_commit",
                                      "git_dirty", "cells", "cells_done"})
        self.assertEqual(attrs["schema_version"], 1)
        self.assertRegex(attrs["created_utc"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")
        self.assertEqual(attrs["cells"], len(self.keys))
        self.assertEqual(attrs["cells_done"], self.status.count("done"))
        self.assertIn(attrs["git_dirty"], (0, 1))

    def test_experiment(self):
        for name in ("written", "resolved"):
            dataset = self.file["experiment"][name]
            self.assertEqual(dataset.shape, ())
            self.assertTrue(is_text(dataset))
            self.assertTrue(dataset.asstr()[()].strip())

    def test_columns(self):
        self.assertTrue({"key", "status", "seconds", "provenance"} <= set(self.table))
        for name, column in self.table.items():
            with self.subTest(column=name):
                self.assertEqual(column.shape, (len(self.keys),))
                self.assertTrue(is_text(column) or column.dtype == np.float64)
                self.assertEqual(column.attrs["shape_of"], "(cells)")
                self.assertIsInstance(column.attrs["units"], str)
                self.assertIsInstance(column.attrs["source_equation"], str)
                self.assertTrue(column.attrs["units"] or column.attrs["role"] == "metric")
                self.assertIn(column.attrs["role"], ("cell", "axis", "metric", "text"))
                if column.attrs["role"] == "metric":
                    self.assertEqual(column.dtype, np.float64)
        positions = sorted(int(d.attrs["position"]) for d in self.table.values())
        self.assertEqual(positions, list(range(len(positions))))

    def test_rows(self):
        self.assertEqual(set(self.status) - {"done", "failed", "absent"}, set())
        for key in self.keys:
            self.assertRegex(key, r"^[0-9a-f]{64}$")
        absent = np.array([s == "absent" for s in self.status], dtype=bool)
        for name in ("seconds", "provenance"):
            np.testing.assert_array_equal(np.isnan(self.table[name][()]), absent)
        not_done = np.array([s != "done" for s in self.status], dtype=bool)
        for name, column in self.table.items():
            if column.attrs["role"] == "metric":
                self.assertTrue(np.all(np.isnan(column[()][not_done])), name)

    def test_axes(self):
        for name in self.axes:
            with self.subTest(axis=name):
                column = self.table[name]
                if not is_text(column):
                    continue
                # A text axis has at least one value that is no number.
                values = list(column.asstr())

                def number(text):
                    try:
                        return text == "" or float(text) is not None
                    except ValueError:
                        return False

                self.assertFalse(values and all(number(v) for v in values), values)

    def test_provenance(self):
        lengths = {d.shape for d in self.file["provenance"].values()}
        self.assertLessEqual(len(lengths), 1)
        rows = self.table["provenance"][()]
        used = set(rows[~np.isnan(rows)].astype(int))
        count = lengths.pop()[0] if lengths else len(used)
        self.assertEqual(used, set(range(count)))
        fields = [list(d.asstr()) for d in self.file["provenance"].values()]
        self.assertEqual(len(set(zip(*fields))), count if fields else 0)  # no process twice

    def test_cells(self):
        done = {k for k, s in zip(self.keys, self.status) if s == "done"}
        self.assertEqual(set(self.file["cells"]), done)
        for key, group in self.file["cells"].items():
            self.assertLessEqual(set(group.attrs), set(self.axes))
            row = self.keys.index(key)
            for axis, value in group.attrs.items():
                column = self.table[axis]
                self.assertEqual(value, column.asstr()[row] if is_text(column) else column[row])
            for name, dataset in group.items():
                with self.subTest(cell=key, array=name):
                    for attribute in ("units", "shape_of", "source_equation"):
                        self.assertIsInstance(dataset.attrs[attribute], str)
                    # "(tensors, bins)" names as many dimensions as there are.
                    self.assertEqual(len(dataset.attrs["shape_of"].split(",")), dataset.ndim)

    def test_errors(self):
        group = self.file["errors"]
        self.assertTrue({"key", "message"} <= set(group))
        self.assertEqual([n for n, d in group.items() if d.attrs["role"] == "axis"], self.axes)
        failed = [k for k, s in zip(self.keys, self.status) if s == "failed"]
        self.assertEqual(list(group["key"].asstr()) if group["key"].size else [], failed)
        for name, dataset in group.items():
            self.assertEqual(dataset.shape, (len(failed),), name)
        for message in group["message"].asstr() if failed else []:
            self.assertTrue(message)


class Reader(unittest.TestCase):
    """analysis/results.py gives what h5py finds, with pandas and without."""

    def check_table(self, table):
        with h5py.File(PATH, "r") as file:
            self.assertEqual(set(table), set(file["table"]))
            self.assertEqual(list(table)[:4], ["key", "status", "seconds", "provenance"])
            for name, column in file["table"].items():
                values = np.asarray(table[name])
                if is_text(column):
                    self.assertEqual(list(values), [t.decode() for t in column[()]] if column.size else [])
                else:
                    np.testing.assert_array_equal(values, column[()])

    def test_load(self):
        self.check_table(results.load(PATH))
        if results.pandas is not None:
            self.assertIsInstance(results.load(PATH), results.pandas.DataFrame)

    def test_load_without_pandas(self):
        pandas, results.pandas = results.pandas, None
        try:
            table = results.load(PATH)
            self.assertIsInstance(table, dict)
            self.check_table(table)
            self.assertIn("message", results.errors(PATH))
        finally:
            results.pandas = pandas

    def test_roles_and_units(self):
        self.assertEqual(list(results.load(PATH, role="cell")), ["key", "status", "seconds", "provenance"])
        self.assertEqual(results.units(PATH)["seconds"][0], "s")

    def test_arrays(self):
        with h5py.File(PATH, "r") as file:
            for key, group in file["cells"].items():
                found = results.arrays(PATH, key)
                self.assertEqual(set(found), set(group))
                for name, dataset in group.items():
                    self.assertEqual(found[name].shape, dataset.shape)
                    if not is_text(dataset):
                        np.testing.assert_array_equal(found[name], dataset[()])
        with self.assertRaisesRegex(KeyError, "0 finished cells"):
            results.arrays(PATH, "x")

    def test_paired(self):
        with h5py.File(PATH, "r") as file:
            a, b = list(file["cells"])[:2]
            d = file["cells"][a]["per_tensor.mse_rel"][()] - file["cells"][b]["per_tensor.mse_rel"][()]
        mean, error = results.paired(PATH, a, b, "per_tensor.mse_rel")
        self.assertAlmostEqual(mean, sum(d) / len(d), delta=1e-15)
        self.assertAlmostEqual(error, (sum((d - mean) ** 2) / (len(d) - 1) / len(d)) ** 0.5, delta=1e-15)
        self.assertEqual(results.paired(PATH, a, a, "per_tensor.mse_rel"), (0, 0))
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "w.h5")
            with h5py.File(path, "w") as file:  # the same windows, then others
                for key, start in (("a", [0, 8]), ("b", [0, 8]), ("c", [8, 16])):
                    group = file.create_group("cells/" + key)
                    group["windows.t.nll"], group["windows.t.start"] = [ord(key) + 1.0, 2.0], start
            self.assertEqual(results.paired(path, "b", "a", "windows.t.nll"), (0.5, 0.5))
            with self.assertRaisesRegex(ValueError, "not of the same windows"):
                results.paired(path, "c", "a", "windows.t.nll")

    def test_provenance_and_experiment(self):
        table = results.load(PATH)
        rows = np.asarray(table["provenance"])
        processes = results.provenance(PATH)
        self.assertTrue(all(r < max(len(processes), 1) for r in rows[~np.isnan(rows)]))
        found = results.experiment(PATH)
        self.assertEqual(found["cells"], len(table["key"]))
        self.assertIsInstance(found["cells"], int)
        self.assertIsInstance(found["written"], str)
        self.assertIsInstance(found["resolved"], str)

    def test_errors(self):
        failed = np.asarray(results.load(PATH)["status"]) == "failed"
        self.assertEqual(len(results.errors(PATH)["message"]), int(np.sum(failed)))


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    PATH = sys.argv.pop(1)
    unittest.main()
