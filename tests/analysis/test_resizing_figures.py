"""What is drawn is what was found."""

import numpy as np

from flexivit_jax.analysis import resizing

OLD, SIDES = 8, (4, 12)


def found(dimensions=1):
  return [
    resizing.matrices(OLD, new, antialias=aa, dimensions=dimensions)
    for aa in (False, True)
    for new in SIDES
  ]


def test_maps_stand_in_rows_of_sizes():
  matrices = found()
  figure = resizing.draw_matrices(matrices)
  maps = [axes for axes in figure.axes if axes.get_title()]
  assert [axes.get_title() for axes in maps] == [
    f"{name}, 8 to {new} px, antialias {aa}"
    for new in SIDES
    for aa in ("off", "on")
    for name in "BP"
  ]
  expected = [
    x
    for new in SIDES
    for aa in (False, True)
    for m in matrices
    if (m.new, m.antialias) == (new, aa)
    for x in (m.b, m.p)
  ]
  for axes, values in zip(maps, expected, strict=True):
    np.testing.assert_array_equal(axes.images[0].get_array(), values)
  # One scale for all of a kind, light at 0.
  limits = [axes.images[0].get_clim() for axes in maps]
  assert len({*limits[0::2]}) == len({*limits[1::2]}) == 1
  assert all(low == -high for low, high in limits)


def test_spectra_that_are_equal_are_drawn_once():
  figure = resizing.draw_spectra(found())
  (axes,) = figure.axes
  assert [line.get_label() for line in axes.lines] == [
    "8 to 12 px, antialias on or off",
    "8 to 4 px, antialias off",
    "8 to 4 px, antialias on",
  ]
  off, on = (m.singular_values for m in found() if m.new == 12)
  np.testing.assert_array_equal(off, on)
  np.testing.assert_array_equal(axes.lines[0].get_ydata(), off)


def test_curves_have_a_dot_at_the_sides_asked_for():
  curves = [
    resizing.curve(OLD, range(2, 13), antialias=aa) for aa in (False, True)
  ]
  figure = resizing.draw_curves(curves, SIDES)
  above, below = figure.axes
  gains = above.lines[:2]
  for line, curve in zip(gains, curves, strict=True):
    np.testing.assert_array_equal(line.get_ydata(), curve.gain)
    assert line.get_xdata()[line.get_markevery()].tolist() == [*SIDES]
  noise, *smooth = below.lines[:3]
  for curve in curves:
    # One line stands for both.
    np.testing.assert_allclose(
      noise.get_ydata(), curve.error_noise, rtol=0, atol=1e-12
    )
  for line, curve in zip(smooth, curves, strict=True):
    np.testing.assert_array_equal(line.get_ydata(), curve.error_smooth)
  (text,) = below.texts
  assert text.get_text().startswith("from 8 px on\nat most ")
