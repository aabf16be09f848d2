"""One figure: its words, where its data came from, how it is drawn and turned into bytes."""
import io
import re
from dataclasses import dataclass, field
from typing import Callable

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG

from analysis.figures import style


@dataclass(frozen=True)
class Figure:
    name: str  # of its files: "figure3"
    title: str
    caption: str  # plain text: what is plotted, what to see, what the paper reports
    sources: tuple  # names of the result files
    plot: Callable = field(repr=False)  # () -> matplotlib Figure, under the style that draw() sets

    def draw(self):
        """A matplotlib Figure, independent of pyplot and of the settings of the caller."""
        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(style.RC)
            return self.plot()


def svg(figure):
    """The SVG as text, the same for the same data: no date, no random ids, text as outlines.

    Outlines, since a browser without our font would set text of another width into the drawing. Every id starts with the
    figure's name, so that several figures can stand in one HTML page.
    """
    out = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "fp4lab", "svg.fonttype": "path"}):
        FigureCanvasSVG(figure.draw()).print_svg(out, metadata={"Date": None, "Creator": None, "Title": figure.title})
    text = re.sub(r'\bid="', f'id="{figure.name}-', out.getvalue())
    text = re.sub(r'href="#', f'href="#{figure.name}-', text)
    return text.replace("url(#", f"url(#{figure.name}-")


def png(figure):
    """The PNG as bytes, at twice the resolution of a plain screen."""
    out = io.BytesIO()
    drawing = figure.draw()
    drawing.set_dpi(192)
    FigureCanvasAgg(drawing).print_png(out, metadata={"Software": None})
    return out.getvalue()
