"""The figure's lines, axes and names."""

from flexivit_jax.evaluation.report.figures import style
from flexivit_jax.run.plan import longest_figure


def _drawn():
  return longest_figure.draw_longest(
    {
      "local": [(1, 1000), (8, 1000)],
      "ring": [(1, 1000), (2, 2000), (8, 8000)],
    },
    ("local, kernel dense", [(1, 100), (8, 100)]),
    "width 192, depth 12, 3 heads, 16.0 GiB a device",
    {"this config, 512": 512},
    [1, 2, 4, 8],
  )


def test_a_line_for_each_and_the_reference_dashed():
  figure = _drawn()
  (plot,) = figure.axes
  lines = {line.get_label(): line for line in plot.lines}
  assert list(lines["ring"].get_ydata()) == [1000, 2000, 8000]
  assert list(lines["ring"].get_xdata()) == [1, 2, 8]
  dashed = [name for name, x in lines.items() if x.get_linestyle() == "--"]
  assert dashed == ["local, kernel dense"]
  names = [text.get_text() for text in figure.legends[0].get_texts()]
  assert names == ["local, kernel dense", "local", "ring"]
  assert [text.get_text() for text in plot.texts] == ["this config, 512"]


def test_axes_count_in_powers_of_two():
  figure = _drawn()
  (plot,) = figure.axes
  style.png(figure)
  ticks = [label.get_text() for label in plot.get_xticklabels()]
  assert ticks == ["1", "2", "4", "8"]
  assert {"1k", "8k"} <= {label.get_text() for label in plot.get_yticklabels()}
  assert plot.get_xlabel() == "devices that share a row"
  assert plot.get_ylabel() == "longest row (tokens)"
