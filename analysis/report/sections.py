"""The parts of one sweep's section: tables, verdicts, failures, the paper's rows, where the numbers come from."""
import csv
import io
import math

from analysis.report.markup import (Cell, Head, Markup, folded, join, mean_cell, number, number_cell, table, tag)

FOLD_ABOVE = 60  # rows of a table that are shown without a click


def axis_cell(column, row):
    value = column.values[row]
    if column.is_text:
        return Cell(str(value))
    return Cell(number(value, 12), None if math.isnan(value) else repr(float(value)), "number")


def heads_of(columns):
    return [Head(c.name, c.shown_units, not c.is_text) for c in columns]


def maybe_folded(rows, shown):
    return shown if rows <= FOLD_ABOVE else folded(f"The table has {rows} rows", shown)


def results_table(result, default_columns):
    """One row per combination of the axes; seeds become mean and standard deviation."""
    columns = result.shown_columns(default_columns)
    if not any(c.role == "metric" for c in columns) or result.count("done") == 0:
        return tag("p", "No cell is done yet, so there is nothing to show.")
    axes = [c for c in result.axes if c.name != "seed"]
    groups = {}
    for row in range(result.rows):
        groups.setdefault(tuple(str(a.values[row]) for a in axes), []).append(row)
    seeds = max(len(rows) for rows in groups.values())
    complete = result.count("done") == result.rows
    rows = []
    for members in groups.values():
        line = [axis_cell(a, members[0]) for a in axes] or [result.name]
        for c in columns:
            if c.is_text:
                line.append(", ".join(dict.fromkeys(str(c.values[m]) for m in members if c.values[m])))
            else:
                line.append(mean_cell([c.values[m] for m in members]))
        spent = [float(s) for s in (result.columns["seconds"].values[m] for m in members) if not math.isnan(s)]
        line.append(number_cell(math.fsum(spent) / len(spent) if spent else math.nan, 3))
        if not complete:
            states = [str(result.status[m]) for m in members]
            line.append(", ".join(f"{states.count(s)} {s}" if len(states) > 1 else s for s in dict.fromkeys(states)))
        rows.append(line)
    caption = f"{result.name}: results"
    if seeds > 1:
        caption += "; mean ± standard deviation over the seeds"
    heads = (heads_of(axes) or [Head("sweep")]) + heads_of(columns) + [Head("time", "s per cell", True)]
    if not complete:
        heads.append(Head("status"))
    return maybe_folded(len(rows), table(caption, heads, rows, max(1, len(axes))))


def verdict_badge(verdict):
    kind = {"holds": "good", "differs": "bad"}.get(verdict, "open")
    return tag("span", verdict or "no verdict", class_="badge " + kind)


def verdicts(result):
    """A table per statement: what was measured, what was predicted, and what follows."""
    by_statement = {}
    for row in range(result.rows):
        statement = str(result.columns["statement"].values[row])
        if result.status[row] == "done":
            by_statement.setdefault(statement, []).append(row)
    parts = []

    def value(name, row):
        column = result.columns.get(name)
        return math.nan if column is None or column.is_text else float(column.values[row])

    for statement, members in by_statement.items():
        axes = [a for a in result.axes if len({str(a.values[m]) for m in members}) > 1]
        notes = any(str(result.columns["note"].values[m]) for m in members) if "note" in result.columns else False
        rows = []
        for m in members:
            line = [axis_cell(a, m) for a in axes] or [result.name]
            line += [number_cell(value("estimate", m)),
                     Cell(f"{number(value('ci_low', m))} … {number(value('ci_high', m))}",
                          repr(value("ci_low", m)), "number"),
                     number_cell(value("prediction", m)), Cell("± " + number(value("tolerance", m), 3),
                                                               repr(value("tolerance", m)), "number"),
                     Cell(verdict_badge(str(result.verdict.values[m])))]
            if notes:
                line.append(Cell(str(result.columns["note"].values[m]), class_="note"))
            rows.append(line)
        heads = (heads_of(axes) or [Head("sweep")]) + [
            Head("estimate", number=True), Head("99 % interval", number=True), Head("prediction", number=True),
            Head("tolerance", number=True), Head("verdict")] + ([Head("note")] if notes else [])
        fixed = [f"{a.name} = {axis_cell(a, members[0]).shown}" for a in result.axes if a not in axes]
        caption = join([statement or f"{result.name}: verdicts"] + ([" (" + ", ".join(fixed) + ")"] if fixed else []))
        parts.append(maybe_folded(len(rows), table(caption, heads, rows, max(1, len(axes)))))
    return join(parts) if parts else tag("p", "No cell is done yet, so there is no verdict.")


def failed_cells(result):
    if not result.failed:
        return Markup()
    axes = [n for n in result.failed[0] if n not in ("key", "message")]
    axis_names = {a.name for a in result.axes}
    axes = [n for n in axes if n in axis_names]

    def shown(value):
        return number(value, 12) if isinstance(value, float) else str(value)

    rows = [[*(shown(f[a]) for a in axes), Cell(str(f["message"]), class_="note"),
             tag("code", str(f["key"])[:12])] for f in result.failed]
    heads = [Head(a) for a in axes] + [Head("message"), Head("key")]
    return tag("div", table(f"{result.name}: failed cells", heads, rows, len(axes)), class_="failed")


def comparison(csv_text, problem):
    """The paper's rows beside ours, from the program's own csv: tables, and lines that begin with '# '."""
    parts, caption, heads, rows, notes = [], "", None, [], []

    def shown(i, value):
        if i >= 2 and not value:
            return Cell("") if heads[i] == "disagrees with" else Cell("–", class_="number")
        if i < 2 or _number(value) is None:
            return Cell(value)
        # The paper's own numbers keep the digits that the paper prints.
        return Cell(value if heads[i].startswith("paper") else number(_number(value)), value, "number")

    def end():
        nonlocal heads, rows, notes
        if heads:
            last = heads.index("disagrees with") if "disagrees with" in heads else len(heads)
            parts.append(table(caption or "Beside the paper", [Head(h, number=2 <= i < last) for i, h in enumerate(heads)],
                               [[shown(i, value) for i, value in enumerate(row)] for row in rows], 2))
        if notes:
            parts.append(tag("p", join(notes, Markup("<br>")), class_="notes"))
        heads, rows, notes = None, [], []

    for record in csv.reader(io.StringIO(csv_text)):
        line = ",".join(record)
        if heads is not None and len(record) == len(heads):
            rows.append(record)
        elif line.startswith("# ") or not line:
            if heads is None and line and not notes and not line.startswith("# no cell"):
                caption = line[2:]
            elif line:
                notes.append(line[2:])
            else:
                end()
        elif heads is None:
            heads = record
        else:
            notes.append(line)
    end()
    if problem:
        parts.append(tag("p", "The rows beside the paper's could not be made: " + problem, class_="notes"))
    return join([tag("h3", "Beside the paper"), *parts]) if parts else Markup()


def _number(text):
    try:
        return float(text)
    except ValueError:
        return None


def every_cell(result):
    """All columns of all cells, as the file has them, and what each column is."""
    columns = [result.columns["key"], result.columns["status"]] + [
        c for c in result.columns.values() if c.name not in ("key", "status")]
    rows = []
    for row in range(result.rows):
        line = [tag("code", str(result.columns["key"].values[row])[:12])]
        for c in columns[1:]:
            line.append(str(c.values[row]) if c.is_text else number_cell(c.values[row]))
        rows.append(line)
    heads = [Head(c.name, c.shown_units, not c.is_text) for c in columns]
    meaning = [[c.name, c.units, c.equation] for c in columns]
    return join([
        folded(f"Every cell: {result.rows} rows, {len(columns)} columns",
               table(f"{result.name}: every cell", heads, rows)),
        folded("What the columns are", table(f"{result.name}: columns", [Head("column"), Head("units"), Head("meaning")],
                                             meaning))])


def who(result):
    """Where it was computed, in one line."""
    def of_all(field):
        return ", ".join(dict.fromkeys(str(p.get(field, "?")) for p in result.processes)) or "nowhere yet"

    by = f" by {len(result.processes)} processes" if len(result.processes) > 1 else ""
    commit = str(result.about.get("git_commit", "unknown"))[:12] + (", modified" if result.about.get("git_dirty") else "")
    return f"Computed{by} on {of_all('host')} ({of_all('cpu')}), commit {commit}"


def provenance(result):
    """Who computed the cells: a row per field, with what each process says where they differ."""
    about = result.about
    dirty = " (with changes that are not in it)" if about.get("git_dirty") else ""
    rows = [["result file", result.file], ["consolidated", str(about.get("created_utc", "unknown"))],
            ["fp4lab", f"{about.get('fp4lab_version', 'unknown')}, commit {about.get('git_commit', 'unknown')}{dirty}"]]
    fields = list(dict.fromkeys(f for p in result.processes for f in p))
    first = ["host", "cpu", "gpu", "threads", "os", "compiler"]
    fields = [f for f in first if f in fields] + [f for f in fields if f not in first]
    for field in fields:
        values = list(dict.fromkeys(str(p.get(field, "")) for p in result.processes))
        if field in ("fp4lab_version", "git_commit") and values == [str(about.get(field))]:
            continue
        if (field, values) in (("driver", ["none"]), ("git_dirty", ["yes" if dirty else "no"])):
            continue
        rows.append([field.replace("_", " "), join(values, Markup("<br>"))])
    who = f"{len(result.processes)} processes" if len(result.processes) != 1 else "one process"
    return table(f"{result.name}: computed by {who}", [Head("what"), Head("value")], rows, class_="facts")
