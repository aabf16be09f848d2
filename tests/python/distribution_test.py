"""The task distribution against SciPy: moments, likelihoods, fits, distances and p-values, through the result file.

    python3 tests/python/distribution_test.py build/cpu/fp4lab
"""
import h5py
import numpy as np
from scipy import stats

from program import OK, InFolder, main, safetensors

ROWS, COLS, GROUP = 160, 128, 32
# SciPy's distribution, and its (shape..., loc, scale) from the parameters as the record has them.
FAMILIES = {
    "normal": (stats.norm, ("mu", "sigma"), lambda mu, sigma: (mu, sigma)),
    "laplace": (stats.laplace, ("mu", "b"), lambda mu, b: (mu, b)),
    "student_t": (stats.t, ("nu", "mu", "scale"), lambda nu, mu, scale: (nu, mu, scale)),
    "generalized_gaussian": (stats.gennorm, ("mu", "alpha", "beta"), lambda mu, alpha, beta: (beta, mu, alpha)),
    "logistic": (stats.logistic, ("mu", "s"), lambda mu, s: (mu, s)),
}
# What each tensor was drawn from, to be found again as the best fit, or another that holds it.
TENSORS = {"a": ("normal", (0.1, 2.0)), "b": ("laplace", (-0.05, 0.01)), "c": ("student_t", (4.0, 0.0, 30.0)),
           "d": ("generalized_gaussian", (0.0, 1.0, 1.4)), "e": ("logistic", (0.3, 1.0))}


def tensors():
    rng = np.random.default_rng(5)
    return {name: FAMILIES[family][0].rvs(*FAMILIES[family][2](*p), size=(ROWS, COLS), random_state=rng).astype(np.float32)
            for name, (family, p) in TENSORS.items()}


def normalized(x):
    """As the task pools them: times 1 / rms in double, stored as float32."""
    x = x.astype(np.float64)
    return (x * (1 / np.sqrt(np.mean(x ** 2)))).astype(np.float32).astype(np.float64)


def crest(x):
    groups = np.abs(x.astype(np.float64)).reshape(-1, GROUP)
    return np.mean(groups.max(axis=1) / np.sqrt(np.mean(groups ** 2, axis=1)))


class Distribution(InFolder):
    def cell(self, arrays, **keys):
        """{name: scalar or array} of the one cell over these tensors."""
        safetensors(self.path("t.safetensors"), arrays)
        self.sweep(task="distribution", axes=None, source={"file": "t.safetensors"}, **keys)
        self.expect(OK, "run", "s.json", "--fresh", "--no-table")
        with h5py.File(self.path("results", "s.h5"), "r") as file:
            table = file["table"]
            found = {n: d[0] for n, d in table.items() if d.attrs["role"] == "metric"}
            found["best_fit"] = table["best_fit"].asstr()[0]
            for name, data in file["cells"][table["key"].asstr()[0]].items():
                found[name] = list(data.asstr()[()]) if data.dtype == object else data[()]
            for name, data in table.items():
                if data.attrs["role"] == "metric":
                    self.assertTrue(data.attrs["units"] and data.attrs["source_equation"], name)
        return found

    def check_fits(self, x, found):
        """Fits of x: `found(name)` is one number."""
        for family, (scipy, names, order) in FAMILIES.items():
            p = [found(f"{family}_{n}") for n in names]
            mine = order(*p)
            ours = found(f"{family}_loglik")
            with self.subTest(family=family, parameters=p):
                self.assertAlmostEqual(ours, np.mean(scipy.logpdf(x, *mine)), delta=1e-7)
                # SciPy's own search, from our parameters, finds nothing likelier; nor does a step in any parameter.
                theirs = scipy.fit(x, *mine[:-2], loc=mine[-2], scale=mine[-1])
                self.assertLessEqual(np.mean(scipy.logpdf(x, *theirs)), ours + 1e-6)
                for i in range(len(mine)):
                    for step in (-1e-3, 1e-3):
                        moved = list(mine)
                        moved[i] += step * (mine[-1] if i == len(mine) - 2 else mine[i])
                        self.assertLessEqual(np.mean(scipy.logpdf(x, *moved)), ours + 2e-7, (i, step))
                if family in ("normal", "laplace", "logistic"):  # a median is known to 2^-12; SciPy's search is rough
                    tolerance = {"normal": 1e-9, "laplace": 5e-5, "logistic": 1e-3}[family]
                    np.testing.assert_allclose(mine, theirs, rtol=tolerance, atol=tolerance)

    def test_fits(self):
        arrays = tensors()
        cell = self.cell(arrays, group_size=GROUP, ks_subsample=1000)
        pooled = np.concatenate([normalized(x).ravel() for x in arrays.values()])
        self.assertEqual(cell["samples"], pooled.size)
        for name, value in (("mean", pooled.mean()), ("std", pooled.std()), ("skewness", stats.skew(pooled)),
                            ("excess_kurtosis", stats.kurtosis(pooled)),
                            ("crest_factor", np.mean([crest(x) for x in arrays.values()]))):
            self.assertAlmostEqual(cell[name], value, delta=1e-9 * max(1, abs(value)), msg=name)
        self.check_fits(pooled, cell.get)
        for i, (name, x) in enumerate(arrays.items()):
            with self.subTest(tensor=name):
                self.assertEqual(cell["tensor.name"][i], name)
                y = normalized(x).ravel()
                self.assertAlmostEqual(cell["tensor.excess_kurtosis"][i], stats.kurtosis(y), delta=1e-8)
                self.assertAlmostEqual(cell["tensor.crest_factor"][i], crest(x), delta=1e-9)
                self.check_fits(y, lambda column: cell["tensor." + column][i])
                k = {f: len(names) for f, (_, names, _) in FAMILIES.items()}
                aic = {f: 2 * k[f] - 2 * y.size * cell[f"tensor.{f}_loglik"][i] for f in FAMILIES}
                self.assertEqual(cell["tensor.best_fit"][i], min(aic, key=aic.get))
                self.assertLess(aic[TENSORS[name][0]], min(aic.values()) + 6)

        edges, width = cell["histogram.edges"], np.diff(cell["histogram.edges"])
        for family, (scipy, names, order) in FAMILIES.items():
            with self.subTest(family=family):
                mine = order(*(cell[f"{family}_{n}"] for n in names))
                self.assertAlmostEqual(cell[f"{family}_ks"], stats.kstest(pooled, scipy.cdf, mine).statistic, delta=2e-5)
                self.assertEqual(cell[f"{family}_aic"], 2 * len(names) - 2 * pooled.size * cell[f"{family}_loglik"])
                np.testing.assert_allclose(cell["fit." + family], scipy.pdf((edges[1:] + edges[:-1]) / 2, *mine),
                                           rtol=1e-9, atol=1e-300)
        aic = {f: cell[f"{f}_aic"] for f in FAMILIES}
        self.assertEqual(cell["best_fit"], min(aic, key=aic.get))
        np.testing.assert_allclose([edges[0], edges[-1]], pooled.mean() + 8 * pooled.std() * np.array([-1, 1]), rtol=1e-9)
        counts = cell["histogram.density"] * pooled.size * width
        expected = np.histogram(pooled, edges)[0]
        np.testing.assert_allclose(counts, np.round(counts), atol=1e-6)
        self.assertLessEqual(np.abs(counts - expected).max(), 20)  # values within 2^-12 of an edge
        self.assertLessEqual(np.abs(np.cumsum(counts - expected)).max(), 20)

    def test_p_values(self):
        """Of all values, as SciPy's exact ones."""
        rng = np.random.default_rng(2)
        for n, draw in ((32, rng.standard_normal), (128, rng.standard_normal), (1024, lambda n: rng.standard_t(5, n)),
                        (1024, lambda n: rng.gamma(8, size=n))):
            x = draw(n).astype(np.float32)
            cell = self.cell({"x": x.reshape(1, n)}, group_size=GROUP, normalize="none", ks_subsample=n)
            for family, (scipy, names, order) in FAMILIES.items():
                with self.subTest(n=n, family=family):
                    mine = order(*(cell[f"{family}_{name}"] for name in names))
                    exact = stats.kstest(x.astype(np.float64), scipy.cdf, mine, method="exact")
                    self.assertAlmostEqual(cell[f"{family}_ks"], exact.statistic, delta=1e-4)
                    self.assertAlmostEqual(cell[f"{family}_ks_p"], exact.pvalue, delta=1e-3)

    def test_subsample(self):
        """Its p-values are those of a share of the values: for the truth they are spread, for another family tiny."""
        x = {"x": np.random.default_rng(8).laplace(size=(256, 256)).astype(np.float32)}
        true = []
        for seed in range(8):
            cell = self.cell(x, seed=seed, ks_subsample=1000)
            self.assertLess(cell["normal_ks_p"], 0.05)
            true.append(cell["laplace_ks_p"])
        self.assertEqual(len(set(true)), len(true))
        self.assertGreater(max(true), 0.3)
        self.assertGreater(min(true), 1e-4)


if __name__ == "__main__":
    main(__doc__)
