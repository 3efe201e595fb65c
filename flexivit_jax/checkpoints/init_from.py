"""A checkpoint's arrays for a model that is to start from them."""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from flexivit_jax.checkpoints import repatch, shapes
from flexivit_jax.checkpoints.formats import infer, parameters
from flexivit_jax.core.text import listed
from flexivit_jax.models import vit
from flexivit_jax.nn.adaln import AdaLNZero
from flexivit_jax.nn.positions import learned_grid, position, row_column

HEAD = r"head/.*"
TABLES = r"pos_embedding_.*"


def fit(
  source: vit.ViT,
  arrays: Mapping[str, np.ndarray],
  target: vit.ViT,
  dont_load: Sequence[str],
  path,
) -> tuple[dict[str, np.ndarray], list[str]]:
  """The arrays of `source` as `target` has them.

  What leaves the function that is computed the same is done without being
  asked: the patch embedding and the positions take the target's size,
  normalisation, LayerScale and the class token's position are folded where
  the target has none, layers are stacked or unstacked.

  Args:
    arrays: under our names, in any floating type.
    dont_load: patterns (`re.fullmatch`) of our names that keep the values
      which the target was initialised with.
    path: for errors.

  Returns:
    (arrays in float32: all of the target's but those of `dont_load`; lines
    that say what was changed, and what will be computed otherwise).

  Raises:
    ValueError: an array is missing, left over or of another shape and not in
      `dont_load`; a pattern of it matches nothing.
  """
  _check_conditioning(source, target, path)
  notes = list(_differences(source, target))
  source, arrays, changes = _converted(source, dict(arrays), target)
  wanted = parameters.shapes(target)
  kept = {
    pattern: {n for n in (*arrays, *wanted) if re.fullmatch(pattern, n)}
    for pattern in dont_load
  }
  for pattern, names in kept.items():
    if not names:
      raise ValueError(
        f"dont_load {pattern!r} matches no array of {path} or of the model; "
        f"they are {listed(sorted(wanted))}"
      )
  left = set().union(*kept.values())
  fresh = sorted(left & wanted.keys())
  arrays = {n: x for n, x in arrays.items() if n not in left}
  wanted = {n: x for n, x in wanted.items() if n not in left}
  _check_head(arrays, wanted, path)
  _check_tables(source.position, target.position, wanted, path)
  shapes.check_shapes(arrays, wanted, path)
  if fresh:
    changes.append(f"not loaded, freshly initialised: {listed(fresh)}")
  arrays = {n: np.asarray(x, np.float32) for n, x in arrays.items()}
  return arrays, changes + notes


def _converted(source, arrays, target):
  """`source` and its arrays in the target's sizes and stacking."""
  changes = []
  if source.scan:
    arrays = parameters.unstack(arrays, source.size.depth)
    source = source.clone(scan=False)
  pixels = target.image_mean, target.image_std
  if (source.image_mean, source.image_std) != pixels:
    changes.append("normalisation of pixels: folded into the patch embedding")
    source, arrays = repatch.with_normalization(source, arrays, *pixels)
  if source.layer_scale is not None and target.layer_scale is None:
    changes.append("LayerScale: folded into the projections before it")
    source, arrays = repatch.without_layer_scale(source, arrays)
  if source.prefix_position and not target.prefix_position:
    changes.append("positions of the tokens in front: added to them")
    source, arrays = repatch.without_prefix_position(source, arrays)
  if source.kernel_hw != target.kernel_hw:
    changes.append(
      f"patch embedding: of {_size(source.kernel_hw)}, stored at "
      f"{_size(target.kernel_hw)}"
    )
    source = source.clone(kernel_antialias=target.kernel_antialias)
    source, arrays = repatch.with_stored_kernel(
      source, arrays, target.kernel_hw
    )
  old, new = source.position, target.position
  if (how := _resizing(old, new)) is not None:
    changes.append(f"positions: {how}")
    is_grid = isinstance(old, learned_grid.LearnedGrid)
    resized = repatch.with_grid if is_grid else repatch.with_tables
    source, arrays = resized(source, arrays, new.size)
  if target.scan:
    arrays = parameters.stack(arrays, source.size.depth)
  return source, arrays, changes


def _resizing(old: position.Position, new: position.Position) -> str | None:
  """How tables take the new size; None: they have it, or cannot."""
  if type(old) is not type(new):
    return None
  match old:
    case learned_grid.LearnedGrid():
      interpolated = True
    case row_column.RowColumn():
      if (old.read, old.first) != (new.read, new.first):
        return None
      interpolated = old.read == "interpolated"
      if not interpolated and old.read != "absolute":
        return None
    case row_column.JointTable():
      interpolated = False
    case _:
      return None
  if old.size == new.size:
    return None
  if interpolated:
    return f"interpolated from {_size(old.size)} to {_size(new.size)}"
  if any(n > m for n, m in zip(new.size, old.size)):
    return None
  return f"the first {_size(new.size)} of {_size(old.size)}"


def _check_tables(old, new, wanted, path):
  """Refuses entries that would be made up, one for each of more places."""
  if type(old) is not type(new) or new.largest_grid is None:
    return
  for name, axes in (
    (row_column.ROW, (0,)),
    (row_column.COL, (1,)),
    (row_column.JOINT, (0, 1)),
  ):
    if name in wanted and any(new.size[i] > old.size[i] for i in axes):
      raise ValueError(
        f"{path} has positions of {_size(old.size)} places and the model of "
        f"{_size(new.size)}, of which nobody knows those beyond: give "
        f"model.position.size={old.size}, or start with fresh ones by "
        f"dont_load=({TABLES!r},)"
      )


def _check_conditioning(source, target, path):
  """Refuses blocks of another kind: nobody knows the norms of the others."""
  if source.conditioning != target.conditioning:
    have, want = (
      "adaln_zero" if isinstance(m.conditioning, AdaLNZero) else "none"
      for m in (source, target)
    )
    raise ValueError(
      f"{path} has conditioning {have!r} and the model {want!r}, whose norms "
      "are others: diffusion starts from diffusion alone, and all else from "
      "all else, so give another checkpoint"
    )


def _check_head(arrays, wanted, path):
  name = "head/bias"
  if name in wanted and name in arrays:
    have, want = (int(x[name].shape[0]) for x in (arrays, wanted))
    if have != want:
      raise ValueError(
        f"the head of {path} has {have} classes and the model's {want}: to "
        f"start with a fresh head, give dont_load=({HEAD!r},)"
      )
  elif name in wanted:
    raise ValueError(
      f"{path} has no head: to start with a fresh one, give "
      f"dont_load=({HEAD!r},)"
    )
  elif name in arrays:
    raise ValueError(
      f"{path} has a head and the model has none: to leave it out, give "
      f"dont_load=({HEAD!r},)"
    )


def _differences(source: vit.ViT, target: vit.ViT):
  """Conventions that training will have to get used to."""
  have, want = (infer.facts_of(m) for m in (source, target))
  options = {
    "gelu": "model.exact_gelu",
    "eps": "model.norm_eps",
    "kernel_antialias": "model.kernel_antialias",
    "position": "model.position",
    "temperature": "model.position.temperature",
    "fractional_side": "model.position.fractional_side",
    "posemb_antialias": "model.position.antialias",
    "posemb_combine": "model.position.combine",
    "posemb_read": "model.position.read",
    "posemb_first": "model.position.first",
  }
  for fact, option in options.items():
    if fact in have and fact in want and have[fact] != want[fact]:
      yield (
        f"note: {fact} is {have[fact]} in the checkpoint and {want[fact]} in "
        f"the model ({option})"
      )
  for field in ("standardize", "attention_scale"):
    have, want = (getattr(m, field) for m in (source, target))
    if have != want:
      yield (
        f"note: {field} is {have} in the checkpoint and {want} in the model "
        f"(model.{field})"
      )


def _size(hw) -> str:
  return f"{hw[0]}x{hw[1]}"
