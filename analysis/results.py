"""Reads a consolidated result file (its layout: results/README.md).

    from analysis import results
    table = results.load("results/table1-tiny.h5")      # a pandas DataFrame, or a dict of NumPy arrays
    print(table[["format", "method", "perplexity"]])

Numbers are float64 with NaN for "not measured"; texts are str. Needs h5py and NumPy; pandas is optional.
"""
import h5py
import numpy as np

try:
    import pandas
except ImportError:
    pandas = None


def _values(dataset):
    """The array of a dataset: float64 or another number type as stored, or an object array of str."""
    if h5py.check_string_dtype(dataset.dtype) is None:
        return dataset[()]
    if dataset.shape == ():
        return dataset.asstr(errors="replace")[()]
    # h5py 3.7 cannot decode an empty selection.
    return dataset.asstr(errors="replace")[()] if dataset.size else np.empty(dataset.shape, dtype=object)


def load(path, role=None):
    """The table, one row per cell, columns in the order they were declared.

    A DataFrame when pandas can be imported, else a dict {column: array (cells)}.
    role: only these columns, one of "cell" (key, status, seconds, provenance), "axis", "metric", "text".
    Raises OSError when the file is no HDF5 file, KeyError when it has no table.
    """
    with h5py.File(path, "r") as file:
        columns = [d for d in file["table"].values() if role is None or d.attrs["role"] == role]
        columns.sort(key=lambda d: d.attrs["position"])
        table = {d.name.rsplit("/", 1)[-1]: _values(d) for d in columns}
    return table if pandas is None else pandas.DataFrame(table)


def units(path):
    """{column: (units, source equation)} of the table."""
    with h5py.File(path, "r") as file:
        return {name: (d.attrs["units"], d.attrs["source_equation"]) for name, d in file["table"].items()}


def arrays(path, key):
    """{name: array} of one finished cell. `key` may be shortened while it is unique; KeyError otherwise."""
    with h5py.File(path, "r") as file:
        found = [k for k in file["cells"] if k.startswith(key)]
        if len(found) != 1:
            raise KeyError(f"{path}: {len(found)} finished cells have a key that starts with {key!r}")
        return {name: _values(d) for name, d in file["cells"][found[0]].items()}


def paired(path, key, other, name):
    """Mean and standard error of arrays(key)[name] - arrays(other)[name], element by element.

    For what two cells measured on the same windows or tensors: paired("x.h5", a, b, "windows.selfgen.nll") compares two
    methods far below the spread of the windows. ValueError when the two arrays have different shapes or begin at
    different tokens.
    """
    mine, theirs = arrays(path, key), arrays(path, other)
    starts = name.rpartition(".")[0] + ".start"
    if mine[name].shape != theirs[name].shape or not np.array_equal(mine.get(starts), theirs.get(starts)):
        raise ValueError(f"{path}: {name} of these cells is not of the same windows")
    difference = mine[name] - theirs[name]
    error = difference.std(ddof=1) / np.sqrt(difference.size) if difference.size > 1 else np.nan
    return difference.mean(), error


def provenance(path):
    """One dict per process that ran cells, in the order of the table's `provenance` column."""
    with h5py.File(path, "r") as file:
        fields = {name: _values(d) for name, d in file["provenance"].items()}
    rows = max((len(v) for v in fields.values()), default=0)
    return [{name: values[i] for name, values in fields.items()} for i in range(rows)]


def experiment(path):
    """The root attributes and the sweep: {"name": ..., "git_commit": ..., "written": JSON, "resolved": JSON}."""
    with h5py.File(path, "r") as file:
        found = {name: value.item() if isinstance(value, np.generic) else value for name, value in file.attrs.items()}
        found.update((name, _values(d)) for name, d in file["experiment"].items())
    return found


def errors(path):
    """The failed cells, as `load` gives the table: key, message and the axes."""
    with h5py.File(path, "r") as file:
        columns = sorted(file["errors"].values(), key=lambda d: d.attrs["position"])
        table = {d.name.rsplit("/", 1)[-1]: _values(d) for d in columns}
    return table if pandas is None else pandas.DataFrame(table)
