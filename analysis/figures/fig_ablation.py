"""Table 12 as bars: what of MR-GPTQ matters: Hadamard block x search of scales x order, over calibration seeds."""
import math

import numpy as np
from matplotlib.patches import Patch

from analysis.figures import style
from analysis.figures.data import files, finite, hadamard, paper
from analysis.figures.figure import Figure

SCALES = {"rule": "the format's rule", "mse_shrink": "MSE search"}
HATCHES = {"rule": "", "mse_shrink": "////"}
ORDERS = {"static_activation": "act. order", "natural": "natural"}
FORMATS = {"e4m3": "nvfp4", "ue8m0": "mxfp4"}


def variant(cell):
    """(block, scales, order) of a GPTQ cell; None for other methods."""
    method = cell.setting("method") or {}
    scales, order = method.get("weight_scales"), method.get("order", "natural")
    if (cell.task != "model" or method.get("rounding") != "gptq" or scales not in SCALES or order not in ORDERS
            or method.get("scales", "up_front") != "up_front" or hadamard(cell) is None):
        return None
    return hadamard(cell), scales, order


def ablations(cells):
    """{(file, format): {variant: [cells, one per seed]}} where block, scales and order all vary."""
    found = {}
    for cell in cells:
        format, of = cell.setting("format") or {}, variant(cell)
        if not of or format.get("element") != "e2m1" or format.get("scale") not in FORMATS:
            continue
        if finite(cell.number("recovery_percent")):
            found.setdefault((cell.file, format["scale"]), {}).setdefault(of, []).append(cell)
    return {key: variants for key, variants in found.items()
            if all(len({v[i] for v in variants}) > 1 for i in range(3))}


def spread(values):
    """Mean and standard deviation (0 of a single value)."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def bars(axes, values):
    """values: {variant: (mean, deviation)}; one group of bars per block and order, one bar per kind of scales."""
    groups = list(dict.fromkeys((block, order) for block, _, order in values))
    for (block, scales, order), (mean, deviation) in values.items():
        at = groups.index((block, order)) + 0.4 * (list(SCALES).index(scales) - 0.5)
        axes.bar(at, mean, width=0.36, yerr=deviation or None, capsize=2.5, error_kw={"linewidth": 1},
                 color=("#9ecae1", "#fdd0a2")[list(SCALES).index(scales)], edgecolor="#333333", hatch=HATCHES[scales])
    axes.set_xticks(range(len(groups)),
                    [f"{f'H{block}' if block else 'none'}\n{ORDERS[order]}" for block, order in groups])
    axes.grid(False, axis="x")
    # Bars from zero would hide differences of a percent: the axis ends just below the least.
    least = min(mean - deviation for mean, deviation in values.values())
    most = max(mean + deviation for mean, deviation in values.values())
    axes.set_ylim(math.floor(least - 0.25 * (most - least)), most + 0.15 * (most - least))


def draw(found):
    reported = paper()["table12_recovery_percent"]
    known = any(FORMATS[scale] in reported for _, scale in found)
    figure, axes = style.new(2 if known else 1, len(found), 4.6 if known else 2.7)
    for column, ((_, scale), variants) in enumerate(found.items()):
        top = axes[0, column]
        bars(top, {v: spread([c.number("recovery_percent") for c in of]) for v, of in variants.items()})
        top.set_title(f"{FORMATS[scale].upper()}, measured", loc="left")
        rows = reported.get(FORMATS[scale], [])
        if known:
            bottom = axes[1, column]
            bars(bottom, {tuple(row[:3]): tuple(row[3:]) for row in rows})
            bottom.set_title(f"{FORMATS[scale].upper()}, paper", loc="left")
            bottom.set_xlabel("Hadamard block and column order")
        else:
            top.set_xlabel("Hadamard block and column order")
        if column == 0:
            top.set_ylabel("recovery of\nperplexity (%)")
            if known:
                axes[1, 0].set_ylabel("recovery of task\naccuracies (%)")
    handles = [Patch(facecolor=("#9ecae1", "#fdd0a2")[i], edgecolor="#333333", hatch=HATCHES[scales],
                     label="scales: " + name)
               for i, (scales, name) in enumerate(SCALES.items())]
    style.legend_below(figure, handles, 2)
    return figure


def figures(cells):
    found = dict(sorted(ablations(cells).items(), key=lambda item: list(FORMATS).index(item[0][1])))
    if not found:
        return []
    used = [cell for variants in found.values() for of in variants.values() for cell in of]
    seeds = sorted({len(of) for variants in found.values() for of in variants.values()})
    over = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    caption = (
        "GPTQ with and without a Hadamard rotation (H and its block), scales by the format's rule or by FP-Quant's search, "
        "columns by descending activation energy or as stored. Above: 100 times the perplexity of the full model over that "
        f"of the quantized one, mean and standard deviation over {over} calibration seeds. Below: the paper's Table 12, "
        f"{paper()['table12_recovery_percent']['label']}. Different models and metrics: compare orders, not heights. "
        "The axes do not begin at zero.")
    return [Figure("table12", "Table 12 as bars: block size, scales and order", caption, files(used),
                   lambda: draw(found))]
