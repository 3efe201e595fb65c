"""From an image to the patches that a packed row takes, on the host."""

import dataclasses
import math

import numpy as np

from flexivit_jax.core import resolution as resolution_lib
from flexivit_jax.core import token_drop
from flexivit_jax.core.errors import Fault
from flexivit_jax.core.patch_size import PatchSizePolicy
from flexivit_jax.data.pixels import resize


class TooLongError(ValueError, Fault):
  """An image has more patches than a row takes."""


@dataclasses.dataclass(frozen=True)
class Plan:
  """Sizes at which an image is cut.

  Attributes:
    image_hw: size to which it is resized, in pixels.
    patch_hw: size of its patches; they tile image_hw.
    drop: share of the patches to leave out.
    scaled_down: whether the resolution asked for more than a row takes or the
      model has positions for.
  """

  image_hw: tuple[int, int]
  patch_hw: tuple[int, int]
  drop: float = 0.0
  scaled_down: bool = False

  @property
  def grid_hw(self) -> tuple[int, int]:
    return (
      self.image_hw[0] // self.patch_hw[0],
      self.image_hw[1] // self.patch_hw[1],
    )

  @property
  def tokens(self) -> int:
    """Patches before any is left out."""
    return math.prod(self.grid_hw)


@dataclasses.dataclass(frozen=True)
class Cutter:
  """Cuts images of any size.

  Attributes:
    row_length: patches that fit into a row; an image has no more, before any
      is left out.
    resize_long: whether an image that has more is scaled down until it fits,
      rather than refused.
    largest_grid: (rows, cols) that the model has positions for; None: any.
  """

  resolution: resolution_lib.Resolution
  patch_size: PatchSizePolicy
  drop: token_drop.TokenDrop
  row_length: int
  resize_long: bool = True
  largest_grid: tuple[int, int] | None = None

  @property
  def sizes(self) -> tuple[tuple[int, int], ...]:
    """The patch sizes; `size_index` points into them."""
    return self.patch_size.sizes

  @property
  def patch_bytes(self) -> int:
    """Bytes of one patch of the largest height and width, 3 channels."""
    h, w = self._largest
    return h * w * 3

  @property
  def _largest(self):
    return tuple(max(sides) for sides in zip(*self.sizes))

  def plan(
    self,
    image_hw: tuple[int, int],
    rng: np.random.Generator | None,
    images_seen: int,
    name: str,
  ) -> Plan:
    """Plans the cut of an image of this size.

    Args:
      rng: draws patch size, resolution and drop rate; None: nothing is random.
      images_seen: by the whole run before this one.
      name: of the image, for messages.

    Raises:
      TooLongError: it does not fit into a row, or beyond the positions.
    """
    # One seed for the resolution, so that a policy that asks for several patch
    # sizes compares them at the same draw.
    seed = None if rng is None else int(rng.integers(2**63))

    def resized(patch_hw):
      draw = None if seed is None else np.random.default_rng(seed)
      return Plan(self.resolution(image_hw, patch_hw, draw), patch_hw)

    if len(self.sizes) == 1:
      plan = resized(self.sizes[0])
    else:
      plan = resized(
        self.patch_size.for_image(lambda size: resized(size).tokens, rng)
      )
    plan = self._fitted(plan, image_hw, name)
    if rng is None:
      return plan
    return dataclasses.replace(
      plan, drop=self.drop(plan.tokens, rng, images_seen)
    )

  def _fitted(self, plan, image_hw, name):
    rows, cols = plan.grid_hw
    too_long = rows * cols > self.row_length
    beyond = self.largest_grid is not None and (
      rows > self.largest_grid[0] or cols > self.largest_grid[1]
    )
    if not (too_long or beyond):
      return plan
    if not self.resize_long:
      limit = (
        f"a row takes {self.row_length}"
        if too_long
        else f"positions end at {self.largest_grid[0]}x{self.largest_grid[1]}"
      )
      raise TooLongError(
        f"{name} of {image_hw[0]}x{image_hw[1]} pixels has {rows}x{cols} "
        f'patches, and {limit}: give config.packing.too_long="resize", a '
        "smaller resolution, or larger patches"
      )
    fitted = plan.image_hw
    if too_long:
      fitted = resolution_lib.floor_to_budget(
        fitted, plan.patch_hw, self.row_length
      )
    if self.largest_grid is not None:
      fitted = resolution_lib.within_grid(
        fitted, plan.patch_hw, self.largest_grid
      )
    return dataclasses.replace(plan, image_hw=fitted, scaled_down=True)

  def cut(
    self, image: np.ndarray, plan: Plan, rng: np.random.Generator | None
  ) -> tuple[np.ndarray, np.ndarray]:
    """Resizes and cuts an image.

    Args:
      image: u8 `[h, w, 3]`.
      plan: of this image.
      rng: draws which patches are left out; None: none is.

    Returns:
      Patches u8 `[n, patch_bytes]`, row-major, in the top-left of the largest
      size, and cells i32 `[n, 5]`: row, col, rows, cols, size index.
    """
    (rows, cols), (ph, pw) = plan.grid_hw, plan.patch_hw
    image = resize.resize(image, plan.image_hw)
    grid = image.reshape(rows, ph, cols, pw, 3)
    chosen = np.arange(plan.tokens)
    if rng is not None and plan.drop:
      chosen = token_drop.kept(plan.tokens, plan.drop, rng)
    row, col = np.divmod(chosen, cols)
    own = grid[row, :, col]
    if (ph, pw) != self._largest:
      patches = np.zeros((len(chosen), *self._largest, 3), np.uint8)
      patches[:, :ph, :pw] = own
    else:
      patches = own
    cells = np.empty((len(chosen), 5), np.int32)
    cells[:, 0], cells[:, 1] = row, col
    cells[:, 2:] = rows, cols, self.sizes.index(plan.patch_hw)
    return patches.reshape(len(chosen), -1), cells
