"""Lemmas 1, 2 and 4 as measured by the task lemma: estimates with their intervals against the predictions."""
import math

import numpy as np
from matplotlib.lines import Line2D

from analysis.figures import style
from analysis.figures.data import files, finite, format_name
from analysis.figures.figure import Figure


def of_lemma(cells, *names):
    return [cell for cell in cells if cell.task == "lemma" and cell.text("lemma") in names
            and finite(*(cell.number(c) for c in ("estimate", "ci_low", "ci_high", "prediction")))]


def against_size(cells, key):
    """{key(cell): {group size: cell}} of what has at least two sizes; of several cells, the one that knows best."""
    found = {}
    for cell in cells:
        size = cell.setting("format.group_size")
        if isinstance(size, int):
            of_size = found.setdefault(key(cell), {})
            if size not in of_size or width(cell) < width(of_size[size]):
                of_size[size] = cell
    return {name: dict(sorted(of.items())) for name, of in found.items() if len(of) > 1}


def width(cell):
    return cell.number("ci_high") - cell.number("ci_low")


def with_intervals(axes, i, of_size, count, **look):
    """Points with their confidence intervals; series are set apart a little, so that intervals do not hide each other."""
    apart = 2 ** (0.16 / count * (i - (count - 1) / 2))
    values = np.array([[cell.number(c) for c in ("estimate", "ci_low", "ci_high")] for cell in of_size.values()])
    axes.errorbar([size * apart for size in of_size], values[:, 0],
                  yerr=(values[:, 0] - values[:, 1], values[:, 2] - values[:, 0]),
                  capsize=2, elinewidth=0.9, **{**style.series(i), **look})


def confidence(cells):
    return f"{100 * (cells[0].number('confidence') if finite(cells[0].number('confidence')) else 0.99):g} %"


def lemma1(cells):
    used = of_lemma(cells, "lemma1", "lemma1_unbiased")
    found = against_size(used, lambda c: (c.text("lemma") == "lemma1_unbiased", format_name(c), c.text("distribution")))
    if not found:
        return []
    found = dict(sorted(found.items()))
    shapes = {shape for _, _, shape in found}

    def plot():
        panels = sorted({unbiased for unbiased, _, _ in found})
        series = list(dict.fromkeys(key[1:] for key in found))
        figure, axes = style.new(1, len(panels), 3.1, sharey=True)
        for at, unbiased in zip(axes[0], panels):
            own = {key[1:]: of for key, of in found.items() if key[0] == unbiased}
            said = next(iter(next(iter(own.values())).values())).number("prediction")
            half = min(cell.number("tolerance") for of_size in own.values() for cell in of_size.values())
            if finite(half):
                at.axhspan(said - half, said + half, color="#e6e6e6", zorder=0)
            at.axhline(said, **style.REFERENCE)
            for name, of_size in own.items():
                i = series.index(name)
                with_intervals(at, i, of_size, len(series), linestyle=style.DASHES[i % 5])
            style.group_axis(at, [size for of in own.values() for size in of], "group size G")
            at.set_title("without the shrinkage" if unbiased else "as stated", loc="left")
        axes[0, 0].set_ylabel("MSE of the top element / MSE")
        handles = [Line2D([], [], label=name if len(shapes) < 2 else f"{name}, {shape}",
                          **style.series(i, style.DASHES[i % 5]))
                   for i, (name, shape) in enumerate(series)]
        handles.append(Line2D([], [], label="Lemma 1, with the tolerance in grey", **style.REFERENCE))
        style.legend_below(figure, handles, 3)
        return figure

    kept = [cell for of in found.values() for cell in of.values()]
    plain = {name: of for (unbiased, name, _), of in found.items() if not unbiased}
    said = "; ".join(f"{name} {of[max(of)].number('estimate'):.4f} at G = {max(of)}" for name, of in plain.items())
    caption = (
        "Under a Hadamard rotation of the group's size, by scale type, the squared error of a group's largest "
        f"element over that of any element, with {confidence(kept)} intervals. Lemma 1 says 1; its proof takes the error "
        "to be independent of the rotated values. Where quantization shrinks values a little (e2m1 does), the largest "
        "element sees it most. Without that shrinkage, E(e_top - a x_top)^2 / E(e - a y)^2 with a = E[e y] / E[y^2], the "
        "lemma should hold"
        + (f". Measured: {said}." if said else "."))
    return [Figure("lemma1", "Lemma 1: the largest element's error under rotation", caption, files(kept), plot)]


def curves(cell, *names):
    """The named arrays, None when one is missing or empty."""
    data = cell.arrays()
    found = [np.asarray(data[n], float) for n in names if n in data]
    return found if len(found) == len(names) and all(v.size > 1 for v in found) else None


def lemma2(cells):
    """Left: the relative MSE of Laplace and Normal groups and where they cross. Right: rates against their form."""
    crossing = [(c, data) for c in of_lemma(cells, "lemma2_crossover")
                if (data := curves(c, "curve.group_size", "curve.laplace", "curve.normal"))][:1]
    # One curve per distribution: that of the derived form, of the energy that rounding keeps.
    rates = {}
    for cell in of_lemma(cells, "lemma2_rate"):
        plain = cell.text("energy") in ("", "retained") and cell.text("form") in ("", "derived")
        data = plain and curves(cell, "curve.group_size", "curve.estimate", "curve.prediction")
        if data and cell.setting("format.element") == "e2m1":
            rates.setdefault(cell.text("distribution"), (cell, data))
    if not crossing and not rates:
        return []

    def plot():
        figure, axes = style.new(1, bool(crossing) + bool(rates), 3.2)
        if crossing:
            cross(axes[0, 0], *crossing[0])
        if rates:
            decay(axes[0, -1], rates)
        handles = [Line2D([], [], label=name, **style.series(i, style.DASHES[i], hollow=True))
                   for i, name in enumerate(("Laplace", "Normal"))]
        if rates:
            handles.append(Line2D([], [], label="predicted form", **style.PREDICTION))
        style.legend_below(figure, handles, 3)
        return figure

    used = [cell for cell, _ in (*crossing, *rates.values())]
    caption = "Lemma 2: "
    if crossing:
        c = crossing[0][0]
        caption += ("relative MSE of groups of Laplace and Normal values (a rotation makes the first into the second) under "
                    f"{format_name(c)} scales, by quadrature (lines) and sampled (points). The curves cross at "
                    f"G = {c.number('prediction'):.1f}; sampled, at {c.number('estimate'):.1f} "
                    f"({confidence([c])} interval {c.number('ci_low'):.1f} to {c.number('ci_high'):.1f}). ")
    if rates:
        caption += ("The energy that rounding keeps, 1 - MSE, falls as (log G)^p G^-kappa, faster for Laplace than for Normal; "
                    "the form is reached only far beyond every size in use, so it is fitted at a huge log G.")
    return [Figure("lemma2", "Lemma 2: rates and the crossover", caption.strip(), files(used), plot)]


def cross(axes, cell, data):
    size, laplace, normal = data
    sampled = curves(cell, "sampled.group_size", "sampled.laplace", "sampled.normal")
    for i, values in enumerate((laplace, normal)):
        axes.plot(size, values, color=style.SERIES[i]["color"], linestyle=style.DASHES[i])
        if sampled:
            axes.plot(sampled[0], sampled[1 + i], **dict(style.series(i, "none", hollow=True), markersize=3.5))
    axes.axvspan(cell.number("ci_low"), cell.number("ci_high"), color="#d0d0d0", zorder=0)
    axes.axvline(cell.number("prediction"), **style.REFERENCE)
    axes.annotate(f"G = {cell.number('estimate'):.1f}", (cell.number("estimate"), 0.03), (5, 0), xycoords=(
        "data", "axes fraction"), textcoords="offset points", **style.NOTE)
    ticks = [2.0 ** k for k in range(int(math.log2(size.min())), int(math.log2(size.max())) + 1)]
    style.group_axis(axes, ticks, "group size G")
    axes.set_ylabel("relative MSE")
    axes.set_title("the crossover", loc="left")


def decay(axes, rates):
    for distribution, (cell, (size, estimate, prediction)) in rates.items():
        i = 0 if distribution == "laplace" else 1
        axes.plot(np.log10(size), estimate, color=style.SERIES[i]["color"], linestyle=style.DASHES[i])
        # The form is for large G only: near G = 1 it leaves what a share of the energy can be.
        shown = prediction <= 2
        axes.plot(np.log10(size[shown]), prediction[shown], zorder=3, **style.PREDICTION)
    axes.set_yscale("log")
    axes.set_xlabel("log10 of the group size G")
    axes.set_ylabel("energy kept, 1 - MSE")
    axes.set_title("the rates", loc="left")


def lemma4(cells):
    used = of_lemma(cells, "lemma4")
    found = against_size([
        c for c in used if c.text("distribution") in ("", "normal") and c.number("log_normal_sigma") != 0], format_name)
    if not found:
        return []

    def plot():
        figure, axes = style.new(1, 1, 3.2)
        at = axes[0, 0]
        for i, (name, of_size) in enumerate(found.items()):
            with_intervals(at, i, of_size, len(found), linestyle="none")
            at.plot(list(of_size), [cell.number("prediction") for cell in of_size.values()],
                    **dict(style.REFERENCE, color=style.SERIES[i % 8]["color"]))
        at.set_yscale("log")
        style.plain_log_ticks(at.yaxis)
        style.group_axis(at, [size for of in found.values() for size in of])
        at.set_ylabel("relative MSE of the\nlargest element")
        handles = [Line2D([], [], label=name, **style.series(i, "none")) for i, name in enumerate(found)]
        handles.append(Line2D([], [], label="predicted", **style.REFERENCE))
        style.legend_below(figure, handles, 3)
        return figure

    kept = [cell for of in found.values() for cell in of.values()]
    values = "; ".join(f"{name} {np.mean([c.number('estimate') for c in of.values()]):.6f}, predicted "
                       f"{next(iter(of.values())).number('prediction'):.6f}" for name, of in found.items())
    caption = (
        "Relative squared error of each group's largest element, without rotation, when scales are spread smoothly over "
        f"octaves, with {confidence(kept)} intervals (smaller than the markers where none is seen). Lemma 4: it does not "
        f"depend on the group size, only on the rule. Means over the sizes: {values}.")
    return [Figure("lemma4", "Lemma 4: the largest element's relative error", caption, files(kept), plot)]


def figures(cells):
    return lemma1(cells) + lemma2(cells) + lemma4(cells)
