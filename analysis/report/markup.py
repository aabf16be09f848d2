"""HTML by construction: text is escaped unless it is Markup, so that a label is harmless whatever it holds."""
import html
import math
import re

VOID = {"meta", "input", "br", "link"}
# What HTML does not allow in a document, even escaped.
FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufdd0-\ufdef\ufffe\uffff\ud800-\udfff]")


class Markup(str):
    """HTML that is finished: not escaped again. What is added to it is escaped if it is not Markup too."""

    def __add__(self, other):
        return Markup(str(self) + str(text(other)))


def text(value):
    """Anything as escaped text; Markup stays as it is, None is nothing."""
    if isinstance(value, Markup):
        return value
    return Markup("" if value is None else html.escape(FORBIDDEN.sub("\ufffd", str(value)), quote=True))


def tag(name, /, *children, **attributes):
    """<name attribute="...">children</name>. A trailing _ of an attribute is dropped (class_), other _ become '-';
    None leaves it out, True gives it without a value."""
    head = name
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            head += f" {key}"
        elif value is not None:
            head += f' {key}="{text(value)}"'
    if name in VOID:
        return Markup(f"<{head}>")
    return Markup(f"<{head}>{join(children)}</{name}>")


def join(parts, separator=""):
    return Markup(text(separator).join(text(p) for p in parts))


def number(value, digits=5):
    """`digits` significant digits; exponents below 1e-4 and from 1e6 on; integers as they are; – for NaN."""
    value = float(value)
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == int(value) and abs(value) < 1e9:
        shown = str(int(value))
    elif 1e-4 <= abs(value) < 1e6:
        shown = f"{value:#.{digits}g}".rstrip(".")
        if "e" in shown:  # 999999.7 in five digits
            shown = str(round(value))
    else:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        shown = f"{mantissa}e{int(exponent)}"
    return shown.replace("-", "−", 1) if shown.startswith("-") else shown


class Cell:
    """One cell of a table: what is shown, and the number it is sorted by (None: by its text)."""

    def __init__(self, shown, key=None, class_=None):
        self.shown, self.key, self.class_ = shown, key, class_


def number_cell(value, digits=5):
    value = float(value)
    return Cell(number(value, digits), None if math.isnan(value) else repr(value), "number")


def mean_cell(values):
    """Mean ± standard deviation (n - 1) of what was measured; the value alone of one."""
    values = [float(v) for v in values if not math.isnan(v)]
    if len(values) < 2:
        return number_cell(values[0] if values else math.nan)
    mean = values[0] if len(set(values)) == 1 else math.fsum(values) / len(values)
    deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))
    return Cell(f"{number(mean)} ± {number(deviation, 2)}", repr(mean), "number")


class Head:
    """A column's head: its name, units ("" for none), and whether its cells are numbers."""

    def __init__(self, name, units="", number=False):
        self.name, self.units, self.number = name, units, number


def table(caption, heads, rows, labels=1, class_=None):
    """A table that the page's script can sort. `rows`: lists of Cell or text; the first `labels` cells name the row.

    The cells of a row after its end are left empty.
    """
    head = [tag("th", h.name, *([" ", tag("span", h.units, class_="units")] if h.units else []), scope="col",
                class_="number" if h.number else None) for h in heads]
    body = []
    for row in rows:
        cells = []
        for i, cell in enumerate(row):
            cell = cell if isinstance(cell, Cell) else Cell(cell)
            key, class_ = cell.key, cell.class_
            if i < labels and class_ is None and len(cell.shown) <= 28:
                class_ = "short"  # not broken: "mxfp4-paper" reads better in one piece
            cells.append(tag("th", cell.shown, scope="row", class_=class_, data_key=key) if i < labels else
                         tag("td", cell.shown, class_=class_, data_key=key))
        body.append(tag("tr", *cells))
    whole = tag("table", tag("caption", tag("span", caption)), "\n", tag("thead", tag("tr", *head)), "\n",
                tag("tbody", join(body, "\n")), class_=class_)
    # Wide tables scroll in a box of their own, which the keyboard reaches.
    return tag("div", whole, class_="wide", tabindex="0", role="group", aria_label="table") + Markup("\n")


def folded(summary, *content, open_=False):
    """A part that is shown on a click, without a script."""
    return tag("details", tag("summary", summary), *content, open=True if open_ else None) + Markup("\n")
