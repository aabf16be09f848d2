"""Transforms through the whole program: rotated codes and metrics against NumPy, random signs, keys, refusals.

    python3 tests/python/transform_test.py build/cpu/fp4lab
"""
import json
import os
from types import SimpleNamespace

import h5py
import numpy as np

import program
from numpy_formats import Coder, F, metrics
from program import CELLS_FAILED, CONFIG, OK, TINY_LLAMA, InFolder, column, main, safetensors

FORMATS = {
    "mxfp4": {"element": "e2m1", "group_size": 32, "scale": "ue8m0", "rule": "floor"},
    "nvfp4": {"element": "e2m1", "group_size": 16, "scale": "e4m3", "rule": "absmax", "tensor_scale": "dynamic"},
    "int4": {"element": "int4", "group_size": 32, "scale": "fp16", "rule": "absmax"},
    "int8": {"element": "int8", "group_size": "row", "scale": "fp32", "rule": "absmax"},
}
# What is about the quantizer is measured in its own coordinates, everything else in the original ones.
OF_THE_QUANTIZER = ("dead_zone_share", "clipped_share", "overflow_share", "crest_factor", "bits_per_element")


def hadamard(x, k):
    """Blocks of k columns times H_k / sqrt(k): FP32, stage by stage."""
    y, h = x.astype(F).copy(), 1
    while h < k:
        pairs = y.reshape(-1, 2, h)
        y = np.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], axis=1).reshape(x.shape)
        h *= 2
    return y * F(1 / np.sqrt(float(k)))


def philox(counter, key):
    """The first word of Philox4x32-10."""
    c, k, mask = list(counter), list(key), 0xffffffff
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k[0], b & mask, (a >> 32) ^ c[3] ^ k[1], a & mask]
        k = [(k[0] + 0x9E3779B9) & mask, (k[1] + 0xBB67AE85) & mask]
    return c[0]


def signs(seed, index, channels, position=0):
    """Of transform `position` of the list: Stream(seed, "hadamard signs", index), one block per channel."""
    h = 0xcbf29ce484222325
    for byte in seed.to_bytes(8, "little") + b"hadamard signs":
        h = (h ^ byte) * 0x100000001b3 % 2 ** 64
    key = (h & 0xffffffff, h >> 32)
    words = [philox((c, 0, index, 0), key) for c in range(channels)]
    return F([-1 if w >> position & 1 else 1 for w in words])


def tensors():
    rng = np.random.default_rng(7)
    heavy = rng.standard_t(3, (24, 384)).astype(F)
    sparse = heavy * (rng.random((24, 384)) < 0.02)  # groups without energy that the rotation fills
    return {"a.q_proj.weight": rng.standard_normal((32, 384)).astype(F), "b.down_proj.weight": heavy,
            "c.o_proj.weight": sparse.astype(F)}


class Transforms(InFolder):
    def run_file(self, method, formats=tuple(FORMATS), arrays=None, **keys):
        """Runs the arrays through each format; yields (format, metrics, codes by tensor)."""
        arrays = arrays or tensors()
        safetensors(self.path("t.safetensors"), arrays)
        self.sweep(source={"file": "t.safetensors"}, axes={"format": list(formats)}, method=method, keep=["codes"], **keys)
        self.expect(OK, "run", "s.json", "--fresh", "--no-table")
        with h5py.File(self.path("results", "s.h5"), "r") as file:
            table = file["table"]
            for i, key in enumerate(table["key"].asstr()[()]):
                cell = file["cells"][key]
                found = {n: d[i] for n, d in table.items() if d.attrs["role"] == "metric"}
                per_tensor = {n: {m: cell["per_tensor." + m][t] for m in found if "per_tensor." + m in cell}
                              for t, n in enumerate(arrays)}
                codes = {}
                for n in arrays:
                    packed = cell["codes." + n][()]
                    codes[n] = (np.stack([packed & 15, packed >> 4], axis=-1).reshape(len(packed), -1)
                                if packed.shape[1] < arrays[n].shape[1] else packed)
                yield SimpleNamespace(format=table["format"].asstr()[i], metrics=found, per_tensor=per_tensor, codes=codes)

    def check(self, method, there, back, **keys):
        """The cells of `method` are those of the rotations `there` and `back`: (x, coder, index) -> y."""
        arrays = tensors()
        for cell in self.run_file(method, **keys):
            coder = Coder(FORMATS[cell.format])
            for index, (name, x) in enumerate(arrays.items()):
                with self.subTest(format=cell.format, tensor=name):
                    y = there(x, coder, index)
                    q = coder.quantize(y)
                    mask = 2 ** coder.element.bits - 1
                    np.testing.assert_array_equal(cell.codes[name] & mask, q.codes & mask)
                    returned = SimpleNamespace(values=back(q.values, coder, index), s=q.s, zeros=q.zeros)
                    expected = metrics(x, returned, coder)
                    rotated = metrics(y, q, coder)
                    for m, value in cell.per_tensor[name].items():
                        value_there = rotated[m] if m in OF_THE_QUANTIZER else expected[m]
                        self.assertLessEqual(abs(value - value_there), 1e-9 * max(abs(value_there), 1e-30), m)

    def test_group_hadamard(self):
        def size(x, coder):
            return 128 if coder.group == "row" else coder.group  # 384 = 3 * 128
        self.check("rtn+ht", lambda x, c, _: hadamard(x, size(x, c)), lambda y, c, _: hadamard(y, size(y, c)))

    def test_one_size_for_all(self):
        self.check({"transform": {"type": "hadamard", "k": 64}}, lambda x, *_: hadamard(x, 64),
                   lambda y, *_: hadamard(y, 64))

    def test_random_signs_in_a_list(self):
        drawn = {}

        def s(index, position):
            if (index, position) not in drawn:
                drawn[index, position] = signs(9, index, 384, position)
            return drawn[index, position]
        self.check({"transform": [{"type": "hadamard", "k": 32, "randomize": True}, "hadamard",
                                  {"type": "hadamard", "k": 128, "randomize": True}]},
                   lambda x, c, i: hadamard(hadamard(hadamard(x * s(i, 0), 32), c.group) * s(i, 2), 128),
                   lambda y, c, i: hadamard(hadamard(hadamard(y, 128) * s(i, 2), c.group), 32) * s(i, 0),
                   seed=9, formats=("mxfp4", "nvfp4", "int4"))

    def test_sites(self):
        """a is of qkv, b of down, c of o."""
        def size(index):
            return (1, 128, 16)[index]
        self.check({"transform": {"down": {"type": "hadamard", "k": 128}, "o": [{"type": "hadamard", "k": 16}]}},
                   lambda x, _, i: hadamard(x, size(i)) if i else x, lambda y, _, i: hadamard(y, size(i)) if i else y)

    def test_nothing_to_do_is_rtn(self):
        """Bit for bit, and under the same keys, so that stored cells still count."""
        keys = []
        for method in ("rtn", {"base": "rtn+ht", "transform": []}, {"transform": {"o": [], "qkv": []}}):
            self.sweep(method=method)
            self.expect(OK, "run", "s.json", "--no-table")
            keys.append(column(self.path("results", "s.h5"), "key"))
        self.assertEqual(keys[0], keys[1])
        self.assertEqual(keys[0], keys[2])
        self.assertEqual(len(self.parts("results")), 2)

    def test_seed(self):
        """A file's cells have a seed only where signs are drawn."""
        safetensors(self.path("t.safetensors"), tensors())
        for randomize, cells in ((False, 1), (True, 3)):
            self.sweep(source={"file": "t.safetensors"}, axes={"seed": [1, 2, 3]}, format="mxfp4",
                       method={"transform": {"type": "hadamard", "randomize": randomize}}, name=f"r{cells}")
            self.expect(OK, "run", "s.json", "--no-table")
            self.assertEqual(len(self.parts("results", f"r{cells}")), cells)
            digests = column(self.path("results", f"r{cells}.h5"), "digest")
            self.assertEqual(len(set(digests)), cells)
        # Signs for a site that no tensor belongs to are not drawn.
        self.sweep(source={"file": "t.safetensors"}, axes={"seed": [1, 2]}, format="mxfp4", name="r",
                   method={"transform": {"gate_up": {"type": "hadamard", "randomize": True}}})
        self.expect(OK, "run", "s.json", "--no-table")
        self.assertEqual(len(self.parts("results", "r")), 1)

    def test_refusals(self):
        def refused(method, *says, **keys):
            self.sweep(method=method, **keys)
            self.expect(CONFIG, "check", "s.json", says=says)
        refused({"transform": {"type": "hadamard", "k": 128}}, "s.json at /method: tensor normal is (8, 64): hadamard: k = 128",
                "does not divide 64 channels; powers of two that do: 2, 4, 8, 16, 32, 64")
        refused({"transform": {"type": "hadamard", "k": 24}}, "s.json at /method/transform/k: 24 is not a power of two")
        refused("rtn+ht", "the format's group size 24 is not a power of two", axes={"format": [
            {"base": "mxfp4", "group_size": 24}]}, source={"synthetic": {"distribution": "normal", "shape": [4, 48]}})
        refused({"transform": {"o": "hadamard"}}, "the transforms differ by site, and tensor normal does not tell its own")
        refused({"transform": {"o": "hadamard", "oo": []}}, 'unknown key "oo"')
        # An override's group counts for its own tensor alone.
        safetensors(self.path("t.safetensors"), tensors())
        refused("rtn+ht", "tensor b.down_proj.weight is (24, 384): hadamard: the format's group size 48",
                source={"file": "t.safetensors"},
                overrides=[{"match": "*down_proj*", "format": {"base": "mxfp4", "group_size": 48}}])

    def test_sums_beyond_float(self):
        safetensors(self.path("t.safetensors"), {"huge": np.full((4, 64), 3e38, F)})
        self.sweep(source={"file": "t.safetensors"}, axes={"method": ["rtn", "rtn+ht"]}, format="mxfp8-e4m3")
        self.expect(CELLS_FAILED, "run", "s.json", "--no-table")
        with h5py.File(self.path("results", "s.h5"), "r") as file:
            self.assertEqual(list(file["table/status"].asstr()), ["done", "failed"])
            self.assertIn("tensor huge after its transform: ", file["errors/message"].asstr()[0])

    def test_shipped_model(self):
        """The rotation helps MXFP4 and INT4 (a little: these weights have few outliers), and always the largest elements
        of formats whose scale is a power of two."""
        self.sweep(source={"checkpoint": TINY_LLAMA},
                   axes={"format": ["mxfp4", "int4"], "method": ["rtn", "rtn+ht"]})
        self.expect(OK, "run", "s.json", "--no-table")
        result = self.path("results", "s.h5")
        mse = dict(zip(zip(column(result, "format"), column(result, "method")), column(result, "mse_rel")))
        for format in ("mxfp4", "int4"):
            self.assertLess(mse[format, "rtn+ht"], mse[format, "rtn"])
            self.assertGreater(mse[format, "rtn+ht"], 0.95 * mse[format, "rtn"])
        top = dict(zip(zip(column(result, "format"), column(result, "method")), column(result, "mse_top_rel")))
        self.assertLess(top["mxfp4", "rtn+ht"], 0.5 * top["mxfp4", "rtn"])

    def test_threads_and_instruction_sets(self):
        safetensors(self.path("t.safetensors"), tensors())
        self.sweep(source={"file": "t.safetensors"}, axes={"format": list(FORMATS)},
                   method={"transform": {"type": "hadamard", "k": 128, "randomize": True}})
        found = []
        for environment in ({"OMP_NUM_THREADS": "1"}, {"OMP_NUM_THREADS": "3"}, {"FP4LAB_ISA": "x86-64-v3"}):
            self.expect(OK, "run", "s.json", "--fresh", "--no-table", env=environment)
            found.append(program.content(self.path("results", "s.h5")))
        self.assertEqual(found[0], found[1])
        self.assertEqual(found[0], found[2])

    def test_schema_and_list(self):
        self.assertIn("randomize", self.expect(OK, "list", "transforms", "hadamard"))
        method = json.loads(self.expect(OK, "schema"))["$defs"]
        self.assertIn("randomize", json.dumps(method["transforms"]))
        self.expect(CONFIG, "list", "transforms", "dft", says='unknown transform "dft"; did you mean "dct"? known: hadamard, gsr, dct')
        try:
            import jsonschema
        except ImportError:
            return
        check = jsonschema.Draft202012Validator(json.loads(self.expect(OK, "schema")))
        for transform, good in (("hadamard", True), ([], True), (["hadamard", {"type": "hadamard", "k": 4}], True),
                                ({"qkv": "hadamard", "o": []}, True), ({}, False), ({"k": 4}, False), ("dft", False),
                                ({"type": "hadamard", "q": 4}, False), ({"oo": []}, False), (None, False)):
            sweep = {**program.GOOD, "method": {"transform": transform}}
            self.assertEqual(check.is_valid(sweep), good, transform)


if __name__ == "__main__":
    main(__doc__)
