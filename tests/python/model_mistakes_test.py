"""Sweeps of the task model and of captured activations that cannot run: broken checkpoints and corpora, wrong keys.

    python3 tests/python/model_mistakes_test.py build/cpu/fp4lab
"""
import os

import numpy as np

import models
import program
from models import LENGTH, WithModel, config, random_tensors, write_corpus, write_model
from program import CONFIG, DATA, OK

UP = "model.layers.1.mlp.up_proj.weight"
EVALUATE = {"corpora": ["c.npy"], "windows": 4, "length": LENGTH}
CALIBRATION = {"corpus": "c.npy", "windows": 4, "length": LENGTH, "offset": 8}


class Mistakes(WithModel):
    def refused(self, code, *says, write=None, **keys):
        """`check` and `run` refuse the sweep at once with this exit code, and nothing is stored."""
        with self.subTest(says=says):
            (write or self.model_sweep)(**keys)
            self.expect(code, "check", "s.json", says=says)
            self.expect(code, "run", "s.json", says=says)
            self.assertFalse(os.path.exists(self.path("results", "s")))
            self.assertEqual(self.cache(), [])

    def check_fine(self, write=None, **keys):
        """What the mistakes are changes of is none."""
        (write or self.model_sweep)(**keys)
        self.expect(OK, "check", "s.json")


class Checkpoints(Mistakes):
    def both(self, *says):
        self.refused(DATA, "s.json at /model/path: ", *says)
        self.refused(DATA, "s.json at /model/path: ", *says, write=self.capture_sweep)

    def test_none(self):
        self.refused(DATA, "at /model/path: none: no such folder; a checkpoint is a folder", model={"path": "none"})
        self.refused(DATA, "at /model/path: c.npy: is not a folder", model={"path": "c.npy"})

    def test_shards(self):
        os.remove(self.path("m", "model.safetensors"))
        write_model(self.path("m"), shards=3)
        self.check_fine()
        os.remove(self.path("m", "model-00002-of-00003.safetensors"))
        self.both("m/model-00002-of-00003.safetensors: cannot open: No such file or directory")

    def test_tensors(self):
        for change, *says in (
                (lambda t: t.pop(UP), f'm: no tensor "{UP}", which config.json asks for', "hold 28 tensors"),
                (lambda t: [t.pop(n) for n in list(t) if "up_proj" in n],
                 'm: no tensor "model.layers.0.mlp.up_proj.weight", nor 2 more that config.json asks for'),
                (lambda t: t.update({UP: t[UP][:95]}),
                 f'm/model.safetensors: tensor "{UP}" has shape (95, 64); config.json asks for (96, 64)'),
                (lambda t: t.update({UP: t[UP].T}), "has shape (64, 96); config.json asks for (96, 64)"),
                (lambda t: t.update({UP.replace("weight", "bias"): np.zeros((96,))}),
                 'tensor "model.layers.1.mlp.up_proj.bias" is a bias; biases are not supported')):
            tensors = random_tensors(config())
            change(tensors)
            write_model(self.path("m"), tensors=tensors)
            self.both(*says)

    def test_truncated_file(self):
        os.truncate(self.path("m", "model.safetensors"), 50000)
        self.both("m/model.safetensors: safetensors header is wrong: tensor ", "data_offsets end at ",
                  "but the file has ")

    def test_config(self):
        for change, *says in (
                ({"architectures": ["GPT2LMHeadModel"]}, "m/config.json at /architectures: ",
                 '"GPT2LMHeadModel" is not supported; supported: LlamaForCausalLM, Qwen3ForCausalLM'),
                ({"rope_parameters": {"rope_type": "yarn"}}, "m/config.json at /rope_parameters/rope_type: ",
                 'rope type "yarn" is not supported; supported: default, llama3'),
                ({"quantization_config": {"quant_method": "gptq"}}, "m/config.json at /quantization_config/quant_method: ",
                 'a string "gptq" is not supported; supported: compressed-tensors'),
                ({"attention_bias": True}, "m/config.json at /attention_bias: biases are not supported"),
                ({"num_key_value_heads": 3}, "m/config.json at /num_key_value_heads: ", "a divisor of", "found 3"),
                ({"hidden_size": None}, 'm/config.json: missing key "hidden_size"')):
            write_model(self.path("m"), {**config(**change)}, random_tensors(config()))
            self.both(*says)
        self.write("m/config.json", '{"model_type": ')
        self.both("m/config.json:1:16: expected a value")
        os.remove(self.path("m", "config.json"))
        self.both("m/config.json: cannot open: No such file or directory")


class Corpora(Mistakes):
    def test_ids(self):
        for bad in (models.VOCABULARY, -1):
            ids = np.load(self.path("c.npy"))
            ids[20] = bad
            np.save(self.path("c.npy"), ids)
            says = f'c.npy: tensor "c": id {bad} at index 20; expected 0..63 (the model\'s vocab_size is 64)'
            self.refused(DATA, "s.json at /evaluate/corpora: " + says)
            self.refused(DATA, "s.json at /calibration/corpus: " + says, write=self.capture_sweep,
                         calibration={"corpus": "c.npy", "windows": 4, "length": LENGTH, "sample": "first"})
        # Windows that are not read may hold anything.
        self.check_fine(evaluate={**EVALUATE, "offset": 2})

    def test_windows(self):
        write_corpus(self.path("c.npy"), tokens=40)
        says = 'c.npy: tensor "c" holds 2 windows of 16 tokens (it is one stream of 40 tokens); 4 are asked for'
        self.refused(DATA, "s.json at /evaluate/corpora: " + says)
        self.refused(DATA, "s.json at /calibration/corpus: " + says, write=self.capture_sweep)
        self.refused(DATA, "4 are asked for after the first 2", evaluate={**EVALUATE, "offset": 2})
        self.refused(DATA, "holds no window of 64 tokens: it is one stream of 40 tokens",
                     evaluate={"corpora": ["c.npy"], "length": 64})

    def test_context(self):
        self.refused(DATA, "s.json at /evaluate/length: windows of 65 tokens are longer than the model's context of 64",
                     evaluate={**EVALUATE, "length": 65})
        self.refused(DATA, "s.json at /evaluate/length: windows of 2048 tokens are longer",
                     evaluate={"corpora": ["c.npy"]})
        self.refused(DATA, "s.json at /calibration/length: windows of 65 tokens are longer than the model's context",
                     write=self.capture_sweep, calibration={**CALIBRATION, "length": 65})

    def test_files(self):
        for dtype, name in ((np.float32, "F32"), (np.uint8, "U8")):
            write_corpus(self.path("f.npy"), dtype=dtype)
            says = f'f.npy: tensor "f" is {name}; expected token ids in U16, U32, I32 or I64'
            self.refused(DATA, "s.json at /evaluate/corpora: " + says, evaluate={**EVALUATE, "corpora": "f.npy"})
            self.refused(DATA, "s.json at /calibration/corpus: " + says, write=self.capture_sweep,
                         calibration={**CALIBRATION, "corpus": "f.npy"})
        self.refused(DATA, "s.json at /evaluate/corpora: none.npy: cannot open: No such file or directory",
                     evaluate={**EVALUATE, "corpora": ["c.npy", "none.npy"]})
        self.refused(DATA, "s.json at /calibration/corpus: none.npy: cannot open", write=self.capture_sweep,
                     calibration={**CALIBRATION, "corpus": "none.npy"})
        self.write("g.safetensors", "hello")
        self.refused(DATA, "g.safetensors: is not a safetensors file", evaluate={**EVALUATE, "corpora": "g.safetensors"})


class Keys(Mistakes):
    def test_unknown_and_missing(self):
        for says, keys in (
                ('/model: unknown key "pth"; did you mean "path"? a model reads: path', {"model": {"path": "m", "pth": 1}}),
                ('/model: missing key "path"', {"model": {}}),
                ('/model: missing key "model"', {"model": None}),
                ('/evaluate: unknown key "lenght"; did you mean "length"?', {"evaluate": {**EVALUATE, "lenght": 1}}),
                ('/evaluate: missing key "evaluate"', {"evaluate": None}),
                ('/evaluate/corpora: missing key "corpora"', {"evaluate": {"length": LENGTH}}),
                ('/evaluate/corpora: the environment has no variable "FP4LAB_NO_SUCH"',
                 {"evaluate": {**EVALUATE, "corpora": "${FP4LAB_NO_SUCH}/c.npy"}}),
                ('/calibration: unknown key "sampl"; did you mean "sample"?', {"calibration": {**CALIBRATION, "sampl": 1}}),
                ('/calibration: missing key "corpus"', {"calibration": {"corpora": ["c.npy"]}}),
                ('/overrides/0: unknown key "x"; an override reads: match, format, activations',
                 {"overrides": [{"match": "*", "format": "int4", "x": 1}]}),
                ('/overrides/0/format: missing key "format"', {"overrides": [{"match": "*"}]}),
                ('/format: missing key "format"; null is full precision', {"axes": None}),
                ('s.json: unknown key "modl"; did you mean "model"?', {"modl": 1})):
            self.refused(CONFIG, says, **keys)

    def test_values(self):
        for says, keys in (
                ('/activation_scale: unknown activation_scale "statc"; did you mean "static"? known: per_token, '
                 'dynamic, static', {"activation_scale": "statc"}),
                ("/evaluate/length: expected an integer in [2, ", {"evaluate": {**EVALUATE, "length": 1}}),
                ("/evaluate/corpora: expected a string or a list", {"evaluate": {**EVALUATE, "corpora": []}}),
                ('/calibration/sample: unknown sample "last"; known: random, first',
                 {"calibration": {**CALIBRATION, "sample": "last"}}),
                ('/device: unknown device "tpu"', {"device": "tpu"}),
                ("/fuse: expected true or false", {"fuse": "yes"}),
                ('/metrics: unknown metric "perplexty"; did you mean "perplexity"?', {"metrics": ["perplexty"]}),
                ('/metrics: unknown metric "mse_rel"', {"metrics": ["perplexity", "mse_rel"]})):
            self.refused(CONFIG, "s.json at " + says, **keys)

    def test_metrics_of_corpora(self):
        write_corpus(self.path("d.npy"), seed=3)
        two = {**EVALUATE, "corpora": ["c.npy", "d.npy"]}
        self.refused(CONFIG, '/metrics: unknown metric "perplexity@e"; did you mean "perplexity@', evaluate=two,
                     metrics=["perplexity@e"])
        self.refused(CONFIG, '/metrics: unknown metric "perplexity@c"', metrics=["perplexity@c"])  # one corpus only

    def test_lm_head(self):
        search = {"base": "mxfp4", "rule": "search"}
        self.refused(CONFIG, "/overrides: lm_head: rule search searches offline", skip=["embed_tokens"],
                     overrides=[{"match": "lm_head", "format": search}])
        self.refused(CONFIG, "/overrides: lm_head and embeddings: ", skip=["embed_tokens"],
                     method={"base": "rtn", "weight_scales": "mse_shrink"},
                     overrides=[{"match": "lm_head", "format": "int4-asym"}])
        self.refused(CONFIG, "/overrides: lm_head and embeddings have 64 inputs", skip=["embed_tokens"],
                     overrides=[{"match": "lm_head", "format": "int4-g128"}])
        self.refused(CONFIG, "/activation_scale: the activations say their own tensor_scale", activation_scale="static",
                     calibration=CALIBRATION, activations={"base": "nvfp4", "tensor_scale": "dynamic"})
        self.refused(CONFIG, '/overrides/0/match: every linear that "lm_head" means is left out by "skip"',
                     overrides=[{"match": "lm_head", "format": "int4"}])

    def test_two_corpora_of_one_name(self):
        os.mkdir(self.path("d"))
        write_corpus(self.path("d", "c.npy"), seed=3)
        self.refused(CONFIG, '/evaluate/corpora: two corpora are named "c"; their columns would be the same',
                     evaluate={**EVALUATE, "corpora": ["c.npy", "d/c.npy"]})

    def test_patterns(self):
        # In each case the pattern stands in the message, with what would match.
        for keys, *says in (
                ({"skip": ["lm_head", "lm_haed"]}, "/skip/1: ", '"lm_haed" matches no linear of the model'),
                ({"overrides": [{"match": "layers.3.*", "format": "int4"}]}, "/overrides/0/match: ",
                 '"layers.3.*" matches no linear of the model', "layers.2.mlp.down_proj")):
            self.refused(CONFIG, *says, **keys)
        for patterns, bad in ((["layers.0.*", "layers.3.*"], "layers.3.*"), ("lm_head", "lm_head")):
            self.refused(CONFIG, f'/source/activations: no linear of the model matches "{bad}"', write=self.capture_sweep,
                         source={"activations": patterns})
        self.refused(CONFIG, "/overrides/0/match", write=self.capture_sweep,
                     overrides=[{"match": "layers.9*", "format": "int4"}])

    def test_groups(self):
        wide = {"base": "nvfp4", "group_size": 64}
        says = "layers.0.mlp.down_proj has 96 inputs: K = 96 is not a multiple of the group size 64; 32 divides it"
        for place, keys in (("/axes/format/1", {"axes": {"format": ["mxfp4", wide]}}),
                            ("/activations", {"activations": wide}),
                            ("/axes/activations/1", {"axes": {"activations": [None, wide]}, "format": "mxfp4"})):
            self.refused(CONFIG, f"s.json at {place}: {says}", **keys)
        self.refused(CONFIG, "layers.2.mlp.down_proj has 96 inputs", "/overrides",
                     overrides=[{"match": "layers.2.*", "format": wide}])
        self.refused(CONFIG, "/axes/format/0: layers.0.self_attn.q_proj has 64 inputs", axes={"format": ["int4-g128"]})
        self.refused(CONFIG, "/axes/format/0: tensor layers.0.self_attn.q_proj is (64, 64)", write=self.capture_sweep,
                     axes={"format": ["int4-g128"]})
        transform = {"type": "hadamard", "k": 64}
        self.refused(CONFIG, "/method: layers.0.mlp.down_proj has 96 inputs: hadamard: k = 64 does not divide 96",
                     method={"base": "rtn+ht", "transform": transform})


class Activations(Mistakes):
    def test_rules_that_search(self):
        search = {"base": "mxfp4", "rule": "search"}
        says = "rule search searches offline and serves weights only; activations need a rule that runs on line"
        for keys in ({"axes": {"format": [search]}}, {"activations": search},
                     {"overrides": [{"match": "layers.1.*", "format": search}]},
                     {"overrides": [{"match": "layers.1.*", "format": "mxfp4", "activations": search}]}):
            self.refused(CONFIG, says, **keys)
        self.check_fine(axes={"format": [search], "activations": [None]})

    def test_static_scales(self):
        self.refused(CONFIG, '/activation_scale: static scales need a "calibration"', activation_scale="static")
        for calibration in ({**CALIBRATION, "offset": 0, "sample": "first"}, {**CALIBRATION, "offset": 1, "windows": 31},
                            {**CALIBRATION, "offset": 0, "length": 64, "windows": 1, "sample": "first"}):
            self.refused(CONFIG, '/calibration: windows of the calibration and of the evaluation on "c" overlap',
                         activation_scale="static", calibration=calibration)
        # The same tokens under another name are the same tokens.
        os.link(self.path("c.npy"), self.path("copy.npy"))
        self.refused(CONFIG, '/calibration: windows of the calibration and of the evaluation on "c" overlap',
                     activation_scale="static",
                     calibration={**CALIBRATION, "corpus": "copy.npy", "offset": 3, "sample": "first"})
        self.check_fine(activation_scale="static", calibration={**CALIBRATION, "offset": 4})

    def test_sources(self):
        synthetic = {"synthetic": {"distribution": "normal", "shape": [4, 64]}}
        for says, keys in (
                ('/model: only a source of activations or weights reads "model"', {"source": synthetic, "calibration": None}),
                ('/calibration: only a source of activations reads "calibration"', {"source": synthetic, "model": None}),
                ('/source/activations: captured inputs need the key "model"', {"model": None}),
                ('/source/activations: captured inputs need the key "calibration"', {"calibration": None}),
                ("/source/activations: expected a string or a list of strings, found a list []",
                 {"source": {"activations": []}}),
                ("/source/rows: expected an integer in [0, ", {"source": {"activations": "*", "rows": -1}}),
                ('/source: unknown key "row"; did you mean "rows"?', {"source": {"activations": "*", "row": 1}}),
                ("/source: a source is one thing, but this one has", {"source": {"activations": "*", **synthetic}})):
            self.refused(CONFIG, "s.json at " + says, write=self.capture_sweep, **keys)


if __name__ == "__main__":
    program.main(__doc__)
