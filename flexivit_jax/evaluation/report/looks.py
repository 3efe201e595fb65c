"""The page's style sheet and script."""

# `--ink`, `--faint` and `--paper` take the place of the figures' own colours.
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
.choice { display: flex; flex-wrap: wrap; gap: 0.5rem; margin: 0.75rem 0; }
.choice[hidden] { display: none; }
.choice button {
  min-height: 2.75rem; padding: 0 1rem;
  border: 1px solid var(--soft); border-radius: 0.4rem;
}
.choice button[aria-pressed="true"] {
  background: var(--ink); color: var(--paper);
}
button:focus-visible, .scroll:focus-visible {
  outline: 2px solid var(--link); outline-offset: -2px;
}
figure { margin: 0; }
figure > svg { display: block; width: 100%; height: auto; }
.curve, .routes { max-width: 44rem; }
.curve { position: relative; }
.curve[hidden] { display: none; }
.point { outline: none; pointer-events: none; }
.point.shown use, .point:focus use {
  opacity: 1 !important; fill: none !important;
  stroke: var(--ink) !important; stroke-opacity: 1 !important;
  stroke-width: 1.5 !important;
}
.tip {
  position: absolute; pointer-events: none; white-space: pre-line;
  width: max-content; max-width: 100%;
  padding: 0.4rem 0.6rem; border-radius: 0.4rem; font-size: 0.8125rem;
  line-height: 1.35; background: var(--ink); color: var(--paper);
}
.tip[hidden] { display: none; }
.views { display: grid; gap: 1rem 3rem; align-items: start; }
@media (min-width: 60rem) { .views { grid-template-columns: 1fr 1fr; } }
.views > section { min-width: 0; max-width: 36rem; }
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
for (const curve of document.querySelectorAll(".curve")) {
  const tip = curve.querySelector(".tip");
  const points = [...curve.querySelectorAll(".point")];
  let focused = [];
  const center = (point) => {
    const place = point.getBoundingClientRect();
    return [place.left + place.width / 2, place.top + place.height / 2];
  };
  const show = (shown) => {
    for (const point of points) {
      point.classList.toggle("shown", shown.includes(point));
    }
    tip.hidden = !shown.length;
    if (tip.hidden) return;
    tip.textContent = shown.map((point) => point.dataset.tip).join("\\n\\n");
    tip.style.left = "0px";
    const frame = curve.getBoundingClientRect();
    const [x, y] = center(shown[0]);
    const left = x - frame.left - tip.offsetWidth / 2;
    const room = frame.width - tip.offsetWidth;
    const above = y - frame.top - tip.offsetHeight - 20;
    const below = y - frame.top + 20;
    tip.style.left = Math.max(0, Math.min(left, room)) + "px";
    tip.style.top = (above < 0 ? below : above) + "px";
  };
  // Not what lies on top: points may cover each other, or coincide.
  const nearest = (event) => {
    const distances = points.map((point) => {
      const [x, y] = center(point);
      return Math.hypot(x - event.clientX, y - event.clientY);
    });
    const least = Math.min(...distances);
    if (least > 22) return [];
    return points.filter((point, i) => distances[i] < least + 0.5);
  };
  curve.addEventListener("pointermove", (event) => {
    const found = nearest(event);
    show(found.length ? found : focused);
  });
  curve.addEventListener("pointerleave", () => show(focused));
  curve.addEventListener("click", (event) => {
    const found = nearest(event);
    if (!found.length) return;
    found[0].focus({preventScroll: true});
    focused = found;
    show(found);
  });
  for (const point of points) {
    point.addEventListener("focus", () => {
      focused = [point];
      show(focused);
    });
    point.addEventListener("blur", () => {
      focused = [];
      show(focused);
    });
    point.addEventListener("keydown", (event) => {
      if (event.key === "Escape") point.blur();
    });
  }
}
for (const choice of document.querySelectorAll(".choice")) {
  const buttons = [...choice.querySelectorAll("button")];
  const choose = (chosen) => {
    for (const button of buttons) {
      button.setAttribute("aria-pressed", button === chosen);
      document.getElementById(button.dataset.shows).hidden = button !== chosen;
    }
  };
  for (const button of buttons) {
    button.addEventListener("click", () => choose(button));
  }
  choice.hidden = buttons.length < 2;
  choose(buttons[0]);
}
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
