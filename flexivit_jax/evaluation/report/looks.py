"""The page's style sheet and script."""

STYLE = """
:root {
  color-scheme: light dark;
  --ink: #1b1b1f; --soft: #5a5a63; --faint: #d4d4d8;
  --paper: #ffffff; --raised: #f4f4f6; --link: #0060a0;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #ececf0; --soft: #a9a9b4; --faint: #4a4a54;
    --paper: #17171b; --raised: #222228; --link: #6fb7f0;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, sans-serif;
}
main { max-width: 76rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; line-height: 1.25; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 0.5rem; }
p { margin: 0.5rem 0; max-width: 46rem; }
p, dt, figcaption { color: var(--soft); }
dl { display: grid; gap: 0.25rem 1rem; margin: 1rem 0; }
dt { font-size: 0.875rem; }
dd { margin: 0; overflow-wrap: anywhere; }
@media (min-width: 40rem) { dl { grid-template-columns: 12rem 1fr; } }
.scroll { overflow-x: auto; border: 1px solid var(--faint); }
pre { margin: 0; padding: 0.75rem; background: var(--raised); }
table {
  border-collapse: collapse; width: 100%; white-space: nowrap;
  font-variant-numeric: tabular-nums;
}
th, td { padding: 0.3rem 0.75rem; text-align: right; }
th { background: var(--raised); padding: 0; }
th button { width: 100%; padding: 0.4rem 0.75rem; text-align: right; }
th[aria-sort="ascending"] button::after { content: " \\2191"; }
th[aria-sort="descending"] button::after { content: " \\2193"; }
tbody tr + tr { border-top: 1px solid var(--faint); }
button {
  font: inherit; color: inherit; background: none; border: 0; cursor: pointer;
}
button:focus-visible, .scroll:focus-visible {
  outline: 2px solid var(--link); outline-offset: -2px;
}
figure { margin: 0; }
.figures {
  display: grid; gap: 1rem 3rem; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr));
}
.figure { display: block; width: 100%; max-width: 36rem; background: #fff; }
.images {
  display: grid; gap: 1rem; margin-top: 1rem; align-items: end;
  grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr));
}
.images figure { min-width: 0; }
.images img {
  display: block; width: 7rem; height: 7rem; object-fit: contain;
  object-position: left bottom; image-rendering: pixelated;
}
.images figcaption {
  font-size: 0.8125rem; line-height: 1.4; overflow-wrap: anywhere;
  margin-top: 0.25rem; min-height: 5.6em;
}
.images figcaption :first-child { color: var(--ink); font-weight: 600; }
.images figcaption span { display: block; }
"""

SCRIPT = """
"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.firstElementChild.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const value = (row) => {
        const number = parseFloat(row.cells[column].dataset.value);
        // What was not measured comes last either way.
        return Number.isNaN(number) ? Infinity : up ? number : -number;
      };
      const body = table.tBodies[0];
      const rows = [...body.rows].sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        return x < y ? -1 : x > y ? 1 : 0;
      });
      body.append(...rows);
    });
  });
}
"""
