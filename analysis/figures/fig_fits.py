"""Figure 2: how weights and activations are distributed, native and rotated, against five fitted families."""
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from analysis.figures import style
from analysis.figures.data import (SOURCE_NAMES, best_measured, files, finite, hadamard, paper, source_kind,
                                   tensors_of)
from analysis.figures.figure import Figure

FAMILIES = {"normal": "Normal", "laplace": "Laplace", "student_t": "Student t",
            "generalized_gaussian": "generalized Gaussian", "logistic": "logistic"}
ARRAYS = ["histogram.edges", "histogram.density", *("fit." + family for family in FAMILIES)]


def chosen(cells):
    """{kind of tensors: {"native": cell, "rotated": cell}}; rotated: by the largest block that was measured."""
    groups = {}
    for cell in cells:
        k = hadamard(cell)
        if cell.task != "distribution" or k is None or not finite(cell.number("excess_kurtosis")):
            continue
        if any(name not in cell.arrays() for name in ARRAYS):
            continue
        of_tensors = groups.setdefault(tensors_of(cell), {})
        state = "rotated" if k else "native"
        if state not in of_tensors or k > hadamard(of_tensors[state]):
            of_tensors[state] = cell
    found = best_measured(groups.values(), lambda states: source_kind(next(iter(states.values()))))
    order = ["weights", "activations"]
    return dict(sorted(found.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order)))


def panel(axes, cell, name, reported):
    data = cell.arrays()
    edges, density = data["histogram.edges"], data["histogram.density"]
    axes.stairs(density, edges, fill=True, color="#d3d3d3", baseline=1e-300)
    centres = (edges[1:] + edges[:-1]) / 2
    for i, family in enumerate(FAMILIES):
        axes.plot(centres, data["fit." + family], color=style.SERIES[i]["color"], linestyle=style.DASHES[i])
    axes.set_yscale("log")
    least = density[density > 0].min()
    axes.set_ylim(least / 2, density.max() * 30)  # room for the words; the fits' far tails may leave below
    axes.set_xlim(edges[0], edges[-1])
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=(1, 1.5, 3, 6, 10)))
    axes.set_title(name, loc="left")
    fit = cell.text("best_fit")
    words = f"excess kurtosis {cell.number('excess_kurtosis'):.3g}"
    words += f" (paper: {reported['kurtosis']:g})" if reported else ""
    words += f"\nleast AIC: {FAMILIES.get(fit, fit)}" if fit else ""
    words += f" (paper: {FAMILIES[reported['fit']]})" if fit and reported else ""
    axes.text(0.02, 0.97, words, transform=axes.transAxes, va="top", **style.NOTE)


def figures(cells):
    found = chosen(cells)
    if not found:
        return []
    known = paper()["figure2_kurtosis_excess"]

    def plot():
        states = [s for s in ("native", "rotated") if any(s in of_kind for of_kind in found.values())]
        figure, axes = style.new(len(found), len(states), 0.75 + 2.25 * len(found), sharex="row")
        for row, (kind, of_kind) in enumerate(found.items()):
            for column, state in enumerate(states):
                at = axes[row, column]
                if state not in of_kind:
                    at.set_visible(False)
                    continue
                cell = of_kind[state]
                reported = kind in known and {"kurtosis": known[kind][state], "fit": known["best_fit"][state]}
                rotated = f"Hadamard, blocks of {hadamard(cell)}"
                panel(at, cell, f"{SOURCE_NAMES.get(kind, kind)}, {rotated if hadamard(cell) else 'native'}", reported)
                at.set_xlabel("value / rms of its tensor" if cell.text("normalize") != "none" else "value")
                if column == 0:
                    at.set_ylabel("probability density")
        handles = [Patch(color="#d3d3d3", label="measured")]
        handles += [Line2D([], [], color=style.SERIES[i]["color"], linestyle=style.DASHES[i], label=name)
                    for i, name in enumerate(FAMILIES.values())]
        style.legend_below(figure, handles, 3)
        return figure

    used = [cell for of_kind in found.values() for cell in of_kind.values()]
    measured = []
    for kind, of_kind in found.items():
        values = [f"{of_kind[s].number('excess_kurtosis'):.3g} {s}" for s in ("native", "rotated") if s in of_kind]
        measured.append(f"{SOURCE_NAMES.get(kind, kind)} {', '.join(values)}")
    caption = (
        "Histograms of all values, each tensor divided by its rms, with the densities of five families at their "
        f"maximum-likelihood parameters; logarithmic density. Excess kurtosis (0: Normal, 3: Laplace): "
        f"{'; '.join(measured)}. "
        f"The paper reports, for {known['model']}, weights {known['weights']['native']} native and "
        f"{known['weights']['rotated']} rotated, activations {known['activations']['native']} and "
        f"{known['activations']['rotated']}: Laplace before, Normal after the rotation.")
    return [Figure("figure2", "Figure 2: distributions and their fits", caption, files(used), plot)]
