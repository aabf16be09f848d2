"""A page of HTML as elements, tables and text, and what is wrong with it."""
from collections import Counter
from html.parser import HTMLParser

VOID = {"meta", "input", "br", "hr", "img", "link", "wbr", "col"}


class Page(HTMLParser):
    """A page as elements and text; `problems` are what makes it invalid, unsafe or hard to read by ear."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.problems, self.open, self.ids, self.links = [], [], Counter(), []
        self.scripts, self.tables, self.text, self.policy, self.headings, self.figures = [], [], "", "", [], 0
        self.feed(text)
        self.close()
        if self.open:
            self.problems.append(f"never closed: {self.open}")
        self.problems += [f"id {i} is used {n} times" for i, n in self.ids.items() if n > 1]
        self.problems += [f"link to nowhere: {link}" for link in self.links if link[1:] not in self.ids]
        if not text.startswith("<!DOCTYPE html>\n<html lang=\"en\">"):
            self.problems.append("no doctype, or no language")

    def handle_starttag(self, tag, attributes):
        self.attributes(tag, attributes)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append({"caption": "", "rows": []})
            self.first_in_table = True
        elif "table" in self.open and getattr(self, "first_in_table", False):
            self.first_in_table = False
            if tag != "caption":
                self.problems.append("a table does not begin with its caption")
        if tag == "tr":
            self.tables[-1]["rows"].append([])
        if tag in ("td", "th"):
            self.tables[-1]["rows"][-1].append("")
        if tag == "th" and dict(attributes).get("scope") not in ("col", "row"):
            self.problems.append("th without scope")
        if tag in ("h1", "h2", "h3"):
            self.headings.append([tag, ""])
        self.figures += tag == "figure"
        if tag == "svg" and not dict(attributes).get("aria-label"):
            self.problems.append("a picture without words")

    def handle_startendtag(self, tag, attributes):
        self.attributes(tag, attributes)
        if "svg" not in self.open and tag not in VOID:
            self.problems.append(f"<{tag}/> outside of SVG")

    def handle_endtag(self, tag):
        if not self.open or self.open[-1] != tag:
            self.problems.append(f"</{tag}> at {self.getpos()}, where {self.open[-1:]} is open")
        else:
            self.open.pop()

    def attributes(self, tag, attributes):
        names = [name for name, _ in attributes]
        if len(set(names)) < len(names):
            self.problems.append(f"<{tag}> has an attribute twice: {names}")
        for name, value in attributes:
            if name == "id":
                self.ids[value] += 1
            if name in ("href", "src", "xlink:href", "action", "srcset", "data"):
                (self.links if value.startswith("#") else self.problems).append(value)
            if name.startswith("on"):
                self.problems.append(f"<{tag} {name}={value!r}>")
            if name == "style" and "url(" in value.replace("url(#", ""):
                self.problems.append(f"<{tag} style={value!r}>")
            if name == "content" and value.startswith("default-src"):
                self.policy = value

    def handle_data(self, data):
        at = self.open[-1] if self.open else ""
        if at == "script":
            self.scripts.append(data)
            return
        if at == "style":
            if "http" in data or "@import" in data:
                self.problems.append(f"style: {data}")
            return
        self.text += data
        if "caption" in self.open:
            self.tables[-1]["caption"] += data
        elif "td" in self.open or "th" in self.open:
            self.tables[-1]["rows"][-1][-1] += data
        if self.open and any(h in self.open for h in ("h1", "h2", "h3")):
            self.headings[-1][1] += data

    def table(self, caption):
        found = [t for t in self.tables if t["caption"].startswith(caption)]
        if len(found) != 1:
            raise AssertionError(f"{len(found)} tables are called {caption}: {[t['caption'] for t in self.tables]}")
        return found[0]["rows"]
