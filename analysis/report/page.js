// Tables sort by a click on a column's head, long ones have a filter. Without this script the page lacks only that.
"use strict";
function compare(a, b, descending) {
  const x = a.dataset.key ?? a.textContent, y = b.dataset.key ?? b.textContent;
  const blank = t => t === "" || t === "\u2013";
  if (blank(x) || blank(y)) return blank(x) - blank(y);  // what was not measured comes last, either way
  const order = a.dataset.key !== undefined && b.dataset.key !== undefined ? Number(x) - Number(y)
                                                                           : x.localeCompare(y, undefined, {numeric: true});
  return descending ? -order : order;
}
for (const table of document.querySelectorAll("table:not(.facts)")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  if (body.rows.length < 2) continue;
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const descending = head.getAttribute("aria-sort") === "ascending";
      heads.forEach(h => h.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      body.append(...[...body.rows].sort((a, b) => compare(a.cells[column], b.cells[column], descending)));
    });
  });
  if (body.rows.length < 8) continue;
  const label = document.createElement("label"), input = document.createElement("input");
  label.className = "filter";
  input.type = "search";
  label.append("Filter rows", input);
  table.parentElement.before(label);
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/);
    for (const row of body.rows) {
      const text = [...row.cells].map(c => c.textContent).join(" ").toLowerCase();
      row.hidden = !words.every(w => text.includes(w));
    }
  });
}
// On paper everything that is a table is open; the JSON stays folded.
addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("details:has(> .wide)")) part.open = true;
});
