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


def to_tokens(
  inputs: jax.Array | Tokens, patch_hw: tuple[int, int] | None
) -> Tokens:
  """A batch's inputs as Tokens: images are cut, packs pass through."""
  if isinstance(inputs, Tokens):
    return inputs
  return patchify(inputs, patch_hw)


def normalize(patches: jax.Array, mean, std, dtype=jnp.float32) -> jax.Array:
  """Pixels of patches as a patch embedding expects them.

  Args:
    patches: `[..., ph * pw * c]`, u8, or float in [-1, 1].
    mean, std: numpy `[c]`, of pixels in [0, 1]. 0.5 and 0.5 leave [-1, 1] as
      it is.

  Returns:
    (x - mean) / std for x in [0, 1], in `dtype`.
  """
  if (mean == 0.5).all() and (std == 0.5).all():
    return to_unit_range(patches, dtype)
  precise = jnp.promote_types(dtype, jnp.float32)
  # (x + 1) / 2 - mean over std, as one product and one sum for each pixel.
  pixels = patches.shape[-1] // len(mean)
  scale = np.tile(0.5 / std, pixels).astype(precise)
  shift = np.tile((0.5 - mean) / std, pixels).astype(precise)
  x = to_unit_range(patches, precise)
  rank = (1,) * (x.ndim - 1) + (-1,)
  return (x * scale.reshape(rank) + shift.reshape(rank)).astype(dtype)


def standardize(tokens: Tokens) -> Tokens:
  """Each image's pixels with mean 0 and variance 1, as in Pix2Struct.

  (x - mean) / max(std, 1 / sqrt(n)) over all n numbers of an image in 0 to
  255 (`tf.image.per_image_standardization`): numbers of its patches in the
  row. Hugging Face's processor takes mean and std before it resizes an image,
  so they differ by what resizing changes.

  Args:
    tokens: patches u8, or float in [-1, 1].

  Returns:
    Tokens with float patches; 0 on padding and beyond a smaller patch.
  """
  patches, e = tokens.patches, tokens.num_images
  dtype = jnp.promote_types(patches.dtype, jnp.float32)
  if patches.dtype != jnp.uint8:
    patches = (patches.astype(dtype) + 1) * 127.5
  real, owner = own_pixels(tokens), jnp.ones((1, 1, 1), dtype)
  if tokens.segments is not None:
    owner = membership(tokens.segments, e).astype(dtype)
    real = real & (tokens.segments[..., None] > 0)
  x = jnp.where(real, patches.astype(dtype), 0)
  owner = jnp.broadcast_to(owner, (*x.shape[:2], owner.shape[-1]))
  highest = jax.lax.Precision.HIGHEST

  def of_image(sums):
    """`[b, l, 1]` summed over an image, given to each of its tokens."""
    total = jnp.einsum("ble,blk->bek", owner, sums, precision=highest)
    return jnp.einsum("ble,bek->blk", owner, total, precision=highest)

  counts = jnp.broadcast_to(real, x.shape).sum(-1, keepdims=True, dtype=dtype)
  n = jnp.maximum(of_image(counts), 1)
  x = jnp.where(real, x - of_image(x.sum(-1, keepdims=True)) / n, 0)
  variance = of_image(jnp.square(x).sum(-1, keepdims=True)) / n
  x = x / jnp.maximum(jnp.sqrt(variance), 1 / jnp.sqrt(n))
  return dataclasses.replace(tokens, patches=x)


def membership(segments: jax.Array, num_images: int) -> jax.Array:
  """bool `[b, l, e]`: whether a token is of an image slot.

  Args:
    segments: `[b, l]`, 1..e; 0 is padding, of no slot.
  """
  slots = jnp.arange(1, num_images + 1, dtype=segments.dtype)
  return segments[..., None] == slots.reshape(1, 1, -1)


def own_pixels(tokens: Tokens) -> jax.Array:
  """bool `[b or 1, l or 1, ph * pw * c]`: what a patch of its size has."""
  width = tokens.patches.shape[-1]
  sizes = tokens.patch_sizes
  if tokens.size_index is None:
    return jnp.ones((1, 1, width), bool)
  h, w = (max(side) for side in zip(*sizes, strict=True))
  masks = np.zeros((len(sizes), h, w, width // (h * w)), bool)
  for mask, (ph, pw) in zip(masks, sizes, strict=True):
    mask[:ph, :pw] = True
  return jnp.asarray(masks.reshape(len(sizes), -1))[tokens.size_index]


def mean_over_patch(values: jax.Array, own: jax.Array) -> jax.Array:
  """Mean over each patch's own numbers.

  Args:
    values: float `[b, l, ph * pw * c]`, laid out as the patches are; what lies
      beside a smaller patch is not read.
    own: `own_pixels` of the tokens.

  Returns:
    `[b, l]`.
  """
  count = own.sum(axis=-1).astype(values.dtype)
  return jnp.where(own, values, 0).sum(axis=-1) / count


def to_unit_range(pixels: jax.Array, dtype=jnp.float32) -> jax.Array:
  """u8 pixels 0..255 to floats -1..1; floats pass as they are."""
  if pixels.dtype == jnp.uint8:
    # In float32 also for a bfloat16 model: 255 / 127.5 - 1 must be 1.
    pixels = pixels.astype(jnp.promote_types(dtype, jnp.float32)) / 127.5 - 1
  return pixels.astype(dtype)
