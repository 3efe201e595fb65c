"""How attention is shared along `seq`: what each way sends and holds.

Bytes that each device sends and holds, for one block and one microbatch.
Throughout, `a` is the bytes of one activation of the rows of a group of
devices, and p the devices of the group, so that a / p is a device's own share.
Formulas of what is sent are those of a ring of devices: gathering or scattering
what is x bytes in all sends x (p - 1) / p. Queries, keys, values and outputs
have a bytes each.
"""

import dataclasses
from typing import NamedTuple, Protocol

from flexivit_jax.attention import local, query_sharded, ring, ulysses
from flexivit_jax.attention.distribution import Distribution
from flexivit_jax.run.plan.workload import Layout, Workload

# Sums in float32, of keys and values or of queries, whatever the activations.
_FLOAT32 = 4


class Sent(NamedTuple):
  """Bytes that each device sends.

  Attributes:
    forward: in the forward pass.
    backward: in the backward pass, where the block is not computed again.
  """

  forward: float
  backward: float


class Held(NamedTuple):
  """Bytes that each device holds, beside its share of the activations.

  Attributes:
    kept: from the forward pass to the backward pass.
    working: while the gradient of the attention is computed.
    under_remat: of `kept`, what is so even where blocks are computed again.
  """

  kept: float
  working: float
  under_remat: float = 0


class Way(Protocol):
  """One way to share the attention of a block.

  Attributes:
    name: as in config.model.distribution.
    settings: overrides of a config that choose it.
    attention: what does it; None: this project has no such training.
    sends_again: whether remat sends in the backward pass what the forward pass
      sent.
    keeps_result: whether remat keeps the output, whatever the kernel.
  """

  name: str
  settings: tuple[str, ...] = ()
  attention: Distribution | None = None
  sends_again: bool = False
  keeps_result: bool = False

  def refusal(self, work: Workload, layout: Layout) -> str | None:
    """Why it cannot be used, with a way out; None: it can."""
    try:
      self.attention.check(
        length=work.length,
        num_heads=work.size.num_heads,
        parts=layout.seq,
        kernel=work.kernel,
      )
    except ValueError as e:
      return str(e)
    return None

  def sent(self, a: float, p: int, itemsize: int) -> Sent:
    """Bytes that each device sends."""

  def held(self, a: float, p: int, itemsize: int) -> Held:
    """Bytes that each device holds, logits aside."""

  def logits(self, length: int, heads: int, p: int) -> tuple[int, int, int]:
    """(heads, queries, keys) of the logits that dense attention has at once."""

  def weights_over(self, p: int) -> int:
    """Devices of a group that share the parameters of the blocks."""
    return 1

  def again(self, length: int, width: int, p: int) -> float:
    """Multiply-adds of a row's forward pass, in a block and on each device,
    that other devices of the group do too."""
    return 0


@dataclasses.dataclass(frozen=True)
class Local(Way):
  """Each device has whole rows: data parallelism alone."""

  name = "local"
  settings = ("model.distribution=local",)
  attention = local.Local()

  def sent(self, a, p, itemsize):
    return Sent(0, 0)

  def held(self, a, p, itemsize):
    # Gradients of queries, keys and values, summed in float32.
    return Held(0, 3 * a * _FLOAT32 / itemsize)

  def logits(self, length, heads, p):
    return heads, length, length


@dataclasses.dataclass(frozen=True)
class QuerySharded(Way):
  """Each device has its queries; keys and values are gathered, in one piece
  forward, and their gradients scattered, in one piece backward (LSS
  Transformer, arXiv:2311.02382).

  Attributes:
    keep: what was gathered, in spite of remat.
  """

  keep: bool = True

  _gather = "keys_values"
  _name = "query_sharded"
  _settings = ("model.distribution=query_sharded",)

  @property
  def name(self):
    return self._name + ("" if self.keep else ", again")

  @property
  def attention(self):
    return query_sharded.QuerySharded(self._gather, self.keep)

  @property
  def settings(self):
    keep = () if self.keep else ("model.distribution.keep=false",)
    return self._settings + keep

  @property
  def sends_again(self):
    return not self.keep

  def sent(self, a, p, itemsize):
    part = (p - 1) / p
    return Sent(2 * a * part, 2 * a * part)

  def held(self, a, p, itemsize):
    # Keys and values of whole rows are kept in the place of the device's own.
    sums = 2 * a * _FLOAT32 / itemsize
    kept = 2 * a * (p - 1) / p
    return Held(kept, sums + 2 * a, 2 * a if self.keep else 0)

  def logits(self, length, heads, p):
    return heads, length // p, length


@dataclasses.dataclass(frozen=True)
class QueryShardedActivations(QuerySharded):
  """The same, but the activations are gathered, which are half of that; each
  device makes keys and values of them by itself."""

  _gather = "activations"
  _name = "query_sharded, activations"
  _settings = (
    "model.distribution=query_sharded",
    "model.distribution.gather=activations",
  )

  def sent(self, a, p, itemsize):
    part = (p - 1) / p
    return Sent(a * part, a * part)

  def held(self, a, p, itemsize):
    kept, working, _ = super().held(a, p, itemsize)
    return Held(kept + a, working + a, a if self.keep else 0)

  def again(self, length, width, p):
    return 2 * length * width**2 * (p - 1) / p


@dataclasses.dataclass(frozen=True)
class Ring(Way):
  """Keys and values go round the group, backward with their gradients
  (arXiv:2310.01889)."""

  name = "ring"
  settings = ("model.distribution=ring",)
  attention = ring.Ring()
  keeps_result = True

  def sent(self, a, p, itemsize):
    if p == 1:
      return Sent(0, 0)
    part = (p - 1) / p
    # Their gradients, in float32, go all the way round, back to where they are.
    return Sent(2 * a * part, 2 * a * part + 2 * a * _FLOAT32 / itemsize)

  def held(self, a, p, itemsize):
    share = a / p
    # Sums and what is added to them; what comes in, is used and goes out.
    return Held(0, 6 * share * _FLOAT32 / itemsize + 4 * share)

  def logits(self, length, heads, p):
    return heads, length // p, length // p


@dataclasses.dataclass(frozen=True)
class Ulysses(Way):
  """Queries, keys and values change from a part of the tokens to a part of the
  heads, and the output changes back (arXiv:2309.14509)."""

  name = "ulysses"
  settings = ("model.distribution=ulysses",)
  attention = ulysses.Ulysses()

  def sent(self, a, p, itemsize):
    part = (p - 1) / p**2
    return Sent(4 * a * part, 4 * a * part)

  def held(self, a, p, itemsize):
    share = a / p
    # The output as the heads made it, and as the projection reads it.
    working = 3 * share * _FLOAT32 / itemsize + 4 * share
    return Held(share, working, 4 * share)

  def logits(self, length, heads, p):
    return heads // p, length, length


@dataclasses.dataclass(frozen=True)
class Megatron(Way):
  """Heads and hidden units are shared, and between these the tokens: tensor
  and sequence parallelism (arXiv:2205.05198). A reference only.

  Forward two gathers and two scatters, backward the same.
  """

  name = "tensor + sequence"
  sends_again = True

  def refusal(self, work, layout):
    heads, seq = work.size.num_heads, layout.seq
    if heads % seq == 0 == work.length % seq:
      return None
    return (
      f"{heads} heads and {work.length} tokens do not both divide over {seq} "
      "devices"
    )

  def sent(self, a, p, itemsize):
    part = (p - 1) / p
    return Sent(4 * a * part, 4 * a * part)

  def held(self, a, p, itemsize):
    # The norm's output is gathered twice, and is kept by tokens.
    return Held(0, 3 * a / p * _FLOAT32 / itemsize + 2 * a)

  def logits(self, length, heads, p):
    return heads // p, length, length

  def weights_over(self, p):
    return p


LOCAL = Local()
SHARED = (
  QuerySharded(),
  QueryShardedActivations(),
  Ring(),
  Ulysses(),
  Megatron(),
)
# Where blocks are computed again there are two more.
SHARED_UNDER_REMAT = (
  QuerySharded(),
  QuerySharded(keep=False),
  QueryShardedActivations(),
  QueryShardedActivations(keep=False),
  *SHARED[2:],
)
