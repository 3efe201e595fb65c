"""Tables of names and transforms between a foreign checkpoint and ours.

A rule turns one foreign array into one or more of ours, and back. The
transforms move numbers and never change them, so that a round trip is exact.
Arrays are numpy; most results are views.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from flexivit_jax.core.text import listed

Arrays = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Rule:
  """One foreign array.

  Attributes:
    theirs: its name.
    ours: names of what it becomes.
    split: the foreign array to ours, in that order.
    join: ours to the foreign array.
  """

  theirs: str
  ours: tuple[str, ...]
  split: Callable[[np.ndarray], tuple[np.ndarray, ...]]
  join: Callable[..., np.ndarray]


def to_ours(arrays: Arrays, rules: Iterable[Rule], path) -> dict:
  """Renames and transforms all of a foreign checkpoint.

  Raises:
    ValueError: an array has no rule, or not the shape that its rule takes.
  """
  ours, left = {}, dict(arrays)
  for rule in rules:
    array = left.pop(rule.theirs, None)
    if array is None:
      continue
    try:
      parts = rule.split(array)
    except ValueError as e:
      raise ValueError(
        f"{path}: {rule.theirs} has shape {array.shape}, which makes no "
        f"{', '.join(rule.ours)}: {e}"
      ) from e
    ours |= zip(rule.ours, parts, strict=True)
  if left:
    raise ValueError(
      f"{path} holds arrays that no ViT here has: {listed(sorted(left))}"
    )
  return ours


def from_ours(arrays: Arrays, rules: Iterable[Rule], format_name: str) -> dict:
  """The inverse of `to_ours`.

  Raises:
    ValueError: the format has no place for an array.
  """
  theirs, left = {}, dict(arrays)
  for rule in rules:
    if all(name in left for name in rule.ours):
      parts = [left.pop(name) for name in rule.ours]
      theirs[rule.theirs] = rule.join(*parts)
  if left:
    raise ValueError(f"{format_name} has no place for {listed(sorted(left))}")
  return theirs


def same(theirs: str, ours: str) -> Rule:
  return Rule(theirs, (ours,), lambda x: (x,), lambda x: x)


def _expect(fits: bool, shape: str) -> None:
  if not fits:
    raise ValueError(f"{shape} is expected")


def convolution(theirs: str, ours: str) -> Rule:
  """torch's `[out, in, h, w]` and ours `[h, w, in, out]`."""

  def split(x):
    _expect(x.ndim == 4, "[out, in, h, w]")
    return (x.transpose(2, 3, 1, 0),)

  return Rule(theirs, (ours,), split, lambda x: x.transpose(3, 2, 0, 1))


def norm(theirs: str, ours: str) -> list[Rule]:
  return [
    same(f"{theirs}.weight", f"{ours}/scale"),
    same(f"{theirs}.bias", f"{ours}/bias"),
  ]


def linear(theirs: str, ours: str) -> list[Rule]:
  """torch's `[out, in]` and ours `[in, out]`."""

  def split(x):
    _expect(x.ndim == 2, "[out, in]")
    return (x.T,)

  return [
    Rule(f"{theirs}.weight", (f"{ours}/kernel",), split, lambda x: x.T),
    same(f"{theirs}.bias", f"{ours}/bias"),
  ]


def projections(
  theirs: str, ours: tuple[str, ...], num_heads: int, *, dot: str = "."
):
  """One linear map to one or more of queries, keys and values.

  torch's `[n * d, d]` and ours, n times `[d, heads, d / heads]`.

  Args:
    dot: what stands before weight and bias.
  """
  n = len(ours)
  out = "d" if n == 1 else f"{n} * d"

  def split(x, axes):
    _expect(
      x.ndim == len(axes) and len(x) % (n * num_heads) == 0,
      f"[{', '.join(axes)}], d a multiple of {num_heads} heads,",
    )
    return np.split(x, n), (num_heads, len(x) // (n * num_heads))

  def split_kernels(x):
    parts, heads = split(x, (out, "in"))
    return tuple(part.T.reshape(x.shape[1], *heads) for part in parts)

  def join_kernels(*parts):
    flat = [part.reshape(len(part), -1).T for part in parts]
    return flat[0] if n == 1 else np.concatenate(flat)

  def split_biases(x):
    parts, heads = split(x, (out,))
    return tuple(part.reshape(heads) for part in parts)

  def join_biases(*parts):
    return np.concatenate([part.reshape(-1) for part in parts])

  return [
    Rule(
      f"{theirs}{dot}weight",
      tuple(f"{name}/kernel" for name in ours),
      split_kernels,
      join_kernels,
    ),
    Rule(
      f"{theirs}{dot}bias",
      tuple(f"{name}/bias" for name in ours),
      split_biases,
      join_biases,
    ),
  ]


def out_projection(theirs: str, ours: str, num_heads: int) -> list[Rule]:
  """torch's `[d, d]` and ours `[heads, d / heads, d]`."""

  def split(x):
    _expect(
      x.ndim == 2 and x.shape[1] % num_heads == 0,
      f"[out, d], d a multiple of {num_heads} heads,",
    )
    return (x.T.reshape(num_heads, x.shape[1] // num_heads, len(x)),)

  def join(x):
    return x.reshape(-1, x.shape[-1]).T

  return [
    Rule(f"{theirs}.weight", (f"{ours}/kernel",), split, join),
    same(f"{theirs}.bias", f"{ours}/bias"),
  ]


def reshaped(theirs: str, ours: str, their_shape, our_shape) -> Rule:
  """The same numbers in the same order; -1 stands for one length, as given."""

  def split(x):
    lengths = zip(x.shape, their_shape, strict=False)
    _expect(
      x.ndim == len(their_shape) and all(n in (m, -1) for m, n in lengths),
      str(list(their_shape)),
    )
    return (x.reshape(our_shape),)

  return Rule(theirs, (ours,), split, lambda x: x.reshape(their_shape))


def of_rank(arrays: Arrays, name: str, rank: int, path) -> np.ndarray:
  """An array that every model of a kind has.

  Raises:
    ValueError: it is missing or of another rank.
  """
  if name not in arrays or arrays[name].ndim != rank:
    what = arrays[name].shape if name in arrays else "missing"
    raise ValueError(f"{path}: {name} is {what}: rank {rank} is expected")
  return arrays[name]


def leading_none(theirs: str, ours: str) -> Rule:
  """Their `[n, d]` and our `[1, n, d]`."""

  def split(x):
    _expect(x.ndim == 2, "[n, d]")
    return (x[None],)

  return Rule(theirs, (ours,), split, lambda x: x[0])


def leading_one(theirs: str, ours: str) -> Rule:
  """Their `[1, n, d]` and our `[n, d]`."""

  def split(x):
    _expect(x.ndim == 3 and len(x) == 1, "[1, n, d]")
    return (x[0],)

  return Rule(theirs, (ours,), split, lambda x: x[None])


def flat_patches(theirs: str, ours: str, patch) -> Rule:
  """torch's `[out, h * w * in]` and ours `[h, w, in, out]`.

  Args:
    patch: (h, w, in).
  """

  def split(x):
    _expect(x.ndim == 2, "[out, in]")
    return (x.T.reshape(*patch, len(x)),)

  return Rule(theirs, (ours,), split, lambda x: x.reshape(-1, x.shape[-1]).T)


def rows(theirs: str, counts: Mapping[str, int]) -> Rule:
  """One table `[1, n, d]` that holds several of ours, one after the other.

  Args:
    counts: name of ours to its number of rows.
  """
  ends = np.cumsum(list(counts.values()))

  def split(x):
    _expect(x.ndim == 3 and x.shape[1] == ends[-1], f"[1, {ends[-1]}, d]")
    return tuple(np.split(x, ends[:-1], axis=1))

  return Rule(
    theirs, tuple(counts), split, lambda *x: np.concatenate(x, axis=1)
  )
