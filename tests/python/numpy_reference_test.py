"""Compares the program's codes, scales and metrics with an independent NumPy implementation (numpy_formats.py).

    python3 tests/python/numpy_reference_test.py build/cpu/fp4lab
"""
import collections
import json
import os
import re
import subprocess
import sys
import tempfile
import unittest
from types import SimpleNamespace

import h5py
import numpy as np

from numpy_formats import BYTE_SCALES, F, FLOAT_ELEMENTS, SCALE_BYTES, Coder, floor_log2, metrics

try:
    import ml_dtypes
    NO_ML_DTYPES = ""
except Exception as error:  # not installed, or built for another NumPy
    ml_dtypes, NO_ML_DTYPES = None, "ml_dtypes cannot be imported: %s" % error

PROGRAM = None                        # from the command line
NEAR_TIES = collections.Counter()     # groups where the program took another candidate of the same error, by format
SEARCHES = ("four_over_six", "sweep", "search")
BITS = {"mxfp4": 4.25, "mxfp4-even": 4.25, "mxfp4-ceil": 4.25, "mxfp4-paper": 4.25, "mxfp4-fitted": 4.25, "nvfp4": 4.5,
        "nvfp4-4over6": 4.5, "nvfp4-sweep": 4.5, "nvint4": 4.5, "mxint4": 4.25, "int4": 4.5, "int4-g128": 4.125,
        "int4-asym": 4.625, "mxfp6-e2m3": 6.25, "mxfp6-e3m2": 6.25, "mxfp8-e4m3": 8.25, "mxfp8-e5m2": 8.25,
        "mxint8": 8.25, "int8": 8 + 32 / 768, "fp8": 8 + 32 / 768}


def named_formats():
    """{name: the composed object}, as the program prints them."""
    def show(*words):
        return subprocess.run([PROGRAM, "list", "formats", *words], check=True, capture_output=True, text=True).stdout
    names = re.findall(r"^  (\S+) +[0-9.]+ bits(?: at K = 4096)?:", show(), re.MULTILINE)
    return {n: json.loads(re.search(r"the same as (\{.*\})", show(n)).group(1)) for n in names}


def composed():
    """Formats that have no name: the other rules, options and elements."""
    def format(element="e2m1", group=32, scale="ue8m0", rule="floor", **more):
        return dict(element=element, group_size=group, scale=scale, rule=rule, **more)
    made = {}
    for element in ("e2m1", "int4", "e4m3", "int4-full"):
        for rule in ("floor", "even", "ceil", "ceil_pow2", "nearest", "fpq", "fitted",
                     {"type": "map", "c": 3.6}, {"type": "map", "c": 3.5}, {"type": "map", "c": 100}):
            kind = rule if isinstance(rule, str) else "map(%g)" % rule["c"]
            made["%s-%s" % (element, kind)] = format(element, rule=rule)
    for k in range(1, 6):
        made["search(%d)" % k] = format(rule={"type": "search", "k": k})
    made["quest"] = format(rule="quest")
    made["sweep-all"] = format(group=16, scale="e4m3", rule={"type": "sweep", "lo": -100, "hi": 27}, tensor_scale="dynamic")
    for element in ("int4", "int8", "e2m3"):
        made["sweep-" + element] = format(element, 16, "e4m3", {"type": "sweep", "lo": -3, "hi": 7}, tensor_scale="dynamic")
    for rule in ("absmax", "four_over_six", {"type": "sweep", "lo": -3, "hi": 7}):
        kind = rule if isinstance(rule, str) else "sweep"
        for t in ("per_token", {"static": 0.0123}):
            name = t if isinstance(t, str) else "static"
            made["nv-%s-%s" % (kind, name)] = format(group=16, scale="e4m3", rule=rule, tensor_scale=t)
        for floor in ("min_subnormal", "min_normal"):
            made["nv-%s-%s" % (kind, floor)] = format(group=16, scale="e4m3", rule=rule, tensor_scale="dynamic",
                                                      scale_floor=floor)
    for bits in range(2, 9):
        for kind in ("", "-full", "-asym"):
            made["int%d%s-g16" % (bits, kind)] = format("int%d%s" % (bits, kind), 16, "fp16", "absmax")
    made["asym-fp32"] = format("int4-asym", 64, "fp32", "absmax")
    made["asym-bf16"] = format("int8-asym", "row", "bf16", "absmax")
    made["nf4-e4m3"] = format("nf4", 64, "e4m3", "absmax", tensor_scale="dynamic")
    return made


def near_thresholds(rng, shape, group):
    """Group maxima on every threshold of the rules and next to it, other elements on and beside rounding ties of e2m1."""
    ties = np.array([0, .25, .5, .75, 1, 1.25, 1.75, 2.5, 3, 3.5, 5, 5.5, 6.5, 7.5])
    x = (rng.choice(ties, shape) * rng.choice([-1, 1], shape)).astype(F).reshape(shape[0], -1, group)
    tops = np.array([4, 5, 5.5, 5.65685424949, 6, 7, 7.2, 7.5, 7.99999952, 8.48528137, 3.6, 7.75, 448, 464, 6.25], F)
    tops = np.concatenate([np.nextafter(tops, F(0)), tops, np.nextafter(tops, F(np.inf))])
    top = rng.choice(tops, x.shape[:2])
    x = np.where(np.abs(x) > top[:, :, None], F(0), x)
    x[:, :, 5] = top * rng.choice([-1, 1], x.shape[:2]).astype(F)
    x *= np.exp2(rng.integers(-3, 4, x.shape[:2]))[:, :, None].astype(F)
    return x.reshape(shape)


def tensors():
    rng = np.random.default_rng(20260801)
    normal = rng.standard_normal((16, 768)).astype(F)
    zeros = rng.standard_normal((10, 768)).astype(F)
    zeros[[0, 4]] = 0
    zeros[5] = -0.0
    zeros[6, ::3] = -0.0
    zeros[7, :384] = 0
    zeros[8] = np.abs(zeros[8])      # one-sided rows, for zero points
    zeros[9] = -np.abs(zeros[9]) - 1
    wide = normal[:12] * np.exp2(rng.uniform(-30, 30, (12, 96))).astype(F).repeat(8, axis=1)
    denormal = (rng.integers(-2 ** 12, 2 ** 12, (8, 768)) * 2.0 ** -149).astype(F)
    denormal[:3] *= F(1024)
    denormal[0, 100] = 2.0 ** -120
    return {"normal": normal, "heavy": rng.standard_t(2, (12, 768)).astype(F), "tiny": normal[:8] * F(1e-30),
            "large": normal[:8] * F(1e30), "zeros": zeros, "wide": wide, "denormal": denormal,
            "ties32": near_thresholds(rng, (8, 768), 32), "ties16": near_thresholds(rng, (8, 768), 16),
            "constant": np.full((8, 768), F(-0.3)), "row": rng.standard_normal((1, 768)).astype(F)}


def unpack(packed, bits):
    if bits > 4:
        return packed.astype(int)
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(len(packed), -1).astype(int)


def read_scales(stored, kind):
    width = SCALE_BYTES.get(kind, 1)
    return np.ascontiguousarray(stored).view("<u%d" % width).astype(np.int64)


def run(directory, name, sweep):
    """Runs a sweep and opens its results; failed cells are the caller's matter."""
    path = os.path.join(directory, name + ".json")
    with open(path, "w") as file:
        json.dump(dict(name=name, task="tensor_error", keep=["codes"], **sweep), file)
    done = subprocess.run([PROGRAM, "run", path, "--results", directory, "--no-table"], capture_output=True, text=True)
    result = os.path.join(directory, name + ".h5")
    if not os.path.exists(result):
        raise RuntimeError(done.stderr)
    return h5py.File(result, "r")


def save(directory, arrays):
    for name, x in arrays.items():
        np.save(os.path.join(directory, name + ".npy"), x)
    return [os.path.join(directory, name + ".npy") for name in arrays]


def cells(file, formats, arrays):
    """What the program stored, a cell at a time, with the inputs it had."""
    table = {n: d.asstr()[()] if h5py.check_string_dtype(d.dtype) else d[()] for n, d in file["table"].items()}
    for i, key in enumerate(table["key"]):
        assert table["status"][i] == "done", file["errors/message"].asstr()[()]
        group, name = file["cells"][key], os.path.basename(table["source.file"][i])[:-4]
        coder = Coder(formats[table["format"][i]])
        def array(kind):
            path = "%s.%s" % (kind, name)
            return group[path][()] if path in group else None
        factors = array("factors")
        if factors is None:
            factors = [1]
        yield SimpleNamespace(
            format=table["format"][i], tensor=name, coder=coder, x=arrays[name], packed=array("codes"),
            codes=unpack(array("codes"), coder.element.bits), scales=read_scales(array("scales"), coder.scale),
            zeros=array("zero_points"), histogram=group["scale_histogram"][()],
            factors=F(factors) if coder.type == "fitted" else F(factors[0]) if len(factors) == 1 else F(factors)[:, None],
            metrics={n: table[n][i] for n, d in file["table"].items() if d.attrs["role"] == "metric"})


def known(cell):
    """The two classes of cells where the program is known to leave the specification, tested on their own below."""
    if cell.coder.type in SEARCHES and cell.tensor in ("tiny", "large"):
        return "search"
    return "fitted" if cell.coder.type == "fitted" and cell.tensor == "denormal" else ""


class Reference(unittest.TestCase):
    """Every format on every tensor."""

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.arrays, cls.named = tensors(), named_formats()
        cls.formats = {**cls.named, **composed()}
        axes = {"source.file": save(cls.folder.name, cls.arrays), "format": [dict(f, label=n) for n, f in cls.formats.items()]}
        with run(cls.folder.name, "all", {"axes": axes}) as file:
            cls.cells = list(cells(file, cls.formats, cls.arrays))
        for cell in cls.cells:
            cell.mine = cell.coder.quantize(cell.x)

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def same(self, cell, mine):
        """Asserts the program's factors, scales, codes and zero points; a search may differ where errors are equal."""
        np.testing.assert_array_equal(np.ravel(cell.factors), np.ravel(F(mine.factors)), "factors")
        other = cell.scales != mine.scales
        if other.any() and cell.coder.type in SEARCHES:
            tried = np.stack(cell.coder.candidates(cell.x, mine.factors))
            self.assertTrue(np.all((tried == cell.scales).any(axis=0)), "a scale that no candidate has")
            theirs = cell.coder.apply(cell.x, cell.scales, mine.factors)
            least, found = cell.coder.errors(cell.x, mine)[other], cell.coder.errors(cell.x, theirs)[other]
            far = int(np.sum(found > least * (1 + 1e-5)))
            if cell.tensor != "denormal":  # there x^ itself rounds away the differences of the candidates
                self.assertEqual(far, 0, "%d of %d groups: not the best candidate, at worst %.3g times its error"
                                 % (far, other.size, np.max(found[least > 0] / least[least > 0], initial=1)))
                NEAR_TIES[cell.format] += int(other.sum())
            mine = theirs
        np.testing.assert_array_equal(cell.scales, mine.scales, "scales")
        np.testing.assert_array_equal(cell.codes, mine.codes, "codes")
        if cell.coder.element.asym:
            np.testing.assert_array_equal(cell.zeros, mine.zeros, "zero points")
        return mine

    def close(self, found, expected):
        for name, value in expected.items():
            scale = max(1, abs(value)) if name == "qsnr_db" else abs(value)
            equal = found[name] == value or (np.isnan(found[name]) and np.isnan(value))
            self.assertTrue(equal or abs(found[name] - value) <= 1e-10 * scale, (name, found[name], value))

    def test_codes_scales_and_metrics(self):
        for cell in self.cells:
            if not known(cell):
                with self.subTest(format=cell.format, tensor=cell.tensor):
                    self.close(cell.metrics, metrics(cell.x, self.same(cell, cell.mine), cell.coder))

    def check_known(self, kind):
        found = [cell for cell in self.cells if known(cell) == kind]
        self.assertTrue(found)
        for cell in found:
            self.same(cell, cell.mine)

    # Squares of these overflow or vanish in FP32 unless errors are taken in units of the group's size.
    def test_searches_of_tiny_and_large_tensors(self):
        self.check_known("search")

    # Thresholds between neighbouring codes need more than FP32 where s = m/Qmax is subnormal.
    def test_fitted_scales_of_subnormal_groups(self):
        self.check_known("fitted")

    def test_stored_codes_give_the_stored_errors(self):
        """From the file alone: s (code - zero) has the mean squared error of the table, the scales its histogram."""
        for cell in self.cells:
            with self.subTest(format=cell.format, tensor=cell.tensor):
                c = cell.coder
                s = c.effective(cell.scales, cell.factors)
                zeros = 0 if cell.zeros is None else cell.zeros[:, :, None]
                x = c.groups(cell.x)
                live = np.abs(x).max(axis=2) > 0
                s = np.where(live, s, F(0))
                values = c.values(c.groups(cell.codes), np.asarray(zeros), s[:, :, None])
                self.close(cell.metrics, {"mse": np.mean((np.float64(x) - values) ** 2)})
                bins = np.bincount(floor_log2(s[s > 0]) + 160, minlength=320)
                np.testing.assert_array_equal(cell.histogram, bins)
                self.assertEqual(cell.metrics["elements"], x.size)

    def test_bits_per_element(self):
        for cell in self.cells:
            if cell.format in BITS and cell.x.shape[1] == 768:
                self.assertAlmostEqual(cell.metrics["bits_per_element"], BITS[cell.format], places=12, msg=cell.format)

    def test_outlier_shares(self):
        some = {n: self.arrays[n] for n in ("normal", "heavy", "row", "constant")}
        with run(self.folder.name, "outliers", {"outlier_share": 0.0301, "axes": {
                "source.file": save(self.folder.name, some), "format": ["mxfp4", "int8", "nvfp4"]}}) as file:
            for cell in cells(file, self.formats, some):
                self.close(cell.metrics, metrics(cell.x, cell.coder.quantize(cell.x), cell.coder, 0.0301))

    def test_scale_searches_for_weights(self):
        """`weight_scales` with a rule is the format with that rule."""
        some = {n: self.arrays[n] for n in ("normal", "heavy", "zeros", "row")}
        for format, search in (("nvfp4", "four_over_six"), ("nvfp4", "sweep"), ("nvint4", "sweep"), ("mxfp4", "search")):
            with run(self.folder.name, "%s-%s" % (format, search), {"method": {"weight_scales": search}, "axes": {
                    "source.file": save(self.folder.name, some), "format": [format]}}) as file:
                ruled = {format: dict(self.formats[format], rule=search)}
                for cell in cells(file, ruled, some):
                    with self.subTest(format=format, search=search, tensor=cell.tensor):
                        self.close(cell.metrics, metrics(cell.x, self.same(cell, cell.coder.quantize(cell.x)), cell.coder))

    def test_mse_shrink(self):
        """A group's scale is that of a shrunk range of least error (2.4 norm); codes and metrics follow from it."""
        some = {n: self.arrays[n] for n in ("normal", "heavy", "zeros", "ties16")}
        formats = ["nvfp4", "nvint4-peer", "int4", "int4-peer", "nf4", "e2m1-fp32", "e2m1-bf16", "mxfp4", "mxfp4-paper",
                   "mxint4", "int8"]
        with run(self.folder.name, "shrink", {"method": {"weight_scales": "mse_shrink"}, "axes": {
                "source.file": save(self.folder.name, some), "format": formats}}) as file:
            for cell in cells(file, self.formats, some):
                with self.subTest(format=cell.format, tensor=cell.tensor):
                    codes, errors = cell.coder.shrunk(cell.x)
                    best = errors <= errors.min(axis=0) * (1 + 1e-5)
                    self.assertTrue(np.all((best & (codes == cell.scales)).any(axis=0)))
                    mine = cell.coder.apply(cell.x, cell.scales, cell.coder.factor(cell.x))
                    self.close(cell.metrics, metrics(cell.x, self.same(cell, mine), cell.coder))

    def test_alternate(self):
        """The tensor scale is one that the alternation reaches, and the last to matter; group scales are best for it."""
        some = {n: self.arrays[n] for n in ("normal", "heavy", "zeros", "row")}
        with run(self.folder.name, "alternate", {"method": {"weight_scales": "alternate"}, "axes": {
                "source.file": save(self.folder.name, some), "format": ["nvfp4", "nvint4", "nvint4-peer"]}}) as file:
            for cell in cells(file, self.formats, some):
                with self.subTest(format=cell.format, tensor=cell.tensor):
                    steps = cell.coder.alternate(cell.x)
                    self.assertAlmostEqual(cell.factors / steps[-1][0], 1, delta=1e-5)
                    least = cell.coder.best_of_all(cell.x, cell.factors)[1].min(axis=0)
                    mine = cell.coder.apply(cell.x, cell.scales, cell.factors)
                    live = np.abs(cell.coder.groups(cell.x)).max(axis=2) > 0
                    self.assertTrue(np.all((cell.coder.errors(cell.x, mine) <= least * (1 + 1e-5))[live]))
                    self.close(cell.metrics, metrics(cell.x, self.same(cell, mine), cell.coder))

    @unittest.skipIf(ml_dtypes is None, NO_ML_DTYPES)
    def test_ml_dtypes(self):
        """The package's own codecs give the stored codes and read the stored scales."""
        elements = {"e2m1": "float4_e2m1fn", "e2m3": "float6_e2m3fn", "e3m2": "float6_e3m2fn", "e4m3": "float8_e4m3fn",
                    "e5m2": "float8_e5m2"}
        scales = {"ue8m0": "float8_e8m0fnu", "e4m3": "float8_e4m3fn", "e5m2": "float8_e5m2"}
        for cell in self.cells:
            c = cell.coder
            if c.element.name in elements and c.scale in scales and not known(cell) and c.type != "fitted":
                with self.subTest(format=cell.format, tensor=cell.tensor):
                    s = cell.scales.astype(np.uint8).view(getattr(ml_dtypes, scales[c.scale])).astype(F)
                    s = (cell.factors * s)[:, :, None]
                    live = (s > 0) & (np.abs(c.groups(cell.x)).max(axis=2, keepdims=True) > 0)
                    with np.errstate(all="ignore"):
                        y = np.clip(c.groups(cell.x) / np.where(s > 0, s, F(1)), F(-c.element.max), F(c.element.max))
                    kind = getattr(ml_dtypes, elements[c.element.name])
                    codes = np.where(live, y.astype(kind).view(np.uint8) & (2 ** c.element.bits - 1), 0)
                    np.testing.assert_array_equal(codes.reshape(cell.x.shape), cell.codes)


class ByHand(unittest.TestCase):
    """A few values worked out on paper, without numpy_formats.py."""

    def stored(self, x, format):
        with tempfile.TemporaryDirectory() as folder:
            files = save(folder, {"t": x})
            with run(folder, "hand", {"source": {"file": files[0]}, "format": format}) as file:
                group = next(iter(file["cells"].values()), None)
                if group is None:
                    return file["errors/message"].asstr()[0]
                return {n[:-2]: d[()] for n, d in group.items() if n.endswith(".t")}

    def test_packing(self):
        x = np.zeros((2, 32), F)
        x[0, :16] = [0, .5, 1, 1.5, 2, 3, 4, 6, -0.0, -.5, -1, -1.5, -2, -3, -4, -6]
        x[0, 16:24] = [.25, .75, 1.25, 1.75, 2.5, 3.5, 5, -.1]      # ties go to the even code
        x[1, 7] = -0.0                                              # a group of zeros has code 0 throughout
        found = self.stored(x, "mxfp4")
        self.assertEqual(found["scales"].tolist(), [[127], [0]])
        expected = [0x10, 0x32, 0x54, 0x76, 0x98, 0xBA, 0xDC, 0xFE, 0x20, 0x42, 0x64, 0x86, 0, 0, 0, 0]
        self.assertEqual(found["codes"].tolist(), [expected, [0] * 16])

    def test_two_levels(self):
        x = np.zeros((1, 32), F)
        x[0, 0], x[0, 16], x[0, 17] = 2688, -6, 1                   # s_T = 1, s_G = 448 and 1
        found = self.stored(x, "nvfp4")
        self.assertEqual(found["factors"].tolist(), [1])
        self.assertEqual(found["scales"].tolist(), [[0x7E, 0x38]])
        self.assertEqual(found["codes"].tolist(), [[7] + [0] * 7 + [0x2F] + [0] * 7])

    def test_integers_and_zero_points(self):
        x = np.zeros((1, 32), F)
        x[0, :4] = [7, -7, 3.5, -2.5]                               # scale 1: codes 7, -7, 4 (even), -2 (even)
        found = self.stored(x, "int4")
        self.assertEqual(found["scales"].view("<f2").tolist(), [[1]])
        self.assertEqual(found["codes"][0, :2].tolist(), [0x97, 0xE4])
        x[0, :4] = [10, -5, 2.5, 0]                                 # range 15, zero point 5
        found = self.stored(x, "int4-asym")
        self.assertEqual((found["scales"].view("<f2").tolist(), found["zero_points"].tolist()), ([[1]], [[5]]))
        self.assertEqual(found["codes"][0, :2].tolist(), [0x0F, 0x57])

    def test_not_finite(self):
        x = np.ones((8, 64), F)
        x[3, 5] = np.nan
        self.assertRegex(self.stored(x, "mxfp4"), r'"t".*NaN.*row 3, column 5')
        x[3, 5] = -np.inf
        self.assertRegex(self.stored(x, "nvfp4"), r'"t".*Inf.*row 3, column 5')


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    PROGRAM = os.path.abspath(sys.argv.pop(1))
    outcome = unittest.main(exit=False).result
    print("near ties: %s" % (", ".join("%s %d" % pair for pair in sorted(NEAR_TIES.items())) or "none"))
    sys.exit(not outcome.wasSuccessful())
