"""Figure 4: group scales of weights and activations against what each type of scale can hold."""
import math

import numpy as np
from matplotlib.colors import to_rgba
from matplotlib.lines import Line2D

from analysis.figures import style
from analysis.figures.data import (SOURCE_NAMES, best_measured, files, finite, hadamard, scale_name, source_kind,
                                   tensors_of)
from analysis.figures.figure import Figure

ARRAYS = ("histogram.edges", "histogram.counts", "scale_type.name", "scale_type.log2_min", "scale_type.log2_max")
# The types of the paper's figure first; others that a file knows are left to its table.
TYPES = ("e8m0", "e5m2", "e4m3", "e3m4", "e2m5")
KINDS = ("weights", "activations")


def chosen(cells):
    """{(element, group size): {(kind, rotated): cell}}"""
    groups = {}
    for cell in cells:
        k, kind = hadamard(cell), source_kind(cell)
        if cell.task != "scale_range" or k is None or kind not in KINDS or any(a not in cell.arrays() for a in ARRAYS):
            continue
        size, element = cell.setting("format.group_size"), cell.setting("format.element")
        if k in (0, size):
            groups.setdefault((element, size, tensors_of(cell)), {}).setdefault((kind, k > 0), cell)
    found = {}
    for format in dict.fromkeys(key[:2] for key in groups):
        of_kind = best_measured([g for key, g in groups.items() if key[:2] == format], lambda g: next(iter(g))[0])
        found[format] = {key: cell for group in of_kind.values() for key, cell in group.items()}
    return found


def share(value):
    """A share in words: "0", "2.0 %", "<0.1 %", "" when it was not measured."""
    if not finite(value):
        return ""
    return "0" if value == 0 else "<0.1 %" if value < 1e-3 else f"{100 * value:.1f} %"


def lost(cell, scale_type):
    """The share of groups above the largest or below the smallest scale, without a scale of the tensor."""
    return share(cell.number(f"{scale_type}_clipped_share") + cell.number(f"{scale_type}_underflow_share"))


def histograms(axes, of_cell):
    for (kind, rotated), cell in of_cell.items():
        data = cell.arrays()
        counts = np.asarray(data["histogram.counts"], float)
        edges = data["histogram.edges"]
        i = KINDS.index(kind)
        look = {"color": style.SERIES[i]["color"], "linestyle": style.DASHES[1] if rotated else "-"}
        octaves = counts / counts.sum() / np.diff(edges)
        axes.stairs(octaves, edges, baseline=None, linewidth=1.3, **look)
        if not rotated:
            axes.stairs(octaves, edges, fill=True, facecolor=to_rgba(look["color"], 0.15), edgecolor=to_rgba(
                look["color"], 0.5), hatch=("", "////")[i], linewidth=0)


def bars(axes, of_cell, types, limits):
    first = next(iter(of_cell.values())).arrays()
    ranges = dict(zip(first["scale_type.name"], zip(first["scale_type.log2_min"], first["scale_type.log2_max"])))
    columns = [kind for kind in KINDS if (kind, False) in of_cell]
    for row, name in enumerate(types):
        low, high = ranges[name]
        # A range beyond the axis leaves through its side.
        left, right = max(low, limits[0]), min(high, limits[1])
        axes.barh(row, right - left, left=left, height=0.5, color="#bdbdbd", edgecolor="#555555", clip_on=True)
        axes.text((left + right) / 2, row, f"$2^{{{low:.3g}}}$ to $2^{{{high:.3g}}}$", ha="center", va="center",
                  fontsize=8)
        for column, kind in enumerate(columns):
            axes.text(1.07 + 0.14 * column, row, lost(of_cell[kind, False], name), ha="center", va="center",
                      transform=axes.get_yaxis_transform(), **style.NOTE)
    for column, kind in enumerate(columns):
        axes.text(1.07 + 0.14 * column, -0.75, SOURCE_NAMES[kind], ha="center", va="center",
                  transform=axes.get_yaxis_transform(), **style.NOTE)
    if columns:
        axes.text(1.07 + 0.07 * (len(columns) - 1), -1.25, "groups outside", ha="center", va="center",
                  transform=axes.get_yaxis_transform(), **style.NOTE)
    axes.set_yticks(range(len(types)), [scale_name(t if t != "e8m0" else "ue8m0") for t in types])
    axes.set_ylim(len(types) - 0.5, -0.5)
    axes.grid(False, axis="y")
    axes.set_xlabel("log2 of the group's scale, amax / Qmax")


def draw(of_cell, types):
    figure, axes = style.new(2, 1, 3.9, sharex=True, gridspec_kw={"height_ratios": (1.25, 1)})
    top, bottom = axes[:, 0]
    histograms(top, of_cell)
    edges = [cell.arrays()["histogram.edges"] for cell in of_cell.values()]
    limits = (math.floor(min(-17, *(e[0] - 1 for e in edges))), math.ceil(max(17, *(e[-1] + 1 for e in edges))))
    bars(bottom, of_cell, types, limits)
    top.set_xlim(*limits)
    top.set_ylim(bottom=0)
    top.set_ylabel("share of groups\nper octave")
    handles = [Line2D([], [], color=style.SERIES[KINDS.index(kind)]["color"],
                      linestyle=style.DASHES[1] if rotated else "-",
                      label=SOURCE_NAMES[kind] + (", Hadamard" if rotated else ", native")) for kind, rotated in of_cell]
    style.legend_below(figure, handles, 4)
    return figure


def figures(cells):
    built = []
    for (element, size), of_cell in chosen(cells).items():
        known = set.intersection(*(set(cell.arrays()["scale_type.name"]) for cell in of_cell.values()))
        types = [t for t in TYPES if t in known]
        of_cell = dict(sorted(of_cell.items(), key=lambda item: (KINDS.index(item[0][0]), item[0][1])))
        caption = (
            f"Scales that groups of {size} would have in {element} if scales were not rounded, as a histogram over their "
            "logarithm, and below it what each type of scale can hold (its positive numbers), without a scale of the "
            "tensor. At the right, the share of native groups whose scale is above the largest number or rounds to zero. "
            "A tensor scale moves the histogram along the axis; its width decides whether a type suffices.")
        built.append(Figure(f"figure4_g{size}", f"Figure 4: group scales and the ranges of scale types, groups of {size}",
                            caption, files(of_cell.values()), lambda c=of_cell, t=types: draw(c, t)))
    return built
