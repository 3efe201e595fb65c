"""resize: the matrices B and P, their spectra, what they keep and lose."""

import numpy as np

from flexivit_jax.analysis import resizing
from flexivit_jax.cli.analyses.contract import Analysis, Findings
from flexivit_jax.core.errors import ConfigError
from flexivit_jax.core.text import align

ANTIALIAS = {"off": (False,), "on": (True,), "both": (False, True)}

# A pseudo-inverse of this side is a second's work; two dimensions of 64 fill a
# matrix of 4096 x 4096, more than a figure has dots.
MOST = {1: 256, 2: 64}
# A row of maps for each.
MOST_SIDES = 12


def add_arguments(parser) -> None:
  add = parser.add_argument
  add("--from", dest="old", default="32", help="stored side; default: 32")
  add(
    "--to",
    default="8,12,16,48",
    help="sides of the patches, in pixels; default: %(default)s",
  )
  add(
    "--antialias",
    choices=tuple(ANTIALIAS),
    default="both",
    help="of B; the models here have it off; default: both",
  )
  add(
    "--dimensions",
    type=int,
    choices=tuple(MOST),
    default=1,
    help="matrices of one axis, or of the whole patch; default: 1",
  )


def run(args) -> Findings:
  (old,) = _sides("--from", args.old, args.dimensions, most=1)
  new = _sides("--to", args.to, args.dimensions)
  antialias = ANTIALIAS[args.antialias]
  matrices = [
    resizing.matrices(old, side, antialias=aa, dimensions=args.dimensions)
    for aa in antialias
    for side in new
  ]
  sides = {*new, *_ladder(max(3 * old // 2, *new))}
  curves = [resizing.curve(old, sides, antialias=aa) for aa in antialias]
  return Findings(
    figures={
      "resize_matrices": resizing.draw_matrices(matrices),
      "resize_spectra": resizing.draw_spectra(matrices),
      "resize_gain": resizing.draw_curves(curves, new),
    },
    numbers=dict(_numbers(matrices, curves)),
    lines=(_table(curves, new),),
  )


def _sides(name, text, dimensions, most=MOST_SIDES) -> list[int]:
  """ "8,12" as [8, 12]."""
  try:
    sides = list(dict.fromkeys(map(int, text.split(","))))
  except ValueError:
    what = "one side" if most == 1 else "sides"
    raise ConfigError(
      f"{name} {text!r}: give {what} of square patches in pixels, "
      f"{'32' if most == 1 else '8,12,16'} say"
    ) from None
  if len(sides) > most:
    what = "one side" if most == 1 else f"at most {most} sides"
    raise ConfigError(f"{name} {text!r}: give {what}")
  for side in sides:
    if not 1 <= side <= MOST[dimensions]:
      raise ConfigError(
        f"{name} {side}: give 1 to {MOST[dimensions]} pixels with --dimensions "
        f"{dimensions}"
      )
  return sides


def _ladder(longest) -> list[int]:
  """Sides from 2 on: all of them, of long ones about 64."""
  return sorted({int(x) for x in np.linspace(2, longest, 64).round()})


def _numbers(matrices, curves):
  for m in matrices:
    key = f"{m.old}_to_{m.new}_antialias_{'on' if m.antialias else 'off'}"
    yield f"B_{key}", m.b
    yield f"P_{key}", m.p
    yield f"singular_values_{key}", m.singular_values
  yield "sides", curves[0].sides
  for c in curves:
    key = f"antialias_{'on' if c.antialias else 'off'}"
    yield f"gain_{key}", c.gain
    yield f"response_error_noise_{key}", c.error_noise
    yield f"response_error_smooth_{key}", c.error_smooth


def _table(curves, sides) -> str:
  rows = [("resize", "antialias", "gain", "error, noise", "error, smooth")]
  for c in curves:
    for side in sides:
      at = int(np.flatnonzero(c.sides == side)[0])
      rows.append(
        (
          f"{c.old} -> {side}",
          "on" if c.antialias else "off",
          f"{c.gain[at]:.2f}",
          f"{c.error_noise[at]:.2g}",
          f"{c.error_smooth[at]:.2g}",
        )
      )
  return align(rows, left=1)


ANALYSIS = Analysis(
  name="resize",
  help="matrices of a resize, spectra, gain and response error; no checkpoint",
  add_arguments=add_arguments,
  run=run,
)
