"""One reading of the data, every setting on each of its batches."""

import functools

import jax
import numpy as np
import pytest

from flexivit_jax.core.tokens import Batch, Tokens
from flexivit_jax.devices import mesh as mesh_lib
from flexivit_jax.devices import placement
from flexivit_jax.evaluation import reading as reading_lib
from flexivit_jax.evaluation import sweep
from flexivit_jax.evaluation.settings import Setting
from flexivit_jax.tasks.classification import Supervised
from flexivit_jax.tasks.losses import SigmoidLoss
from flexivit_jax.tasks.predictions import Answers
from tests import tiny


def batch(index, image_hw=(24, 48)):
  """Rows of weight 1, but for index -1."""
  index = np.array(index, np.int32)[:, None]
  return Batch(
    inputs=np.zeros((len(index), *image_hw, 3), np.uint8),
    labels=np.maximum(index, 0),
    weights=(index >= 0).astype(np.float32),
    index=index,
  )


class Loader:
  """Batches of views, and what happens when one is loaded."""

  bad = {}  # noqa: RUF012

  def __init__(self, *views, loading=lambda: None):
    self.views = views
    self.loading = loading

  def __iter__(self):
    for batches in zip(*self.views, strict=True):
      for view, each in enumerate(batches):
        self.loading()
        yield view, each

  def example(self, view):
    return (self.views[view] or BATCHES)[0]

  def only(self, views):
    return Loader(*(self.views[view] for view in views))


def answers(batch, loss=1.0):
  """As a model that is right where the index is even."""
  # What padding makes must not count.
  losses = np.where(batch.index < 0, np.nan, loss * batch.index)
  return Answers(
    index=batch.index,
    label=batch.labels,
    predicted=batch.labels,
    confidence=np.ones(batch.index.shape, np.float32),
    loss=losses.astype(np.float32),
    rank=batch.index % 2,
  )


INDICES = ([3, 1, 2, 0], [4, -1, -1, -1])
BATCHES = [batch(index) for index in INDICES]
FOUR, EIGHT = Setting((4, 4), (24, 48)), Setting((8, 6), (24, 48))


def test_answers_are_those_of_all_images_in_their_order():
  reading = reading_lib.Reading(Loader(BATCHES), ((FOUR, EIGHT),))
  programs = {FOUR: answers, EIGHT: functools.partial(answers, loss=10.0)}
  steps = []
  found = sweep.sweep(programs, [reading], lambda x: x, steps.append)
  assert list(found) == [FOUR, EIGHT]
  assert [x.tokens for x in found.values()] == [6 * 12, 3 * 8]
  assert [x.images_per_row for x in found.values()] == [1, 1]
  for setting, loss in ((FOUR, 1.0), (EIGHT, 10.0)):
    got = found[setting].answers
    assert got.index.tolist() == got.label.tolist() == [0, 1, 2, 3, 4]
    assert got.loss.tolist() == [loss * i for i in range(5)]
    # A mean of the batches' means would be 3 / 4.
    assert got.top(1) == 3 / 5
    assert got.mean_loss == 2 * loss
  # Each answer counts once, padding never.
  assert steps == [4, 4, 1, 1]


def test_each_batch_is_loaded_once_and_given_to_each_setting_of_its_view():
  large = [batch(index, (48, 96)) for index in INDICES]
  far = Setting((8, 6), (48, 96))
  happened = []

  def program(setting, batch):
    happened.append((setting, batch.inputs.shape[1], batch.index[0, 0]))
    return answers(batch)

  loader = Loader(BATCHES, large, loading=lambda: happened.append("loaded"))
  programs = {s: functools.partial(program, s) for s in (FOUR, EIGHT, far)}
  reading = reading_lib.Reading(loader, ((FOUR, EIGHT), (far,)))
  sweep.sweep(programs, [reading], lambda x: x)
  assert happened == [
    *("loaded", (FOUR, 24, 3), (EIGHT, 24, 3), "loaded", (far, 48, 3)),
    *("loaded", (FOUR, 24, 4), (EIGHT, 24, 4), "loaded", (far, 48, 4)),
  ]


def test_answers_are_fetched_after_the_next_batch_was_started():
  """So the devices never wait for the host, nor keep many batches."""
  happened = []

  def program(batch):
    happened.append("started")
    return answers(batch)

  loader = Loader([batch([i]) for i in range(3)])
  reading = reading_lib.Reading(loader, ((FOUR,),))
  sweep.sweep(
    {FOUR: program}, [reading], lambda x: x, lambda _: happened.append("got")
  )
  assert happened == ["started", "started", "got", "started", "got", "got"]


def test_no_image():
  for batches in ([], [batch([-1, -1])]):
    reading = reading_lib.Reading(Loader(batches), ((FOUR,),))
    with pytest.raises(ValueError, match="there is no image to evaluate on"):
      sweep.sweep({FOUR: answers}, [reading], lambda x: x)


def packed(index, lengths):
  """One row of images of so many tokens; two places of padding."""
  segments = np.repeat(np.arange(1, len(lengths) + 1), lengths)
  segments = np.concatenate([segments, [0, 0]]).astype(np.int32)[None]
  cells = np.ones((1, segments.size, 2), np.int32)
  index = np.array([index], np.int32)
  return Batch(
    inputs=Tokens(
      np.zeros((1, segments.size, 48), np.uint8),
      cells - 1,
      cells,
      segments,
      patch_sizes=((4, 4),),
      num_images=index.size,
    ),
    labels=np.maximum(index, 0),
    weights=(index >= 0).astype(np.float32),
    index=index,
  )


def test_packed_images_of_several_budgets():
  low, high = (Setting((4, 4), budget=n) for n in (16, 64))
  loader = Loader(
    [packed([0, 1], [3, 5]), packed([2, -1], [4])],
    [packed([0, 1], [9, 6]), packed([2, -1], [30])],
  )
  reading = reading_lib.Reading(loader, ((low,), (high,)))
  programs = {low: answers, high: functools.partial(answers, loss=4.0)}
  found = sweep.sweep(programs, [reading], lambda x: x)
  # 12 and 45 patches of three images: padding is none.
  assert [x.tokens for x in found.values()] == [4, 15]
  assert [x.images_per_row for x in found.values()] == [1.5, 1.5]
  assert [x.answers.mean_loss for x in found.values()] == [1, 4]
  assert [len(x.answers) for x in found.values()] == [3, 3]


@pytest.mark.parametrize("task", [Supervised(), Supervised(SigmoidLoss())])
def test_a_compiled_program_answers_as_the_model(task):
  model, images = tiny.tiny(num_classes=5), tiny.images()
  params = tiny.parameters(model, scale=0.2)
  index = np.arange(8, dtype=np.int32)[:, None]
  whole = Batch(images, index % 5, np.ones((8, 1), np.float32), index)
  mesh = mesh_lib.make_mesh()
  settings = tuple(Setting(p, (24, 24)) for p in tiny.PATCHES)
  reading = reading_lib.Reading(Loader([whole]), (settings,))
  traced, lines = [], []

  def forward(*args, **kwargs):
    traced.append(kwargs)
    return sweep.forward(task, model, *args, **kwargs)

  programs = sweep.compile_programs(
    lambda setting: (forward, params), [reading], mesh, lines.append
  )
  assert [line.partition(", ")[0] for line in lines] == [
    "compiled evaluation 1/2: 6x6 patches of 24x24 pixels",
    "compiled evaluation 2/2: 12x12 patches of 24x24 pixels",
  ]
  assert all(p.compile_s > 0 for p in programs.values())
  # At least parameters and images, on each of the devices.
  least = sum(x.nbytes for x in jax.tree.leaves(params))
  assert all(p.peak_bytes > least for p in programs.values())
  found = sweep.sweep(
    {s: p.of(params) for s, p in programs.items()},
    [reading],
    lambda x: placement.to_devices(x, mesh),
  )
  assert len(traced) == 2
  for setting in settings:

    def direct(method, size=setting.patch_hw):
      return jax.jit(lambda p: method(model, p, whole, patch_hw=size))(params)

    measured, logits = direct(task.measure), direct(task.logits)
    got = found[setting].answers
    # Sums of eight float32 numbers in another order.
    loss = float(measured["loss"])
    np.testing.assert_allclose(got.mean_loss, loss, rtol=1e-6)
    assert got.top(1) == float(measured["accuracy"])
    confidence = task.loss.probabilities(logits).max(axis=-1)[:, 0]
    np.testing.assert_allclose(got.confidence, confidence, rtol=1e-6)
    # Images must differ for their order to be tested.
    assert np.ptp(got.confidence) > 1e-3
