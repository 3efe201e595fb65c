"""Few-shot results: the table, the plain values and the figure."""

import json

import pytest
from matplotlib.container import ErrorbarContainer

from flexivit_jax.evaluation.linear_probe import table
from flexivit_jax.evaluation.linear_probe.figure import draw_few_shot
from flexivit_jax.evaluation.linear_probe.ridge import Accuracy
from flexivit_jax.evaluation.linear_probe.table import FewShot, Point
from flexivit_jax.evaluation.report.figures import style
from flexivit_jax.evaluation.settings import Setting


def found(settings, seeds=3, shots=(1, 5)):
  points = [
    Point(
      setting,
      tokens=36.0,
      images=500,
      accuracies=tuple(
        Accuracy(
          count,
          1024.0 * 4**i,
          tuple(0.5 + 0.01 * i + 0.1 * seed + k / 10 for seed in range(seeds)),
        )
        for k, count in enumerate(shots)
      ),
    )
    for i, setting in enumerate(settings)
  ]
  return FewShot(
    checkpoint="runs/x",
    step=3,
    model="ViT-mu",
    train="Digits('train')",
    validation=None,
    test="Digits('test')",
    classes=("a", "b"),
    command="python ...",
    provenance={"commit": "0"},
    points=tuple(points),
  )


AT_24 = (Setting((12, 12), (24, 24)), Setting((4, 6), (24, 24)))
BUDGETS = (Setting((4, 4), budget=9), Setting((4, 4), budget=36))


def test_the_table():
  assert table.table(found(AT_24)).splitlines() == [
    "patch  image  tokens       1 shot      5 shots",
    "   12     24      36  60.0 +- 5.8  70.0 +- 5.8",
    "  4x6     24      36  61.0 +- 5.8  71.0 +- 5.8",
  ]
  assert table.table(found(BUDGETS, seeds=1)).splitlines() == [
    "patch  budget  tokens  1 shot  5 shots",
    "    4       9      36    50.0     60.0",
    "    4      36      36    51.0     61.0",
  ]
  assert table.penalties(found(AT_24)).splitlines() == [
    "patch  image  tokens  1 shot  5 shots",
    "   12     24      36    1024     1024",
    "  4x6     24      36    4096     4096",
  ]


def test_plain_values_come_back_from_json():
  made = found(AT_24, seeds=1)
  values = json.loads(json.dumps(table.to_json(made)))
  assert (values["classes"], values["validation"]) == (["a", "b"], None)
  points = values["points"]
  assert [p["shots"] for p in points] == [1, 5, 1, 5]
  assert points[3] == {
    "name": "4x6_at_24",
    "patch_hw": [4, 6],
    "image_hw": [24, 24],
    "budget": None,
    "tokens": 36.0,
    "images": 500,
    "shots": 5,
    "penalty": 4096.0,
    "top1": [0.61],
    "mean": 0.61,
    "standard_error": None,
  }
  (first, *_) = table.to_json(found(BUDGETS))["points"]
  assert (first["image_hw"], first["budget"]) == (None, 9)


def test_the_figure_has_a_line_for_each_number_of_shots():
  figure = draw_few_shot(found(AT_24).points)
  (plot,) = figure.axes
  bars = [c for c in plot.containers if isinstance(c, ErrorbarContainer)]
  lines = [c.lines[0] for c in bars]
  # Sides of squares of as many pixels, from the left.
  for line, top1 in zip(lines, ([61, 60], [71, 70]), strict=True):
    assert list(line.get_xdata()) == [24**0.5, 12]
    assert list(line.get_ydata()) == pytest.approx(top1)
  assert len({line.get_color() for line in lines}) == 2
  low, high = plot.get_ylim()
  # Bars too: 5.8 around 60 to 71.
  assert low < 60 - 5.8 < 71 + 5.8 < high
  labels = [text.get_text() for text in plot.get_xticklabels()]
  assert labels == ["4x6", "12"]
  # More lines than colours.
  many = found(AT_24, shots=tuple(range(1, 9)), seeds=1)
  for made in (found(BUDGETS), many):
    assert style.png(draw_few_shot(made.points))[:4] == b"\x89PNG"
