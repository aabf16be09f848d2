"""Small random language models, corpora and sweeps over them, for tests that run the program as a process."""
import json
import os

import numpy as np

import program

LENGTH, VOCABULARY, CONTEXT = 16, 64, 64


def config(**changes):
    """A Llama's config.json: hidden 64, MLP 96, 2 heads of 32 on one of k and v; None leaves a key out."""
    keys = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": 64,
            "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 1,
            "head_dim": 32, "vocab_size": VOCABULARY, "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-5,
            "tie_word_embeddings": True, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, **changes}
    return {name: value for name, value in keys.items() if value is not None}


def shapes(c):
    """Every tensor's shape, in the order of the computation."""
    hidden, mlp = c["hidden_size"], c["intermediate_size"]
    q, kv = c["num_attention_heads"] * c["head_dim"], c["num_key_value_heads"] * c["head_dim"]
    found = {"model.embed_tokens.weight": (c["vocab_size"], hidden)}
    for layer in range(c["num_hidden_layers"]):
        block = {"input_layernorm": (hidden,), "self_attn.q_proj": (q, hidden), "self_attn.k_proj": (kv, hidden),
                 "self_attn.v_proj": (kv, hidden), "self_attn.o_proj": (hidden, q),
                 "post_attention_layernorm": (hidden,), "mlp.gate_proj": (mlp, hidden), "mlp.up_proj": (mlp, hidden),
                 "mlp.down_proj": (hidden, mlp)}
        found.update({f"model.layers.{layer}.{name}.weight": shape for name, shape in block.items()})
    found["model.norm.weight"] = (hidden,)
    return found


def random_tensors(c, seed=1):
    """Weights N(0, 1/inputs), norms 1: what flows through stays of order 1."""
    draw = np.random.default_rng(seed)
    return {name: np.ones(shape, np.float32) if len(shape) == 1 else
            draw.standard_normal(shape, dtype=np.float32) * np.float32(shape[1] ** -0.5)
            for name, shape in shapes(c).items()}


def write_model(folder, c=None, tensors=None, seed=1, shards=1):
    """A checkpoint folder: config.json and float32 safetensors, with an index when there are several."""
    c = c or config()
    tensors = random_tensors(c, seed) if tensors is None else tensors
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "config.json"), "w") as file:
        json.dump(c, file)
    names, places = list(tensors), {}
    for i in range(shards):
        own = names[i * len(names) // shards:(i + 1) * len(names) // shards]
        file = "model.safetensors" if shards == 1 else f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        program.safetensors(os.path.join(folder, file), {name: tensors[name] for name in own})
        places.update(dict.fromkeys(own, file))
    if shards > 1:
        with open(os.path.join(folder, "model.safetensors.index.json"), "w") as file:
            json.dump({"weight_map": places}, file)
    return folder


def write_corpus(path, tokens=512, seed=2, dtype=np.int32):
    np.save(path, np.random.default_rng(seed).integers(0, VOCABULARY, tokens).astype(dtype))


class WithModel(program.InFolder):
    """Tests in a folder with a model `m` and a corpus `c.npy`."""

    def setUp(self):
        super().setUp()
        write_model(self.path("m"))
        write_corpus(self.path("c.npy"))

    def model_sweep(self, file="s.json", **keys):
        """A sweep of the task model: 2 cells over 4 windows of 16 tokens, changed by `keys` (None: left out)."""
        evaluate = {"corpora": ["c.npy"], "windows": 4, "length": LENGTH}
        return self.sweep(file, **{"task": "model", "source": None, "model": {"path": "m"}, "evaluate": evaluate, **keys})

    def capture_sweep(self, file="s.json", **keys):
        """A sweep over captured activations: 2 cells, all linears' inputs over 4 windows."""
        calibration = {"corpus": "c.npy", "windows": 4, "length": LENGTH}
        return self.sweep(file, **{"source": {"activations": ["*_proj"]}, "model": {"path": "m"},
                                   "calibration": calibration, **keys})

    def cache(self, results="results"):
        """Files of captured statistics, by name."""
        folder = self.path(results, "cache")
        names = os.listdir(folder) if os.path.isdir(folder) else []
        return sorted(name for name in names if name.endswith(".safetensors"))
