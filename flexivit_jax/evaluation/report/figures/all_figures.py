"""All figures of a sweep."""

import dataclasses
import functools

from matplotlib.figure import Figure

from flexivit_jax.evaluation import deploy
from flexivit_jax.evaluation.report.figures import curve, heat_map, style
from flexivit_jax.evaluation.settings import Sweep


@dataclasses.dataclass(frozen=True)
class Drawing:
  """A figure and its description.

  Attributes:
    name: as files are called.
    title: of a few words.
    text: one or two sentences on how to read it.
  """

  name: str
  title: str
  text: str
  figure: Figure

  @functools.cached_property
  def svg(self) -> bytes:
    """Drawn once, for its file and for the page."""
    return style.svg(self.figure)


def draw(sweep: Sweep) -> tuple[Drawing, ...]:
  """Draw curves, cascades and heat maps, as far as there is something."""
  found = [
    Drawing(
      f"curve_{axis.name}",
      f"Accuracy against cost: {axis.title.lower()}",
      "Filled markers are the Pareto front: no other point is as accurate for "
      "less. Numbers at them are patch sizes in pixels.",
      curve.draw_curve(sweep.points, axis),
    )
    for axis in curve.axes_for(sweep.points)
  ]
  if sweep.routes:
    found.append(
      Drawing(
        "routes",
        "Cascades",
        "A cascade starts with large patches and goes on to smaller ones while "
        "the answer is not confident enough. Its thresholds were chosen on "
        "other images. Times were measured in turn.",
        curve.draw_routes(sweep.routes),
      )
    )
  heat = heat_map.draw_heat_map(sweep.points)
  if heat is not None:
    found.append(
      Drawing(
        "heat_map",
        "Patch size and resolution",
        "Top-1 accuracy in percent. Empty cells were not evaluated.",
        heat,
      )
    )
  at = deploy.describe_at(deploy.most_accurate(sweep.points).setting)
  found.append(
    Drawing(
      "classes",
      "Accuracy of each class",
      f"In percent, by patch size in pixels, at {at}. The worst classes at the "
      "most accurate point come first.",
      heat_map.draw_classes(sweep),
    )
  )
  return tuple(found)
