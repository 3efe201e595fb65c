"""The filters of a patch embedding at every patch size."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.figure import Figure

from flexivit_jax.analysis.analysis import (
  Analysis,
  Findings,
  Given,
  Option,
  Refusal,
  patch_sizes,
  refusing,
  whole,
)
from flexivit_jax.analysis.figures import bare, signed_map
from flexivit_jax.core import pi_resize
from flexivit_jax.core.text import align
from flexivit_jax.nn.stems.stem import NoStem


@dataclasses.dataclass(frozen=True, eq=False)
class Filters:
  """A few mixtures of filters at every patch size.

  Attributes:
    patch_sizes: (height, width) in pixels.
    mixtures: `[sizes, d, n]`, of output channels; columns of norm 1.
    tiles: for each patch size float64 `[n, h, w, c]`: the kernel, PI-resized to
      it, mixed.
    shares: `[sizes, n]`, share that a tile has of that size's kernel: of the
      variance over its filters for components, else of the squared norm.
    norms: `[sizes]`, norm of the whole kernel, as a share of that of the
      stored one.
    grey: `[sizes]`, norm of the responses to a patch of one grey, as a share
      of those at the stored size: what a smooth patch keeps.
  """

  patch_sizes: tuple[tuple[int, int], ...]
  mixtures: np.ndarray
  tiles: tuple[np.ndarray, ...]
  shares: np.ndarray
  norms: np.ndarray
  grey: np.ndarray


def principal_components(kernel: np.ndarray, n: int) -> np.ndarray:
  """Mixtures of filters that vary most from filter to filter (figure 7, left,
  of ViT, arXiv:2010.11929).

  Args:
    kernel: `[h, w, c, d]`, d filters.
    n: how many, at most d - 1 and h w c.

  Returns:
    `[d, n]`. Each sums to 0 over filters, and has a sign with which the sum of
    its pixels is not negative.
  """
  flat = _flat(kernel)
  mixtures = np.linalg.svd(_centred(flat), full_matrices=False)[2][:n].T
  return mixtures * np.where((flat @ mixtures).sum(axis=0) < 0, -1.0, 1.0)


def strongest(kernel: np.ndarray, n: int) -> np.ndarray:
  """The n filters of the largest norm, as mixtures `[d, n]` of one each."""
  squares = np.sum(_flat(kernel) ** 2, axis=0)
  chosen = np.argsort(-squares, kind="stable")[:n]
  return np.eye(len(squares))[:, chosen]


@dataclasses.dataclass(frozen=True)
class Choice:
  """The mixtures that are shown.

  Attributes:
    mixtures: `principal_components` or `strongest`.
    each: chosen anew at each patch size, from the resized kernel; else from
      the stored one, and then a column is one mixture at every size.
    name: of one of them.
  """

  mixtures: Callable[[np.ndarray, int], np.ndarray]
  each: bool
  name: str


def filters(
  kernel: np.ndarray,
  patch_sizes: Sequence[tuple[int, int]],
  choice: Choice,
  *,
  n: int,
  antialias: bool,
) -> Filters:
  """A kernel at every patch size, through a few mixtures of its filters.

  Args:
    kernel: the stored one, `[h, w, c, d]`.
    n: how many mixtures.
    antialias: of PI-resize, as the model has it.

  Raises:
    ValueError: there are not so many, or the kernel is the same for every d.
  """
  kernel = np.asarray(kernel, np.float64)
  components = choice.mixtures is principal_components
  if components and not np.ptp(kernel, axis=-1).any():
    raise ValueError("all filters are the same: they have no components")
  resized = [
    pi_resize.pi_resize(kernel, size, antialias=antialias)
    for size in patch_sizes
  ]
  sources = resized if choice.each else [kernel] * len(resized)
  for h, w, c, d in {x.shape: None for x in sources}:
    most = min(h * w * c, d - 1) if components else d
    if not 1 <= n <= most:
      raise ValueError(
        f"{n} is not 1 to {most}, what a kernel of {h}x{w} pixels, {c} "
        f"channels and {d} filters has"
      )
  mixtures = [choice.mixtures(x, n) for x in sources]
  mixed = [_flat(x) @ m for x, m in zip(resized, mixtures, strict=True)]
  whole = [_centred(_flat(x)) if components else x for x in resized]
  return Filters(
    tuple(patch_sizes),
    np.array(mixtures),
    tuple(
      x.T.reshape(n, *full.shape[:3])
      for x, full in zip(mixed, resized, strict=True)
    ),
    np.array(
      [
        np.sum(x**2, axis=0) / np.sum(full**2)
        for x, full in zip(mixed, whole, strict=True)
      ]
    ),
    np.array([np.linalg.norm(x) for x in resized]) / np.linalg.norm(kernel),
    np.array([_grey(x) for x in resized]) / _grey(kernel),
  )


def _flat(kernel):
  return kernel.reshape(-1, kernel.shape[-1])


def _centred(flat):
  return flat - flat.mean(axis=1, keepdims=True)


def _grey(kernel):
  return np.linalg.norm(_flat(kernel).sum(axis=0))


def draw(found: Filters, *, name: str) -> Figure:
  """A row for each patch size, a column for each mixture.

  Each tile has its own scale, grey is 0: what shows is the pattern. Above it is
  its share of the kernel.

  Args:
    name: of what is in the columns: "principal component", say.
  """
  rows, n = found.shares.shape
  figure = Figure(
    figsize=(1.1 + 0.75 * n, 0.5 + 0.92 * rows), layout="constrained"
  )
  grid = figure.subplots(rows, n, squeeze=False)
  for row, (h, w) in enumerate(found.patch_sizes):
    for axes, tile, share in zip(
      grid[row], found.tiles[row], found.shares[row], strict=True
    ):
      _draw_tile(axes, tile)
      axes.set_title(f"{100 * share:.1f} %", fontsize=7, pad=2)
    grid[row, 0].set_ylabel(
      f"{h}x{w} px", rotation=0, ha="right", va="center", fontsize=9
    )
  for i, axes in enumerate(grid[-1]):
    axes.set_xlabel(f"{i + 1}", fontsize=9)
  figure.supxlabel(name, fontsize=10)
  return figure


def _draw_tile(axes, tile):
  tile = tile / (np.abs(tile).max() or 1)
  # Three channels are colours, of any others the mean is shown.
  if tile.shape[-1] == 3:
    axes.imshow(0.5 + 0.5 * tile, interpolation="nearest")
  else:
    signed_map(axes, tile.mean(axis=-1), largest=1)
  bare(axes)


SHOW = {
  "components": Choice(
    principal_components, True, "principal component at each size"
  ),
  "stored_components": Choice(
    principal_components, False, "principal component as stored"
  ),
  "strongest": Choice(strongest, False, "filter, by its norm as stored"),
}


def run(checkpoint, options) -> Findings:
  model, count = checkpoint.model, options["count"]
  if not isinstance(model.stem, NoStem):
    raise Refusal(
      f"--checkpoint {checkpoint.spec.path}: its patch embedding is of the "
      "features of a convolutional stem, which are no pixels to draw: give a "
      "model without a stem"
    )
  usual = [model.kernel_hw, *checkpoint.spec.trained_sizes]
  sizes = options["patch_sizes"] or usual
  choice = SHOW[options["show"]]
  with refusing("--count"):
    found = filters(
      checkpoint.arrays["embedding/kernel"],
      tuple(dict.fromkeys(sizes)),
      choice,
      n=count,
      antialias=model.kernel_antialias,
    )
  names = [f"{h}x{w}" for h, w in found.patch_sizes]
  shares = 100 * found.shares.sum(axis=1)
  rows = [("patch", "norm", "response to grey", f"share of {count}")]
  for name, norm, grey, share in zip(names, found.norms, found.grey, shares):
    rows.append((name, f"{norm:.3f}", f"{grey:.3f}", f"{share:.1f} %"))
  of = "squared norm" if choice.mixtures is strongest else "variance"
  tiles = {f"tiles_{k}": x for k, x in zip(names, found.tiles, strict=True)}
  numbers = ("mixtures", "shares", "norms", "grey")
  return Findings(
    {"filters": draw(found, name=choice.name)},
    {name: getattr(found, name) for name in numbers} | tiles,
    (
      align(rows),
      "norm and response to grey: 1 is the stored kernel's; share: of the "
      + of,
    ),
  )


ANALYSIS = Analysis(
  "filters",
  "filters of the patch embedding at every patch size",
  Given.STORED,
  (
    Option(
      "patch_sizes",
      "8,16x12: a row of images for each; default: the stored size, and those "
      "that it was trained at",
      parse=patch_sizes,
    ),
    Option(
      "show",
      "principal components of all filters, of each size's own or of the "
      "stored ones at each size, or the filters of the largest norm",
      "components",
      choices=tuple(SHOW),
    ),
    # A column each; ViT's figure has 28.
    Option("count", "of them, 1 to 32", "12", whole(1, 32)),
  ),
  run,
)
