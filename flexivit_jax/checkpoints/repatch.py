"""Other patch sizes, input sizes and pixels for a checkpoint that is given.

Pure functions of (model, arrays under our names), computed in float64 and
rounded once. Sizes that a model meets while it runs need none of this: it
resizes on the fly, without loss. This is for places that cannot.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from flexivit_jax.checkpoints.formats import parameters
from flexivit_jax.core import pi_resize, resize
from flexivit_jax.core.tokens import grid_shape
from flexivit_jax.models import vit
from flexivit_jax.nn.positions import learned_grid, row_column
from flexivit_jax.nn.stems import stem

Arrays = dict[str, np.ndarray]
KERNEL, BIAS, TABLE = "embedding/kernel", "embedding/bias", learned_grid.TABLE


def repatch(
  model: vit.ViT,
  arrays: Mapping[str, np.ndarray],
  patch_hw: tuple[int, int],
  image_hw: tuple[int, int] | None = None,
) -> tuple[vit.ViT, Arrays]:
  """Stores the patch embedding at another size, and the positions.

  Args:
    patch_hw: in pixels; the kernel is PI-resized to it (FlexiViT,
      arXiv:2212.08013), in cells where the model has a stem.
    image_hw: the positions are interpolated to its grid; None leaves the
      table as it is.

  Raises:
    ValueError: the image is not a whole number of patches, or a patch of the
      stem's cells.
  """
  model, arrays = with_kernel(model, arrays, model.stem.cells(patch_hw))
  if image_hw is None:
    return model, arrays
  return with_grid(model, arrays, grid_shape(image_hw, patch_hw))


def with_kernel(model, arrays, kernel_hw) -> tuple[vit.ViT, Arrays]:
  """PI-resizes the patch embedding."""
  return _with_kernel(model, arrays, kernel_hw, pi_resize.pi_resize)


def with_stored_kernel(model, arrays, kernel_hw) -> tuple[vit.ViT, Arrays]:
  """For a model that resizes on the fly: at the old size it computes the
  same (`resize.store_kernel`)."""
  return _with_kernel(model, arrays, kernel_hw, pi_resize.store_kernel)


def _with_kernel(model, arrays, kernel_hw, resized):
  """By `resized`, one of the ways in `resize`."""
  # First, as it refuses sizes that no memory would hold.
  resized_model = model.clone(kernel_hw=tuple(kernel_hw))
  kernel = arrays[KERNEL]
  antialias = model.kernel_antialias
  new = resized(kernel.astype(np.float64), kernel_hw, antialias=antialias)
  return resized_model, {**arrays, KERNEL: new.astype(kernel.dtype)}


def with_grid(model, arrays, grid_hw) -> tuple[vit.ViT, Arrays]:
  """Interpolates a learned table of positions; fixed ones need nothing."""
  position = model.position
  if not isinstance(position, learned_grid.LearnedGrid):
    return model, dict(arrays)
  model = model.clone(
    position=learned_grid.LearnedGrid(tuple(grid_hw), position.antialias)
  )
  table = arrays[TABLE]
  resized = resize.resize_grid(
    table.astype(np.float64).reshape(*position.size, -1),
    grid_hw,
    antialias=position.antialias,
  )
  resized = resized.reshape(1, -1, table.shape[-1]).astype(table.dtype)
  return model, {**arrays, TABLE: resized}


def with_tables(model, arrays, size) -> tuple[vit.ViT, Arrays]:
  """Tables of rows, of columns, or of both, of another size.

  Interpolated ones are resized. Of those that are read at absolute coordinates
  the first entries are taken, so that smaller grids are computed the same.

  Args:
    size: (rows, cols), of absolute ones no more than there are.
  """
  position = model.position
  resized = dict(arrays)
  if isinstance(position, row_column.JointTable):
    resized[row_column.JOINT] = arrays[row_column.JOINT][: size[0], : size[1]]
  else:
    for name, old, new in zip(
      (row_column.ROW, row_column.COL), position.size, size
    ):
      table = arrays[name]
      if position.read == "absolute":
        resized[name] = table[:new]
      elif old != new:
        matrix = resize.bilinear_matrix(old, new, position.antialias)
        resized[name] = (matrix @ table).astype(table.dtype)
  position = dataclasses.replace(position, size=tuple(size))
  return model.clone(position=position), resized


def with_normalization(
  model: vit.ViT,
  arrays: Mapping[str, np.ndarray],
  mean: tuple[float, ...] = (0.5,),
  std: tuple[float, ...] = (0.5,),
) -> tuple[vit.ViT, Arrays]:
  """For pixels that are normalised otherwise, folded into the embedding.

  Exact but for rounding, since the patch embedding pads nothing: from
  (x - m) / s to (x - mean) / std each kernel is scaled by std / s, and the
  bias takes what a constant image gives.

  Args:
    mean, std: of pixels in 0 to 1, one number or one for each channel; the
      default is pixels of -1 to 1.

  Raises:
    ValueError: a stem that pads stands before the patch embedding.
  """
  if not isinstance(model.stem, stem.NoStem):
    raise ValueError(
      f"its convolutional stem takes pixels of mean {model.image_mean} and std "
      f"{model.image_std}, and pads them: other pixels cannot be folded in, so "
      "leave image_mean and image_std at these"
    )
  model_to = model.clone(image_mean=tuple(mean), image_std=tuple(std))
  old_mean, old_std, new_mean, new_std = (
    np.broadcast_to(np.asarray(x, np.float64), (model.channels,))
    for x in (model.image_mean, model.image_std, mean, std)
  )
  kernel, bias = (arrays[name].astype(np.float64) for name in (KERNEL, BIAS))
  scale = (new_std / old_std).reshape(1, 1, -1, 1)
  constant = (new_mean - old_mean) / old_std
  bias = bias + np.einsum("hwcd,c->d", kernel, constant)
  folded = {KERNEL: kernel * scale, BIAS: bias}
  folded = {name: x.astype(arrays[name].dtype) for name, x in folded.items()}
  return model_to, {**arrays, **folded}


def without_prefix_position(
  model: vit.ViT, arrays: Mapping[str, np.ndarray]
) -> tuple[vit.ViT, Arrays]:
  """Positions of class and register tokens added to the tokens: exact."""
  folded = dict(arrays)
  for name in ("cls", "registers"):
    if name in folded:
      folded[name] = folded[name] + folded.pop(f"{name}_pos_embedding")
  return model.clone(prefix_position=False), folded


def without_layer_scale(
  model: vit.ViT, arrays: Mapping[str, np.ndarray]
) -> tuple[vit.ViT, Arrays]:
  """LayerScale multiplied into the projections before it; exact but for
  rounding."""
  folded = dict(arrays)
  for name in arrays:
    block, found, rest = name.rpartition("/LayerScale_")
    if not found:
      continue
    before = {
      "0/scale": f"{block}/{parameters.ATTENTION}/out",
      "1/scale": f"{block}/MlpBlock_0/Dense_1",
    }[rest]
    scale = folded.pop(name).astype(np.float64)
    for part in ("kernel", "bias"):
      leaf = folded[f"{before}/{part}"]
      # A scanned model's have a leading axis of depth.
      axes = (1,) * (leaf.ndim - scale.ndim)
      wide = scale.reshape(*scale.shape[:-1], *axes, scale.shape[-1])
      folded[f"{before}/{part}"] = (leaf * wide).astype(leaf.dtype)
  return model.clone(layer_scale=None), folded
