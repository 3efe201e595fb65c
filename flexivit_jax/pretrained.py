"""`load`: a checkpoint file or a run's directory as a model ready to call."""

import dataclasses
import functools
import pathlib
import warnings
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from flexivit_jax import config, record
from flexivit_jax.checkpoints import big_vision, match, native
from flexivit_jax.core.patch_size import FixedPatchSize, as_hw
from flexivit_jax.core.tokens import grid_shape, patchify
from flexivit_jax.experiment import Experiment
from flexivit_jax.nn import pooling, positions, vit
from flexivit_jax.training import log


@dataclasses.dataclass(frozen=True)
class Spec:
  """Where a model came from, and what its file says beside the weights.

  Attributes:
    source: "flexivit_jax run" or "big_vision npz".
    path: of the file or directory.
    step: of a run's checkpoint.
    chosen: why that one, where nobody asked for it.
    patch_size: to use where none is given: only if the file names one.
    trained_sizes: patch sizes it was trained at, where known.
    classes: names, where known.
    experiment: a run's own.
  """

  source: str
  path: str
  step: int | None = None
  chosen: str = ""
  patch_size: tuple[int, int] | None = None
  trained_sizes: tuple[tuple[int, int], ...] = ()
  classes: tuple[str, ...] = ()
  experiment: Experiment | None = None


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

  def __call__(self, images, patch_size=None) -> jax.Array:
    """Logits.

    Args:
      images: `[n, h, w, c]`, u8, or float in [-1, 1].
      patch_size: pixels, or (height, width); may be left out only where the
        checkpoint names one. Compiled once per shape of images and size.

    Returns:
      `[n, classes]`.
    """
    if not self.model.num_classes:
      raise ValueError(f"{self.spec.path} has no head: use features")
    return self._outputs(images, patch_size)["logits"]

  def features(self, images, patch_size=None) -> jax.Array:
    """Pooled features, `[n, d]`. Arguments as in a call."""
    return self._outputs(images, patch_size)["pooled"]

  def patch_features(self, images, patch_size=None) -> jax.Array:
    """Features of each patch after the final norm, `[n, rows, cols, d]`."""
    return self._outputs(images, patch_size)["encoded"]

  def _outputs(self, images, patch_size):
    images = self._checked(images)
    return self._apply(self.params, images, patch_hw=self._size(patch_size))

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

  def _checked(self, images):
    images = np.asarray(images)
    if (
      images.ndim != 4
      or images.shape[-1] != self.model.channels
      or not images.size
    ):
      raise ValueError(
        f"images have shape {images.shape}: expected [n, h, w, "
        f"{self.model.channels}]"
      )
    if images.dtype == np.uint8:
      return images
    if not jnp.issubdtype(images.dtype, jnp.floating):
      raise ValueError(
        f"images are {images.dtype}: give uint8, or floats in [-1, 1]"
      )
    low, high = float(images.min()), float(images.max())
    if not (low >= -1 and high <= 1):
      raise ValueError(
        f"float images lie in [{low:g}, {high:g}], not in [-1, 1]: give uint8, "
        "or x / 127.5 - 1"
      )
    if low >= 0:
      warnings.warn(
        f"float images lie in [{low:g}, {high:g}]; the model expects [-1, 1], "
        "where 0 is grey: for pixels in [0, 1] give 2 * x - 1",
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

  def __repr__(self):
    return "\n".join(self._report())

  def _report(self):
    m, s = self.model, self.spec
    size, (kh, kw) = m.size, m.kernel_hw
    name = next((k for k, v in vit.SIZES.items() if v == size), "custom")
    at = f", step {s.step}{s.chosen}" if s.step is not None else ""
    yield f"{s.source}: {s.path}{at}"
    yield (
      f"  ViT-{name}: width {size.width}, depth {size.depth}, MLP "
      f"{size.mlp_dim}, {size.num_heads} heads, "
      f"{parameter_count(self.params):,} parameters"
    )
    yield (
      f"  patch embedding stored at {kh}x{kw}, resized by PI-resize "
      f"({'with' if m.kernel_antialias else 'without'} antialias)"
    )
    gelu = "exact" if m.exact_gelu else "tanh"
    yield (
      f"  positions {m.position}, pool {type(m.pool).__name__}, GELU {gelu}, "
      f"eps {m.norm_eps:g}"
    )
    yield f"  {m.num_classes or 'no'} classes, input [-1, 1]"
    if s.trained_sizes:
      sizes = ", ".join(f"{h}x{w}" for h, w in s.trained_sizes)
      yield f"  trained at patch sizes {sizes}"


def parameter_count(params) -> int:
  return sum(x.size for x in jax.tree.leaves(params))


def load(path, *, step: int | None = None, posemb_grid=None) -> LoadedViT:
  """Loads a checkpoint: a run's directory, or a big_vision `.npz`.

  Args:
    step: of a run: which checkpoint. None: the best by validation, or the
      latest where there was no validation.
    posemb_grid: of an npz: (rows, cols) of a position table that is not
      square.

  Raises:
    ValueError: nothing that can be loaded, or not all of it.
  """
  path = pathlib.Path(path)
  if path.is_dir():
    return _load_run(path, step)
  if not path.is_file():
    raise ValueError(f"{path}: no such file or directory")
  if path.suffix != ".npz":
    raise ValueError(
      f"{path}: expected a run's directory or a big_vision .npz file"
    )
  return _load_big_vision(path, posemb_grid)


def _load_run(path, step):
  file = path / "config.json"
  if not file.is_file():
    raise ValueError(f"{path}: no config.json there, so not a run's directory")
  saved = record.read(path)
  experiment = config.from_plain(saved["config"])
  steps = native.steps(path)
  if not steps:
    raise ValueError(f"{path}: this run has no finished checkpoint yet")
  chosen = ""
  if step is None:
    scores = log.read_scores(path / "metrics.jsonl")
    best = log.best({s: scores[s] for s in steps if s in scores})
    step = steps[-1] if best is None else best
    chosen = " (latest)" if best is None else " (best on validation)"
  elif step not in steps:
    have = ", ".join(map(str, steps))
    raise ValueError(f"{path}: no checkpoint of step {step}; there are {have}")
  params = native.load_params(path, step)
  model = experiment.model
  _check(model, params, f"{path}, step {step}")
  policy = experiment.patch_size
  fixed = policy.sizes[0] if isinstance(policy, FixedPatchSize) else None
  spec = Spec(
    source="flexivit_jax run",
    path=str(path),
    step=step,
    chosen=chosen,
    patch_size=fixed,
    trained_sizes=policy.sizes,
    classes=tuple(saved["classes"]),
    experiment=experiment,
  )
  return LoadedViT(model, jax.tree.map(jnp.asarray, params), spec)


def _load_big_vision(path, posemb_grid):
  flat = big_vision.read(path)
  found = big_vision.layout(flat, path, posemb_grid)
  pools = {
    "tok": pooling.ClassToken(),
    "gap": pooling.Gap(),
    "map": pooling.Map(),
  }
  if found.grid is None:
    position = positions.SinCos2D()
  else:
    position = positions.LearnedGrid(found.grid)
  model = vit.ViT(
    size=vit.Size(found.width, found.depth, found.mlp_dim, found.num_heads),
    position=position,
    pool=pools[found.pool],
    kernel_hw=found.kernel_hw,
    num_classes=found.num_classes,
    channels=found.channels,
    representation=found.representation,
  )
  params = flax.traverse_util.unflatten_dict(flat, sep="/")
  _check(model, params, path)
  spec = Spec(source="big_vision npz", path=str(path))
  return LoadedViT(model, jax.tree.map(jnp.asarray, params), spec)


def _check(model, params, path):
  """Compares names and shapes with what the model would initialise."""
  kh, kw = model.kernel_hw
  image = jnp.zeros((1, kh, kw, model.channels), jnp.uint8)
  shapes = jax.eval_shape(
    lambda: model.init(jax.random.key(0), patchify(image, (kh, kw)))
  )
  flatten = functools.partial(flax.traverse_util.flatten_dict, sep="/")
  match.check_shapes(flatten(params), flatten(shapes["params"]), path)
