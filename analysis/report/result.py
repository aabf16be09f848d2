"""One result file, as the page needs it. All reading is done here, through analysis/results.py."""
import json
import os
import re

import numpy as np

from analysis import results


class BrokenFile(Exception):
    """A file that is no whole result."""


def parse(text):
    """A sweep's JSON, in which // begins a comment; None when it cannot be read."""
    plain = re.sub(r'("(?:\\.|[^"\\])*")|//[^\n]*', lambda m: m[1] or "", text)
    try:
        return json.loads(plain)
    except ValueError:
        return None


class Column:
    def __init__(self, name, role, units, equation, values):
        self.name, self.role, self.units, self.equation = name, role, units, equation
        self.values = values
        self.is_text = values.dtype.kind not in "fiu"

    @property
    def shown_units(self):
        """Units where they say something: not "1", not a text's, and not those that the name ends with."""
        if self.is_text or self.role == "axis" or self.units in ("", "1", "text"):
            return ""
        ends = {"%": "percent", "bits": "bits"}.get(self.units, self.units)
        return "" if re.search(rf"(^|_){re.escape(ends)}(_|$)", self.name, re.IGNORECASE) else self.units


class Result:
    """name, task, description, sweep (as written; {} if unreadable), written, resolved, about (root attributes),
    columns {name: Column}, failed [(axes text, message, key)], processes [dict]."""

    def __init__(self, path):
        self.path = path
        try:
            self._read()
        except (OSError, KeyError, ValueError, TypeError, IndexError, AttributeError, RuntimeError) as error:
            raise BrokenFile(f"{path}: no whole result file: {error}") from error

    def _read(self):
        self.about = results.experiment(self.path)
        self.name = str(self.about["name"])
        self.written, self.resolved = str(self.about["written"]), str(self.about["resolved"])
        sweep = parse(self.written)
        self.sweep = sweep if isinstance(sweep, dict) else {}
        self.task = str(self.sweep.get("task", "unknown"))
        self.description = str(self.sweep.get("description", ""))
        units = results.units(self.path)
        roles = {name: role for role in ("cell", "axis", "metric", "text") for name in results.load(self.path, role=role)}
        table = results.load(self.path)
        self.columns = {}
        for name in table:
            self.columns[name] = Column(name, roles[name], *map(str, units[name]), np.asarray(table[name]))
        self.rows = len(self.columns["key"].values)
        for needed in ("status", "seconds", "provenance"):
            if len(self.columns[needed].values) != self.rows:
                raise KeyError(f"its column {needed} has another length than its keys")
        errors = results.errors(self.path)
        if missing := {"key", "message"} - set(errors):
            raise KeyError(f"/errors has no {missing.pop()}")
        self.failed = [{name: errors[name][i] for name in errors} for i in range(len(errors["key"]))]
        self.processes = results.provenance(self.path)

    @property
    def file(self):
        return os.path.basename(self.path)

    def of_role(self, *roles):
        return [c for c in self.columns.values() if c.role in roles]

    @property
    def axes(self):
        return self.of_role("axis")

    @property
    def status(self):
        return self.columns["status"].values

    def count(self, status):
        return int(np.sum(self.status == status))

    @property
    def seconds(self):
        return float(np.nansum(self.columns["seconds"].values.astype(float)))

    @property
    def verdict(self):
        """The column of verdicts of a lemma task; None for other tasks."""
        found = self.columns.get("verdict")
        return found if found is not None and found.is_text and "statement" in self.columns else None

    def verdicts(self):
        """{verdict: how many}, in a fixed order: holds, undecided, differs, others."""
        values = [] if self.verdict is None else [v for v in self.verdict.values if v]
        known = ["holds", "undecided", "differs"]
        return {v: values.count(v) for v in known + sorted(set(values) - set(known)) if v in values}

    def shown_columns(self, default_columns):
        """The columns of its main table: those that the sweep asks for, or the task's own; and short texts."""
        wanted = self.sweep.get("metrics", "default")
        if wanted in ("default", ["default"]) or not isinstance(wanted, list):
            wanted = default_columns.get(self.task) or [c.name for c in self.of_role("metric")]
        names = [n for n in wanted if n in self.columns and self.columns[n].role in ("metric", "text")]
        names += [c.name for c in self.of_role("text") if c.name not in names and max(map(len, c.values), default=0) <= 24]
        return [self.columns[n] for n in names]
