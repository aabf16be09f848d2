"""The whole page: contents, figures of several files, a section per sweep."""
import base64
import hashlib
import json
import os

from analysis.report import sections
from analysis.report.markup import Cell, Head, Markup, folded, join, number, number_cell, table, tag
from analysis.report.pictures import figure_element, find_figures
from analysis.report.result import Result, parse

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))


def own_file(name):
    with open(os.path.join(HERE, name), encoding="utf-8") as file:
        return file.read()


def sweep_file(result):
    """The file of experiments/sweeps that this sweep was written in, word for word; None when it is in none."""
    folder = os.path.join(ROOT, "experiments", "sweeps")
    if not result.sweep or not os.path.isdir(folder):
        return None
    for name in sorted(os.listdir(folder)):
        if not name.endswith(".json"):
            continue
        try:
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                found = parse(file.read())
        except (OSError, UnicodeDecodeError):
            continue
        if result.sweep in (found if isinstance(found, list) else [found]):
            return "experiments/sweeps/" + name
    return None


def repeat(result):
    """The commands that compute this sweep again."""
    commit = str(result.about.get("git_commit", ""))
    lines, notes = [], []
    if commit and commit != "unknown":
        lines.append(f"git checkout {commit}")
    if result.about.get("git_dirty"):
        notes.append("The tree had changes that are not in this commit.")
    known = sweep_file(result)
    if known:
        lines.append(f"./lab run {known}")
    else:
        # Its name became a file name when it ran, so it is one word.
        lines.append(f"./lab run {result.name}.json")
        notes.append(f"Save the sweep below, as written, as {result.name}.json first; paths in it are relative to the "
                     "folder it was in.")
    return join([tag("pre", tag("code", "\n".join(lines))), tag("p", " ".join(notes), class_="notes") if notes else ""])


def facts(result):
    """One line: the task, how much of it is done, how long it took."""
    done, failed, absent = map(result.count, ("done", "failed", "absent"))
    line = f"Task {result.task}: {done} of {result.rows} cells done"
    if failed:
        line += f", {failed} failed"
    if absent:
        line += f", {absent} not computed yet"
    return line + f"; {number(result.seconds, 3)} s of computing, all cells together."


def resolved_text(text):
    """The resolved sweep as JSON: what all its cells share once, then what each has of its own, a line per cell."""
    try:
        sweep = json.loads(text)
        cells = sweep.pop("cells")
        shared = {k: v for k, v in cells[0].items() if all(k in c and c[k] == v for c in cells)}
    except (ValueError, KeyError, IndexError, AttributeError, TypeError):
        return text
    own = [json.dumps({k: v for k, v in c.items() if k not in shared}, ensure_ascii=False) for c in cells]
    head = json.dumps({**sweep, "in every cell": shared}, indent=1, ensure_ascii=False)
    return head[:-2] + ',\n "cells": [\n  ' + ",\n  ".join(own) + "\n ]\n}"


def section(result, ident, comparison, figures, default_columns, alone):
    main = sections.verdicts(result) if result.verdict is not None else sections.results_table(result, default_columns)
    counts = [join([sections.verdict_badge(v), f" {n}"]) for v, n in result.verdicts().items()]
    parts = [
        "" if alone else tag("h2", result.name, id=ident),
        tag("p", result.description, class_="asked") if result.description else "",
        tag("p", facts(result)),
        tag("p", join(counts, " · ")) if counts else "",
        sections.failed_cells(result), main,
        sections.comparison(comparison.get("csv", ""), comparison.get("problem", "")),
        *([tag("h3", "Figures"), *figures] if figures else []),
        sections.every_cell(result),
        tag("h3", "Where these numbers come from"),
        folded(sections.who(result), sections.provenance(result), open_=alone), repeat(result),
        folded("The sweep as written", tag("pre", tag("code", result.written))),
        folded("The sweep as resolved: every default filled in, files by the hash of their content",
               tag("pre", tag("code", resolved_text(result.resolved))))]
    return tag("section", join([p for p in parts if p], "\n"), aria_labelledby=ident)


def contents(results, idents, shared):
    """What is on the page, a row per sweep."""
    with_verdicts = any(r.verdict is not None for r in results)
    rows = []
    for r, ident in zip(results, idents):
        line = [tag("a", r.name, href="#" + ident), r.task, number_cell(r.rows), number_cell(r.count("done")),
                Cell(number(r.count("failed")), str(r.count("failed")), "number bad" if r.count("failed") else "number"),
                number_cell(r.seconds, 3)]
        if with_verdicts:
            line.append(", ".join(f"{n} {v}" for v, n in r.verdicts().items()))
        line.append(Cell(r.description, class_="note"))
        rows.append(line)
    heads = [Head("sweep"), Head("task"), Head("cells", number=True), Head("done", number=True),
             Head("failed", number=True), Head("time", "s", True)]
    heads += [Head("verdicts")] if with_verdicts else []
    links = [tag("a", f.title, href=f"#figure-{n}") for n, f in shared]
    return join([table("Contents: the sweeps of this page", heads + [Head("what was asked")], rows),
                 tag("p", "Figures of several sweeps: ", join(links, " · ")) if links else ""])


def write_page(paths, request):
    """The page as text. BrokenFile when a path is no whole result file."""
    results = [Result(path) for path in paths]
    found, problem = find_figures(paths)
    of_file, shared = {}, []
    files = [r.file for r in results]
    for n, figure in enumerate(found, 1):
        sources = {os.path.basename(str(s)) for s in figure.sources}
        # Two folders may have files of one name: which of them is then not said.
        if len(sources) == 1 and files.count(next(iter(sources))) == 1:
            of_file.setdefault(sources.pop(), []).append((n, figure))
        else:
            shared.append((n, figure))
    idents = [f"sweep-{i}" for i in range(1, len(results) + 1)]
    names = [r.name for r in results]
    title = names[0] if len(names) == 1 else f"{len(names)} sweeps: {', '.join(names[:3])}{', …' if len(names) > 3 else ''}"
    alone = len(results) == 1
    body = [tag("header", tag("p", "fp4lab report", class_="kicker"), tag("h1", title, id=idents[0] if alone else None))]
    if not alone:
        body.append(tag("nav", contents(results, idents, shared), aria_label="contents"))
    if problem:
        body.append(tag("p", f"The figures could not be made: {problem}", class_="problem"))
    if shared:
        body.append(tag("section", tag("h2", "Figures", id="figures"), "\n", *(figure_element(f, n) for n, f in shared),
                        aria_labelledby="figures"))
    comparisons = request.get("comparisons") or [{} for _ in results]
    for result, ident, comparison in zip(results, idents, comparisons):
        figures = [figure_element(f, n) for n, f in of_file.get(result.file, [])]
        body.append(section(result, ident, comparison, figures, request.get("default_columns", {}), alone))
    body.append(tag("footer", tag("p", "This page was made by fp4lab ", request.get("version", ""), " with"),
                    tag("pre", tag("code", request.get("command", "")))))
    return document(title, join(body, "\n"))


def document(title, body):
    script, style = own_file("page.js"), own_file("page.css")
    # Only our own script runs, even if markup found a way in.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:"
    head = [tag("meta", charset="utf-8"), tag("meta", http_equiv="Content-Security-Policy", content=policy),
            tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            tag("title", title + " – fp4lab report"), tag("style", Markup(style))]
    return "<!DOCTYPE html>\n" + tag("html", tag("head", "\n", join(head, "\n"), "\n"), "\n", tag(
        "body", "\n", tag("main", body), "\n", tag("script", Markup(script))), lang="en") + "\n"
