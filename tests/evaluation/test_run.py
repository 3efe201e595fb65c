"""Cascades run for real, against what each size answers to all images."""

import contextlib
import dataclasses
import functools
import logging
import math
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from invented_sweeps import assert_same, ranked
from jax.sharding import AxisType

from flexivit_jax.core.cut import to_tokens
from flexivit_jax.core.tokens import Batch, patchify
from flexivit_jax.devices import placement
from flexivit_jax.evaluation.cascade import cascade, run
from flexivit_jax.evaluation.cascade.cascade import STOP, Cascade
from flexivit_jax.tasks.predictions import Answers, answer
from tests import tiny

LARGE, MIDDLE, SMALL = (12, 12), (6, 6), (4, 4)
SIZES = (LARGE, MIDDLE, SMALL)


def make_mesh(count):
  devices = jax.devices()[:count]
  return jax.make_mesh(
    (count,), ("data",), axis_types=(AxisType.Auto,), devices=devices
  )


def make_batch(index, seed=0):
  """Noise; the first pixel's red is the number of the image's row."""
  index = np.array(index, np.int32)[:, None]
  rng = np.random.default_rng(seed)
  images = rng.integers(0, 256, (len(index), 12, 12, 3), np.uint8)
  images[:, 0, 0, 0] = np.arange(len(index))
  return Batch(
    inputs=images,
    labels=(index % 5).astype(np.int32),
    weights=(index >= 0).astype(np.float32),
    index=index,
  )


class Oracle:
  """Answers that are known: confidences and ranks by patch size and row.

  They are looked up by an image's first pixel.
  """

  def __init__(self, rows, seed=0):
    rng = np.random.default_rng(seed)
    self.confidence = {
      size: rng.uniform(size=rows).astype(np.float32) for size in SIZES
    }
    self.rank = {
      size: rng.integers(0, 3, rows).astype(np.int32) for size in SIZES
    }
    self.traced = []

  def __call__(self, params, batch, *, patch_hw):
    self.traced.append((patch_hw, batch.index.shape[0]))
    row = batch.inputs[:, :1, 0, 0].astype(jnp.int32)
    confidence = jnp.asarray(self.confidence[patch_hw])[row]
    return Answers(
      index=batch.index,
      label=batch.labels,
      predicted=row * params,
      confidence=confidence,
      loss=confidence + math.prod(patch_hw),
      rank=jnp.asarray(self.rank[patch_hw])[row],
    )

  def answers(self, batch):
    """What each size answers to all, on the host."""
    fields = dict(index=batch.index[:, 0], label=batch.labels[:, 0])
    fields["predicted"] = 3 * np.arange(len(batch.index))
    return {
      size: ranked(
        self.rank[size],
        confidence=self.confidence[size],
        loss=self.confidence[size] + math.prod(size),
        **fields,
      )
      for size in SIZES
    }


THREE = np.int32(3)


def compiled(forward, cascades, batch, count, params=THREE):
  mesh, lines = make_mesh(count), []
  programs = run.compile_cascades(
    forward, cascades, params, batch, mesh=mesh, report=lines.append
  )
  return programs, placement.to_devices(batch, mesh), lines


@functools.cache
def compiled_oracle(count):
  """A batch of 40 images, all three sizes."""
  batch, oracle = make_batch(range(100, 140)), Oracle(40)
  cascades = [Cascade(SIZES, (0.5, 0.5))]
  programs, on_devices, _ = compiled(oracle, cascades, batch, count)
  return oracle.answers(batch), programs, on_devices


@pytest.mark.parametrize(
  ("devices", "thresholds"),
  [
    (1, (0.5, 0.5)),
    (8, (0.9, 0.05)),
    (1, (0.02, 0.9)),
    (8, (1.0, 0.3)),
    (1, (STOP, 1.0)),
    (8, (0.3, STOP)),
  ],
)
def test_each_image_is_answered_where_it_stops(devices, thresholds):
  """And in the order of the batch; its rows are counted."""
  answers, programs, on_devices = compiled_oracle(devices)
  chosen = Cascade(SIZES, thresholds)
  ran = run.run(programs, chosen, THREE, on_devices)
  expected = cascade.predict(chosen, answers)
  if thresholds == (0.5, 0.5):
    assert expected.reached == (40, 16, 12)  # or this would not tell much
    assert not np.array_equal(expected.stages, np.sort(expected.stages))
  assert_same(ran.answers, expected.answers)
  np.testing.assert_array_equal(ran.stages, expected.stages)
  counts = run.row_counts(40, devices)
  assert counts == (*((1, 2, 4) if devices == 1 else ()), 8, 16, 32, 40)
  for rows, reached in zip(ran.rows, expected.reached, strict=True):
    # The least that is compiled: less than twice as many as are needed.
    assert rows == min((c for c in counts if c >= reached > 0), default=0)


def test_padding_goes_nowhere():
  index = [7, -1, 3, 4, -1, 5, -1, -1]
  batch = make_batch(index)
  oracle, chosen = Oracle(8), Cascade(SIZES, (1.0, 1.0))
  programs, on_devices, _ = compiled(oracle, [chosen], batch, 1)
  ran = run.run(programs, chosen, THREE, on_devices)
  expected = cascade.predict(chosen, oracle.answers(batch))
  real = np.array(index) >= 0
  assert_same(ran.answers, expected.answers, real)
  assert (ran.answers.index[~real] == -1).all()
  assert (ran.stages[~real] == 0).all()
  assert ran.stages[real].tolist() == [2] * 4
  assert ran.rows == (8, 4, 4)


def test_nothing_is_traced_or_compiled_once_compiled():
  batch = make_batch(range(16))
  cascades = [
    Cascade(SIZES, (0.5, 0.5)),
    Cascade(SIZES, (0.99, 0.9)),
    Cascade((LARGE, SMALL), (0.2,)),
    Cascade((SMALL,)),
  ]
  oracle = Oracle(16)
  programs, on_devices, lines = compiled(oracle, cascades, batch, 1)
  # Two first sizes, and log2(16) + 1 programs of each that comes later.
  some = [(size, n) for size in (MIDDLE, SMALL) for n in (1, 2, 4, 8, 16)]
  assert oracle.traced == [(LARGE, 16), (SMALL, 16), *some]
  assert lines[2].startswith("compiled cascade 3/12: 6 px, 1 images, ")
  run.run(programs, cascades[0], THREE, on_devices)
  count = len(oracle.traced)
  seen_rows = set()
  with jax.log_compiles(), logged_by_jax() as seen:
    programs.warm(THREE, on_devices)
    for threshold in (*np.sort(oracle.confidence[LARGE]).tolist(), STOP):
      for each in (*cascades, Cascade(SIZES, (threshold, 0.7))):
        ran = run.run(programs, each, THREE, on_devices)
        seen_rows.update(ran.rows)
  assert (seen, len(oracle.traced)) == ([], count)
  assert seen_rows == {0, 1, 2, 4, 8, 16}


@contextlib.contextmanager
def logged_by_jax():
  seen, handler = [], logging.Handler()
  handler.emit = lambda record: seen.append(record.getMessage())
  logging.getLogger("jax").addHandler(handler)
  try:
    yield seen
  finally:
    logging.getLogger("jax").removeHandler(handler)


MODEL = tiny.tiny(num_classes=5)
PARAMS = tiny.parameters(MODEL, scale=0.3)


def forward(params, batch, *, patch_hw):
  tokens = to_tokens(batch.inputs, patch_hw)
  logits = MODEL.apply({"params": params}, tokens).logits
  logs = jax.nn.log_softmax(logits)
  loss = -jnp.take_along_axis(logs, batch.labels[..., None], axis=-1)[..., 0]
  return answer(logits, jnp.exp(logs), loss, batch.labels, batch.index)


def one_size(params, size, batch):
  """The answers of a size to a batch as a sweep gets them."""
  mesh = make_mesh(1)
  program = jax.jit(
    lambda params, batch: forward(params, batch, patch_hw=size),
    in_shardings=(placement.replicated(mesh), placement.over_rows(mesh)),
    out_shardings=placement.over_rows(mesh),
  )
  return flat(program(params, placement.to_devices(batch, mesh)))


def flat(answers):
  return jax.tree.map(lambda x: np.asarray(x).ravel(), answers)


PAIR = (LARGE, SMALL)
BATCH = make_batch(range(4))


@pytest.fixture(scope="module")
def model():
  """Programs, the batch on the device, and what each size answers to it."""
  programs, on_devices, _ = compiled(
    forward, [Cascade(PAIR, (0.5,))], BATCH, 1, PARAMS
  )
  answers = {size: one_size(PARAMS, size, BATCH) for size in PAIR}
  return programs, on_devices, answers


def assert_near(ours, others):
  """The same answers, to what rounding does to logits of up to 10.

  The products are the same, but of other shapes and in other programs, so XLA
  may add them up in another order: 4e-6 at most was seen. Those of another
  size differ by 0.1 and more.
  """
  for name in ("index", "label", "predicted", "rank"):
    np.testing.assert_array_equal(getattr(ours, name), getattr(others, name))
  for name in ("confidence", "loss"):
    np.testing.assert_allclose(
      getattr(ours, name), getattr(others, name), rtol=0, atol=1e-5
    )


def test_a_model_that_always_stops_is_its_first_size(model):
  """Bit for bit: it is the same program."""
  programs, on_devices, answers = model
  ran = run.run(programs, Cascade(PAIR, (STOP,)), PARAMS, on_devices)
  assert_same(ran.answers, answers[LARGE])
  assert ran.rows == (4, 0)


def test_a_model_answers_each_image_as_if_it_were_alone(model):
  programs, on_devices, answers = model
  # Between two confidences, so that rounding sends no image elsewhere.
  threshold = float(np.sort(answers[LARGE].confidence)[1:3].mean())
  chosen = Cascade(PAIR, (threshold,))
  ran = run.run(programs, chosen, PARAMS, on_devices)
  expected = cascade.predict(chosen, answers)
  np.testing.assert_array_equal(ran.stages, expected.stages)
  assert ran.stages.sum() == 2
  assert_near(ran.answers, expected.answers)
  # One of each size, all by itself.
  for row in (int(ran.stages.argmin()), int(ran.stages.argmax())):
    own = jax.tree.map(operator.itemgetter(slice(row, row + 1)), BATCH)
    alone = one_size(PARAMS, PAIR[ran.stages[row]], own)
    assert_near(jax.tree.map(lambda x, i=row: x[i : i + 1], ran.answers), alone)
  with pytest.raises(AssertionError):
    assert_near(ran.answers, answers[SMALL])


def test_what_cannot_be_run_is_refused():
  batch, one = make_batch(range(12)), [Cascade((LARGE,))]
  with pytest.raises(ValueError, match=r"^12 .* 8 devices .*: take 8 or 16$"):
    compiled(Oracle(12), one, batch, 8)
  packed = dataclasses.replace(batch, inputs=patchify(batch.inputs, SMALL))
  with pytest.raises(ValueError, match=r"packed: give images of one size$"):
    compiled(Oracle(12), one, packed, 1)
