"""Style of figures, and their files."""

import contextlib
import io
import warnings
from collections.abc import Iterator, Sequence

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Colour-blind-safe (Okabe and Ito, 2008).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
# One more than colours: the same pair comes back after 42 lines only.
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
# A page with a dark scheme replaces these three by its own.
INK, FAINT, PAPER = "#1b1b1f", "#d4d4d8", "#ffffff"
# Text on a coloured cell, which stays as it is on any page.
ON_DARK, ON_LIGHT = "#fefefe", "#010101"
# Colour-blind-safe, and its lightness alone tells the order.
COLOUR_MAP = "cividis"
# Inches. A phone shows it at about its own size.
WIDTH = 4.2

_DRAWING = {
  "axes.edgecolor": INK,
  "axes.facecolor": PAPER,
  "axes.labelcolor": INK,
  "axes.spines.right": False,
  "axes.spines.top": False,
  "axes.titlesize": 10,
  "figure.facecolor": PAPER,
  "font.family": ["DejaVu Sans"],
  "font.size": 9,
  "grid.color": FAINT,
  "hatch.color": FAINT,
  "legend.frameon": False,
  "patch.edgecolor": INK,
  "text.color": INK,
  "text.parse_math": False,
  "xtick.color": INK,
  "ytick.color": INK,
}
_SAVING = {"svg.hashsalt": "flexivit_jax", "svg.fonttype": "none"}


@contextlib.contextmanager
def drawing() -> Iterator[None]:
  """Holds the style; what is made inside keeps it."""
  with matplotlib.rc_context(_DRAWING), warnings.catch_warnings():
    # Names in other scripts: PNG shows boxes, SVG leaves fonts to the viewer.
    warnings.filterwarnings("ignore", message="Glyph .* missing")
    yield


def new_figure(height: float, width: float = WIDTH) -> Figure:
  """An empty figure, sides in inches, that can measure its own text."""
  figure = Figure(figsize=(width, height), layout="constrained")
  FigureCanvasAgg(figure)
  return figure


def png(figure: Figure) -> bytes:
  return _saved(figure, "png", dpi=200)


def svg(figure: Figure) -> bytes:
  """Reproducible bytes: no date, and names that follow from the content."""
  return _saved(figure, "svg", metadata={"Date": None})


def _saved(figure, form, **options):
  file = io.BytesIO()
  with drawing(), matplotlib.rc_context(_SAVING):
    figure.savefig(file, format=form, **options)
  return file.getvalue()


def settle(figure: Figure) -> Figure:
  """Lays the figure out once; each file would do it again, a bit otherwise."""
  figure.draw_without_rendering()
  figure.set_layout_engine("none")
  return figure


def contrasting(rgba: Sequence[float]) -> str:
  """The text colour that is easier to read on a cell of this colour.

  Each has the same contrast, 4.6, where the relative luminance (WCAG 2.2) of
  the cell is 0.18.
  """
  linear = [
    x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4
    for x in rgba[:3]
  ]
  luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
  return ON_DARK if luminance < 0.18 else ON_LIGHT


def printable(text: str, length: int = 24) -> str:
  """One line of at most so many characters that every format can hold.

  The middle is left out of longer ones: long names often begin alike.
  """
  text = "".join(c if c.isprintable() else "\ufffd" for c in text)
  if len(text) <= length:
    return text
  end = (length - 1) // 2
  return f"{text[: length - 1 - end]}\N{HORIZONTAL ELLIPSIS}{text[-end:]}"
