"""Cutting of batches into tokens."""

import dataclasses
import functools

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


def reorder(tokens: Tokens, parts: int) -> Tokens:
  """`strided` tokens: each keeps its coordinates, so the model sees the same
  image."""
  tokens = dataclasses.replace(tokens, whole_grid=None)  # not row-major now
  return jax.tree.map(functools.partial(strided, parts=parts), tokens)
