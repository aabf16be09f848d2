"""Exports in the layouts of compressed-tensors, read by that library itself and by transformers. Run by hand:

    pip install torch compressed-tensors transformers safetensors numpy
    python tests/interop/compressed_tensors_check.py build/cpu/fp4lab [--work DIR]

Each case exports a cell of experiments/data/tiny-llama and writes a plain float32 checkpoint of it (`fp4lab import --to`).
What must agree with the plain one:

config      the library's QuantizationConfig takes config.json's quantization_config, and holds a scheme for all linears
float32     every linear, bit for bit, decoded by the library's own functions in float32
own type    every linear, bit for bit, as the library's decompress gives it: of FP4 in bfloat16 and of INT4 in the type of
            its scales, after the same rounding of the plain one
logits      of AutoModelForCausalLM with the weights decompressed on load, against the plain model with its linears rounded
            to that type, on the model's golden window and on the first windows of its own text. Both compute in float32 on
            the same weights; the bound leaves room for another order of sums alone.

Prints a table; the exit code is 1 where anything differs, 77 where the packages cannot be imported.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is here
try:
    import compressed_tensors
    import torch
    import transformers
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationConfig
    from compressed_tensors.quantization.lifecycle.forward import dequantize
    from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8
    from safetensors.torch import load_file
except ImportError as error:
    print(f"cannot be imported: {error}\npip install torch compressed-tensors transformers safetensors numpy")
    sys.exit(77)

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MODEL = os.path.join(ROOT, "experiments", "data", "tiny-llama")
TEXT = os.path.join(MODEL, "selfgen.safetensors")
TOLERANCE = 2e-4  # of logits, whose deviation is 3.3: float32 sums of 256 to 768 terms through 42 products
PACKED = ("weight_packed", "weight_scale", "weight_global_scale", "weight_shape")


def int4(group, scale, base="int4"):
    return {"base": base, "group_size": group, "scale": scale}


def integers(group, scale):
    """The inputs as the library quantizes them: -8..7 by amax/7.5, with scales of the weights' type."""
    return {"activations": int4(group, scale, "int4-peer")}


CASES = [  # name, layout, format, keys of a cell with quantized inputs
    ("nvfp4", "nvfp4-pack-quantized", "nvfp4",
     {"activation_scale": "static", "calibration": {"corpus": TEXT, "windows": 8, "length": 128, "sample": "first"}}),
    ("mxfp4-even", "mxfp4-pack-quantized", "mxfp4-even", {}),
    ("mxfp4 (floor)", "mxfp4-pack-quantized", "mxfp4", {"activations": "mxfp4-even"}),
    ("int4 g32 bf16", "pack-quantized", int4(32, "bf16"), integers(32, "bf16")),
    ("int4 g128 bf16", "pack-quantized", int4(128, "bf16"), integers(128, "bf16")),
    ("int4 g32 fp16", "pack-quantized", int4(32, "fp16"), integers(32, "fp16")),
    ("int4-peer g128", "pack-quantized", int4(128, "fp16", "int4-peer"), {}),
]


def fp4lab(program, *arguments):
    done = subprocess.run([program, *arguments], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"fp4lab {' '.join(arguments)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")


def export(program, folder, layout, sweep):
    """The exported folder, in the original coordinates as plain float32 beside it."""
    os.makedirs(folder, exist_ok=True)
    paths = {name: os.path.join(folder, name) for name in ("sweep.json", "export", "plain", "results")}
    with open(paths["sweep.json"], "w") as file:
        json.dump(sweep, file)
    fp4lab(program, "export", paths["sweep.json"], "--layout", layout, "--to", paths["export"], "--force", "--results",
           paths["results"])
    fp4lab(program, "import", paths["export"], "--to", paths["plain"], "--force")
    return paths["export"], paths["plain"]


def same_bits(a, b):
    bits = {4: torch.int32, 2: torch.int16}[a.element_size()]
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.contiguous().view(bits), b.contiguous().view(bits))


def in_float32(state, scheme):
    """What the library's functions make of a linear's tensors in float32."""
    if "weight_shape" in state:  # INT4: of the type of the scales
        wide = {**state, "weight_scale": state["weight_scale"].float()}
        return BaseCompressor.get_value_from_registry("pack-quantized").decompress(wide, scheme)["weight"]
    packed, scale = state["weight_packed"], state["weight_scale"]
    values = unpack_fp4_from_uint8(packed, packed.shape[0], 2 * packed.shape[1], dtype=torch.float32)
    scale = BaseCompressor.get_value_from_registry(scheme.format)._decompress_scale(scale, torch.float32)
    return dequantize(x_q=values, scale=scale, args=scheme.weights, dtype=torch.float32,
                      global_scale=state.get("weight_global_scale"))


def compare_weights(exported, plain, scheme):
    """(linears, equal in float32, equal in the library's type, that type)."""
    tensors, expected = (load_file(os.path.join(f, "model.safetensors")) for f in (exported, plain))
    linears = sorted(name[:-len(".weight_packed")] for name in tensors if name.endswith(".weight_packed"))
    wide = narrow = 0
    for linear in linears:
        state = {s: tensors[f"{linear}.{s}"] for s in PACKED if f"{linear}.{s}" in tensors}
        mine = expected[linear + ".weight"]
        wide += same_bits(in_float32(state, scheme), mine)
        own = BaseCompressor.get_value_from_registry(scheme.format).decompress(state, scheme)["weight"]
        narrow += same_bits(own, mine.to(own.dtype))
    return len(linears), wide, narrow, own.dtype


def windows():
    golden = load_file(os.path.join(MODEL, "golden.safetensors"))["ids"].long()[None]
    return [golden, load_file(TEXT)["tokens"][:4, :256].long()]


@torch.no_grad()
def logit_difference(exported, plain, dtype):
    """The largest difference, linears of both rounded to `dtype`, all else in float32."""
    config = transformers.CompressedTensorsConfig(run_compressed=False)  # newer versions: dequantize=True
    theirs = transformers.AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32, quantization_config=config)
    mine = transformers.AutoModelForCausalLM.from_pretrained(plain, dtype=torch.float32)
    for name, module in mine.named_modules():
        if name.endswith("_proj"):
            module.weight.copy_(module.weight.to(dtype))
    return max(float((theirs(ids).logits - mine(ids).logits).abs().max()) for ids in windows())


def scheme_of(exported):
    with open(os.path.join(exported, "config.json")) as file:
        config = QuantizationConfig.model_validate(json.load(file)["quantization_config"])
    (scheme,) = config.config_groups.values()
    scheme.format = scheme.format or config.format
    return scheme


def check(program, work):
    """Runs all cases; whether everything agreed."""
    row = "{:<24} {:>7} {:>9} {:>9} {:<9} {:>10}  {}".format
    print(row("case", "linears", "float32", "own type", "", "logits", ""), flush=True)
    all_good = True
    for name, layout, format, quantized in CASES:
        for w4a4 in (False, True):
            case = f"{name} {'W4A4' if w4a4 else 'W4A16'}"
            sweep = {"name": "check", "task": "model", "model": {"path": MODEL}, "format": format, "method": "rtn",
                     "activations": "same" if w4a4 else None, **(quantized if w4a4 else {}),
                     "evaluate": {"corpora": [TEXT], "windows": 1, "length": 128, "offset": 64}}
            exported, plain = export(program, os.path.join(work, case.replace(" ", "-")), layout, sweep)
            scheme = scheme_of(exported)
            count, wide, narrow, dtype = compare_weights(exported, plain, scheme)
            difference = logit_difference(exported, plain, dtype)
            good = count == 42 and wide == narrow == count and difference <= TOLERANCE
            good = good and (scheme.input_activations is not None) == w4a4
            all_good = all_good and good
            print(row(case, count, wide, narrow, str(dtype).replace("torch.", ""), f"{difference:.2g}",
                      "" if good else "DIFFERS"), flush=True)
    return all_good


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", help="the program fp4lab")
    parser.add_argument("--work", help="a folder for the exports, which stay there; default: a temporary one")
    options = parser.parse_args()
    versions = {m.__name__: m.__version__ for m in (compressed_tensors, transformers, torch)}
    print(", ".join(f"{name} {version}" for name, version in versions.items()))
    warnings.simplefilter("ignore")  # that loading options replace those of the file: as intended
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    program = os.path.abspath(options.program)
    if options.work:
        return check(program, options.work)
    with tempfile.TemporaryDirectory(prefix="fp4lab-interop-") as work:
        return check(program, work)


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
