"""A model with its weights, and what is known of where they came from."""

import dataclasses
import functools
import hashlib
import math
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from flexivit_jax.core.patch_size import as_hw
from flexivit_jax.core.resolution import RANDOM, Native, Resolution
from flexivit_jax.core.text import listed
from flexivit_jax.core.tokens import grid_shape, patchify
from flexivit_jax.data import image_list
from flexivit_jax.experiment import Experiment
from flexivit_jax.formats import architecture
from flexivit_jax.nn import (
  conditioning,
  early_convolutions,
  positions,
  relations,
  resnet,
  stems,
  tables,
  vit,
)


@dataclasses.dataclass(frozen=True)
class Spec:
  """Where a model came from, and what is known beside the weights.

  Attributes:
    source: the format: "flexivit_jax run", "timm safetensors", ...
    path: of the file or directory.
    step: of a run's checkpoint.
    chosen: why that one, where nobody asked for it.
    patch_size: to use where none is given; None where nobody says.
    trained_sizes: patch sizes it was trained at, where known.
    classes: names, where known.
    experiment: a run's own.
    left_out: what else is in the file, which is no part of a ViT.
    origins: what the arrays do not say, to where it was found.
    checked: whether a SHA-256 that was saved with it agreed.
  """

  source: str
  path: str
  step: int | None = None
  chosen: str = ""
  patch_size: tuple[int, int] | None = None
  trained_sizes: tuple[tuple[int, int], ...] = ()
  classes: tuple[str, ...] = ()
  experiment: Experiment | None = None
  left_out: str = ""
  origins: Mapping[str, str] = dataclasses.field(default_factory=dict)
  checked: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Checkpoint:
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
    return "\n".join(_report(self.model, self.spec, count))


@dataclasses.dataclass(frozen=True, eq=False)
class LoadedViT:
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
    conditioning.refuse(self.model.conditioning, self.spec.path)
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
    conditioning.refuse(self.model.conditioning, self.spec.path)
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
    positions.check_grid(self.model.position, grid_hw)
    return self._apply(self.params, images, patch_hw=patch_hw)

  def _packed_outputs(self, images, patch_hw, resolution, names):
    if not images:
      raise ValueError("the list of images is empty")
    stems.check_packing(self.model.stem)
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

  def checkpoint(self) -> Checkpoint:
    """The same as numpy arrays, to save or convert."""
    flat = flax.traverse_util.flatten_dict(self.params, sep="/")
    arrays = {name: np.asarray(x) for name, x in flat.items()}
    return Checkpoint(self.model, arrays, self.spec)

  def __repr__(self):
    count = parameter_count(self.params)
    return "\n".join(_report(self.model, self.spec, count))


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


def on_device(checkpoint: Checkpoint) -> LoadedViT:
  """The model ready to call; takes the checkpoint's arrays, one by one."""
  flat, arrays = {}, checkpoint.arrays
  for name in list(arrays):
    # Waited for, so that at no time the whole model is there twice.
    array = jnp.asarray(arrays.pop(name), jnp.float32)
    flat[name] = jax.block_until_ready(array)
  params = flax.traverse_util.unflatten_dict(flat, sep="/")
  return LoadedViT(checkpoint.model, params, checkpoint.spec)


def _report(model: vit.ViT, spec: Spec, count: int) -> Iterator[str]:
  """The lines that a user reads first."""
  size, (kh, kw) = model.size, model.kernel_hw
  at = f", step {spec.step}{spec.chosen}" if spec.step is not None else ""
  yield f"{spec.source}: {spec.path}{at}"
  name = architecture.variant(size.width, size.depth, size.mlp_dim)
  yield (
    f"  ViT-{name or 'custom'}: width {size.width}, depth {size.depth}, MLP "
    f"{size.mlp_dim}, {size.num_heads} heads, {count:,} parameters"
  )
  antialias = "with" if model.kernel_antialias else "without"
  yield (
    f"  patch embedding stored at {kh}x{kw}; other sizes by PI-resize, "
    f"bilinear {antialias} antialias"
  )
  if stem := _stem(model.stem):
    s = model.stem.stride
    yield (
      f"  its pixels are cells of a convolutional stem, {stem}: of {s}x{s} "
      f"pixels each, {model.stem.channels(model.channels)} channels"
    )
  yield f"  positions {_positions(model.position)}"
  conditioned = isinstance(model.conditioning, conditioning.AdaLNZero)
  # What diffusion learned pools nothing and has no head.
  pool = f"pool {architecture.POOLS[type(model.pool)]}"
  yield (
    f"  {'conditioned by adaLN-Zero' if conditioned else pool}, GELU "
    f"{'exact' if model.exact_gelu else 'tanh'}, eps {model.norm_eps:g}"
  )
  if extras := list(_extras(model)):
    yield f"  with {', '.join(extras)}"
  mean, std = (
    " ".join(f"{x:g}" for x in values)
    for values in (model.image_mean, model.image_std)
  )
  normalised = f"pixels normalised by mean {mean}, std {std}"
  if model.standardize:
    normalised = "pixels standardised, each image by its own mean and std"
  classes = f"{model.num_classes or 'no'} classes, "
  yield f"  {'' if conditioned else classes}{normalised}"
  if spec.trained_sizes:
    sizes = ", ".join(f"{h}x{w}" for h, w in spec.trained_sizes)
    yield f"  trained at patch sizes {sizes}"
  elif spec.patch_size is not None:
    h, w = spec.patch_size
    yield f"  used at patch size {h}x{w} where none is given"
  if spec.left_out:
    yield f"  left out: {spec.left_out}"
  # What the arrays themselves do not say.
  for origin in dict.fromkeys(spec.origins.values()):
    names = [name for name, own in spec.origins.items() if own == origin]
    yield f"  {origin}: {', '.join(names)}"


def _positions(position: positions.Position) -> str:
  match position:
    case positions.LearnedGrid((rows, cols), antialias):
      how = f"bilinear {'with' if antialias else 'without'} antialias"
      return f"learned {rows}x{cols}; other grids {how}"
    case positions.SinCos2D(_, side):
      return f"sincos2d{_fractions(side)}"
    case positions.Fourier(side):
      return f"fourier{_fractions(side)}"
    case tables.RowColumn((rows, cols), combine, read):
      start = f" from entry {position.first}" if position.first else ""
      aliased = "" if position.antialias else " without antialias"
      return (
        f"{combine} of {rows} rows and {cols} columns, {read}{start}{aliased}"
      )
    case tables.JointTable((rows, cols)):
      return f"joint table of {rows}x{cols}"
    case relations.Rotary(temperature):
      return f"rotary, temperature {temperature:g}"
    case relations.Relative((rows, cols)):
      return f"relative, up to {rows}x{cols}"
    case positions.NoPosition():
      return "none"


def _stem(stem: stems.Stem) -> str | None:
  match stem:
    case resnet.ResNet(blocks, width):
      units = "-".join(map(str, blocks)) or "its root alone"
      return f"ResNet {units} of width {width}"
    case early_convolutions.EarlyConvolutions(widths):
      return f"convolutions of {listed(widths)}"


def _fractions(side):
  return "" if side is None else f", of fractions x {side:g}"


def _extras(model: vit.ViT) -> Iterator[str]:
  if model.prefix_position:
    yield "positions of the tokens in front"
  if model.pool.class_token and architecture.POOLS[type(model.pool)] != "tok":
    yield "a class token that is not read"
  if model.registers:
    yield f"{model.registers} registers"
  named = {
    "LayerScale": model.layer_scale is not None,
    "QK norm": model.qk_norm,
    "a norm of the embedding": model.embedding_norm,
    "its final norm after pooling": model.norm_after_pool,
    "a tanh layer before the head": model.representation,
    "no biases of queries, keys and values": not model.qkv_bias,
    "no biases after attention and in MLPs": not model.proj_bias,
    "gated MLPs": model.gated_mlp,
    "RMSNorm": model.rms_norm,
    "stacked layers": model.scan,
  }
  yield from (name for name, used in named.items() if used)
  if model.attention_scale is not None:
    yield f"attention scaled by {model.attention_scale:g}"
