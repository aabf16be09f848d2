"""Writes small result files by the layout of results/README.md, for tests of what reads them."""
import hashlib
import json

import h5py
import numpy as np

TEXT = h5py.string_dtype()


def write(path, cells, name="made"):
    """cells: a list of {"settings": resolved cell, "row": {column: number or text}, "arrays": {name: values},
    "status": "done" unless said}. A column that a cell lacks is NaN or "" there. Returns the path."""
    columns = list(dict.fromkeys(column for cell in cells for column in cell.get("row", {})))
    with h5py.File(path, "w") as file:
        file.attrs.update(schema_version=1, name=name, created_utc="2026-01-01T00:00:00Z", fp4lab_version="0",
                          git_commit="0", git_dirty=0, cells=len(cells), cells_done=len(cells))
        file["experiment/written"] = json.dumps({"name": name})
        file["experiment/resolved"] = json.dumps({"name": name, "cells": [cell["settings"] for cell in cells]})
        file.create_group("provenance")
        file.create_group("errors")
        keys = [hashlib.sha256(f"{i} {json.dumps(cell['settings'])}".encode()).hexdigest() for i, cell in enumerate(cells)]
        table = {"key": keys, "status": [cell.get("status", "done") for cell in cells], "seconds": [0.0] * len(cells),
                 "provenance": [0.0] * len(cells)}
        for column in columns:
            found = [cell.get("row", {}).get(column) for cell in cells]
            is_text = any(isinstance(value, str) for value in found)
            table[column] = [("" if is_text else np.nan) if value is None else value for value in found]
        for position, (column, values) in enumerate(table.items()):
            is_text = isinstance(values[0], str)
            data = file.create_dataset(f"table/{column}", data=values, dtype=TEXT if is_text else "f8")
            data.attrs.update(role="cell" if position < 4 else "text" if is_text else "metric", position=position, units="",
                              shape_of="(cells)", source_equation="")
        for key, cell in zip(keys, cells):
            group = file.create_group(f"cells/{key}")
            for array, values in cell.get("arrays", {}).items():
                texts = len(values) and isinstance(values[0], str)
                group.create_dataset(array, data=list(values), dtype=TEXT if texts else "f8")
    return path
