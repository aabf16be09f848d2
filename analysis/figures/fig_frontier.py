"""The frontier: KL divergence of every method and format against the bits that a weight takes."""
import math

import numpy as np
from matplotlib.lines import Line2D

from analysis.figures import style
from analysis.figures.data import files, finite
from analysis.figures.figure import Figure


def comparable(cell):
    """What two KL divergences must share to stand in one picture."""
    return str([cell.setting("model"), cell.setting("evaluate"), cell.setting("activations") is None])


def frontiers(cells):
    """Per picture, {(format, method): [cells, one per seed]} of at least two formats and two methods."""
    found = {}
    for cell in cells:
        if cell.task == "model" and {"format", "method"} <= cell.row.keys() and finite(cell.number("bits_per_weight")):
            if cell.number("kl") > 0:  # and not NaN
                of = found.setdefault(comparable(cell), {}).setdefault((cell.text("format"), cell.text("method")), [])
                # The same names in another file may mean other activations or another calibration: not a seed of these.
                if not of or of[0].file == cell.file:
                    of.append(cell)
    return [points for points in found.values()
            if len({format for format, _ in points}) > 1 and len({method for _, method in points}) > 1]


def means(points):
    """{(format, method): (bits, mean kl)}"""
    return {key: (round(of[0].number("bits_per_weight"), 4), float(np.mean([c.number("kl") for c in of])))
            for key, of in points.items()}


def rows_of(values):
    """[(bits, format)] from top to bottom: by bits, then by the least KL."""
    least = {}
    for (format, _), (bits, kl) in values.items():
        least[bits, format] = min(kl, least.get((bits, format), math.inf))
    return sorted(least, key=lambda row: (row[0], -least[row]))


def best_so_far(values):
    """{bits: least KL at this many bits or fewer}"""
    least, found = math.inf, {}
    for bits, kl in sorted(values):
        found[bits] = least = min(kl, least)
    return found


def draw(points):
    """One row per format, so that names stand beside their points however many formats there are."""
    values = means(points)
    rows = rows_of(values)
    figure, axes = style.new(1, 1, 1.2 + 0.3 * len(rows))
    at = axes[0, 0]
    for y, (bits, format) in enumerate(rows):
        own = {method: kl for (f, method), (b, kl) in values.items() if (b, f) == (bits, format)}
        best = min(own, key=own.get)
        at.plot(list(own.values()), [y] * len(own), "o", color="#9a9a9a", markersize=4)
        if "rtn" in own:
            at.plot(own["rtn"], y, "s", color="#d55e00", markerfacecolor="white", markersize=6, markeredgewidth=1.3)
        at.plot(own[best], y, "D", color="#0072b2", markersize=5.5)
        at.annotate(style.plain(best), (own[best], y), (-7, 0), textcoords="offset points", ha="right", va="center",
                    fontsize=8, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5})
    for bits, least in best_so_far(values.values()).items():
        own = [y for y, (b, _) in enumerate(rows) if b == bits]
        at.plot([least, least], [own[0] - 0.45, own[-1] + 0.45], **dict(style.REFERENCE, zorder=1))
        if own[0]:
            at.axhline(own[0] - 0.5, color="#bbbbbb", linewidth=0.8)
    at.set_xscale("log")
    style.plain_log_ticks(at.xaxis)
    lowest, highest = min(kl for _, kl in values.values()), max(kl for _, kl in values.values())
    at.set_xlim(lowest / max(highest / lowest, 2) ** 0.35, highest * 1.1)  # room for the names
    at.set_ylim(len(rows) - 0.5, -0.5)
    at.set_yticks(range(len(rows)), [f"{style.plain(format)}, {bits:.4g}" for bits, format in rows])
    at.grid(False, axis="y")
    at.set_title("by format and bits per weight", loc="left")  # few rows have no room for a label along them
    at.set_xlabel("KL(full || quantized) (nats per token)")
    handles = [Line2D([], [], color="#9a9a9a", marker="o", linestyle="none", markersize=4, label="a method"),
               Line2D([], [], color="#d55e00", marker="s", linestyle="none", markersize=6, markerfacecolor="white",
                      markeredgewidth=1.3, label="rtn"),
               Line2D([], [], color="#0072b2", marker="D", linestyle="none", markersize=5.5, label="best of the format"),
               Line2D([], [], label="least at this size or below", **style.REFERENCE)]
    style.legend_below(figure, handles, 4)
    return figure


def figures(cells):
    built = []
    for points in frontiers(cells):
        first = next(iter(points.values()))[0]
        values = means(points)
        best = min(values, key=lambda key: values[key][1])
        only = first.setting("activations") is None
        what = "weights only" if only else "weights and activations"
        # A second picture of the same kind (another model, other windows) is numbered.
        name = "frontier_weights" if only else "frontier"
        count = sum(figure.name.rstrip("0123456789") == name for figure in built)
        caption = (
            f"Each point is one method on one format ({what} quantized), the mean over its seeds; formats stand in the "
            "order of their bits per weight (scales included), the best method of each is named. Lower is closer to "
            f"the full model. Least KL: {best[1]} on {best[0]}, {values[best][1]:.3g} nats per token at {values[best][0]:.4g} bits.")
        built.append(Figure(name + (str(count + 1) if count else ""), f"KL against bits, {what} quantized", caption,
                            files([c for of in points.values() for c in of]), lambda p=points: draw(p)))
    return built
