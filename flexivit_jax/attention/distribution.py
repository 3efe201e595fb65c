"""How attention is spread over devices: `distribution(kernel, q, k, v)`."""

from typing import Protocol

from flexivit_jax.attention.kernel import Kernel, Partial


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


def name_of(kernel: Kernel) -> str:
  """As configs spell it."""
  return type(kernel).__name__.lower()
