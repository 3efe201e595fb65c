"""All figures of a sweep."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.figure import Figure

from flexivit_jax.evaluation import deploy
from flexivit_jax.evaluation.deploy import describe
from flexivit_jax.evaluation.report.figures import (
  curve,
  heat_map,
  style,
  thumbnails,
)
from flexivit_jax.evaluation.report.hard_images import HardImage
from flexivit_jax.evaluation.settings import Sweep

# Pixels of an image by its index: u8 `[h, w, 3]`.
ImageOf = Callable[[int], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Drawing:
  """A figure and what it shows.

  Attributes:
    name: as files are called.
    title: of a few words.
    text: one or two sentences on how to read it.
    points: gids of what one can hover over, to indices of points.
  """

  name: str
  title: str
  text: str
  figure: Figure
  points: dict[str, int] = dataclasses.field(default_factory=dict)

  @functools.cached_property
  def svg(self) -> bytes:
    """Drawn once, for its file and for the page."""
    return style.svg(self.figure)


def draw_curves(sweep: Sweep) -> tuple[Drawing, ...]:
  """Accuracy against each cost that was measured."""
  return tuple(
    Drawing(
      name=f"curve_{axis.name}",
      title=axis.title,
      text="Filled markers and the grey steps are the Pareto front: no other "
      "point is as accurate for less. Numbers at the points are patch sizes "
      "in pixels.",
      figure=curve.draw_curve(sweep.points, axis),
      points={
        curve.point_id(i): i
        for i, point in enumerate(sweep.points)
        if axis.of(point) is not None
      },
    )
    for axis in curve.axes_for(sweep.points)
  )


def draw_views(sweep: Sweep) -> tuple[Drawing, ...]:
  """Heat map and classes, as far as the sweep has something to show."""
  best = deploy.most_accurate(sweep.points)
  cheap = min(sweep.points, key=deploy.multiply_adds)
  answers = {
    p.setting: a for p, a in zip(sweep.points, sweep.answers, strict=True)
  }
  there = describe(best.setting)
  heat = heat_map.draw_heat_map(sweep.points)
  per_class = heat_map.draw_per_class(
    sweep.classes,
    (best, answers[best.setting]),
    (cheap, answers[cheap.setting]),
  )
  confusion = heat_map.draw_confusion(
    sweep.classes, best, answers[best.setting]
  )
  found = (
    Drawing(
      "heat_map",
      "Patch size and resolution",
      "Top-1 accuracy in percent. Empty cells were not evaluated.",
      heat,
    ),
    Drawing(
      "per_class",
      "Accuracy of each class",
      f"The worst classes at {there} on top"
      + (
        f", and at the cheapest point, {describe(cheap.setting)}."
        if cheap != best
        else "."
      ),
      per_class,
    ),
    Drawing(
      "confusion",
      "What classes are taken for",
      f"At {there}. Counts are images, percentages their share of the right "
      "class.",
      confusion,
    ),
  )
  return tuple(one for one in found if one.figure is not None)


def draw_routes(sweep: Sweep) -> tuple[Drawing, ...]:
  """Cascades and ensembles, where they were measured."""
  if not sweep.routes:
    return ()
  return (
    Drawing(
      "routes",
      "Cascades and ensembles",
      "A cascade starts with large patches and goes on to smaller ones while "
      "the answer is not confident enough; its thresholds were chosen on other "
      "images. An ensemble is the mean of the probabilities of several sizes, "
      "and takes the time of these sizes together. The other times were "
      "measured in turn.",
      curve.draw_routes(sweep.routes),
    ),
  )


def draw_images(
  name: str,
  found: Sequence[HardImage],
  classes: Sequence[str],
  image: ImageOf,
) -> tuple[Drawing, ...]:
  """One drawing of images, or none where there are no images."""
  if not found:
    return ()
  figure = thumbnails.draw_thumbnails(found, classes, image)
  return (Drawing(name, "", "", figure),)
