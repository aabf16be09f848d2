"""A model of 6 GB is evaluated in less than 3 GB: weights are read by mmap, one block at a time. GPTQ's calibration
walk needs a block and its Hessians, however many tokens it is fed.

Random Llamas are generated in a temporary folder when the disk has room, and deleted afterwards.
    python3 tests/python/model_memory_test.py build/cpu/fp4lab
"""
import json
import os
import resource
import shutil
import struct
import subprocess
import time

import numpy as np

import models
import program
from program import CELLS_FAILED, OK, InFolder

MB, GB = 1 << 20, 1 << 30
LIMIT = 3 * GB
SHARDS = 6
# One block of 5.5 M weights, 4 Hessians of 8 MB; hidden states of 192 MB.
GPTQ_CONFIG = models.config(hidden_size=1024, intermediate_size=1024, num_hidden_layers=2, num_attention_heads=16,
                            num_key_value_heads=2, head_dim=64, vocab_size=512)
GPTQ_LIMIT, GPTQ_WINDOWS, GPTQ_LENGTH = 320 * MB, 768, 64
CONFIG = models.config(hidden_size=2048, intermediate_size=8192, num_hidden_layers=48, num_attention_heads=32,
                       num_key_value_heads=8, head_dim=64, vocab_size=4096, max_position_embeddings=2048)


class Repeated:
    """One block of random bf16 N(0, 0.02^2), over and over: good enough for sizes, and quick to write."""

    def __init__(self):
        block = np.random.default_rng(1).standard_normal(32 * MB, dtype=np.float32) * np.float32(0.02)
        self.block = memoryview((block.view(np.uint32) >> 16).astype("<u2").tobytes())
        self.at = 0

    def write(self, file, size):
        while size:
            part = self.block[self.at:self.at + size]
            file.write(part)
            size -= len(part)
            self.at = (self.at + len(part)) % len(self.block)


def write_shards(folder):
    """Returns the bytes written."""
    shapes, weights, places, total = list(models.shapes(CONFIG).items()), Repeated(), {}, 0
    os.makedirs(folder)
    for i in range(SHARDS):
        own = shapes[i * len(shapes) // SHARDS:(i + 1) * len(shapes) // SHARDS]
        header, end = {}, 0
        for name, shape in own:
            begin, end = end, end + 2 * int(np.prod(shape))
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        name = f"model-{i + 1:05d}-of-{SHARDS:05d}.safetensors"
        places.update(dict.fromkeys(header, name))
        with open(os.path.join(folder, name), "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for _, shape in own:
                if len(shape) == 1:
                    file.write(b"\x80\x3f" * shape[0])  # a norm: ones
                else:
                    weights.write(file, 2 * shape[0] * shape[1])
        total += end
    for name, value in (("config.json", CONFIG), ("model.safetensors.index.json", {"weight_map": places})):
        with open(os.path.join(folder, name), "w") as file:
            json.dump(value, file)
    return total


class Memory(InFolder):
    def run_limited(self, *arguments, limit=LIMIT, code=OK):
        """Peak resident set in bytes and seconds of a run whose data may not exceed the limit."""
        began = time.monotonic()
        child = subprocess.Popen([program.program, *arguments], cwd=self.folder, stdout=subprocess.DEVNULL,
                                 stderr=subprocess.PIPE, text=True,
                                 preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit)))
        with child.stderr:
            err = child.stderr.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        self.assertEqual(child.returncode, code, err)
        return usage.ru_maxrss * 1024, time.monotonic() - began

    def test_a_model_twice_as_large(self):
        if shutil.disk_usage(self.folder).free < 10 * GB:
            self.skipTest("needs 10 GB of free disk")
        began = time.monotonic()
        size = write_shards(self.path("m"))
        print(f"{size / GB:.2f} GB in {SHARDS} shards, written in {time.monotonic() - began:.0f} s")
        self.assertGreater(size, 1.8 * LIMIT)
        np.save(self.path("c.npy"), np.random.default_rng(2).integers(0, CONFIG["vocab_size"], 512).astype(np.uint16))
        windows = {"windows": 2, "length": 64}
        sweep = {"name": "s", "task": "model", "model": {"path": "m"}, "format": "nvfp4",
                 "evaluate": {"corpora": "c.npy", **windows}}
        self.write("s.json", json.dumps(sweep))
        capture = {"name": "a", "task": "tensor_error", "model": {"path": "m"}, "format": "nvfp4",
                   "calibration": {"corpus": "c.npy", **windows}, "source": {"activations": "layers.47.*"}}
        self.write("a.json", json.dumps(capture))
        # The first one also reads every file once for its hash.
        for file, what in (("s.json", "model, nvfp4 W4A4"), ("a.json", "captured activations")):
            peak, seconds = self.run_limited("run", file)
            print(f"{what}: peak {peak / MB:.0f} MB, {seconds:.0f} s")
            self.assertLess(peak, LIMIT)
            self.assertGreater(peak, 200 * MB, "the measurement itself is wrong: a block alone is larger")

    def test_calibration_larger_than_memory(self):
        tokens = GPTQ_WINDOWS * GPTQ_LENGTH
        states = tokens * GPTQ_CONFIG["hidden_size"] * 4
        block = 4 * sum(int(np.prod(s)) for name, s in models.shapes(GPTQ_CONFIG).items() if ".layers.1." in name)
        hessians = 4 * 8 * 1024**2
        self.assertGreater(states, 1.5 * (block + hessians))
        models.write_model(self.path("m"), GPTQ_CONFIG)
        draw = np.random.default_rng(2)
        np.save(self.path("c.npy"), draw.integers(0, 512, tokens).astype(np.uint16))
        np.save(self.path("e.npy"), draw.integers(0, 512, 2 * GPTQ_LENGTH).astype(np.uint16))
        for inputs in ("quantized", "full_precision"):
            sweep = {"name": inputs, "task": "model", "model": {"path": "m"}, "format": "nvfp4",
                     "method": {"base": "gptq", "hessian_inputs": inputs},
                     "evaluate": {"corpora": "e.npy", "windows": 2, "length": GPTQ_LENGTH},
                     "calibration": {"corpus": "c.npy", "windows": GPTQ_WINDOWS, "length": GPTQ_LENGTH, "sample": "first"}}
            self.write("g.json", json.dumps(sweep))
            run = ("run", "g.json", "--threads", "2", "--no-table")  # every thread's stack is data too
            with self.subTest(inputs=inputs):
                # The limit bites: in memory the same states do not fit.
                self.run_limited(*run, "--spill-above", "8G", limit=GPTQ_LIMIT, code=CELLS_FAILED)
                _, seconds = self.run_limited(*run, "--spill-above", "0", limit=GPTQ_LIMIT)
                print(f"gptq, {inputs} inputs: {states / MB:.0f} MB of states in a file, {seconds:.0f} s")


if __name__ == "__main__":
    program.main(__doc__)
