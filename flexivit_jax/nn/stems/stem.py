"""Convolutional stems: from images to the feature maps that patches are cut of.

With one, a ViT is the hybrid of the ViT paper (arXiv:2010.11929, section 3.1
and table 5): a patch is `stride` times fewer cells of a feature map on each
side, down to a single one. Patch sizes stay in pixels of the image, so grids,
positions and costs are those of a plain ViT.
"""

import dataclasses

import jax
import numpy as np

from flexivit_jax.core.patch_pixels import normalize
from flexivit_jax.core.tokens import Tokens, patchify, unpatchify
from flexivit_jax.devices import axes

# Pixels of the largest patch that a feature map's kernel may be stored for.
MAX_PATCH = 128


@dataclasses.dataclass(frozen=True)
class Stem:
  """What stands between an image and the patch embedding."""

  @property
  def stride(self) -> int:
    """Pixels of the image, in each direction, to a cell of the feature map."""
    return 1

  def channels(self, of_image: int) -> int:
    """Of the feature map."""
    return of_image

  def multiply_adds(self, image_hw: tuple[int, int], channels: int) -> int:
    """Of one image's convolutions, those with their padding included.

    Args:
      image_hw: multiples of the stride.
      channels: of the image.
    """
    del image_hw, channels
    return 0

  def __call__(self, images: jax.Array, dtype, *, remat: bool) -> jax.Array:
    """The feature map. What it makes are modules of the module that calls it.

    Args:
      images: `[b, h, w, c]`, normalised, in `dtype`; sides are multiples of
        the stride.
      dtype: of the products; statistics of norms are float32.
      remat: compute it again in the backward pass.

    Returns:
      `[b, h / stride, w / stride, self.channels(c)]` in `dtype`.
    """
    raise NotImplementedError

  def cells(self, patch_hw: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a patch in cells of the feature map.

    Raises:
      ValueError: its pixels are not a whole number of them.
    """
    s, (h, w) = self.stride, patch_hw
    if h % s or w % s or min(h, w) < 1:
      near = "x".join(str(max(1, round(side / s)) * s) for side in (h, w))
      raise ValueError(
        f"patches of {h}x{w} pixels, but the stem makes one cell of {s}x{s}: "
        f"give multiples of {s}, such as {near}, or a stem of a smaller stride"
      )
    return h // s, w // s


@dataclasses.dataclass(frozen=True)
class NoStem(Stem):
  """The patches are of the image itself: a plain ViT."""


def check_widths(name: str, widths: tuple[int, ...]) -> None:
  """Refuses channels that no stem has.

  Raises:
    ValueError: naming the bounds.
  """
  if not all(8 <= width <= 4096 for width in widths):
    value = widths[0] if name == "width" else widths
    raise ValueError(f"{name} is {value}: give 8 to 4096 channels")


def check_kernel(stem: Stem, kernel_hw: tuple[int, int]) -> None:
  """Refuses a kernel that is meant in pixels: there would be as many weights
  for each channel of the feature map.

  Raises:
    ValueError: naming the patches that it would be for.
  """
  if isinstance(stem, NoStem):
    return
  s, (h, w) = stem.stride, kernel_hw
  if max(h, w) * s > MAX_PATCH:
    raise ValueError(
      f"kernel_hw {kernel_hw} is in cells of the stem, of {s}x{s} pixels each, "
      f"so for patches of {h * s}x{w * s}: give (1, 1) for patches of {s}x{s}, "
      f"and at most {MAX_PATCH} pixels"
    )


def check_packing(stem: Stem) -> None:
  """Refuses a stem for rows that are not one whole image each.

  Raises:
    ValueError: it is one.
  """
  if not isinstance(stem, NoStem):
    raise ValueError(
      "a convolutional stem takes whole images: packed rows and parts of an "
      'image have none, so take stem="none", or images of one size without '
      "packing or masking"
    )


def feature_tokens(
  stem: Stem,
  tokens: Tokens,
  *,
  channels: int,
  mean: tuple[float, ...],
  std: tuple[float, ...],
  dtype,
  remat: bool,
) -> Tokens:
  """The same tokens with cells of the stem's feature map for pixels.

  Args:
    tokens: rows of one whole image each.
    channels: of the image.
    mean, std: as in `ViT`, of the pixels that the stem takes.

  Returns:
    Tokens with patches `[b, l, rows * cols * stem.channels(channels)]` in
    `dtype`.

  Raises:
    ValueError: rows are no whole images, devices share their tokens, a patch
      is no whole number of cells, or has other channels.
  """
  if tokens.whole_grid is None or tokens.size_index is not None:
    check_packing(stem)
  if axes.parts() > 1:
    raise ValueError(
      f"a convolutional stem takes whole images, but {axes.parts()} devices "
      'share the tokens of each: take seq=1, or stem="none"'
    )
  (patch_hw,) = tokens.patch_sizes
  cells_hw = stem.cells(patch_hw)
  (h, w), numbers = patch_hw, tokens.patches.shape[-1]
  if numbers != h * w * channels:
    raise ValueError(
      f"patches hold {numbers} numbers, but {h}x{w} pixels of {channels} "
      f"channels are {h * w * channels}"
    )
  mean, std = (np.broadcast_to(x, (channels,)) for x in (mean, std))
  image_hw = tuple(n * p for n, p in zip(tokens.whole_grid, patch_hw))
  pixels = normalize(tokens.patches, mean, std, dtype)
  features = stem(unpatchify(pixels, image_hw, patch_hw), dtype, remat=remat)
  return dataclasses.replace(
    tokens,
    patches=patchify(features, cells_hw).patches,
    patch_sizes=(cells_hw,),
  )
