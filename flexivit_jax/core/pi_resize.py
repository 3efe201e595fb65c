"""PI-resize of patch embeddings and of patches (FlexiViT, section 3.4)."""

import jax
import jax.numpy as jnp
import numpy as np

from flexivit_jax.core.resize import bilinear_matrix, pi_matrix, resize_grid


def pi_resize(kernel, new_hw, *, antialias: bool = False):
  """Patch-embedding kernel for patches of `new_hw` pixels: w' = P w.

  Args:
    kernel: `[ph, pw, c, d]`, numpy or jax. Keep the stored kernel at its own
      size and resize on the fly: chains of resizes lose information.
    new_hw: (height, width) of the patch, in pixels; static.
    antialias: of B. Off in the published FlexiViT; on gives other numbers.

  Returns:
    `[new_h, new_w, c, d]` in the kernel's dtype; the kernel itself where the
    size agrees. Differentiable.
  """
  h, w, c, d = kernel.shape
  if (h, w) == tuple(new_hw):
    return kernel
  xp, matrices, options = _prepare(kernel, (h, w), new_hw, antialias)
  rows, cols = matrices
  y = xp.matmul(
    rows, kernel.astype(rows.dtype).reshape(h, w * c * d), **options
  )
  # One small product for each row of the patch: contracting the middle axis
  # at once would transpose the kernel, which costs more than the products.
  cols = xp.broadcast_to(cols, (new_hw[0], *cols.shape))
  y = xp.matmul(cols, y.reshape(new_hw[0], w, c * d), **options)
  return y.reshape(*new_hw, c, d).astype(kernel.dtype)


RESIZES = ("pi", "bilinear", "area", "norm")


def resize_kernel(
  kernel: np.ndarray, new_hw, *, how: str, antialias: bool = False
) -> np.ndarray:
  """A kernel resized in one of the ways that FlexiViT's paper compares
  (arXiv:2212.08013, section 3.3 and figure 4).

  Args:
    kernel: `[ph, pw, c, d]`.
    new_hw: (height, width) of the patch, in pixels.
    how: "pi", as `pi_resize`; "bilinear", as an image is resized, which makes
      tokens larger with the patch; "area", that times old / new area, which
      keeps the answer to a patch of one colour; "norm", that with the norm of
      each of the d kernels restored.
    antialias: of the bilinear resize.

  Returns:
    `[new_h, new_w, c, d]` in the kernel's dtype; the kernel itself where the
    size agrees.
  """
  old_hw = kernel.shape[:2]
  if how not in RESIZES:
    raise ValueError(f"resize {how!r}: give one of {', '.join(RESIZES)}")
  if old_hw == tuple(new_hw):
    return kernel
  if how == "pi":
    return pi_resize(kernel, new_hw, antialias=antialias)
  exact = kernel.astype(np.float64)
  flat = resize_grid(exact.reshape(*old_hw, -1), new_hw, antialias=antialias)
  resized = flat.reshape(*new_hw, *kernel.shape[2:])
  if how == "area":
    resized *= np.prod(old_hw) / np.prod(new_hw)
  elif how == "norm":
    old, new = (np.sqrt((x**2).sum(axis=(0, 1, 2))) for x in (exact, resized))
    resized *= np.divide(old, new, out=np.zeros_like(new), where=new > 0)
  return resized.astype(kernel.dtype)


def store_kernel(kernel: np.ndarray, stored_hw, *, antialias: bool = False):
  """A kernel of another stored size that `pi_resize` turns back: w' = B^T w.

  PI-resize of PI-resize does not give the first kernel: kept at 32x32 that
  way, one of 6x6 would be another one when it meets patches of 6x6. B^T w,
  with B from the stored size to the kernel's, is turned back exactly where no
  side shrinks, since P B^T = pinv(B^T) B^T = 1, and comes nearest where one
  does. Patches of the stored size it treats as resized to the kernel's.

  Args:
    kernel: `[ph, pw, c, d]`.
    antialias: of the PI-resize that will turn it back.

  Returns:
    `[stored_h, stored_w, c, d]` in the kernel's dtype.
  """
  rows, cols = (
    bilinear_matrix(stored, own, antialias)
    for stored, own in zip(stored_hw, kernel.shape[:2], strict=True)
  )
  stored = np.einsum("hi,wj,hwcd->ijcd", rows, cols, kernel, optimize=True)
  return stored.astype(kernel.dtype)


def pi_resize_patches(patches, kernel_hw, *, antialias: bool = False):
  """The dual of `pi_resize`: <x, P w> = <P^T x, w>.

  Resizes the patches to the stored kernel's size instead of the kernel to the
  patch, so patches of different sizes can meet one kernel.

  Args:
    patches: float `[..., ph, pw, c]`.
    kernel_hw: (height, width) of the stored kernel; static.

  Returns:
    `[..., kernel_h, kernel_w, c]`.
  """
  patch_hw = patches.shape[-3:-1]
  if patch_hw == tuple(kernel_hw):
    return patches
  xp, (rows, cols), options = _prepare(patches, kernel_hw, patch_hw, antialias)
  y = patches.astype(rows.dtype)
  y = xp.einsum("pk,ql,...pqc->...klc", rows, cols, y, **options)
  return y.astype(patches.dtype)


def pi_resize_mixed(
  patches, size_index, patch_sizes, kernel_hw, *, antialias: bool = False
):
  """`pi_resize_patches` where every patch has its own size.

  Args:
    patches: float `[b, l, h * w * c]`, of the largest height and width among
      the sizes; smaller ones lie in the top-left, what is beside them is not
      read.
    size_index: i32 `[b or 1, l]`, which of patch_sizes; padding may have any.
    patch_sizes: static tuple of (height, width).
    kernel_hw: (height, width) of the stored kernel; static.

  Returns:
    `[b, l, kernel_h * kernel_w * c]`.
  """
  h, w = (max(sides) for sides in zip(*patch_sizes))
  b, l, _ = patches.shape
  rows, cols, options = _matrices_of_tokens(
    pi_matrix, patches, size_index, patch_sizes, kernel_hw, antialias
  )
  x = patches.astype(rows.dtype).reshape(b, l, h, w, -1)
  y = jnp.einsum("blpk,blpqc->blkqc", rows, x, **options)
  y = jnp.einsum("blqm,blkqc->blkmc", cols, y, **options)
  return y.reshape(b, l, -1).astype(patches.dtype)


def resize_mixed(
  pixels, size_index, patch_sizes, stored_hw, *, antialias: bool = True
):
  """Bilinear resizing of each token's pixels to its own patch's size.

  Args:
    pixels: float `[b, l, stored_h * stored_w * c]`.
    size_index, patch_sizes: as in `pi_resize_mixed`.
    stored_hw: (height, width) of the pixels; static.

  Returns:
    `[b, l, h * w * c]`, of the largest height and width among the sizes;
    smaller ones lie in the top-left, and zeros beside them.
  """
  b, l, _ = pixels.shape
  rows, cols, options = _matrices_of_tokens(
    bilinear_matrix, pixels, size_index, patch_sizes, stored_hw, antialias
  )
  x = pixels.astype(rows.dtype).reshape(b, l, *stored_hw, -1)
  y = jnp.einsum("blpk,blkmc->blpmc", rows, x, **options)
  y = jnp.einsum("blqm,blpmc->blpqc", cols, y, **options)
  return y.reshape(b, l, -1).astype(pixels.dtype)


def _matrices_of_tokens(
  matrix, x, size_index, patch_sizes, stored_hw, antialias
):
  """For each token the matrices `[b, l, side, stored]` of rows and columns,
  and options of their products."""
  dtype = jnp.promote_types(x.dtype, jnp.float32)

  def chosen(sides, stored):
    # Rows of zeros leave out what lies beyond a smaller patch.
    stacked = np.zeros((len(sides), max(sides), stored))
    for each, side in zip(stacked, sides):
      each[:side] = matrix(stored, side, antialias)
    own = jnp.asarray(stacked, dtype)[size_index]
    return jnp.broadcast_to(own, (len(x), *own.shape[1:]))

  rows, cols = map(chosen, zip(*patch_sizes), stored_hw)
  return rows, cols, {"precision": jax.lax.Precision.HIGHEST}


def _prepare(x, old_hw, new_hw, antialias):
  """numpy or jax.numpy, the two matrices P, and options of its products."""
  xp = np if isinstance(x, np.ndarray) else jnp
  # The resize decides the response of every token: float32 at the highest
  # precision (or float64), whatever the compute type of the model.
  dtype = xp.promote_types(x.dtype, xp.float32)
  matrices = [
    xp.asarray(pi_matrix(old, new, antialias), dtype)
    for old, new in zip(old_hw, new_hw, strict=True)
  ]
  if xp is np:
    return xp, matrices, {}
  return xp, matrices, {"precision": jax.lax.Precision.HIGHEST}
