"""Figures of sweeps of every kind: no kind fails, and numbers are in place."""

import dataclasses
from xml.etree import ElementTree

import invented_sweeps
import numpy as np
import pytest

from flexivit_jax.evaluation import deploy
from flexivit_jax.evaluation.report import classes
from flexivit_jax.evaluation.report.figures import (
  all_figures,
  curve,
  heat_map,
  style,
  thumbnails,
)
from flexivit_jax.evaluation.settings import Setting

AT_240 = invented_sweeps.settings((24, 16, 8), sides=(240,))


def at_240(classes=10, **fields):
  """With these fields of all answers."""
  made = invented_sweeps.sweep(AT_240, classes=classes)
  return invented_sweeps.with_answers(made, **fields)


LABEL = at_240().answers[0].label
ODD = ("$x_$", "\\frac{", "a\nb\x00", "\udcff", "<script>", "猫", "&amp;")
SWEEPS = {
  "grid": invented_sweeps.grid,
  "1000 classes": lambda: invented_sweeps.small(classes=1000, images=2000),
  "one point": lambda: invented_sweeps.sweep(AT_240[:1]),
  "nothing right": lambda: at_240(
    predicted=(LABEL + 1) % 10, rank=np.full(400, 3, np.int32)
  ),
  "all right": lambda: at_240(predicted=LABEL, rank=np.zeros(400, np.int32)),
  "loss is NaN": lambda: at_240(loss=np.full(400, np.nan, np.float32)),
  "odd names": lambda: invented_sweeps.small(
    classes=10, names=(*ODD, *(f"{i}" * 60 for i in range(3)))
  ),
  "budgets": lambda: invented_sweeps.sweep(
    invented_sweeps.settings((16, 8), budgets=(64, 256, 1024)), latency=False
  ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", SWEEPS)
def test_every_figure_of_every_kind_of_sweep(kind):
  sweep = SWEEPS[kind]()
  if kind == "grid":
    sweep = dataclasses.replace(sweep, routes=invented_sweeps.ROUTES)
  found = all_figures.draw(sweep)
  assert [drawing.name for drawing in found] == [
    "curve_multiply_adds",
    *([] if kind == "budgets" else ["curve_latency"]),
    "curve_tokens",
    *(["routes"] if kind == "grid" else []),
    *(["heat_map"] if kind in ("grid", "budgets") else []),
    "classes",
  ]
  for drawing in found:
    ElementTree.fromstring(drawing.svg)  # noqa: S314


@pytest.mark.parametrize("name", ["multiply_adds", "latency", "tokens"])
def test_each_point_is_drawn_where_it_is(name):
  sweep = invented_sweeps.grid()
  (axis,) = (a for a in curve.axes_for(sweep.points) if a.name == name)
  (plot,) = curve.draw_curve(sweep.points, axis).axes
  front = {*deploy.pareto(sweep.points, axis.cost)}
  places = [(axis.of(p), 100 * p.top1) for p in sweep.points]

  def drawn(lines):
    return sorted(xy for line in lines for xy in zip(*line.get_data()))

  own = [line for line in plot.lines if line.get_linestyle() == "-"]
  assert drawn(own) == sorted(places)
  filled = [line for line in plot.lines if line.get_linestyle() == "None"]
  assert drawn(filled) == sorted(places[i] for i in front)
  named = {x.xy: x.get_text() for x in plot.texts if x.get_text()}
  assert named == {
    places[i]: str(sweep.points[i].setting.patch_hw[0]) for i in front
  }
  low, high = plot.get_ylim()
  assert high - low >= 10 - 1e-9  # rounding of the sum
  assert high <= 104 + 1e-9


def test_every_route_is_drawn_and_the_chosen_one_filled():
  (plot,) = curve.draw_routes(invented_sweeps.ROUTES).axes
  places = [np.column_stack(line.get_data()) for line in plot.lines]
  single, cascade, chosen = places
  np.testing.assert_allclose(single, [[50, 97.8], [150, 99]])
  np.testing.assert_allclose(cascade, [[75, 98.6]])
  np.testing.assert_array_equal(chosen, cascade)
  assert {x.get_text() for x in plot.texts} == {"12", "4", "12 > 4"}


def test_the_worst_classes_come_first():
  sweep = invented_sweeps.small(classes=1000, images=3000)
  plot = heat_map.draw_classes(sweep).axes[0]
  best = sweep.points.index(deploy.most_accurate(sweep.points))
  counts = [
    {c.label: c.accuracy for c in classes.per_class(answers)}
    for answers in sweep.answers
  ]
  own = counts[best]
  worst = sorted(own, key=lambda label: (own[label], label))[:25]
  names = [t.get_text() for t in plot.get_yticklabels()]
  assert names == [f"class_{label:03}" for label in worst]
  assert [t.get_text() for t in plot.get_xticklabels()] == [
    str(p.setting.patch_hw[0]) for p in sweep.points
  ]
  texts = {t.get_position(): t.get_text() for t in plot.texts}
  assert texts == {
    (j + 0.5, i + 0.5): f"{100 * count[label]:.0f}"
    for i, label in enumerate(worst)
    for j, count in enumerate(counts)
    if label in count
  }


def test_the_heat_map_has_each_number_in_its_place():
  where = [
    Setting((24, 24), (240, 240)),
    Setting((8, 8), (240, 240)),
    Setting((8, 8), (160, 160)),
  ]
  sweep = invented_sweeps.sweep(where)
  plot = heat_map.draw_heat_map(sweep.points).axes[0]
  texts = {t.get_position(): t.get_text() for t in plot.texts}
  shown = [f"{100 * p.top1:.1f}" for p in sweep.points]
  # Column by column to the right, rows downwards; 24 at 160 was not asked for.
  assert texts == {
    (0.5, 0.5): shown[0],
    (0.5, 1.5): shown[1],
    (1.5, 1.5): shown[2],
  }
  assert plot.get_ylim()[0] > plot.get_ylim()[1]
  assert [t.get_text() for t in plot.get_xticklabels()] == ["240", "160"]
  assert [t.get_text() for t in plot.get_yticklabels()] == ["24", "8"]


@pytest.mark.parametrize(
  ("text", "shown"),
  [
    ("cat", "cat"),
    ("a" * 24, "a" * 24),
    ("abcdefghijkl" + "m" * 40 + "nopqrstuvwx", "abcdefghijkl…nopqrstuvwx"),
    ("a\nb\x00\udcff", "a\ufffdb\ufffd\ufffd"),
  ],
)
def test_names_become_printable(text, shown):
  assert style.printable(text) == shown
  assert len(style.printable(text)) <= 24


def test_thumbnails_are_never_enlarged():
  tall = thumbnails.thumbnail(np.zeros((400, 100, 3), np.uint8))
  assert tall.size == (28, 112)
  assert thumbnails.thumbnail(np.zeros((8, 8, 3), np.uint8)).size == (8, 8)
  # A line of pixels keeps one.
  assert thumbnails.thumbnail(np.zeros((1, 5000, 3), np.uint8)).size == (112, 1)
