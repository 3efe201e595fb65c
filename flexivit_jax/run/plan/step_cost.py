"""Memory, traffic, arithmetic and time of a training step, by formulas.

Nothing is traced or compiled. docs/planner.md says how far the compiler's own
plans are from this.
"""

import dataclasses
import math
from typing import NamedTuple

from flexivit_jax.attention import blockwise
from flexivit_jax.attention.distribution import (
  FLOAT32,
  Distribution,
  name_of,
)
from flexivit_jax.run.plan.layout import Layout
from flexivit_jax.run.plan.workload import Workload

# Vectors that a block keeps for the backward pass, for each token: of the
# encoder's width (inputs of norms and projections, queries, keys, values, the
# outputs), and hidden ones of the MLP. Counted in compiled programs; outside of
# a scan XLA computes part of GELU and of the norms again.
_KEPT_BY_SCAN, _KEPT = (11, 6), (10, 4)
_GATE = 2  # more hidden vectors of a gated MLP
# Vectors of the encoder's width around the costliest block of the backward
# pass: cotangents, the residual stream, embeddings. The attention's own are in
# `Held.working`.
_AROUND = 8
# Of dense attention: logits and their gradient in float32, and one of them in
# the type of the activations or, where XLA unrolls a loop, once more.
_LOGITS = 2.5 * 4

KERNELS = ("dense", "blockwise")
# Queries and keys of a tile in blockwise attention, and arrays of a tile.
BLOCK = 512
_TILES = 4


class Rates(NamedTuple):
  """What devices can do, each of them.

  Attributes:
    flops: floating point operations per second, a multiply-add being two.
    bandwidth: bytes per second that it sends.
  """

  flops: float = 4e14
  bandwidth: float = 4.5e11


@dataclasses.dataclass(frozen=True)
class Memory:
  """Bytes on each device at the costliest moment of a training step.

  Attributes:
    parameters: of the model, whole while they are used.
    optimizer: the optimiser's state, and the parameters' moving average.
    gradients: as many as parameters, twice where they are accumulated.
    kept: activations from the forward to the backward pass.
    gathered: keys and values of whole rows, kept as long.
    working: what the costliest block needs at once, logits included.
  """

  parameters: float
  optimizer: float
  gradients: float
  kept: float
  gathered: float
  working: float

  @property
  def activations(self) -> float:
    return self.kept + self.gathered + self.working

  @property
  def total(self) -> float:
    return sum(dataclasses.astuple(self))


@dataclasses.dataclass(frozen=True)
class Cost:
  """A training step of a workload, shared in one way.

  Attributes:
    work, layout, distribution: of which it is the cost.
  """

  work: Workload
  layout: Layout
  distribution: Distribution

  @property
  def refusal(self) -> str | None:
    """Why it cannot be, with a way out; None: it can."""
    work, layout = self.work, self.layout
    rows = work.rows // work.accumulate
    if rows % layout.data:
      cut = f" in {work.accumulate} microbatches" if work.accumulate > 1 else ""
      few = "are fewer than" if rows < layout.data else "do not divide over"
      return (
        f"{work.rows} rows{cut} {few} {layout.data} devices of data: give a "
        f"batch of {-(-rows // layout.data) * layout.data * work.accumulate}"
      )
    if layout.seq > 1 and work.prefix:
      return (
        f"{work.prefix} class and register tokens in a row that is shared: "
        "give pool gap or map, and registers 0"
      )
    try:
      self.distribution.check(
        length=work.length,
        num_heads=work.size.num_heads,
        parts=layout.seq,
        kernel=work.kernel,
      )
    except ValueError as e:
      return str(e)
    return None

  @property
  def name(self) -> str:
    """Of the distribution; "again" where remat gathers again."""
    again = getattr(self.distribution, "keep", True) is False
    return name_of(self.distribution) + (", again" if again else "")

  @property
  def activation(self) -> float:
    """Bytes of one activation of a microbatch, of a group of devices."""
    rows = self.work.rows / self.work.accumulate / self.layout.data
    return rows * self.work.activation

  def memory(self, kernel: str, *, remat: bool | None = None) -> Memory:
    """Bytes on each device.

    Args:
      kernel: one of KERNELS; all that are not dense need what blockwise does.
      remat: None: as the workload has it.
    """
    work, p = self.work, self.layout.seq
    remat = work.remat if remat is None else remat
    weights = work.weights
    gradients = weights.parameters * (2 if work.accumulate > 1 else 1)
    share = self.activation / p
    tokens = share / (work.size.width * work.itemsize)
    lse = tokens * work.size.num_heads * FLOAT32
    block = share * _kept_by_block(work) + lse
    around = _AROUND * share
    held = self.distribution.held(self.activation, p, work.itemsize)
    in_attention = held.working + self.logits(kernel)
    depth = work.size.depth
    if remat:
      # One block at a time is as it was forward, until its attention's turn.
      kept = depth * share
      if self._keeps_result(kernel):
        kept += depth * (share + lse)
      gathered = depth * held.under_remat
      gathered += max(0, held.kept - held.under_remat)
      working = max(around + in_attention, block)
    else:
      kept, gathered = depth * block, depth * held.kept
      working = around + in_attention
    return Memory(
      # Whole while they are used, wherever they lie.
      parameters=max(weights.parameters, FLOAT32 * weights.numbers),
      optimizer=weights.optimizer,
      gradients=gradients,
      kept=kept + tokens * work.patch_numbers * FLOAT32,
      gathered=gathered,
      working=working,
    )

  def logits(self, kernel: str) -> float:
    """Bytes of logits, and of what has their shape."""
    work, p = self.work, self.layout.seq
    heads, queries, keys = self.distribution.logits(
      work.length, work.size.num_heads, p
    )
    rows = work.rows / work.accumulate / self.layout.data
    if kernel != "dense":
      sides = (blockwise.Blocks.of(n, BLOCK).size for n in (queries, keys))
      tile = math.prod(sides)
      return _TILES * FLOAT32 * rows * heads * tile
    if work.platform == "cpu":
      heads = 1
    return _LOGITS * rows * heads * queries * keys

  @property
  def sent_forward(self) -> float:
    """Bytes that each device sends for a block, forward, over a step."""
    return self.work.accumulate * self._sent.forward

  @property
  def sent_backward(self) -> float:
    """The same backward, where remat sends forward's once more."""
    sent = self._sent
    again = sent.again if self.work.remat else 0
    return self.work.accumulate * (sent.backward + again)

  def _keeps_result(self, kernel: str) -> bool:
    """Whether remat keeps what attention gave."""
    held = self.distribution.held(1, self.layout.seq, self.work.itemsize)
    return kernel == "blockwise" or held.keeps_result

  @property
  def _sent(self):
    p = self.layout.seq
    return self.distribution.sent(self.activation, p, self.work.itemsize)

  @property
  def sent_gradients(self) -> float:
    """Bytes that each device sends to add up the gradients, once a step.

    2 n (P - 1) / P for n bytes on P devices that all have them.
    """
    devices = self.layout.devices
    return 2 * FLOAT32 * self.work.weights.numbers * (devices - 1) / devices

  @property
  def sent(self) -> float:
    """Bytes that each device sends in a step."""
    blocks = self.work.size.depth * (self.sent_forward + self.sent_backward)
    return blocks + self.sent_gradients

  @property
  def flops(self) -> float:
    """Floating point operations of each device in a step.

    Each product of the forward pass becomes two backward; those of attention
    five halves, since the logits are computed again from what is kept. Remat
    adds the forward pass, attention left out where its result is kept.
    """
    work, layout = self.work, self.layout
    again = 1 if work.remat else 0
    attends_again = not self._keeps_result(name_of(work.kernel)) and again
    rows = work.rows / layout.data
    shared = (
      (3.5 + attends_again) * work.attention_multiply_adds
      + (3 + again) * work.other_multiply_adds
    ) / layout.seq
    return 2 * rows * shared

  def seconds(self, rates: Rates) -> tuple[float, float]:
    """(least, most): sending behind computing as far as it goes; and all
    sending after all computing."""
    computing = self.flops / rates.flops
    sending = self.sent / rates.bandwidth
    return max(computing, sending), computing + sending


def _kept_by_block(work: Workload) -> float:
  """Activations, in vectors of the encoder's width."""
  wide, hidden = _KEPT_BY_SCAN if work.scan else _KEPT
  hidden += _GATE if work.gated_mlp else 0
  return wide + hidden * work.size.mlp_dim / work.size.width
