"""A model with its weights, and what is known of where they came from."""

import dataclasses
import functools
import hashlib
import math
import warnings
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from flexivit_jax.checkpoints.origin import Spec, report
from flexivit_jax.core.resolution import RANDOM, Native, Resolution
from flexivit_jax.core.sizes import as_hw
from flexivit_jax.core.tokens import grid_shape, patchify
from flexivit_jax.data.packing import image_list
from flexivit_jax.models import vit
from flexivit_jax.nn import adaln
from flexivit_jax.nn.positions import position
from flexivit_jax.nn.stems import stem


@dataclasses.dataclass(frozen=True, eq=False)
class StoredModel:
  """A model's arrays as they are stored, to convert or to start from.

  Attributes:
    model: the module they are made for.
    arrays: {our name: numpy array} (docs/parameters.md), in any floating type.
    spec: where they came from.
    own: of a run: arrays of its task, which are no part of the model.
  """

  model: vit.ViT
  arrays: dict[str, np.ndarray]
  spec: Spec
  own: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

  def __repr__(self):
    count = parameter_count(self.arrays)
    return "\n".join(report(self.model, self.spec, count))


@dataclasses.dataclass(frozen=True, eq=False)
class LoadedModel:
  """A model with its weights. Call it on images; print it to see what it is.

  Attributes:
    model: the module.
    params: its parameters.
    spec: where they came from.
  """

  model: vit.ViT
  params: dict[str, Any]
  spec: Spec

  def __call__(
    self, images, patch_size=None, *, resolution: Resolution | None = None
  ) -> jax.Array:
    """Logits.

    Args:
      images: `[n, h, w, c]`, u8, or float in [-1, 1]; or a list of `[h, w, c]`
        of any sizes and aspect ratios, which are packed into rows.
      patch_size: pixels, or (height, width); may be left out only where the
        checkpoint names one. Compiled once per shape of images and size; for
        lists once for each of few lengths of rows.
      resolution: of the images of a list, one of core/resolution.py. None:
        `Native()`, their own size, rounded to whole patches.

    Returns:
      `[n, classes]`.
    """
    adaln.refuse(self.model.conditioning, self.spec.path)
    if not self.model.num_classes:
      raise ValueError(f"{self.spec.path} has no head: use features")
    return self._outputs(images, patch_size, resolution, ("logits",))["logits"]

  def features(self, images, patch_size=None, *, resolution=None) -> jax.Array:
    """Pooled features, `[n, d]`. Arguments as in a call."""
    return self._outputs(images, patch_size, resolution, ("pooled",))["pooled"]

  def patch_features(self, images, patch_size=None, *, resolution=None):
    """Features of each patch after the final norm, `[n, rows, cols, d]`; for a
    list of images a list of numpy arrays `[rows, cols, d]`."""
    names = ("encoded",)
    return self._outputs(images, patch_size, resolution, names)["encoded"]

  def outputs(
    self, images, patch_size=None, *, resolution=None
  ) -> dict[str, Any]:
    """Features ("pooled"), patch features ("encoded") and "logits", if any."""
    head = ("logits",) if self.model.num_classes else ()
    names = ("pooled", "encoded", *head)
    return self._outputs(images, patch_size, resolution, names)

  def _outputs(self, images, patch_size, resolution, names):
    adaln.refuse(self.model.conditioning, self.spec.path)
    patch_hw = self._size(patch_size)
    if isinstance(images, (list, tuple)):
      images = [self._checked(x, f"image {i}") for i, x in enumerate(images)]
      return self._packed_outputs(images, patch_hw, resolution, names)
    if resolution is not None:
      raise ValueError(
        "resolution is for a list of images; an array's images have one size"
      )
    images = self._checked(images)
    grid_hw = grid_shape(images.shape[1:3], patch_hw)
    self.model.stem.cells(patch_hw)
    position.check_grid(self.model.position, grid_hw)
    return self._apply(self.params, images, patch_hw=patch_hw)

  def _packed_outputs(self, images, patch_hw, resolution, names):
    if not images:
      raise ValueError("the list of images is empty")
    stem.check_packing(self.model.stem)
    resolution = Native() if resolution is None else resolution
    if isinstance(resolution, RANDOM):
      raise ValueError(
        f"resolution {type(resolution).__name__} is random: give Native, "
        "NaFlex, Pix2Struct or Square"
      )
    if isinstance(resolution, type) or not callable(resolution):
      raise ValueError(
        f"resolution is {resolution!r}: give one of core/resolution.py, such "
        "as NaFlex(256)"
      )
    if len({x.dtype for x in images}) > 1:
      raise ValueError("some images are uint8, others float: give one kind")
    collected = {name: [None] * len(images) for name in names}
    largest = self.model.position.largest_grid
    packs = image_list.pack(images, patch_hw, resolution, largest)
    for tokens, placed in packs:
      results = self._apply_packed(self.params, tokens, names)
      # On the host: on a device each place would be a program of its own.
      for name, x in jax.device_get(results).items():
        for at in placed:
          own = x[at.row, at.slot] if name != "encoded" else at.patches_in(x)
          collected[name][at.image] = own
    return {
      name: values if name == "encoded" else jnp.asarray(np.stack(values))
      for name, values in collected.items()
    }

  def _size(self, patch_size):
    if patch_size is not None:
      return as_hw(patch_size)
    if self.spec.patch_size is None:
      sizes = ", ".join(f"{h}x{w}" for h, w in self.spec.trained_sizes)
      hint = f"it was trained at {sizes}" if sizes else "patch_size=16, say"
      raise ValueError(
        f"{self.spec.path} does not say at which patch size to use it: give "
        f"one ({hint})"
      )
    return self.spec.patch_size

  def _checked(self, images, one: str | None = None):
    """An array of images, or a single one of a list, called `one`."""
    images = np.asarray(images)
    if not one and not images.ndim:
      raise ValueError(
        f"images are {images.item()!r}: give an array [n, h, w, "
        f"{self.model.channels}], or a list of images"
      )
    subject, verb = (one, "has") if one else ("images", "have")
    if (
      images.ndim != (3 if one else 4)
      or images.shape[-1] != self.model.channels
      or not images.size
    ):
      first = "" if one else "n, "
      raise ValueError(
        f"{subject} {verb} shape {images.shape}: expected [{first}h, w, "
        f"{self.model.channels}]"
      )
    if images.dtype == np.uint8:
      return images
    are = f"{one} is" if one else "images are"
    if not jnp.issubdtype(images.dtype, jnp.floating):
      raise ValueError(
        f"{are} {images.dtype}: give uint8, or floats in [-1, 1]"
      )
    low, high = float(images.min()), float(images.max())
    lie = f"{one} lies" if one else "float images lie"
    if not (low >= -1 and high <= 1):
      raise ValueError(
        f"{lie} in [{low:g}, {high:g}], not in [-1, 1]: give uint8, or "
        "x / 127.5 - 1"
      )
    # A single image of a list may well be bright.
    if low >= 0 and not one:
      warnings.warn(
        f"{lie} in [{low:g}, {high:g}]; the model expects [-1, 1], where 0 is "
        "grey: for pixels in [0, 1] give 2 * x - 1",
        stacklevel=4,
      )
    return images.astype(np.float32)

  @functools.cached_property
  def _apply(self):
    @functools.partial(jax.jit, static_argnames="patch_hw")
    def apply(params, images, patch_hw):
      n, h, w, _ = images.shape
      out = self.model.apply({"params": params}, patchify(images, patch_hw))
      results = {
        "pooled": out.pooled[:, 0],
        "encoded": out.encoded.reshape(n, *grid_shape((h, w), patch_hw), -1),
      }
      if out.logits is not None:
        results["logits"] = out.logits[:, 0]
      return results

    return apply

  @functools.cached_property
  def _apply_packed(self):
    @functools.partial(jax.jit, static_argnames="names")
    def apply(params, tokens, names):
      out = self.model.apply({"params": params}, tokens)
      return {name: getattr(out, name) for name in names}

    return apply

  def checkpoint(self) -> StoredModel:
    """The same as numpy arrays, to save or convert."""
    flat = flax.traverse_util.flatten_dict(self.params, sep="/")
    arrays = {name: np.asarray(x) for name, x in flat.items()}
    return StoredModel(self.model, arrays, self.spec)

  def __repr__(self):
    count = parameter_count(self.params)
    return "\n".join(report(self.model, self.spec, count))


def parameter_count(params) -> int:
  """Numbers in all arrays, or shapes of arrays, of a tree."""
  return sum(math.prod(x.shape) for x in jax.tree.leaves(params))


def digest(params) -> str:
  """SHA-256 of all parameters with their names."""
  found = hashlib.sha256()
  flat = flax.traverse_util.flatten_dict(params, sep="/")
  for name, x in sorted(flat.items()):
    x = np.asarray(x)
    found.update(f"{name} {x.dtype} {x.shape}".encode())
    found.update(np.ascontiguousarray(x).view(np.uint8))
  return found.hexdigest()


def on_device(checkpoint: StoredModel) -> LoadedModel:
  """The model ready to call; takes the checkpoint's arrays, one by one."""
  flat, arrays = {}, checkpoint.arrays
  for name in list(arrays):
    # Waited for, so that at no time the whole model is there twice.
    array = jnp.asarray(arrays.pop(name), jnp.float32)
    flat[name] = jax.block_until_ready(array)
  params = flax.traverse_util.unflatten_dict(flat, sep="/")
  return LoadedModel(checkpoint.model, params, checkpoint.spec)
