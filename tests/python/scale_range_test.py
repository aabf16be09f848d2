"""The task scale_range against plain counts in NumPy, through the result file.

    python3 tests/python/scale_range_test.py build/cpu/fp4lab
"""
import h5py
import numpy as np

from program import OK, InFolder, main, safetensors

# Largest value, and the smallest scale that does not round to 0 lies above this: half the smallest value.
TYPES = {"e4m3": (448, 2.0 ** -10), "e5m2": (57344, 2.0 ** -17), "e5m3": (114688, 2.0 ** -18), "e3m4": (31, 2.0 ** -7),
         "e2m5": (7.875, 2.0 ** -6), "e1m6": (3.96875, 2.0 ** -6), "int8": (127, 0.5), "fp16": (65504, 2.0 ** -25)}
FORMATS = {"nvfp4": (16, 6), "mxfp4": (32, 6), "int4": (32, 7)}


class ScaleRange(InFolder):
    def test_counts(self):
        rng = np.random.default_rng(3)
        wide = rng.standard_normal((48, 128)) * np.exp2(rng.integers(-24, 20, (48, 8))).repeat(16, axis=1)
        wide[5:9] = 0
        arrays = {"wide": wide.astype(np.float32), "plain": rng.standard_normal((32, 64)).astype(np.float32),
                  "small": (1e-4 * rng.standard_t(2, (32, 64))).astype(np.float32)}
        safetensors(self.path("t.safetensors"), arrays)
        formats = [{"base": f, "group_size": g} if f == "int4" else f for f, (g, _) in FORMATS.items()]
        self.sweep(task="scale_range", source={"file": "t.safetensors"}, axes={"format": formats})
        self.expect(OK, "run", "s.json", "--no-table")
        with h5py.File(self.path("results", "s.h5"), "r") as file:
            table = file["table"]
            self.assertEqual(len(table["key"]), 3)
            for i, (format, (group, q_max)) in enumerate(FORMATS.items()):
                cell = file["cells"][table["key"].asstr()[i]]
                with self.subTest(format=format):
                    self.check(arrays, group, q_max, {n: d[i] for n, d in table.items() if d.attrs["role"] == "metric"}, cell)

    def check(self, arrays, group, q_max, found, cell):
        scales = {n: np.abs(x.astype(np.float64)).reshape(-1, group).max(axis=1) / q_max for n, x in arrays.items()}
        positive = {n: s[s > 0] for n, s in scales.items()}
        every = np.concatenate(list(scales.values()))
        all_positive = every[every > 0]
        logs = np.log2(all_positive)
        self.assertEqual(found["groups"], every.size)
        self.assertEqual(found["zero_groups_share"], np.mean(every == 0))
        self.assertAlmostEqual(found["log2_scale_min"], logs.min(), delta=1e-12)
        self.assertAlmostEqual(found["log2_scale_max"], logs.max(), delta=1e-12)
        for name, q in (("median", 0.5), ("p001", 0.001), ("p999", 0.999)):
            self.assertAlmostEqual(found["log2_scale_" + name], np.quantile(logs, q, method="inverted_cdf"), delta=4e-4)
        for t, (largest, zero) in TYPES.items():
            for prefix, s in (("", all_positive),
                              ("two_level_", np.concatenate([p / p.max() * largest for p in positive.values()]))):
                self.assertEqual(found[f"{t}_{prefix}clipped_share"], np.mean(s > largest * (1 + 1e-15)), (t, prefix))
                self.assertAlmostEqual(found[f"{t}_{prefix}underflow_share"], np.mean(s <= zero), delta=1e-12, msg=(t, prefix))
        self.assertEqual(found["e8m0_underflow_share"] + found["e8m0_clipped_share"], 0)
        edges, counts = cell["histogram.edges"][()], cell["histogram.counts"][()]
        np.testing.assert_array_equal(np.diff(edges), 0.125)
        expected = np.histogram(logs, edges)[0]
        self.assertEqual(counts.sum(), logs.size)
        self.assertLessEqual(np.abs(counts - expected).sum(), 4)  # scales within 2^-12 of an edge
        self.assertEqual(list(cell["tensor.name"].asstr()), sorted(arrays))
        for k, name in enumerate(sorted(arrays)):
            own = np.log2(positive[name])
            for what, value, delta in (("min", own.min(), 1e-12), ("max", own.max(), 1e-12),
                                       ("median", np.quantile(own, 0.5, method="inverted_cdf"), 4e-4)):
                self.assertAlmostEqual(cell["tensor.log2_scale_" + what][k], value, delta=delta)
        known = dict(zip(cell["scale_type.name"].asstr(), zip(cell["scale_type.log2_min"], cell["scale_type.log2_max"])))
        for t, (largest, zero) in TYPES.items():
            np.testing.assert_allclose(known[t], (np.log2(zero) + 1, np.log2(largest)), rtol=1e-12, atol=1e-12)
        self.assertEqual(known["e8m0"], (-127, 127))


if __name__ == "__main__":
    main(__doc__)
