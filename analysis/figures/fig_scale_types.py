"""Figures 8 and 9 (Appendix C): the cost of storing group scales in eight bits, by exponent and mantissa bits."""
from matplotlib.lines import Line2D

from analysis.figures import style
from analysis.figures.data import (SOURCE_NAMES, best_measured, files, finite, hadamard, paper, rule_name, scale_name,
                                   source_kind, tensors_of)
from analysis.figures.figure import Figure

SOURCES = ("weights", "activations", "normal", "laplace")
SCALES = ("fp16", "bf16", "int8", "e1m6", "e2m5", "e3m4", "e4m3", "ue5m3", "e5m2", "e6m1", "e7m0", "ue8m0")
RULES = ("fpq", "floor", "even", "ceil")
UNROUNDED = "fp32"
LINEAR = 1.0  # percent: below it the axis is linear


def scale_of(cell):
    """(position in the figure, name) of the cell's scale; None for what the figure is not about."""
    format = cell.setting("format") or {}
    scale, rule = format.get("scale"), rule_name(format)
    plain = hadamard(cell) == 0 and cell.setting("method.weight_scales") in ("rule", None)
    if format.get("element") != "e2m1" or not plain:
        return None
    if scale == "ue8m0":
        return ((SCALES.index(scale), RULES.index(rule)), f"E8M0 {rule}") if rule in RULES else None
    if rule != "absmax" or scale not in (*SCALES, UNROUNDED):
        return None
    alone = scale == "e4m3" and format.get("tensor_scale") == "none"
    place = (-1, 0) if scale == UNROUNDED else (SCALES.index(scale), int(alone))
    return place, scale_name(scale) + (" alone" if alone else "")


def key_of(cell):
    return cell.setting("format.group_size"), source_kind(cell)


def increases(cells):
    """{group size: {source: {(place, name): cell, increase of mse_rel}}} where the unrounded scale was measured too."""
    measured = {}
    for cell in cells:
        size = cell.setting("format.group_size")
        if cell.task == "tensor_error" and isinstance(size, int) and source_kind(cell) in SOURCES and scale_of(cell):
            if finite(cell.number("mse_rel")):
                measured.setdefault((size, tensors_of(cell)), {}).setdefault(scale_of(cell), cell)
    largest = best_measured(measured.values(), lambda group: key_of(next(iter(group.values()))))
    found = {}
    for (size, source), of_scale in sorted(largest.items(), key=lambda item: (item[0][0], SOURCES.index(item[0][1]))):
        base = next((cell for (_, name), cell in of_scale.items() if name == scale_name(UNROUNDED)), None)
        others = {key: of_scale[key] for key in sorted(of_scale) if of_scale[key] is not base}
        # An ablation, not any sweep that happens to hold a format with FP32 scales.
        if base is not None and len(others) >= 4 and base.number("mse_rel") > 0:
            found.setdefault(size, {})[source] = {
                key: (cell, cell.number("mse_rel") / base.number("mse_rel") - 1) for key, cell in others.items()}
    return found


def paper_increase(name, size):
    """The paper's percentage for this scale at this group size; None when it reports none."""
    known = paper()["appendix_c_scale_quantization"]
    key = {"E8M0 fpq": "ue8m0"}.get(name, name.lower())
    return known["increase_percent"].get(key) if size == known["group_size"] else None


def draw(found):
    names = [name for _, name in sorted({key for sources in found.values() for of in sources.values() for key in of})]
    sources = [s for s in SOURCES if any(s in of for of in found.values())]
    figure, axes = style.new(1, len(found), 1.35 + 0.23 * len(names), sharey=True)
    reference = {"color": "#888888", "marker": "|", "linestyle": "none", "markersize": 13, "markeredgewidth": 2.2}
    for at, (size, of_source) in zip(axes[0], found.items()):
        for row, name in enumerate(names):
            reported = paper_increase(name, size)
            if reported is not None:
                at.plot(reported, row, **reference)
        for source, of_scale in of_source.items():
            look = dict(style.series(sources.index(source), "none"), markeredgewidth=1.1)
            if source in ("normal", "laplace"):
                look["markerfacecolor"] = "none"
            step = 0.16 * (sources.index(source) - (len(sources) - 1) / 2)
            at.plot([100 * increase for _, increase in of_scale.values()],
                    [names.index(name) + step for _, name in of_scale], **look)
        at.set_xscale("symlog", linthresh=LINEAR, linscale=0.5)
        at.axvline(0, color="#888888", linewidth=0.8)
        at.set_xticks([0, 1, 3, 10, 30, 100], ["0", "1", "3", "10", "30", "100"])
        at.minorticks_off()
        at.set_yticks(range(len(names)), names)
        at.set_ylim(len(names) - 0.5, -0.5)
        at.set_title(f"groups of {size}", loc="left")
        at.set_xlabel("rise of the relative MSE (%)")
    handles = [Line2D([], [], label=SOURCE_NAMES[s], **dict(style.series(i, "none"), **(
        {"markerfacecolor": "none"} if s in ("normal", "laplace") else {}))) for i, s in enumerate(sources)]
    handles.append(Line2D([], [], label="paper (groups of 16)", **reference))
    style.legend_below(figure, handles, 5)
    return figure


def figures(cells):
    found = increases(cells)
    if not found:
        return []
    said = []
    size = next(iter(found))
    for source, of_scale in found[size].items():
        parts = [f"{name} {style.percent(increase)}" for (_, name), (_, increase) in of_scale.items()
                 if name in ("E4M3", "E8M0 fpq", "E8M0 floor", "E8M0 even")]
        said.append(f"{SOURCE_NAMES[source]} {', '.join(parts)}")
    caption = (
        "How much larger the mean relative MSE of a group in e2m1 is when its scale is stored in the named type than when "
        "it is not rounded (FP32); linear below 1 %. 8-bit types have a scale of the tensor beside them, except E8M0 and "
        f"what is marked \"alone\"; INT8 and E1M6 are the same numbers; fpq is the paper's rule for E8M0."
        f" Groups of {size}: {'; '.join(said)}. "
        f"The paper reports: {paper()['appendix_c_scale_quantization']['says']}.")
    used = [cell for of_source in found.values() for of in of_source.values() for cell, _ in of.values()]
    return [Figure("figure8", "Figures 8 and 9: types of group scales", caption, files(used), lambda: draw(found))]
