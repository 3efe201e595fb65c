"""Memory, traffic, arithmetic and time of a step: laws and tables."""

import dataclasses

import pytest

from flexivit_jax.attention import (
  blockwise,
  dense,
  fused,
  local,
  query_sharded,
  ring,
  ulysses,
)
from flexivit_jax.models import cost, sizes, vit
from flexivit_jax.nn import pooling
from flexivit_jax.nn.positions import position
from flexivit_jax.run.plan.layout import Layout
from flexivit_jax.run.plan.step_cost import Cost
from flexivit_jax.run.plan.workload import Weights, Workload

LOCAL = local.Local()
SHARED = {
  "query_sharded": query_sharded.QuerySharded(),
  "query_sharded, again": query_sharded.QuerySharded(keep=False),
  "ring": ring.Ring(),
  "ulysses": ulysses.Ulysses(),
}
WAYS = {"local": LOCAL, **SHARED}
LENGTH = 50_176


def _of_size(name, *, length=LENGTH, **changes):
  """One row of a pixel transformer, bfloat16."""
  size = sizes.SIZES[name]
  model = vit.ViT(
    size, position.NoPosition(), pooling.Gap(), (1, 1), num_classes=0
  )
  counted = cost.multiply_adds(model, (length, 1), (1, 1))
  numbers = 12 * size.depth * size.width**2
  work = Workload(
    rows=1,
    length=length,
    size=size,
    weights=Weights(numbers, 4 * numbers, 8 * numbers),
    outside=0,
    patch_numbers=3,
    itemsize=2,
  )
  inside = work.attention_multiply_adds + work.other_multiply_adds
  work = dataclasses.replace(work, outside=(counted - inside) / length)
  return dataclasses.replace(work, **changes)


# ViT at 50,176 tokens, 3.5 times attention and 3 times the rest: TFLOPs of an
# image, and logits of a layer in float32, in GB.
@pytest.mark.parametrize(
  ("size", "tflops", "logits"),
  [("Ti", 83, 30), ("S", 169, 60), ("B", 350, 121), ("L", 957, 161)],
)
def test_arithmetic_and_logits_of_pixel_transformers(size, tflops, logits):
  one = Cost(_of_size(size), Layout(1, 1), LOCAL)
  assert one.flops / 1e12 == pytest.approx(tflops, rel=0.01)
  difference = one.memory("dense").total - one.memory("blockwise").total
  # Two arrays of float32 and one of bfloat16; tiles of blockwise are little.
  assert difference / 2.5 / 1e9 == pytest.approx(logits, rel=0.02)


@pytest.mark.parametrize("name", SHARED)
def test_devices_share_the_arithmetic(name):
  one = Cost(_of_size("Ti"), Layout(1, 1), LOCAL)
  eight = Cost(_of_size("Ti"), Layout(1, 8), WAYS[name])
  assert eight.flops == pytest.approx(one.flops / 8, rel=1e-12)
  assert eight.name == name


@pytest.mark.parametrize(
  ("name", "kernel", "attends_again"),
  [
    ("local", dense.Dense(), True),
    ("local", blockwise.Blockwise(), False),
    ("query_sharded", dense.Dense(), True),
    ("ring", dense.Dense(), False),
    ("ulysses", fused.Fused(), True),
  ],
)
def test_remat_adds_a_forward_pass_but_for_results_that_are_kept(
  name, kernel, attends_again
):
  seq = 1 if name == "local" else 3
  plain, again = (
    Cost(_of_size("S", remat=r, kernel=kernel), Layout(1, seq), WAYS[name])
    for r in (False, True)
  )
  work = plain.work
  forward = work.other_multiply_adds
  forward += work.attention_multiply_adds if attends_again else 0
  more = again.flops - plain.flops
  assert more == pytest.approx(2 * forward / seq, rel=1e-12)


def test_local_sends_gradients_alone():
  one = Cost(_of_size("Ti", rows=8), Layout(8, 1), LOCAL)
  numbers = one.work.weights.numbers
  assert one.sent == one.sent_gradients == 2 * 4 * numbers * 7 / 8
  assert Cost(_of_size("Ti"), Layout(1, 1), LOCAL).sent == 0


def test_the_ring_falls_as_one_over_p_and_the_others_stay_above():
  def activations(name, seq):
    # Long enough for tiles of logits, which do not fall, to be little.
    length = 8 * LENGTH
    work = _of_size("Ti", length=length, remat=True)
    return Cost(work, Layout(1, seq), WAYS[name]).memory("blockwise")

  two, eight = (activations("ring", p).activations for p in (2, 8))
  assert two / eight == pytest.approx(4, rel=0.01)
  # The bound that the compiled programs of one layer are held to as well.
  assert eight <= 0.5 * activations("query_sharded", 8).activations
  kept = activations("query_sharded", 8).gathered
  assert kept == 12 * 2 * 8 * LENGTH * 192 * 2
  again = activations("query_sharded, again", 8)
  assert again.gathered == 2 * 8 * LENGTH * 192 * 2 * 7 / 8
  assert activations("ring", 8).gathered == 0


def test_microbatches_take_less_at_once_and_send_as_much():
  whole, parts = (
    Cost(_of_size("Ti", rows=8, accumulate=n), Layout(2, 4), WAYS["ring"])
    for n in (1, 4)
  )
  assert parts.sent == whole.sent
  assert parts.flops == whole.flops
  assert 4 * parts.activation == whole.activation
  one, two = whole.memory("dense"), parts.memory("dense")
  assert two.activations < one.activations
  assert two.gradients == 2 * one.gradients


@pytest.mark.parametrize(
  ("changes", "layout", "numbers", "remedy"),
  [
    ({"rows": 4}, Layout(8, 1), "4 rows are fewer than 8", "a batch of 8"),
    ({"rows": 12}, Layout(8, 1), "12 rows do not divide", "a batch of 16"),
    (
      {"rows": 16, "accumulate": 4},
      *(Layout(8, 1), "16 rows in 4 microbatches are fewer", "a batch of 32"),
    ),
    ({"prefix": 5}, Layout(1, 2), "5 class and register", "registers 0"),
  ],
)
def test_refusals_of_rows_and_of_tokens_without_a_place(
  changes, layout, numbers, remedy
):
  way = LOCAL if layout.seq == 1 else WAYS["ring"]
  told = Cost(_of_size("Ti", **changes), layout, way).refusal
  assert told.startswith(numbers)
  assert told.endswith(remedy)
  assert Cost(_of_size("Ti", rows=32), layout, way).refusal is None
