"""What steers an encoder beside its tokens: a vector for each image."""

import dataclasses

import jax
import jax.numpy as jnp

from flexivit_jax.core.tokens import membership


@dataclasses.dataclass(frozen=True)
class Unconditioned:
  """Nothing: norms have scales and biases that are learned."""


@dataclasses.dataclass(frozen=True)
class AdaLNZero:
  """Adaptive norms that begin as none (adaLN-Zero of DiT, arXiv:2212.09748,
  section 3.2).

  Norms have no scale and bias. In each block a linear map of SiLU of the
  image's vector says how attention and MLP are shifted, scaled and gated, and
  another one how the final norm is shifted and scaled. All of these maps begin
  at zero, so that each block begins as the identity.
  """


Conditioning = Unconditioned | AdaLNZero


def check(conditioning: Conditioning, condition, shape) -> None:
  """Refuses a condition that the model does not read, or that it lacks.

  Args:
    condition: of the call; None: not given.
    shape: that it must have, (rows, image slots, width).

  Raises:
    ValueError: with what would work.
  """
  if isinstance(conditioning, Unconditioned):
    if condition is not None:
      raise ValueError(
        "a condition was given, and the model's blocks read none: give none, "
        'or build the model with conditioning="adaln_zero"'
      )
    return
  if condition is None:
    raise ValueError(
      "the model's blocks are conditioned (adaln_zero), and no condition was "
      f"given: give one vector for each image, of shape {shape}"
    )
  if condition.shape != shape:
    raise ValueError(
      f"the condition has shape {condition.shape}: give {shape}, one vector "
      "of the model's width for each image"
    )


def refuse(conditioning: Conditioning, path) -> None:
  """Refuses a model that needs more than images.

  Args:
    path: of its checkpoint, for the error.

  Raises:
    ValueError: naming the command that uses such a model.
  """
  if isinstance(conditioning, AdaLNZero):
    raise ValueError(
      f"{path} is conditioned on time and class (adaln_zero) and does not "
      "answer images alone; it makes images: python -m "
      f"flexivit_jax.cli.sample --checkpoint {path} --output DIR"
    )


def of_tokens(x: jax.Array, segments: jax.Array | None) -> jax.Array:
  """What belongs to images, given to each of their tokens.

  Args:
    x: `[b, e, d]`.
    segments: i32 `[b or 1, l]`, 1..e, 0 is padding; None: one image per row.

  Returns:
    `[b, l, d]`, 0 on padding; `[b, 1, d]` without segments.
  """
  if segments is None:
    return x
  member = membership(segments, x.shape[1]).astype(x.dtype)
  member = jnp.broadcast_to(member, (x.shape[0], *member.shape[1:]))
  # One of them and zeros: exact.
  highest = jax.lax.Precision.HIGHEST
  return jnp.einsum("ble,bed->bld", member, x, precision=highest)
