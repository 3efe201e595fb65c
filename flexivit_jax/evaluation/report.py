"""A sweep's table and curve."""

import pathlib
from collections.abc import Sequence

from matplotlib import ticker
from matplotlib.figure import Figure

from flexivit_jax.core.text import align
from flexivit_jax.evaluation.sweep import Point

# Colour-blind-safe (Okabe and Ito, 2008).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def table(points: Sequence[Point]) -> str:
  """A sweep as aligned text, one line per patch size and budget."""
  head = ("patch", "tokens", "top-1 %", "loss", "images/s")
  budgets = any(p.budget is not None for p in points)
  if budgets:
    head = (head[0], "budget", *head[1:])
  rows = [
    (
      f"{p.patch_hw[0]}x{p.patch_hw[1]}",
      *((f"{p.budget or 'none'}",) if budgets else ()),
      f"{p.tokens:.4g}" if p.tokens % 1 else f"{p.tokens:.0f}",
      f"{100 * p.top1:.1f}",
      f"{p.loss:.4f}",
      f"{p.images_per_s:.0f}",
    )
    for p in points
  ]
  return align([head, *rows])


def draw_curve(points: Sequence[Point], title: str, path: pathlib.Path) -> None:
  """Top-1 against tokens per image, one marker per point, as PNG."""
  points = sorted(points, key=lambda p: p.tokens)
  figure = Figure(figsize=(6, 4), layout="constrained")
  axes = figure.add_subplot()
  tokens = [p.tokens for p in points]
  top1 = [100 * p.top1 for p in points]
  axes.plot(tokens, top1, marker="o", color=COLOURS[0])
  for point, x, y in zip(points, tokens, top1, strict=True):
    axes.annotate(
      f"{point.name} px",
      (x, y),
      xytext=(0, 9),
      textcoords="offset points",
      ha="center",
      bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
    )
  axes.set_xscale("log", base=2)
  axes.set_xticks(sorted({round(x, 1) for x in tokens}))
  axes.xaxis.set_major_formatter(ticker.ScalarFormatter())
  axes.xaxis.set_minor_locator(ticker.NullLocator())
  axes.margins(x=0.1)
  # At least ten points high: a tenth of a percent should not look like much.
  middle, half = (max(top1) + min(top1)) / 2, (max(top1) - min(top1)) / 2
  half = max(5, 1.2 * half)
  axes.set_ylim(middle - half, middle + half)
  axes.set_xlabel("tokens per image (patch size at each point)")
  axes.set_ylabel("top-1 accuracy (%)")
  axes.set_title(title, fontsize="medium")
  axes.grid(alpha=0.3)
  figure.savefig(path, dpi=150)
