"""Figures of sweeps of every kind: what they show, and that none crashes."""

import dataclasses
import io
from xml.etree import ElementTree

import invented_sweeps
import matplotlib
import numpy as np
import pytest
from matplotlib.text import Annotation
from PIL import Image

from flexivit_jax.evaluation import deploy
from flexivit_jax.evaluation.report import classes, hard_images
from flexivit_jax.evaluation.report.figures import (
  all_figures,
  curve,
  heat_map,
  style,
  thumbnails,
)
from flexivit_jax.evaluation.settings import Point, Setting

AT_240 = invented_sweeps.settings((24, 16, 8), sides=(240,))


def one_class():
  made = invented_sweeps.sweep(AT_240, classes=1)
  zero = np.zeros(400, np.int32)
  return invented_sweeps.with_answers(made, predicted=zero, rank=zero)


def nothing_right(number=10):
  made = invented_sweeps.sweep(AT_240, classes=number)
  label = made.answers[0].label
  wrong = ((label + 1) % number).astype(np.int32)
  rank = np.full(400, 3, np.int32)
  return invented_sweeps.with_answers(made, predicted=wrong, rank=rank)


def all_right(number=30):
  made = invented_sweeps.sweep(AT_240, classes=number)
  label, rank = made.answers[0].label, np.zeros(400, np.int32)
  return invented_sweeps.with_answers(made, predicted=label, rank=rank)


def loss_is_nan():
  made = invented_sweeps.sweep(AT_240)
  loss = np.full(400, np.nan, np.float32)
  return invented_sweeps.with_answers(made, loss=loss)


def unknown_classes():
  """A head of more classes than the data."""
  made = invented_sweeps.sweep(AT_240, images=50)
  taken = np.full(50, 999, np.int32)
  return invented_sweeps.with_answers(
    made, predicted=taken, rank=np.ones(50, np.int32)
  )


def odd_names():
  names = ["$x_$", "\\frac{", "a\nb\x00", "\udcff", "<script>", "猫", "&amp;"]
  return invented_sweeps.small(
    classes=10, names=(*names, *(f"{i}" * 60 for i in range(3)))
  )


SWEEPS = {
  "grid": invented_sweeps.grid,
  "1000 classes": lambda: invented_sweeps.small(classes=1000, images=2000),
  "one point": lambda: invented_sweeps.sweep(AT_240[:1]),
  "one class": one_class,
  "nothing right": nothing_right,
  "nothing of many right": lambda: nothing_right(40),
  "all right": all_right,
  "loss is NaN": loss_is_nan,
  "unknown classes": unknown_classes,
  "odd names": odd_names,
  "own size": lambda: invented_sweeps.sweep(
    [Setting((8, 8), (240, 240)), Setting((8, 6), None, 64)]
  ),
  "budgets": lambda: invented_sweeps.sweep(
    invented_sweeps.settings((16, 8), budgets=(64, 256, 1024)), latency=False
  ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", SWEEPS)
def test_every_figure_of_every_kind_of_sweep(kind):
  sweep = SWEEPS[kind]()
  best = deploy.most_accurate(sweep.points)
  found = [
    *all_figures.draw_curves(sweep),
    *all_figures.draw_views(sweep),
    *all_figures.draw_images(
      "worst",
      hard_images.worst(sweep, best, 6),
      sweep.classes,
      invented_sweeps.image,
    ),
    *all_figures.draw_images(
      "sensitive",
      hard_images.sensitive(sweep, 6),
      sweep.classes,
      invented_sweeps.image,
    ),
  ]
  names = [drawing.name for drawing in found]
  assert len(names) == len(set(names))
  assert names[-1] == ("worst" if kind in NOT_SENSITIVE else "sensitive")
  assert ("heat_map" in names) == (kind in ("grid", "own size", "budgets"))
  assert ("curve_latency" in names) == (kind != "budgets")
  assert ("confusion" in names) == (kind != "all right")
  for drawing in found:
    ElementTree.fromstring(drawing.svg)  # noqa: S314
    # Nothing may stand outside, but for a hair.
    with style.drawing():
      box = drawing.figure.get_tightbbox()
    assert box.x0 > -0.03, drawing.name
    assert box.x1 < style.WIDTH + 0.03, drawing.name
    assert box.y0 > -0.03, drawing.name
    assert box.y1 < drawing.figure.get_figheight() + 0.03, drawing.name


NOT_SENSITIVE = ("one point", "loss is NaN", "own size")


def test_files_are_what_they_say():
  drawing = all_figures.draw_views(invented_sweeps.grid())[0]
  with Image.open(io.BytesIO(style.png(drawing.figure))) as image:
    assert image.format == "PNG"
    # 4.2 inches at 200 dots per inch.
    assert image.width == 840
    pixels = np.asarray(image.convert("RGB"))
  # Paper, ink, the colours of 30 cells and the shades of their edges.
  assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100
  assert drawing.svg.startswith(b"<?xml")


def test_equal_sweeps_give_equal_bytes():
  for one, other in zip(
    all_figures.draw_curves(invented_sweeps.small()),
    all_figures.draw_curves(invented_sweeps.small()),
    strict=True,
  ):
    assert one.svg == other.svg
    assert style.png(one.figure) == style.png(other.figure)
    assert b"date>" not in one.svg
    # Drawing it once more, after the PNG, changes nothing.
    assert one.svg == style.svg(one.figure)


def curve_of(sweep, name="tokens"):
  (axis,) = (a for a in curve.axes_for(sweep.points) if a.name == name)
  return axis, curve.draw_curve(sweep.points, axis)


def by_gid(figure):
  lines = figure.axes[0].lines
  return {
    line.get_gid(): (line.get_xdata()[0], line.get_ydata()[0])
    for line in lines
    if line.get_gid()
  }


@pytest.mark.parametrize("name", ["multiply_adds", "latency", "tokens"])
def test_each_point_can_be_hovered_over_where_it_is(name):
  sweep = invented_sweeps.grid()
  axis, figure = curve_of(sweep, name)
  found = by_gid(figure)
  for i, point in enumerate(sweep.points):
    expected = axis.of(point), 100 * point.top1
    assert found[curve.point_id(i)] == pytest.approx(expected)
  assert len(found) == 30


def test_points_without_a_latency_are_not_on_its_curve():
  sweep = invented_sweeps.small()
  points = list(sweep.points)
  bare = dataclasses.replace(points[1].cost, latency_s=None)
  points[1] = dataclasses.replace(points[1], cost=bare)
  sweep = dataclasses.replace(sweep, points=tuple(points))
  _, figure = curve_of(sweep, "latency")
  assert set(by_gid(figure)) == {f"point-{i}" for i in (0, 2, 3)}
  drawn = {d.name: d.points for d in all_figures.draw_curves(sweep)}
  assert sorted(drawn["curve_latency"].values()) == [0, 2, 3]
  assert sorted(drawn["curve_tokens"].values()) == [0, 1, 2, 3]


def test_filled_markers_are_the_front():
  sweep = invented_sweeps.grid()
  axis, figure = curve_of(sweep, "multiply_adds")
  filled = {
    (line.get_xdata()[0], line.get_ydata()[0])
    for line in figure.axes[0].lines
    if len(line.get_xdata()) == 1
    and line.get_gid() is None
    and line.get_markerfacecolor() != style.PAPER
  }
  front = deploy.pareto(sweep.points, axis.cost)
  assert filled == {
    (axis.of(sweep.points[i]), 100 * sweep.points[i].top1) for i in front
  }
  assert 1 < len(front) < 30


def test_the_order_of_points_does_not_matter():
  sweep = invented_sweeps.small()
  _, figure = curve_of(sweep)
  turned = dataclasses.replace(sweep, points=sweep.points[::-1])
  _, other = curve_of(turned)
  assert style.png(figure) == style.png(other)


def labels(figure):
  return [
    text
    for text in figure.axes[0].texts
    if isinstance(text, Annotation) and text.get_visible()
  ]


def test_patch_sizes_stand_beside_their_points():
  sweep = invented_sweeps.small()
  axis, figure = curve_of(sweep)
  found = {text.get_text(): text.xy for text in labels(figure)}
  assert found == {
    str(p.setting.patch_hw[0]): (axis.of(p), 100 * p.top1) for p in sweep.points
  }


@pytest.mark.parametrize("name", ["multiply_adds", "latency", "tokens"])
def test_labels_do_not_lie_on_each_other(name):
  _, figure = curve_of(invented_sweeps.grid(), name)
  figure.draw_without_rendering()
  boxes = [text.get_window_extent() for text in labels(figure)]
  # The front has more than half of the points here, and comes first.
  assert len(boxes) >= 15
  for i, box in enumerate(boxes):
    assert not any(box.overlaps(other) for other in boxes[:i])


def test_any_range_has_ticks_within_it():
  rng = np.random.default_rng(0)
  for _ in range(200):
    low = 10 ** rng.uniform(-4, 6)
    high = low * 10 ** rng.uniform(0.1, 5)
    ticks = curve._ticks(low, high)
    assert 2 <= len(ticks) <= 12, (low, high)
    assert ticks == sorted(set(ticks))
    assert low <= ticks[0] < ticks[-1] <= high


@pytest.mark.parametrize("kind", ["nothing right", "all right", "grid"])
def test_accuracies_keep_near_what_they_can_be(kind):
  _, figure = curve_of(SWEEPS[kind]())
  low, high = figure.axes[0].get_ylim()
  assert high - low >= 10 - 1e-9
  assert -0.1 * (high - low) <= low < high <= 100 + 0.11 * (high - low)


def test_the_heat_map_has_each_number_in_its_place():
  where = [
    Setting((24, 24), (240, 240)),
    Setting((8, 8), (240, 240)),
    Setting((8, 8), (160, 160)),
  ]
  sweep = invented_sweeps.sweep(where)
  figure = heat_map.draw_heat_map(sweep.points)
  plot = figure.axes[0]
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


def luminance(colour):
  """WCAG 2.2, relative luminance."""
  rgb = np.array(matplotlib.colors.to_rgb(colour))
  linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
  return float(linear @ [0.2126, 0.7152, 0.0722])


def test_numbers_in_cells_can_be_read():
  for colour in matplotlib.colormaps[style.COLOUR_MAP](np.linspace(0, 1, 256)):
    pair = luminance(colour[:3]), luminance(style.contrasting(colour))
    # WCAG asks for 4.5 between text and what is behind it.
    assert (max(pair) + 0.05) / (min(pair) + 0.05) >= 4.5


def test_colours_stand_out_on_both_papers():
  for colour in style.COLOURS:
    for paper in (style.PAPER, "#17171b"):
      pair = luminance(colour), luminance(paper)
      # Okabe and Ito's yellowish ones reach 2.1 on white; shapes tell them
      # apart as well.
      assert (max(pair) + 0.05) / (min(pair) + 0.05) >= 2.0


def test_the_worst_classes_come_first():
  sweep = invented_sweeps.small(classes=1000, images=3000)
  best, cheap = sweep.points[-1], sweep.points[0]
  figure = heat_map.draw_per_class(
    sweep.classes, (best, sweep.answers[-1]), (cheap, sweep.answers[0])
  )
  plot = figure.axes[0]
  names = [t.get_text() for t in plot.get_yticklabels()]
  counts = sorted(
    classes.per_class(sweep.answers[-1]), key=lambda c: (c.accuracy, c.label)
  )
  assert names == [f"class_{c.label:03} ({c.images})" for c in counts[:25]]
  shown = {
    line.get_label(): line.get_xdata().tolist()
    for line in plot.lines
    if len(line.get_xdata()) == 25
  }
  assert shown["patch 8 at 240 px"] == [100 * c.accuracy for c in counts[:25]]
  others = {c.label: c.accuracy for c in classes.per_class(sweep.answers[0])}
  assert shown["patch 48 at 240 px"] == [
    100 * others[c.label] for c in counts[:25]
  ]


def test_a_matrix_of_few_classes_and_pairs_of_many():
  few = invented_sweeps.small(classes=12)
  plot = heat_map.draw_confusion(
    few.classes, few.points[0], few.answers[0]
  ).axes[0]
  matrix = classes.confusion_matrix(few.answers[0], 12)
  texts = {t.get_position(): t.get_text() for t in plot.texts}
  assert texts == {
    (j + 0.5, i + 0.5): str(n) for (i, j), n in np.ndenumerate(matrix) if n
  }
  many = invented_sweeps.small(classes=13)
  plot = heat_map.draw_confusion(
    many.classes, many.points[0], many.answers[0]
  ).axes[0]
  first = classes.confusions(many.answers[0])[0]
  texts = [t.get_text() for t in plot.texts]
  arrow = f" class_{first.label:03} → class_{first.predicted:03}"
  assert arrow in texts
  assert f"{100 * first.share:.0f} %" in texts
  assert plot.patches[0].get_width() == first.images


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


def test_captions_say_what_was_predicted():
  points = [
    Point(Setting(hw), 1, 1, 0.5, 0.5, 0.5, 0.5, cost=None)
    for hw in ((8, 8), (24, 12))
  ]
  one = hard_images.HardImage(
    index=7,
    label=1,
    score=0.4567,
    measure="deviation",
    answers=((points[0], 1, True), (points[1], 5, False)),
  )
  assert thumbnails.captions(one, ("cat", "dog")) == [
    "dog",
    "8 px: right",
    "24x12 px: class 5",
    "deviation 0.46",
  ]
