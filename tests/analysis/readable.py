"""Whether the words of a figure can be read."""

from matplotlib.backends.backend_agg import FigureCanvasAgg


def texts_inside(figure):
  """Draws a figure; asserts that no title, label or legend is cut off.

  Returns those texts.
  """
  canvas = FigureCanvasAgg(figure)
  canvas.draw()
  legends = [*figure.legends, *(x.get_legend() for x in figure.axes)]
  texts = [*figure.texts]
  for legend in filter(None, legends):
    texts += legend.get_texts()
  for axes in figure.axes:
    texts += [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
  shown = [x for x in texts if x.get_text()]
  width, height = figure.get_size_inches() * figure.dpi
  for text in shown:
    box = text.get_window_extent(canvas.get_renderer())
    # Within a pixel of the edge.
    assert min(box.x0, box.y0) >= -1, text.get_text()
    assert box.x1 <= width + 1, text.get_text()
    assert box.y1 <= height + 1, text.get_text()
  return {x.get_text() for x in shown}
