"""All files of a report."""

import json
import pathlib

from flexivit_jax.checkpoints import atomic
from flexivit_jax.evaluation import deploy
from flexivit_jax.evaluation.report import hard_images, results
from flexivit_jax.evaluation.report import page as page_lib
from flexivit_jax.evaluation.report.figures import all_figures, style
from flexivit_jax.evaluation.report.page import ImageOf
from flexivit_jax.evaluation.settings import Sweep

# Thumbnails of each kind.
MOST_IMAGES = 16
# All that a report may have; what one does not have is removed, so that an
# older report in the same directory leaves nothing behind.
FIGURES = (
  *("curve_multiply_adds", "curve_latency", "curve_tokens"),
  *("routes", "heat_map", "classes"),
)


def write(
  directory: pathlib.Path, sweep: Sweep, image: ImageOf | None
) -> tuple[pathlib.Path, ...]:
  """Writes results.json, figures/NAME.png and .svg, and report.html.

  Each file gets its name when all of it is on the disk, report.html as the
  last.

  Args:
    directory: made where it does not exist.
    image: of an index, u8 `[h, w, 3]`; None: a report without thumbnails.

  Returns:
    The files, report.html first.

  Raises:
    OSError: of writing.
  """
  drawn = directory / "figures"
  drawn.mkdir(parents=True, exist_ok=True)
  numbers = directory / results.NAME
  text = json.dumps(results.to_json(sweep), indent=2, allow_nan=False)
  _write(numbers, f"{text}\n".encode())

  best = deploy.most_accurate(sweep.points)
  worst = hard_images.worst(sweep, best, MOST_IMAGES)
  sensitive = hard_images.sensitive(sweep, MOST_IMAGES)
  drawings = all_figures.draw(sweep)
  written = []
  for drawing in drawings:
    for suffix, content in (
      ("png", style.png(drawing.figure)),
      ("svg", drawing.svg),
    ):
      path = drawn / f"{drawing.name}.{suffix}"
      _write(path, content)
      written.append(path)
  for name in set(FIGURES) - {d.name for d in drawings}:
    for suffix in ("png", "svg"):
      (drawn / f"{name}.{suffix}").unlink(missing_ok=True)

  page = directory / "report.html"
  text = page_lib.render(
    sweep, drawings=drawings, worst=worst, sensitive=sensitive, image=image
  )
  _write(page, text.encode())
  return (page, numbers, *written)


def _write(path, content):
  with atomic.replacing(path) as unfinished:
    unfinished.write_bytes(content)
