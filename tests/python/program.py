"""Helpers of the tests that run the program as a process: start it, write sweeps, compare result files.

A test script calls `main(__doc__)`; the program's path is its first argument.
"""
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unittest

import h5py

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TINY_LLAMA = os.path.join(ROOT, "experiments", "data", "tiny-llama")
OK, FAULT, CONFIG, DATA, CELLS_FAILED, INTERRUPTED = 0, 1, 2, 3, 4, 130  # exit codes of core/errors.h
program = None  # the program under test

# A sweep of two cells.
SYNTHETIC = {"synthetic": {"distribution": "normal", "shape": [8, 64]}}
GOOD = {"name": "s", "task": "tensor_error", "source": SYNTHETIC, "axes": {"format": ["mxfp4", "nvfp4"]}}


def main(usage):
    global program
    if len(sys.argv) < 2:
        sys.exit(usage)
    # The script is __main__, this module is `program`: the path is set here, where the functions look for it.
    program = os.path.abspath(sys.argv.pop(1))
    unittest.main(module="__main__")


def start(*arguments, **options):
    """The program as a Popen with text pipes, in a process group of its own."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, "text": True,
               "start_new_session": True, **options}
    options["env"] = {**os.environ, **options.pop("env", {})}
    return subprocess.Popen([program, *map(str, arguments)], **options)


def finish(process, timeout=300):
    """Waits; returns (exit code, stdout, stderr). A process that hangs is killed, and fails the test."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    return process.returncode, out, err


def run(*arguments, **options):
    timeout = options.pop("timeout", 300)
    return finish(start(*arguments, **options), timeout)


def wait_until(condition, process=None, timeout=120):
    """Waits for the condition; AssertionError when the time is over or the process has ended before."""
    end = time.monotonic() + timeout
    while not condition():
        if process is not None and process.poll() is not None:
            raise AssertionError(f"ended too early with {process.returncode}: {process.stderr.read()}")
        if time.monotonic() > end:
            raise AssertionError("waited too long")
        time.sleep(0.002)


def safetensors(path, tensors):
    """Writes float32 arrays {name: 2-D array}."""
    header, data = {}, b""
    for name, array in tensors.items():
        raw = array.astype("<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)


def values(dataset):
    """What a dataset holds, comparable with ==: NaN equals NaN, and 0 differs from -0."""
    if h5py.check_string_dtype(dataset.dtype) is not None:
        return [t.decode() for t in dataset[()].ravel()] if dataset.shape else dataset.asstr()[()]
    return (str(dataset.dtype), dataset.shape, dataset[()].tobytes())


def meaning(thing):
    return {name: value.item() if hasattr(value, "item") else value for name, value in thing.attrs.items()}


def content(path):
    """All of a result file that must not depend on who computed it, when, or how often it was interrupted."""
    found = {}
    with h5py.File(path, "r") as file:
        for name, column in file["table"].items():
            if name not in ("seconds", "provenance"):
                found["table", name] = values(column), meaning(column)
        for key, group in file["cells"].items():
            found["cells", key] = meaning(group)
            for name, array in group.items():
                found["cells", key, name] = values(array), meaning(array)
        for name, column in file["errors"].items():
            found["errors", name] = values(column)
        found["experiment"] = {name: values(text) for name, text in file["experiment"].items()}
        found["cells"] = int(file.attrs["cells"]), int(file.attrs["cells_done"])
    return found


def column(path, name):
    with h5py.File(path, "r") as file:
        data = file["table"][name]
        return values(data) if h5py.check_string_dtype(data.dtype) else list(data[()])


def computed_by(err):
    """How many cells a run computed itself, by its lines of progress."""
    counts = re.findall(r"^(\d+)/\d+ cells", err, re.M)
    before = re.search(r"\((\d+) from earlier runs\)", err)
    return (int(counts[-1]) - (int(before[1]) if before else 0)) if counts else 0


def read(path):
    with open(path, "rb") as file:
        return file.read()


class InFolder(unittest.TestCase):
    """Each test in an empty folder of its own, removed at the end."""
    maxDiff = 2000

    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="fp4lab-test-")
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def path(self, *names):
        return os.path.join(self.folder, *names)

    def write(self, name, text):
        with open(self.path(name), "w" if isinstance(text, str) else "wb") as file:
            file.write(text)
        return self.path(name)

    def sweep(self, file="s.json", **keys):
        """Writes GOOD, changed by `keys` (None: leaves the key out)."""
        sweep = {**GOOD, **keys}
        return self.write(file, json.dumps({k: v for k, v in sweep.items() if v is not None}))

    def run_here(self, *arguments, **options):
        return run(*arguments, **{"cwd": self.folder, **options})

    def expect(self, code, *arguments, says=(), **options):
        """Runs in the folder, checks the exit code and that the messages say all of `says`; returns stdout."""
        found, out, err = self.run_here(*arguments, **options)
        self.assertEqual(found, code, f"{arguments}\n{out}\n{err}")
        for part in [says] if isinstance(says, str) else says:
            self.assertIn(part, err)
        if code in (CONFIG, DATA):
            self.assertTrue(err.startswith("fp4lab: ") or "\nfp4lab: " in err, err)
        return out

    def parts(self, results, name="s"):
        """{file name: (inode, time)} of the parts that are there."""
        folder = os.path.join(self.folder, results, name, "parts")
        if not os.path.isdir(folder):
            return {}
        found = {}
        for entry in os.scandir(folder):
            if entry.name.endswith(".h5") and not entry.name.startswith("."):
                info = entry.stat()
                found[entry.name] = info.st_ino, info.st_mtime_ns
        return found

    def litter(self, results):
        """Temporary files that nobody removed."""
        return [os.path.join(d, n) for d, _, names in os.walk(os.path.join(self.folder, results)) for n in names
                if n.endswith(".tmp")]
