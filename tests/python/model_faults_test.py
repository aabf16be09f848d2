"""Sweeps of models whose weights are broken, or that are killed, interrupted or out of space: nothing is lost, and
the end is that of an undisturbed run, bit for bit.

    python3 tests/python/model_faults_test.py build/cpu/fp4lab
"""
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import time

import h5py
import numpy as np

import program
from models import LENGTH, WithModel, config, random_tensors, write_model
from program import CELLS_FAILED, INTERRUPTED, OK, TINY_LLAMA, computed_by, content, finish, read, start, wait_until

SEED = int(os.environ.get("FP4LAB_TEST_SEED", random.SystemRandom().randrange(2**32)))
TOKENS = os.path.join(TINY_LLAMA, "selfgen.safetensors")  # 64 windows of 512
BLOCK = "model.layers.1."


def gone(group):
    """Whether no process of the group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


class BrokenWeights(WithModel):
    """A sweep over two models, one of them broken: its two cells fail, the other model's are kept."""

    def write_bad(self, *changes):
        tensors = random_tensors(config(), seed=3)
        for name, place, value in changes:
            tensors[name][place] = value
        write_model(self.path("bad"), tensors=tensors)

    def check(self, *says, write=None):
        with self.subTest(says=says):
            shutil.rmtree(self.path("results"), ignore_errors=True)
            (write or self.model_sweep)(model=None, axes={"model.path": ["m", "bad"], "format": ["mxfp4", "nvfp4"]})
            self.expect(CELLS_FAILED, "run", "s.json", "--no-table", says="s: 2 of 4 cells done, 2 failed")
            kept = {name: info for name, info in self.parts("results").items() if "error" not in name}
            self.assertEqual(len(kept), 2)
            for options in ([], ["--jobs", "2"]):  # the failed cells alone are tried again, each once
                _, _, err = self.run_here("run", "s.json", "--no-table", *options)
                self.assertIn("s: 2 of 4 cells done (2 from earlier runs), 2 failed", err)
                self.assertEqual(len(re.findall(r"^failed after ", err, re.M)), 2, err)
            with h5py.File(self.path("results", "s.h5"), "r") as file:
                self.assertEqual(list(file["table/status"].asstr()), ["done"] * 2 + ["failed"] * 2)
                self.assertEqual(list(file["errors/model.path"].asstr()), ["bad"] * 2)
                for message in file["errors/message"].asstr():
                    for part in says:
                        self.assertIn(part, message)
            now = self.parts("results")
            self.assertEqual({name: now.get(name) for name in kept}, kept)

    def test_not_finite(self):
        up, norm = BLOCK + "mlp.up_proj.weight", BLOCK + "input_layernorm.weight"
        for value, what in ((np.nan, "NaN"), (np.inf, "Inf"), (-np.inf, "-Inf")):
            self.write_bad((up, (5, 33), value))
            self.check(f'bad/model.safetensors: tensor "{up}" (96, 64): {what} at row 5, column 33')
        self.write_bad((norm, 7, np.nan))
        self.check(f'bad/model.safetensors: tensor "{norm}" (64): NaN at ', "column 7")
        embedding = "model.embed_tokens.weight"
        self.write_bad((embedding, (slice(None), 9), np.nan))
        self.check(f'bad/model.safetensors: tensor "{embedding}" (64, 64): NaN at row ', "column 9")

    def test_captures(self):
        name = BLOCK + "self_attn.v_proj.weight"
        self.write_bad((name, (5, 33), np.nan))
        self.check(f'bad/model.safetensors: tensor "{name}" (32, 64): NaN at row 5, column 33', write=self.capture_sweep)
        self.assertEqual(len(self.cache()), 12 + 4, "what was captured before the broken block is kept")
        self.write_bad((BLOCK + "mlp.up_proj.weight", slice(None), 3e38))
        self.check("layers.1.mlp.up_proj: its output is NaN or infinite", write=self.capture_sweep)

    def test_overflow(self):
        for linear in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj",
                       "mlp.up_proj", "mlp.down_proj"):
            self.write_bad((f"{BLOCK}{linear}.weight", slice(None), 3e38))
            self.check(f"layers.1.{linear}: its output is NaN or infinite at token ", "channel ")
        # Between the linears, the next one sees it: attention scores, silu(gate) * up.
        self.write_bad(*((f"{BLOCK}self_attn.{l}_proj.weight", slice(None), 1e20) for l in "qk"))
        self.check("layers.1.self_attn.o_proj: ", "NaN or infinite at token ")
        self.write_bad(*((f"{BLOCK}mlp.{l}_proj.weight", slice(None), 1e25) for l in ("gate", "up")))
        self.check("layers.1.mlp.down_proj: ", "NaN or infinite at token ")
        self.write_bad(("model.norm.weight", slice(None), 3e38))
        self.check("lm_head: a logit is NaN or infinite")

    def test_repair(self):
        self.write_bad((BLOCK + "mlp.up_proj.weight", (5, 33), np.nan))
        self.check("NaN at row 5, column 33")
        before = self.parts("results")
        self.write_bad()
        _, _, err = self.run_here("run", "s.json", "--no-table")
        self.assertIn("s: 4 of 4 cells done (2 from earlier runs)", err)
        self.assertEqual(computed_by(err), 2)
        kept = [name for name in before if "error" not in name]
        now = self.parts("results")
        self.assertEqual([now.get(name) for name in kept], [before[name] for name in kept])


class Captures(WithModel):
    """Two cells over captured activations, 512 tokens: 12 files of 130 and 200 kB."""

    def setUp(self):
        super().setUp()
        self.capture_sweep(calibration={"corpus": "c.npy", "windows": 32, "length": LENGTH})
        self.expect(OK, "run", "s.json", "--results", "first", "--no-table")
        self.undisturbed = content(self.path("first", "s.h5"))
        self.assertEqual(len(self.cache("first")), 12)

    def check_complete(self):
        self.expect(OK, "run", "s.json", "--no-table", says="s: 2 of 2 cells done")
        self.assertEqual(content(self.path("results", "s.h5")), self.undisturbed)
        self.assertEqual(self.litter("results"), [])
        for name in self.cache("first"):
            self.assertEqual(read(self.path("results", "cache", name)), read(self.path("first", "cache", name)))

    def test_file_limit(self):
        for options in ([], ["--jobs", "2"]):
            with self.subTest(options=options):
                shutil.rmtree(self.path("results"), ignore_errors=True)
                self.expect(CELLS_FAILED, "run", "s.json", "--no-table", *options,
                            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (150000, 150000)),
                            says=["-layers.0.down.safetensors: cannot write: File too large", "0 of 2 cells done, 2 failed"])
                self.assertEqual((len(self.cache()), self.litter("results")), (3, []))
                self.check_complete()

    def test_small_file_system(self):
        os.mkdir(self.path("results"))
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1152k", "tmpfs", self.path("results")],
                                 stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if mounted.returncode != 0:
            self.skipTest("cannot mount a small file system here: " + mounted.stdout.strip())
        try:
            self.expect(CELLS_FAILED, "run", "s.json", "--no-table",
                        says=["results/cache/", ".safetensors: cannot write: No space left on device"])
            before = self.cache()
            self.assertGreater(len(before), 4)
            self.assertEqual(self.litter("results"), [])
            subprocess.run(["mount", "-o", "remount,size=64m", self.path("results")], check=True)
            self.check_complete()
        finally:
            subprocess.run(["umount", "-l", self.path("results")], check=True)

    def test_no_folder(self):
        os.mkdir(self.path("results"))
        self.write("results/cache", "a file")
        self.expect(CELLS_FAILED, "run", "s.json", "--no-table", says="results/cache: cannot make this folder: ")
        os.remove(self.path("results", "cache"))
        self.check_complete()

    def test_damaged_files(self):
        name = next(n for n in self.cache("first") if "layers.1.gate_up" in n)
        whole = read(self.path("first", "cache", name))
        for label, bytes_ in (("empty", b""), ("truncated", whole[:70000]), ("short header", whole[:20]),
                              ("garbage", random.Random(1).randbytes(5000)),
                              ("no sample", whole.replace(b'"sample"', b'"zample"')),
                              ("NaN", whole[:-4] + b"\0\0\xc0\x7f"),
                              ("a flipped bit", whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:]),
                              ("another site's", read(self.path("first", "cache", name.replace("1.gate_up", "1.down"))))):
            with self.subTest(label):
                shutil.rmtree(self.path("results"), ignore_errors=True)
                shutil.copytree(self.path("first", "cache"), self.path("results", "cache"))
                self.write("results/cache/" + name, bytes_)
                self.check_complete()  # gathered again
                self.assertEqual(read(self.path("results", "cache", name)), whole)


class Runs(WithModel):
    """Sweeps over the shipped model, each computed undisturbed once."""
    known = {}
    WINDOWS = {"windows": 2, "length": 128}

    def write_models(self):
        return self.model_sweep(model={"path": TINY_LLAMA}, evaluate={"corpora": [TOKENS], **self.WINDOWS},
                                activation_scale="static", calibration={"corpus": TOKENS, "offset": 2, **self.WINDOWS},
                                axes={"format": ["mxfp4", "nvfp4", "int4", "mxfp8-e4m3"], "method": ["rtn", "rtn+ht"],
                                      "activations": ["same", None]})

    def write_captures(self):
        return self.capture_sweep(model={"path": TINY_LLAMA}, source={"activations": "*_proj", "rows": 0},
                                  calibration={"corpus": TOKENS, "windows": 4, "length": 512},
                                  axes={"format": ["mxfp4", "nvfp4", "int4"]})

    def undisturbed(self, write):
        """(content, seconds, cells) of a run of this sweep, which is written to s.json."""
        write()
        if write.__name__ not in self.known:
            began = time.monotonic()
            self.expect(OK, "run", "s.json", "--results", "first", "--no-table")
            seconds = time.monotonic() - began
            found = content(self.path("first", "s.h5"))
            self.known[write.__name__] = found, seconds, found["cells"][0]
            print(f"{write.__name__}: {found['cells'][0]} cells, {seconds:.1f} s; FP4LAB_TEST_SEED={SEED}")
        return self.known[write.__name__]

    def start_run(self, *options, **more):
        return start("run", "s.json", "--results", "r", "--no-table", *options, cwd=self.folder, **more)

    def check_end(self, expected, *options, env=None):
        self.expect(OK, "run", "s.json", "--results", "r", "--no-table", *options, env=env or {})
        self.assertEqual(content(self.path("r", "s.h5")), expected)
        self.assertEqual(self.litter(os.path.join("r", "s")), [])

    def kill_at_random(self, write, kills, *options):
        expected, seconds, cells = self.undisturbed(write)
        draw, before, done = random.Random(f"{SEED} {self.id()}"), {}, 0
        while done < kills:
            process = self.start_run(*options, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(draw.uniform(0, seconds))
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                done += 1
            ended = process.wait(timeout=300)
            wait_until(lambda: gone(process.pid))  # a dying worker may still be syncing, and holds its lock
            now = self.parts("r")
            self.assertEqual({name: now.get(name) for name in before}, before, "a finished cell was computed again")
            before = now
            if ended == OK or len(now) == cells:
                self.check_end(expected, *options)
                shutil.rmtree(self.path("r"))
                before = {}
        self.check_end(expected, *options)

    def test_kills_of_models(self):
        self.kill_at_random(self.write_models, 8)

    def test_kills_of_models_in_two_jobs(self):
        self.kill_at_random(self.write_models, 4, "--jobs", "2")

    def test_kills_of_captures(self):
        self.kill_at_random(self.write_captures, 10)

    def test_kills_of_captures_in_two_jobs(self):
        self.kill_at_random(self.write_captures, 5, "--jobs", "2")

    def test_the_same_bits(self):
        for write in (self.write_models, self.write_captures):
            expected, _, cells = self.undisturbed(write)
            self.assertGreaterEqual(cells, 3)
            for options, env in ((["--jobs", "2"], {}), (["--threads", "1"], {}), (["--threads", "2"], {}),
                                 (["--threads", "5"], {}), ([], {"FP4LAB_ISA": "x86-64-v3"})):
                with self.subTest(sweep=write.__name__, options=options, env=env):
                    shutil.rmtree(self.path("r"), ignore_errors=True)
                    self.check_end(expected, *options, env=env)

    def test_two_processes_capture_at_once(self):
        expected, _, _ = self.undisturbed(self.write_captures)
        runs = [self.start_run(), self.start_run()]
        self.assertEqual([finish(r)[0] for r in runs], [OK, OK])
        self.check_end(expected)


class Interrupts(WithModel):
    """A first cell that is quick and a second one of about ten seconds; Ctrl-C comes in the second."""

    def interrupt(self, number, first_done, *options):
        process = start("run", "s.json", "--no-table", *options, cwd=self.folder)
        wait_until(lambda: len(self.parts("results")) >= first_done, process)
        time.sleep(1.5)
        self.assertIsNone(process.poll(), "the second cell is too quick for this test")
        began = time.monotonic()
        os.killpg(process.pid, number)
        code, _, err = finish(process, 60)
        took = time.monotonic() - began
        self.assertEqual(code, INTERRUPTED, err)
        self.assertLess(took, 5)
        self.assertIn("interrupted; finished cells are stored, the same command goes on with the other ", err)
        self.assertEqual(self.litter("results"), [])
        return took

    def test_models(self):
        self.model_sweep(model={"path": TINY_LLAMA}, evaluate={"corpora": [TOKENS], "length": 512}, format="mxfp4",
                         axes={"evaluate.windows": [1, 0]})
        for number, options in ((signal.SIGINT, []), (signal.SIGTERM, []), (signal.SIGINT, ["--threads", "1"])):
            with self.subTest(signal=number, options=options):
                took = self.interrupt(number, 1, *options)
                print(f"a cell of the task model ends {took:.2f} s after signal {number} {options}")
                self.assertEqual(len(self.parts("results")), 1)
        self.interrupt(signal.SIGINT, 1, "--jobs", "2")

    def test_captures(self):
        self.capture_sweep(model={"path": TINY_LLAMA}, calibration={"corpus": TOKENS, "windows": 64, "length": 512},
                           source={"activations": "*_proj", "rows": 64})
        took = self.interrupt(signal.SIGINT, 0)
        print(f"a capture ends {took:.2f} s after Ctrl-C")
        done = self.cache()
        self.expect(OK, "run", "s.json", "--no-table", says="s: 2 of 2 cells done")
        self.assertEqual(len(self.cache()), 24)
        self.assertLessEqual(set(done), set(self.cache()))


if __name__ == "__main__":
    program.main(__doc__)
