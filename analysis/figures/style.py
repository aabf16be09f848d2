"""How all figures look: 7 inches wide, legible at 100 %, distinct in grey by marker and line style."""
import math

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

WIDTH = 7.0  # inches
RC = {
    "font.family": "DejaVu Sans", "font.size": 9, "axes.titlesize": 9, "axes.labelsize": 9,
    "xtick.labelsize": 8, "ytick.labelsize": 8, "legend.fontsize": 8,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.8,
    "axes.grid": True, "axes.axisbelow": True, "grid.color": "#e4e4e4", "grid.linewidth": 0.6,
    "lines.linewidth": 1.3, "lines.markersize": 4.5, "patch.linewidth": 0.8, "hatch.linewidth": 0.6,
    "legend.frameon": False, "figure.dpi": 96, "savefig.facecolor": "white",
}
# Colours that colour-blind readers tell apart and whose greys differ, each with its own marker.
SERIES = (
    {"color": "#0072b2", "marker": "o"}, {"color": "#d55e00", "marker": "s"}, {"color": "#000000", "marker": "^"},
    {"color": "#009e73", "marker": "D"}, {"color": "#cc79a7", "marker": "v"}, {"color": "#7f5f00", "marker": "P"},
    {"color": "#56b4e9", "marker": "X"}, {"color": "#666666", "marker": "*"},
)
DASHES = ("-", (0, (4, 2)), (0, (1, 1.3)), (0, (5, 1.5, 1, 1.5)), (0, (3, 1, 1, 1, 1, 1)))
NOTE = {"color": "#444444", "fontsize": 8}
PREDICTION = {"color": "#000000", "linewidth": 1.2, "linestyle": (0, (1, 2))}
REFERENCE = {"color": "#666666", "linewidth": 0.9, "linestyle": (0, (1, 2))}


def series(i, line="-", hollow=False):
    """The i-th series' keywords for plot()."""
    look = dict(SERIES[i % len(SERIES)], linestyle=line)
    return dict(look, markerfacecolor="white") if hollow else look


def new(rows, cols, height, **options):
    """(Figure, array of axes (rows, cols)); nothing of pyplot, so that drawing leaves no state behind."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.06)
    return figure, figure.subplots(rows, cols, squeeze=False, **options)


def legend_below(figure, handles, columns):
    """A legend under all axes, where it covers nothing."""
    height = (math.ceil(len(handles) / columns) * 0.185 + 0.1) / figure.get_figheight()
    figure.get_layout_engine().set(rect=(0, height, 1, 1 - height))
    # Dash patterns need room to be told apart; markers alone do not.
    lines = any(h.get_linestyle() != "None" for h in handles if hasattr(h, "get_marker"))
    figure.legend(handles=handles, loc="lower center", ncol=columns, columnspacing=1.6, borderaxespad=0.2,
                  handlelength=3.2 if lines else 1.6)


def group_axis(axes, sizes, label="group size G (elements)"):
    """A log2 axis with ticks at the sizes that were measured, every second one labelled where there are many."""
    sizes = sorted(set(sizes))
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_minor_locator(NullLocator())
    step = math.ceil(len(sizes) / 6)
    axes.set_xticks(sizes, [f"{int(s)}" if i % step == 0 else "" for i, s in enumerate(sizes)])
    axes.set_xlabel(label)


def plain(text):
    """A name that a person gave, as it is: without a meaning for its dollar signs."""
    return text.replace("$", r"\$")


def percent(ratio):
    """A relative change with its sign: +6.2 %."""
    value = 100 * ratio
    return f"{value:+.1f} %" if abs(value) < 9.95 else f"{value:+.0f} %"


def plain_log_ticks(axis):
    """On a logarithmic axis: 0.005, 0.01, 0.02 instead of powers of ten alone, as many as are legible."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.5f}".rstrip("0").rstrip(".")
                                           if value >= 1e-4 else f"{value:.0e}"))
    axis.set_minor_locator(NullLocator())
