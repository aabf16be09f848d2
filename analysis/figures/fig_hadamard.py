"""Figures 3 (e2m1) and 10 (INT4): a Hadamard of the group's size, by group size, under E8M0 and E4M3 scales."""
import math

from matplotlib.lines import Line2D

from analysis.figures import style
from analysis.figures.data import (SOURCE_NAMES, best_measured, files, finite, hadamard, paper, rule_name, scale_name,
                                   source_kind, tensors_of)
from analysis.figures.figure import Figure

SOURCES = ("laplace", "normal", "weights", "activations")
METRICS = (("mse_rel", "relative MSE of a group"), ("mse_top_rel", "relative MSE of its\nlargest element"))
# MSE_top_rel that Lemma 4 gives for e2m1 under power-of-two scales, by rule: phi(8) and phi_min of its closed form.
LEMMA4 = {"floor": 0.017164, "fpq": 0.010723, "even": 0.010723, "ceil": 0.010723}


def scale_of(cell):
    """"E8M0 floor", "E8M0 fpq", "E4M3"; "" for scales that these figures are not about."""
    format = cell.setting("format") or {}
    if format.get("scale") == "ue8m0":
        return f"E8M0 {rule_name(format)}"
    plain = format.get("scale") == "e4m3" and rule_name(format) == "absmax"
    return scale_name("e4m3") if plain and format.get("tensor_scale") != "none" else ""


def curves(cells, element):
    """{source: {(scale, rotated): {group size: cell}}}: what has at least two sizes that were measured both ways."""
    groups = {}
    for cell in cells:
        size, k = cell.setting("format.group_size"), hadamard(cell)
        if (cell.task != "tensor_error" or cell.setting("format.element") != element or not isinstance(size, int)
                or k not in (0, size) or cell.setting("method.weight_scales") not in ("rule", None)
                or not finite(*(cell.number(metric) for metric, _ in METRICS))):
            continue
        if source_kind(cell) in SOURCES and scale_of(cell):
            groups.setdefault(tensors_of(cell), {}).setdefault((scale_of(cell), k > 0, size), cell)
    found = best_measured(groups.values(), lambda group: source_kind(next(iter(group.values()))))
    chosen = {}
    for source in sorted(found, key=SOURCES.index):
        lines = {}
        for (scale, rotated, size), cell in found[source].items():
            lines.setdefault((scale, rotated), {})[size] = cell
        both = {scale: lines[scale, False].keys() & lines.get((scale, True), {}).keys()
                for scale, rotated in lines if not rotated}
        kept = {(scale, rotated): {size: lines[scale, rotated][size] for size in sorted(sizes)}
                for scale, sizes in both.items() if len(sizes) >= 2 for rotated in (False, True)}
        if kept:
            chosen[source] = kept
    return chosen


def change(lines, scale, size):
    """What the rotation does to mse_rel there, relative."""
    return lines[scale, True][size].number("mse_rel") / lines[scale, False][size].number("mse_rel") - 1


def facts(found):
    """The changes by the rotation at the size closest to 16 and at the largest, in words."""
    said = []
    for source, lines in found.items():
        parts = []
        for scale in dict.fromkeys(scale for scale, _ in lines):
            sizes = list(lines[scale, True])
            near = min(sizes, key=lambda size: abs(math.log2(size / 16)))
            parts.append(f"{scale} {style.percent(change(lines, scale, near))} at G = {near}, "
                         f"{style.percent(change(lines, scale, sizes[-1]))} at {sizes[-1]}")
        said.append(f"{SOURCE_NAMES[source]}: {'; '.join(parts)}")
    return ". ".join(said)


def draw(found, element):
    scales = list(dict.fromkeys(scale for lines in found.values() for scale, _ in lines))
    figure, axes = style.new(2, len(found), 4.9, sharey="row")
    for column, (source, lines) in enumerate(found.items()):
        for row, (metric, name) in enumerate(METRICS):
            at = axes[row, column]
            for (scale, rotated), of_size in lines.items():
                look = style.series(scales.index(scale), style.DASHES[1] if rotated else "-", hollow=rotated)
                at.plot(list(of_size), [cell.number(metric) for cell in of_size.values()], **look)
            at.set_yscale("log")
            style.plain_log_ticks(at.yaxis)
            style.group_axis(at, [size for of_size in lines.values() for size in of_size],
                             "group size G" if row else "")
            if column == 0:
                at.set_ylabel(name)
            if row == 0:
                at.set_title(SOURCE_NAMES[source], loc="left")
            elif element == "e2m1":
                for value in {LEMMA4[rule] for rule in (s.partition(" ")[2] for s, _ in lines) if rule in LEMMA4}:
                    at.axhline(value, **style.REFERENCE)
                at.axhline(paper()["figure3_top_element"]["e8m0"], color="#a0a0a0", linewidth=3, alpha=0.5, zorder=0)
    handles = [Line2D([], [], label=f"{scale}, {'rotated' if rotated else 'native'}",
                      **style.series(i, style.DASHES[1] if rotated else "-", hollow=rotated))
               for rotated in (False, True) for i, scale in enumerate(scales)]
    if element == "e2m1":
        handles.append(Line2D([], [], label="E8M0 in the limit (Lemma 4)", **style.REFERENCE))
        handles.append(Line2D([], [], color="#a0a0a0", linewidth=3, alpha=0.5, label="paper: E8M0, about 8e-3"))
    style.legend_below(figure, handles, 3)
    return figure


def build(cells, element, name, title):
    found = curves(cells, element)
    if not found:
        return []
    caption = (
        "Mean over groups of the error's energy over the group's, and of the same for its largest element alone, in the "
        "original coordinates; round to nearest, native (full) and after a Hadamard rotation of each group (dashed). "
        "Scales are E4M3 with a scale of the tensor, or powers of two by the rules floor (OCP) and fpq (the paper's). "
        f"What the rotation changes in the relative MSE: {facts(found)}.")
    if element == "e2m1":
        caption += (" Where scales spread smoothly over octaves, native E8M0 top errors do not depend on G: Lemma 4 "
                    f"gives .0172 for floor and .0107 for fpq. The paper reports: {paper()['figure3_top_element']['says']}.")
    used = [cell for lines in found.values() for of_size in lines.values() for cell in of_size.values()]
    return [Figure(name, title, caption, files(used), lambda: draw(found, element))]


def figure3(cells):
    return build(cells, "e2m1", "figure3", "Figure 3: the Hadamard rotation and the group size, FP4")


def figure10(cells):
    return build(cells, "int4", "figure10", "Figure 10: the Hadamard rotation and the group size, INT4")
