"""Exported checkpoints, read by NumPy decoders that know only the layouts' documentation (numpy_layouts.py).

    python3 tests/python/export_layouts_test.py build/cpu/fp4lab

The weights are quantized a second time by numpy_formats.py: codes and scale bytes must be the same, tensor scales within an
ulp. With the package `safetensors` the files are also read by it.
"""
import json
import os

import numpy as np

import models
import program
from export_cases import (CASES, CT_ARGUMENT_KEYS, CT_GROUP_KEYS, CT_INT, CT_KEYS, CT_NV, FPQ, INPUT, INT4, MODELOPT, Case,
                          linear_shapes, required_config, sites, stored, within, write_bfloat16)
from numpy_formats import Coder
from numpy_layouts import DECODERS, INDEX, array, floats, read_checkpoint, read_file, read_shards, unrotated
from numpy_model import Block, Cell, Model, hadamard

try:
    import safetensors
except ImportError as error:
    safetensors = None
    print(f"comparison with the package safetensors left out: {error}")

COPIED = {"tokenizer.json": '{"a": 1}', "tokenizer_config.json": '{"b": "\\u00e9"}'}


def ulps(a, b):
    return abs(int(np.float32(a).view(np.int32)) - int(np.float32(b).view(np.int32)))


class Exports(program.InFolder):
    def setUp(self):
        super().setUp()
        self.config = models.config(num_hidden_layers=2, tie_word_embeddings=False, dtype="bfloat16")
        tensors = models.random_tensors(self.config)
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"][::-1] * np.float32(0.5)
        tensors["model.layers.0.mlp.down_proj.weight"][3, 32:64] = 0  # groups of zeros
        tensors["model.layers.1.self_attn.q_proj.weight"][0] *= np.float32(2 ** -20)  # scales that are subnormal, or 0
        tensors["model.layers.1.input_layernorm.weight"][5] = 1.25
        models.write_model(self.path("m"), self.config, {})
        write_bfloat16(self.path("m", "model.safetensors"), tensors)
        for name, text in COPIED.items():
            self.write(os.path.join("m", name), text)
        models.write_corpus(self.path("c.npy"))
        self.original = read_checkpoint(self.path("m"))

    def case_sweep(self, name, case, file=None, **keys):
        """One cell, named `name`; static scales of the inputs where the layout stores them."""
        evaluate = {"corpora": ["c.npy"], "windows": 8, "length": 32}
        static = case.spec.get("tensor_scale") and case.w4a4
        sweep = {"name": name, "task": "model", "model": {"path": "m"}, "evaluate": evaluate, "format": case.format,
                 "activations": case.inputs if case.w4a4 else None, **keys}
        if static:
            sweep.update(activation_scale="static", evaluate={**evaluate, "offset": 8},
                         calibration={"corpus": "c.npy", "windows": 4, "length": 32, "sample": "first"})
        return self.write(file or name + ".json", json.dumps(sweep))

    def export(self, name, case, *options, **keys):
        """The tensors and config.json's quantization_config of the exported cell, in the folder `name`."""
        self.case_sweep(name, case, **keys)
        self.expect(program.OK, "export", name + ".json", "--layout", case.layout, "--to", name, *options)
        with open(self.path(name, "config.json")) as file:
            config = json.load(file)
        quantization = config.pop("quantization_config")
        with open(self.path("m", "config.json")) as file:
            self.assertEqual(config, json.load(file))
        return read_checkpoint(self.path(name)), quantization

    def printed(self, name, value="perplexity"):
        """As `fp4lab table` prints it."""
        out = self.expect(program.OK, "table", os.path.join("results", name + ".h5"), "--value", value, "--format", "csv")
        return out.strip().splitlines()[1].split(",")[-1]

    def numbers(self, name):
        return floats(self.original, name + ".weight")

    def check_tensors(self, case, tensors):
        """Names, dtypes and shapes; what is not quantized is there to the byte."""
        expected = {name: (t.dtype, t.shape) for name, t in self.original.items() if "_proj." not in name}
        for linear, (N, K) in linear_shapes(self.config).items():
            expected.update({f"{linear}.{suffix}": entry for suffix, entry in stored(case, N, K).items()})
        found = {name: (t.dtype, t.shape) for name, t in tensors.items()}
        if case.layout == FPQ:  # optional: no reader needs it
            for name in [n for n in found if n.endswith(".backward_hadamard_matrix")]:
                self.assertEqual(tensors[name], tensors[name.replace(".backward", ".forward")])
                del found[name]
        self.assertEqual(found, expected)
        for name, tensor in self.original.items():
            if "_proj." not in name:
                self.assertEqual(tensors[name].data, tensor.data, name)

    def check_site(self, case, tensors, config, names):
        """Codes, scale bytes and tensor scales against a second quantizer of the stacked weights."""
        q = Coder(case.spec).quantize(np.concatenate([self.numbers(n) for n in names]))
        begin, found = 0, [DECODERS[case.layout](tensors, n, config) for n in names]
        for name, mine in zip(names, found):
            rows = slice(begin, begin + len(mine.codes))
            begin = rows.stop
            np.testing.assert_array_equal(mine.codes & 15, q.codes[rows], name)
            np.testing.assert_array_equal(mine.scales, q.scales[rows], name)
            np.testing.assert_allclose(mine.values, q.values[rows], rtol=4e-7, atol=0, err_msg=name)
            self.assertEqual(mine.global_scale, found[0].global_scale)
        if found[0].global_scale is not None:
            factor = np.float32(q.factors)
            expected = {MODELOPT: factor}.get(case.layout, np.float32(1) / factor)
            self.assertLessEqual(ulps(found[0].global_scale, expected), 1)
        if case.w4a4 and case.layout in INPUT:
            self.assertEqual(len({tensors[f"{n}.{INPUT[case.layout]}"].data for n in names}), 1, names)
        if case.layout == FPQ:
            for n in names:
                matrix = floats(tensors, n + ".forward_hadamard_matrix")
                self.assertEqual(matrix.tolist(), np.eye(len(matrix)).tolist())

    def check_inputs(self, case, tensors):
        """The tensor scales of the first block's inputs, from its calibration in NumPy: exact to rounding for q, k and v;
        those after them see codes that may flip."""
        ids = np.load(self.path("c.npy"))[:128].reshape(4, 32)
        reference = Model(self.path("m"))
        block = Block(reference, Cell(format=case.spec, scale="static"), 0)
        block(np.float64(reference.linear("embed_tokens"))[ids], calibrating=True)
        for (part,), bound in zip(block.sites, (1e-6, .05, .05, .05)):
            scale = floats(tensors, f"model.{part.names[0]}.{INPUT[case.layout]}")[0]
            factor = scale if case.layout == MODELOPT else 1 / scale
            self.assertLess(abs(2688 * factor / part.amax - 1), bound, part.names)

    def check_config(self, case, config):
        required = required_config(case)
        self.assertEqual(within(config, required), required)
        if config["quant_method"] == "compressed-tensors":
            self.assertEqual(set(config), CT_KEYS)
            self.assertRegex(config["version"], r"^\d+\.\d+")
            (group,) = config["config_groups"].values()
            self.assertEqual(set(group), CT_GROUP_KEYS)
            for arguments in filter(None, (group["weights"], group["input_activations"])):
                self.assertLessEqual(set(arguments), CT_ARGUMENT_KEYS)

    def check_import(self, case, name, tensors, config):
        """`import --to` writes what the decoders say, and all else as it was."""
        plain = name + "-plain"
        self.expect(program.OK, "import", name, "--to", plain)
        found = read_checkpoint(self.path(plain))
        self.assertEqual(set(found), set(self.original))
        for tensor in self.original:
            mine = floats(self.original, tensor)
            if "_proj." in tensor:
                mine = DECODERS[case.layout](tensors, tensor[:-len(".weight")], config).values
            self.assertEqual(floats(found, tensor).tobytes(), mine.tobytes(), tensor)  # -0 is not 0
        with open(self.path(plain, "config.json")) as file:
            self.assertNotIn("quantization_config", json.load(file))

    def check_safetensors(self, folder):
        """The package reads the same names, dtypes, shapes and bytes."""
        if safetensors is None:
            return
        for file, (tensors, metadata) in read_shards(self.path(folder)).items():
            raw = program.read(self.path(folder, file))
            theirs = {n: (t["dtype"], tuple(t["shape"]), bytes(t["data"])) for n, t in safetensors.deserialize(raw)}
            self.assertEqual(theirs, {n: tuple(t) for n, t in tensors.items()})
            with safetensors.safe_open(self.path(folder, file), framework="np") as opened:
                self.assertEqual(opened.metadata(), metadata)

    def check_perplexities(self, cases, original="m"):
        """A cell's own, and that of its export run as it is stored, to the last digit that `fp4lab table` prints; beside the
        original model, also what is measured against it."""
        sweeps = []
        for name, case in cases.items():
            own = json.loads(program.read(self.path(name + ".json")))
            stored_sweep = {"task": "model", "format": "stored", "activations": "same", "evaluate": own["evaluate"]}
            sweeps += [own, {**stored_sweep, "name": name + "-stored", "model": {"path": name}},
                       {**stored_sweep, "name": name + "-beside", "model": {"path": original, "quantized": name}}]
        self.write("all.json", json.dumps(sweeps))
        self.expect(program.OK, "run", "all.json", "--results", "results", "--no-table")
        for name in cases:
            with self.subTest(name):
                self.assertEqual(self.printed(name + "-stored"), self.printed(name))
                for value in ("perplexity", "kl"):
                    self.assertEqual(self.printed(name + "-beside", value), self.printed(name, value))

    def test_every_task_sees_it(self):
        """A quantized folder is a source like its dequantized copy."""
        for name in ("ct-mxfp4-w4a16", "fpq-mxfp4-w4a4", "ct-int4-w4a16"):
            with self.subTest(name):
                self.export(name, CASES[name])
                self.expect(program.OK, "import", name, "--to", name + "-plain")
                tables = []
                for folder in (name, name + "-plain"):
                    self.write("t.json", json.dumps({"name": folder, "task": "tensor_error", "format": "nvfp4",
                                                     "source": {"checkpoint": folder}}))
                    self.expect(program.OK, "run", "t.json", "--results", "results", "--no-table")
                    tables.append(float(self.printed(folder, "mse_rel")))
                self.assertAlmostEqual(tables[0] / tables[1], 1, delta=1e-12)  # sums over linears in another order

    def test_every_layout(self):
        for name, case in CASES.items():
            with self.subTest(name):
                tensors, config = self.export(name, case)
                self.check_tensors(case, tensors)
                self.check_config(case, config)
                for names in sites(self.config):
                    self.check_site(case, tensors, config, names)
                if case.w4a4 and "tensor_scale" in case.spec:
                    self.check_inputs(case, tensors)
                if name == "fpq-mxfp4-w4a4":  # the constant 1/3 of the paper's rule, on both sides
                    for suffix in ("weight_global_scale", "act_global_scale"):
                        self.assertEqual({floats(tensors, f"{n}.{suffix}")[0] for n in linear_shapes(self.config)}, {3})
                for file, text in COPIED.items():
                    self.assertEqual(program.read(self.path(name, file)).decode(), text)
                self.check_import(case, name, tensors, config)
                self.check_safetensors(name)
        self.check_perplexities(CASES)

    def test_shards(self):
        """The same tensors, each once, in files below the limit (or one tensor above it), through the index."""
        case = CASES["ct-nvfp4-w4a16"]
        whole, _ = self.export("whole", case)
        parts, _ = self.export("parts", case, "--max-shard-size", "8K")
        self.assertEqual(parts, whole)
        self.assertFalse(os.path.exists(self.path("whole", INDEX)))
        self.assertFalse(os.path.exists(self.path("parts", "model.safetensors")))
        files = read_shards(self.path("parts"))
        self.assertGreater(len(files), 4)
        for file, (tensors, metadata) in files.items():
            self.assertRegex(file, rf"^model-\d{{5}}-of-{len(files):05d}\.safetensors$")
            self.assertTrue(len(tensors) == 1 or sum(len(t.data) for t in tensors.values()) <= 8192, file)
            self.assertEqual(metadata, {"format": "pt"})
        self.check_import(case, "parts", whole, None)
        self.check_safetensors("parts")

    def test_rotated(self):
        """fp_quant holds what was rotated; times H^T it is the original but for rounding."""
        for k, case, rounding in ((16, CASES["fpq-nvfp4-w4a4"], 1e-6), (32, CASES["fpq-mxfp4-w4a4"], 4e-3),
                                  (32, CASES["fpq-nvfp4-w4a4"], 4e-3)):
            name = f"{case.format}-{k}"
            with self.subTest(name):
                method = {"base": "rtn", "transform": {"type": "hadamard", "k": k}, "label": "turned"}
                tensors, config = self.export(name, case, method=method)
                self.assertEqual(config["hadamard_group_size"], k)
                self.expect(program.OK, "import", name, "--to", name + "-plain")
                plain = read_checkpoint(self.path(name + "-plain"))
                for names in sites(self.config):
                    self.check_rotated_site(case, tensors, config, plain, names, k, rounding)

    def check_rotated_site(self, case, tensors, config, plain, names, k, rounding):
        stacked = np.concatenate([self.numbers(n) for n in names])
        q = Coder(case.spec).quantize(np.float32(hadamard(stacked, k)))
        found = [DECODERS[FPQ](tensors, n, config) for n in names]
        codes, scales = (np.concatenate([getattr(f, part) for f in found]) for part in ("codes", "scales"))
        self.assertGreater(np.mean(codes == q.codes), 0.999)  # an ulp of the rotation moves what lies on a tie
        self.assertGreater(np.mean(scales == q.scales), 0.999)
        for n, f in zip(names, found):
            matrix = floats(tensors, n + ".forward_hadamard_matrix")
            np.testing.assert_allclose(matrix, hadamard(np.eye(k), k), rtol=2 ** -8)  # of BF16
            back, W = unrotated(f.values, matrix), np.float64(self.numbers(n))
            self.assertLess(np.sum((back - W) ** 2), 0.02 * np.sum(W ** 2), n)
            self.assertGreater(np.sum((f.values - W) ** 2), 0.5 * np.sum(W ** 2), n)  # not yet turned back
            np.testing.assert_allclose(floats(plain, n + ".weight"), back, rtol=0, atol=rounding * np.abs(W).max())

    def test_convert(self):
        """Between the layouts of NVFP4, there and back: codes and block scales stay, tensor scales within an ulp."""
        for quantized in ("w4a4", "w4a16"):
            first, _ = self.export(quantized, CASES["ct-nvfp4-" + quantized])
            there, back = quantized + "-there", quantized + "-back"
            self.expect(program.OK, "convert", quantized, "--layout", MODELOPT, "--to", there)
            self.expect(program.OK, "convert", there, "--layout", CT_NV, "--to", back)
            middle, last = read_checkpoint(self.path(there)), read_checkpoint(self.path(back))
            with open(self.path(there, "config.json")) as file:
                self.check_config(CASES["modelopt-" + quantized], json.load(file)["quantization_config"])
            self.check_tensors(CASES["modelopt-" + quantized], middle)
            self.assertEqual(set(last), set(first))
            for name, tensor in first.items():
                if name.endswith("_global_scale"):
                    self.assertLessEqual(ulps(array(last[name])[0], array(tensor)[0]), 1, name)
                else:
                    self.assertEqual(last[name], tensor, name)
            for linear in linear_shapes(self.config):
                self.assertEqual(middle[linear + ".weight"].data, first[linear + ".weight_packed"].data)
                self.assertEqual(middle[linear + ".weight_scale"], first[linear + ".weight_scale"])
                factor = floats(middle, linear + ".weight_scale_2").ravel()[0]
                self.assertLessEqual(ulps(1 / factor, floats(first, linear + ".weight_global_scale")[0]), 1)

    def test_which_cell(self):
        """By its name or a prefix of its key, as `plan` prints them."""
        case = CASES["ct-nvfp4-w4a16"]
        self.case_sweep("s", case, axes={"format": ["nvfp4", "mxfp4"], "method": ["rtn", "rtn+ht"]}, method=None)
        sweep = json.loads(program.read(self.path("s.json")))
        self.write("s.json", json.dumps({k: v for k, v in sweep.items() if k not in ("format", "method")}))
        out = self.expect(program.OK, "plan", "s.json")
        key = next(line.split()[0] for line in out.splitlines() if line.endswith("nvfp4, rtn"))
        for i, cell in enumerate(("nvfp4, rtn", key[:8], key)):
            self.expect(program.OK, "export", "s.json", "--cell", cell, "--layout", CT_NV, "--to", f"x{i}")
            self.check_tensors(case, read_checkpoint(self.path(f"x{i}")))
        self.expect(program.CONFIG, "export", "s.json", "--layout", CT_NV, "--to", "y", says="4 cells")
        self.expect(program.CONFIG, "export", "s.json", "--cell", "mxfp4, rtn", "--layout", CT_NV, "--to", "y", says="e2m1 in groups of 16")
        self.assertFalse(os.path.exists(self.path("y")))

    def test_tiny_llama(self):
        """A trained model with a tied head, whose groups of 128 divide its inputs."""
        spec = dict(INT4, group_size=128, scale="fp16")
        case = Case(CT_INT, "int4-g128", spec, False)
        with open(os.path.join(program.TINY_LLAMA, "config.json")) as file:
            self.config = json.load(file)
        self.original, _ = read_file(os.path.join(program.TINY_LLAMA, "model.safetensors"))
        sweep = {"name": "t", "task": "model", "model": {"path": program.TINY_LLAMA}, "format": case.format,
                 "activations": None, "evaluate": {"windows": 4, "length": 128,
                                                   "corpora": [os.path.join(program.TINY_LLAMA, "selfgen.safetensors")]}}
        self.write("t.json", json.dumps(sweep))
        self.expect(program.OK, "export", "t.json", "--layout", CT_INT, "--to", "t", "--max-shard-size", "2M")
        tensors = read_checkpoint(self.path("t"))
        self.assertNotIn("lm_head.weight", tensors)
        self.check_tensors(case, tensors)
        with open(self.path("t", "config.json")) as file:
            self.check_config(case, json.load(file)["quantization_config"])
        for names in sites(self.config):
            self.check_site(case, tensors, None, names)
        self.check_import(case, "t", tensors, None)
        self.assertEqual(program.read(self.path("t", "tokenizer.json")),
                         program.read(os.path.join(program.TINY_LLAMA, "tokenizer.json")))
        self.check_perplexities({"t": case}, program.TINY_LLAMA)

    def test_tiny_llama_to_the_bit(self):
        """Some tensor scales are not the inverse of their inverse, and an ulp of one moves the perplexity in its fourth digit;
        with them exact, every layout and every conversion computes the cell, whose digest it has."""
        evaluate = {"windows": 4, "length": 256, "offset": 16, "corpora": [os.path.join(program.TINY_LLAMA, "selfgen.safetensors")]}
        own = {"name": "own", "task": "model", "model": {"path": program.TINY_LLAMA}, "format": "nvfp4", "activations": "same",
               "activation_scale": "static", "calibration": {"corpus": evaluate["corpora"][0], "windows": 8, "length": 256,
                                                             "sample": "first"}, "evaluate": evaluate}
        self.write("own.json", json.dumps(own))
        self.expect(program.OK, "export", "own.json", "--layout", CT_NV, "--to", "a")
        self.assertTrue(os.path.exists(self.path("a", "fp4lab_scales.json")))
        chain = [("b", MODELOPT), ("c", FPQ), ("d", CT_NV)]
        for (before, (name, layout)) in zip("abc", chain):
            self.expect(program.OK, "convert", before, "--layout", layout, "--to", name)
        self.assertFalse(os.path.exists(self.path("b", "fp4lab_scales.json")))
        self.assertEqual(read_checkpoint(self.path("d")), read_checkpoint(self.path("a")))
        stored_sweeps = [{"name": name, "task": "model", "model": {"path": program.TINY_LLAMA, "quantized": name},
                          "format": "stored", "activations": "same", "evaluate": evaluate} for name in "abcd"]
        self.write("all.json", json.dumps([own, *stored_sweeps]))
        self.expect(program.OK, "run", "all.json", "--results", "results", "--no-table")
        for name in "abcd":
            for value in ("perplexity", "kl", "digest"):
                self.assertEqual(self.printed(name, value), self.printed("own", value), (name, value))

    def test_rotated_model(self):
        """R1 and R2 are in the weights: norms, embedding and head are written in F32, and the head is its own."""
        method = {"base": "rtn", "rotation": {"type": "hadamard", "heads": True}, "label": "turned"}
        case = CASES["ct-nvfp4-w4a16"]
        self.case_sweep("r", case, method=method)
        self.expect(program.OK, "export", "r.json", "--layout", CT_NV, "--to", "r")
        tensors = read_checkpoint(self.path("r"))
        for name in ("model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"):
            self.assertEqual(tensors[name].dtype, "F32", name)
        self.assertEqual(set(floats(tensors, "model.norm.weight").tolist()), {1.0})  # folded into the linears
        with open(self.path("r", "config.json")) as file:
            self.assertIs(json.load(file)["tie_word_embeddings"], False)
        own = json.loads(program.read(self.path("r.json")))
        self.write("all.json", json.dumps([own, {"name": "r-stored", "task": "model", "model": {"path": "r"}, "format": "stored",
                                                 "activations": "same", "evaluate": own["evaluate"]}]))
        self.expect(program.OK, "run", "all.json", "--results", "results", "--no-table")
        self.assertEqual(self.printed("r-stored"), self.printed("r"))


if __name__ == "__main__":
    program.main(__doc__)
