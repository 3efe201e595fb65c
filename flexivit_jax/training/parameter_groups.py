"""Which parameters decay, learn slower, or stay as they are.

Everything here goes by a parameter's path (docs/parameters.md), such as
`Transformer/encoderblock_0/LayerNorm_0/scale`, and its shape.
"""

import dataclasses
import re
from collections.abc import Sequence

import jax
import numpy as np

from flexivit_jax.core.errors import check
from flexivit_jax.core.text import nearest

# What acts before the first block: the lowest layer of layer-wise decay.
_EMBEDDING = re.compile(
  r"(embedding|embedding_norm|cls|registers|(\w+_)?pos_embedding(_\w+)?"
  r"|conv_root|gn_root|block\d+|stem)(/.*)?"
)
_BLOCK = re.compile(r"Transformer/encoderblock_(\d+)/.*")
# Layers stacked along the first axis, of a scanned encoder.
_STACKED = re.compile(r"Transformer/encoderblock/.*")


@dataclasses.dataclass(frozen=True)
class Group:
  """Parameters that a pattern matches, and what is special about them.

  Of several groups that match a parameter the first that says something about
  a value counts.

  Attributes:
    pattern: a regular expression that the whole path must match.
    multiplier: of the learning rate; 0 leaves the parameters as they are, and
      the optimiser keeps nothing for them.
    weight_decay: in the place of the optimiser's, and of its decay_pattern.
  """

  pattern: str
  multiplier: float | None = None
  weight_decay: float | None = None

  def __post_init__(self):
    check_pattern("pattern", self.pattern)
    check("multiplier", self.multiplier, at_least=0)
    check("weight_decay", self.weight_decay, at_least=0)
    if self.multiplier is None and self.weight_decay is None:
      raise ValueError(
        f"the group {self.pattern!r} changes nothing: give it a multiplier or "
        "a weight_decay"
      )


def check_pattern(name: str, pattern: str) -> None:
  """Refuses what is no regular expression.

  Raises:
    ValueError: naming it.
  """
  try:
    re.compile(pattern)
  except (re.error, RecursionError, OverflowError) as e:
    raise ValueError(f"{name} {pattern!r}: {e}") from e


def path_name(path) -> str:
  """A tree path as `Transformer/encoderblock_0/LayerNorm_0/scale`."""
  return jax.tree_util.keystr(path, simple=True, separator="/")


def check_matches(params, name: str, patterns: Sequence[str]) -> None:
  """Refuses patterns that match no parameter.

  Args:
    params: arrays or shapes.
    name: what the config calls them.

  Raises:
    ValueError: naming the pattern, and parameters that there are.
  """
  paths = [
    path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)
  ]
  for pattern in patterns:
    if not any(re.fullmatch(pattern, path) for path in paths):
      kernels = [path for path in paths if path.endswith("kernel")]
      like = nearest(pattern, paths) or (kernels or paths)[-1]
      raise ValueError(
        f"{name} {pattern!r} matches no parameter: paths look like {like}"
      )


def multipliers(params, groups: Sequence[Group], layer_decay: float | None):
  """Of the learning rate: a tree of numbers; for stacked layers of arrays
  `[depth, 1, ...]`.

  Args:
    layer_decay: of each layer against the one above it (BEiT, arXiv:2106.08254,
      appendix): with L blocks, layer_decay ** (L + 1) for what is below the
      blocks, layer_decay ** (L + 1 - i) for block i = 1..L, 1 for the rest. A
      group's multiplier comes on top.
  """
  depth = _depth(params)

  def multiplier(path, x):
    name = path_name(path)
    own = _first(groups, name, "multiplier", 1.0)
    if layer_decay is None:
      return own
    if _EMBEDDING.fullmatch(name):
      return own * layer_decay ** (depth + 1)
    if block := _BLOCK.fullmatch(name):
      return own * layer_decay ** (depth - int(block[1]))
    if _STACKED.fullmatch(name):
      layers = layer_decay ** np.arange(depth, 0, -1, dtype=np.float64)
      layers = (own * layers).astype(np.float32)
      return layers.reshape(depth, *[1] * (x.ndim - 1))
    return own

  return jax.tree_util.tree_map_with_path(multiplier, params)


def weight_decays(
  params, groups: Sequence[Group], weight_decay: float, decay_pattern: str
):
  """What each parameter decays by: a tree of numbers."""

  def decay(path, _):
    name = path_name(path)
    plain = weight_decay if re.fullmatch(decay_pattern, name) else 0.0
    return _first(groups, name, "weight_decay", plain)

  return jax.tree_util.tree_map_with_path(decay, params)


def frozen(params, groups: Sequence[Group]):
  """Which parameters stay as they are: a tree of bools."""

  def stays(path, _):
    return _first(groups, path_name(path), "multiplier", 1.0) == 0

  return jax.tree_util.tree_map_with_path(stays, params)


def _first(groups, name, field, otherwise):
  """What the first group that matches and knows says."""
  for group in groups:
    value = getattr(group, field)
    if value is not None and re.fullmatch(group.pattern, name):
      return value
  return otherwise


def _depth(params) -> int:
  """Number of encoder blocks in a tree of parameters."""
  depth = 0
  for path, x in jax.tree_util.tree_leaves_with_path(params):
    name = path_name(path)
    if block := _BLOCK.fullmatch(name):
      depth = max(depth, int(block[1]) + 1)
    elif _STACKED.fullmatch(name):
      depth = max(depth, x.shape[0])
  return depth
