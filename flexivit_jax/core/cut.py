"""Cutting of batches into tokens."""

import functools
from collections.abc import Callable, Mapping

import jax

from flexivit_jax.core.tokens import Tokens, patchify


def to_tokens(
  inputs: jax.Array | Tokens, patch_hw: tuple[int, int] | None
) -> Tokens:
  """A batch's inputs as Tokens: images are cut, packs pass through."""
  if isinstance(inputs, Tokens):
    return inputs
  return patchify(inputs, patch_hw)


CONTIGUOUS, STRIDED = "contiguous", "strided"


def strided(x: jax.Array, parts: int) -> jax.Array:
  """`[b or 1, l, ...]` with tokens 0, parts, 2 * parts, ... first, then 1,
  parts + 1, ...: cut into `parts` equal shares, each has every `parts`-th."""
  b, l, *rest = x.shape
  cut = x.reshape(b, l // parts, parts, *rest)
  return cut.swapaxes(1, 2).reshape(x.shape)


def contiguous(x: jax.Array, parts: int) -> jax.Array:
  """The inverse of `strided`."""
  return strided(x, x.shape[1] // parts)


def reorder(tokens: Tokens, parts: int) -> Tokens:
  """`strided` tokens: each keeps its coordinates, so the model sees the same
  image. Learned tables by token have to be reordered as well."""
  return jax.tree.map(functools.partial(strided, parts=parts), tokens)


def of_tables(
  f: Callable[[jax.Array], jax.Array], tree, by_token: Mapping[str, int]
):
  """f of the tables by token in a tree, the rest as it is.

  Args:
    by_token: as in `parameter_sharding.placed`.
  """

  def apply(path, x):
    rows = by_token.get(getattr(path[-1], "key", None)) if path else None
    return f(x) if x.shape[:2] == (1, rows) else x

  return jax.tree_util.tree_map_with_path(apply, tree)
