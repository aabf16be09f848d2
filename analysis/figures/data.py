"""Finished cells of result files, with the settings that gave them."""
import json
import math
import os
from dataclasses import dataclass

import numpy as np

from analysis import results


@dataclass(frozen=True)
class Cell:
    path: str  # of the result file
    row: dict  # column of the table -> value
    settings: dict  # the cell as resolved: task, source, format, method, ...

    @property
    def task(self):
        return self.settings.get("task")

    @property
    def file(self):
        return os.path.basename(self.path)

    def number(self, column):
        """A number of the table, or of the settings (a key path); NaN where there is none."""
        value = self.row.get(column, self.setting(column))
        return float(value) if isinstance(value, (int, float, np.number)) else math.nan

    def text(self, column):
        """A text of the table, or of the settings; "" where there is none."""
        value = self.row.get(column, self.setting(column))
        return value if isinstance(value, str) else ""

    def setting(self, path):
        """What the settings have at a key path ("format.group_size"); None where there is nothing."""
        at = self.settings
        for key in path.split("."):
            at = at.get(key) if isinstance(at, dict) else None
        return at

    def arrays(self):
        """{name: array} that the cell holds."""
        return results.arrays(self.path, self.row["key"])


def read_cells(path):
    """The finished cells of a result file, in the order of the sweep. OSError, KeyError: no result file; they name it."""
    try:
        table = results.load(path)
        resolved = json.loads(results.experiment(path)["resolved"])["cells"]
    except OSError as error:
        raise OSError(f"{path}: {error}") from error
    except KeyError as error:
        raise KeyError(f"{path}: not a result file: {error.args[0]}") from error
    table = {name: list(table[name]) for name in table}
    # The table's rows and the resolved cells are both in the order of the sweep.
    if len(resolved) != len(table["key"]):
        raise KeyError(f"{path}: {len(table['key'])} rows, but {len(resolved)} cells in /experiment/resolved")
    return [Cell(os.fspath(path), {name: column[i] for name, column in table.items()}, cell)
            for i, cell in enumerate(resolved) if table["status"][i] == "done"]


def files(cells):
    """Names of the files of these cells, each once, in order."""
    return tuple(dict.fromkeys(cell.file for cell in cells))


def source_kind(cell):
    """"weights", "activations", "laplace" (or another distribution), "file", or "" when there is no source."""
    source = cell.setting("source") or {}
    if "synthetic" in source:
        return source["synthetic"].get("distribution", "")
    return next((kind for key, kind in (("checkpoint", "weights"), ("activations", "activations"), ("file", "file"))
                 if key in source), "")


def tensors_of(cell):
    """What says which tensors a cell measured: cells that differ in it must not stand in one curve or ratio."""
    source = cell.setting("source") or {}
    return cell.file, json.dumps(source, sort_keys=True), cell.setting("seed") if "synthetic" in source else None


def best_measured(groups, kind):
    """{kind: group} of the largest group of each kind, the first of equal ones."""
    found = {}
    for group in groups:
        if kind(group) not in found or len(group) > len(found[kind(group)]):
            found[kind(group)] = group
    return found


SOURCE_NAMES = {"weights": "weights", "activations": "activations", "laplace": "Laplace samples",
                "normal": "Normal samples", "student_t": "Student t samples", "uniform": "uniform samples",
                "file": "file"}


def transforms(cell):
    """The cell's transforms as a list of objects; [] when native; None when they differ by site."""
    found = cell.setting("transform") or cell.setting("method.transform") or []
    if isinstance(found, (str, dict)):
        found = [found]
    found = [{"type": t} if isinstance(t, str) else t for t in found] if isinstance(found, list) else [{}]
    return found if all(isinstance(t, dict) and "type" in t for t in found) else None


def hadamard(cell):
    """Channels per Hadamard block: 0 native, None under anything else than one plain Hadamard."""
    found = transforms(cell)
    if found == []:
        return 0
    if not found or len(found) > 1 or found[0]["type"] != "hadamard":
        return None
    k = found[0].get("k", 0)
    if k == 0:  # the format's group
        k = cell.setting("format.group_size") or cell.setting("group_size")
    return k if isinstance(k, int) else None


TYPE_NAMES = {"ue8m0": "E8M0", "ue4m3": "E4M3", "ue5m3": "UE5M3"}


def scale_name(scale):
    """As people write it: E4M3, E8M0, FP32."""
    return TYPE_NAMES.get(scale, scale.upper())


def format_name(cell):
    """Element, scale and rule of the cell's format, without its group size: "e2m1, E8M0 floor"."""
    format = cell.setting("format") or {}
    scale, rule = format.get("scale", ""), rule_name(format)
    name = scale_name(scale) + (f" {rule}" if rule and rule != "absmax" else "")
    return f"{format.get('element', '')}, {name}".strip(", ")


def rule_name(format):
    """"floor", "even", "absmax"...; the paper's own rule is "fpq"."""
    rule = format.get("rule", "")
    return rule.get("type", "") if isinstance(rule, dict) else rule


def finite(*values):
    return all(math.isfinite(v) for v in values)


def paper():
    """The paper's numbers that figures note: paper.json."""
    with open(os.path.join(os.path.dirname(__file__), "paper.json"), encoding="utf-8") as file:
        return json.load(file)
