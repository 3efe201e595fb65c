"""`Tokens`, the one type between data and model, and `Batch`.

Everything upstream of the encoder makes `Tokens`, everything in the model
consumes them. A grid of patches is the degenerate packing: one image per row,
no padding.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np


def _static(**kwargs):
  return dataclasses.field(metadata={"static": True}, **kwargs)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Tokens:
  """Rows of patches, with what the model must know of each.

  The leading axis of `coords`, `grid_hw`, `segments` and `size_index` is b, or
  1 where all rows agree (the grids that `patchify` makes).

  Attributes:
    patches: u8 in [0, 255], or float in [-1, 1], `[b, l, ph * pw * c]`: the
      pixels of one patch, row-major, channels last. With several sizes in one
      row the pixels lie in the top-left of the largest size.
    coords: i32 `[b, l, 2]`, (row, col) of the patch in its own image's grid.
      Padding holds a legal (0, 0).
    grid_hw: i32 `[b, l, 2]`, size of that grid in patches; 1 on padding.
    segments: i32 `[b, l]`, which image of the row, 1..num_images; 0 is
      padding. None: one image per row and no padding.
    size_index: i32 `[b, l]`, which of `patch_sizes`. None: one size.
    patch_sizes: static tuple of (height, width) in pixels. A new patch size
      is a new trace, by type.
    num_images: static, image slots per row (E_max in the NaViT paper,
      arXiv:2307.06304); 1 on grids.
    whole_grid: static (rows, cols) where every row is one image, all of this
      grid; None: a row may be anything.
  """

  patches: jax.Array
  coords: jax.Array
  grid_hw: jax.Array
  segments: jax.Array | None = None
  size_index: jax.Array | None = None
  patch_sizes: tuple[tuple[int, int], ...] = _static(default=())
  num_images: int = _static(default=1)
  whole_grid: tuple[int, int] | None = _static(default=None)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
  """One step's input.

  Attributes:
    inputs: images `[b, h, w, c]`, u8, or float32 of data that are no pictures
      (a grid batch, cut inside the step), or
      `Tokens` (a packed batch, cut on the host).
    labels: i32 `[b, e]`, class of each image slot; or `[b, e, k]`, its classes
      filled up with -1, where images may have several.
    weights: f32 `[b, e]`, 1 for a real image, 0 for padding.
    index: i32 `[b, e]`, which example of the source; -1 for padding.
    targets: f32 `[b, e, c]`, what is asked of each class, of mixed images;
      None: what the labels say.
    teacher_inputs: u8 images of another size, `[b, h, w, c]`, the same crop as
      in `inputs`; None: a teacher sees `inputs`.
  """

  inputs: jax.Array | Tokens
  labels: jax.Array
  weights: jax.Array
  index: jax.Array
  targets: jax.Array | None = None
  teacher_inputs: jax.Array | None = None


def grid_shape(
  image_hw: tuple[int, int], patch_hw: tuple[int, int]
) -> tuple[int, int]:
  """Number of (rows, cols) of patches in an image.

  Raises:
    ValueError: the image is not a whole number of patches.
  """
  (h, w), (ph, pw) = image_hw, patch_hw
  if min(ph, pw) < 1:
    raise ValueError(f"patch size {ph}x{pw}: both sides must be at least 1")
  if h % ph or w % pw or min(h, w) < 1:
    nearest = [max(1, round(x / p)) * p for x, p in ((h, ph), (w, pw))]
    raise ValueError(
      f"an image of {h}x{w} pixels is not a whole number of {ph}x{pw} "
      f"patches: resize it to {nearest[0]}x{nearest[1]}, or take a patch size "
      f"whose sides divide {h} and {w}"
    )
  return h // ph, w // pw


def patchify(images: jax.Array, patch_hw: tuple[int, int]) -> Tokens:
  """Cuts images into rows of patches: a reshape, exact for any dtype.

  Args:
    images: `[b, h, w, c]`, u8 in [0, 255] or float in [-1, 1].
    patch_hw: (height, width) of a patch in pixels; static.

  Returns:
    Tokens with l = (h / ph) * (w / pw), in row-major order of the grid.
  """
  return jax.tree.map(jnp.asarray, patchify_numpy(images, patch_hw))


def patchify_numpy(images, patch_hw: tuple[int, int]) -> Tokens:
  """`patchify` of a numpy array, without a device; of a JAX array too."""
  b, h, w, c = images.shape
  ph, pw = patch_hw
  gh, gw = grid_shape((h, w), patch_hw)
  patches = images.reshape(b, gh, ph, gw, pw, c).swapaxes(2, 3)
  coords = np.stack(np.divmod(np.arange(gh * gw), gw), axis=-1)
  return Tokens(
    patches=patches.reshape(b, gh * gw, ph * pw * c),
    coords=coords[None].astype(np.int32),
    grid_hw=np.tile(np.array((gh, gw), np.int32), (1, gh * gw, 1)),
    patch_sizes=((ph, pw),),
    whole_grid=(gh, gw),
  )


def unpatchify(patches: jax.Array, image_hw, patch_hw) -> jax.Array:
  """The inverse of `patchify` on a grid: `[b, l, ph * pw * c]` to images."""
  b, ph, pw = patches.shape[0], *patch_hw
  gh, gw = grid_shape(image_hw, patch_hw)
  images = patches.reshape(b, gh, gw, ph, pw, -1).swapaxes(2, 3)
  return images.reshape(b, gh * ph, gw * pw, -1)
