"""Figures as SVG that stands inside a page."""
import sys
import traceback
import xml.etree.ElementTree as ElementTree

from analysis.report.markup import Markup, tag

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"


def inline(svg, label):
    """An SVG document as an element of an HTML page: no prolog, comments or metadata, no reference out of the page."""
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}title", f"{{{SVG}}}script"):
                parent.remove(child)
        link = parent.get(f"{{{XLINK}}}href")
        if link is not None and not link.startswith(("#", "data:image/")):
            del parent.attrib[f"{{{XLINK}}}href"]
    # The box gives the shape; the page's style gives the size.
    root.attrib.pop("height", None)
    root.set("role", "img")
    root.set("aria-label", label)
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def explain(what, error):
    """Tells the person at the terminal, with the place in the code; returns the error's own text."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    text = f"{type(error).__name__}: {error}"
    print(f"fp4lab: {what}: {text} ({place.filename}:{place.lineno})", file=sys.stderr)
    return text


def find_figures(paths):
    """(figures, problem): what analysis.figures draws from these files; none, and why, when it fails."""
    try:
        from analysis.figures import figures_of
        return list(figures_of(paths)), ""
    except Exception as error:  # a page without figures is better than no page
        return [], explain("the figures could not be made", error)


def figure_element(figure, number):
    """<figure> with its picture, or with the reason why there is none."""
    try:
        from analysis.figures import svg
        picture = inline(svg(figure), figure.title)
    except Exception as error:
        explain(f"the figure {figure.name} could not be drawn", error)
        picture = tag("p", f"This figure could not be drawn: {type(error).__name__}: {error}", class_="problem")
    return tag("figure", tag("div", picture, class_="picture"),
               tag("figcaption", tag("b", figure.title + "."), " ", figure.caption, " ",
                   tag("span", "From " + ", ".join(map(str, figure.sources)) + ".", class_="units")),
               id=f"figure-{number}") + Markup("\n")
