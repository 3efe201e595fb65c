"""How attention is spread over devices: `distribution(kernel, q, k, v)`."""

import re
from typing import NamedTuple, Protocol

from flexivit_jax.attention.kernel import Kernel, Partial

FLOAT32 = 4  # bytes of a sum, whatever the activations


class Sent(NamedTuple):
  """Bytes that each device sends for a block.

  Attributes:
    forward: in the forward pass.
    backward: in the backward pass, where the block is not computed again.
    again: in the backward pass, more, where it is.
  """

  forward: float = 0
  backward: float = 0
  again: float = 0


class Held(NamedTuple):
  """Bytes that each device holds for a block, beside its own activations.

  Attributes:
    kept: from the forward pass to the backward pass.
    working: while the gradient of the attention is computed.
    under_remat: of `kept`, where blocks are computed again.
    keeps_result: remat keeps the output, whatever the kernel.
  """

  kept: float = 0
  working: float = 0
  under_remat: float = 0
  keeps_result: bool = False


class Distribution(Protocol):
  """A kernel's attention over tokens that devices share; a frozen dataclass.

  What it does depends on the mesh of the context (`jax.set_mesh` or
  `jax.sharding.use_abstract_mesh`) in which it is traced. Without an axis
  `seq`, or with one device on it: the kernel itself. With several: one
  `shard_map` round the kernel, manual over all axes. Inside a `shard_map` that
  is manual over `seq`: on the device's own tokens.

  Attributes:
    kept: names (`jax.ad_checkpoint.checkpoint_name`) of what a rematerialised
      layer keeps: what was sent, so that it is not sent again.
  """

  kept: tuple[str, ...]

  def __call__(
    self, kernel: Kernel, q, k, v, *, q_segments=None, kv_segments=None
  ) -> Partial:
    """Arguments and result as `Kernel`'s, of one length for q, k and v."""
    ...

  def check(
    self, *, length: int, num_heads: int, parts: int, kernel: Kernel
  ) -> None:
    """Refuses what would not work, before anything is compiled.

    Args:
      length: tokens of a row.
      parts: devices on the mesh's axis `seq`.

    Raises:
      ValueError: with the numbers that would work.
    """
    ...

  def sent(self, activation: float, parts: int, itemsize: int) -> Sent:
    """Bytes sent for a block, by a ring of devices: gathering or scattering
    x bytes sends x (parts - 1) / parts.

    Args:
      activation: bytes of one activation of the group's rows, as queries,
        keys, values and outputs each have.
      itemsize: bytes of a number of it.
    """
    ...

  def held(self, activation: float, parts: int, itemsize: int) -> Held:
    """Bytes held for a block, logits aside; arguments as for `sent`."""
    ...

  def logits(
    self, length: int, num_heads: int, parts: int
  ) -> tuple[int, int, int]:
    """(heads, queries, keys) of the logits that a device has at once."""
    ...


def check_length(length: int, parts: int) -> None:
  """Refuses a row that devices cannot share evenly."""
  if length % parts:
    below = length // parts * parts
    lengths = [str(n) for n in (below, below + parts) if n]
    divisors = [str(n) for n in range(1, 2 * parts) if length % n == 0]
    raise ValueError(
      f"{length} tokens of a row do not divide over the {parts} devices of the "
      f"mesh's axis seq: take seq={' or '.join(divisors)}, or "
      f"{' or '.join(lengths)} tokens"
    )


def name_of(choice: Kernel | Distribution) -> str:
  """The name of a kernel or distribution, as configs spell it."""
  return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(choice).__name__).lower()
