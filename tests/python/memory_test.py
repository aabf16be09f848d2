"""Peak memory of a sweep over a checkpoint: at most three times its largest tensor (as stored) plus 200 MB.

Measured as the process's largest resident set, which counts mapped file pages too. Two checkpoints: the small sharded model
when it is there, and a generated one of 4 GB (8 tensors of 512 MB in 4 files) when the disk has room.
Run as: python3 memory_test.py PATH_TO_fp4lab
"""
import json
import os
import shutil
import struct
import subprocess
import tempfile
import unittest
from pathlib import Path

import numpy

import program

DATA = Path(os.environ.get("FP4LAB_DATA", Path(program.ROOT).parent / "shared" / "data"))
MB = 1 << 20


def peak_of_sweep(checkpoint, folder, formats):
    """Runs a sweep over the checkpoint in a process of its own; its peak resident set in bytes."""
    sweep = {"name": "memory", "task": "tensor_error", "source": {"checkpoint": str(checkpoint)}, "axes": {"format": formats}}
    path = Path(folder) / "memory.json"
    path.write_text(json.dumps(sweep))
    child = subprocess.Popen([program.program, "run", path, "--results", Path(folder) / "results"], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise AssertionError(f"the sweep ended with {child.returncode}")
    return usage.ru_maxrss * 1024


def write_checkpoint(folder, files, tensors_per_file, rows, cols):
    """bf16 N(0,1) weights; one block of 16 MB of them, over and over."""
    block = numpy.random.default_rng(1).standard_normal(8 * MB, dtype=numpy.float32)
    block = (block.view(numpy.uint32) >> 16).astype("<u2").tobytes()
    size, weight_map = 2 * rows * cols, {}
    for f in range(files):
        name = f"model-{f + 1:05d}-of-{files:05d}.safetensors"
        header = {}
        for t in range(tensors_per_file):
            tensor = f"model.layers.{f * tensors_per_file + t}.mlp.up_proj.weight"
            header[tensor] = {"dtype": "BF16", "shape": [rows, cols], "data_offsets": [t * size, (t + 1) * size]}
            weight_map[tensor] = name
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(folder / name, "wb") as out:
            out.write(struct.pack("<Q", len(text)) + text)
            for _ in range(tensors_per_file * size // len(block)):
                out.write(block)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


class Memory(unittest.TestCase):
    def check(self, checkpoint, folder, largest, formats):
        peak, limit = peak_of_sweep(checkpoint, folder, formats), 3 * largest + 200 * MB
        print(f"peak {peak / MB:.0f} MB, largest tensor {largest / MB:.0f} MB, limit {limit / MB:.0f} MB")
        self.assertLess(peak, limit)
        self.assertGreater(peak, largest, "the measurement itself is wrong")

    def test_small_sharded_model(self):
        model = DATA / "models" / "small"
        if not model.is_dir():
            self.skipTest(f"{model} is not there")
        with tempfile.TemporaryDirectory() as folder:
            self.check(model, folder, 2 * 8192 * 512, ["mxfp4", "nvfp4-sweep", "mxfp8-e4m3"])

    def test_generated_4_gb(self):
        with tempfile.TemporaryDirectory() as folder:
            if shutil.disk_usage(folder).free < 8 << 30:
                self.skipTest("needs 8 GB of free disk")
            write_checkpoint(Path(folder), 4, 2, 16384, 16384)
            self.check(folder, folder, 512 * MB, ["nvfp4"])


if __name__ == "__main__":
    program.main(__doc__)
