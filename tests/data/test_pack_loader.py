"""Packed batches resume in mid-pack, bit for bit, however they are loaded."""

import collections
import contextlib
import dataclasses
import json
import math
import multiprocessing

import jax
import numpy as np
import pytest
from fakes import Fake

from flexivit_jax.core import resolution, token_drop
from flexivit_jax.core.patch_size import FixedPatchSize, SampledPatchSize
from flexivit_jax.data.loading import bad_images
from flexivit_jax.data.packing import cut_images
from flexivit_jax.data.packing import loader as loader_lib
from flexivit_jax.data.packing.cut_images import GROUP
from flexivit_jax.data.packing.cutter import Cutter, TooLongError
from flexivit_jax.data.packing.eval_loader import PackEvalLoader
from flexivit_jax.data.packing.loader import PackLoader
from flexivit_jax.data.packing.rows import Packing
from flexivit_jax.data.pixels.decode import BadImageError
from flexivit_jax.data.pixels.transforms import Flip

N, BATCH = 37, 3  # an epoch is no whole number of groups, rows or batches


@dataclasses.dataclass(frozen=True)
class Varied(Fake):
  """Images of many sizes."""

  n: int = N

  def size(self, index):
    return 4 + index * 7 % 29, 4 + index * 5 % 31


CUTTER = Cutter(
  resolution.Sampled(8, 32),
  SampledPatchSize((4, (8, 6))),
  token_drop.Beta(0.4),
  row_length=40,
)
PACKING = Packing(40, max_images=5, open_rows=4, drop=CUTTER.drop)


def make(source=None, *, transforms=(), cutter=CUTTER, **changes):
  packing = changes.pop("packing", PACKING)
  fields = dict(batch_size=BATCH, seed=0) | changes
  return PackLoader(source or Varied(), transforms, cutter, packing, **fields)


def content(batch):
  """A batch as bytes: equal only if everything is."""
  leaves, tree = jax.tree.flatten(batch)
  arrays = tuple((x.dtype.str, x.shape, x.tobytes()) for x in leaves)
  return arrays, str(tree)


def take(batches, n):
  return [content(next(batches)) for _ in range(n)]


def through_json(state):
  return json.loads(json.dumps(state))


def indices(batch):
  return batch.index[batch.index >= 0].tolist()


def test_a_batch_holds_the_images_that_it_names():
  batches, seen = make(), set()
  for _ in range(20):
    batch = next(batches)
    tokens = batch.inputs
    assert tokens.patches.shape == (BATCH, 40, 8 * 6 * 3)
    assert tokens.patches.dtype == np.uint8
    assert tokens.patch_sizes == CUTTER.sizes
    assert tokens.num_images == 5
    np.testing.assert_array_equal(batch.weights, batch.index >= 0)
    for row, slot in np.ndindex(*batch.index.shape):
      own = tokens.segments[row] == slot + 1
      index = batch.index[row, slot]
      assert own.any() == (index >= 0)
      if index < 0:
        assert batch.labels[row, slot] == 0
        continue
      seen.add(index)
      assert batch.labels[row, slot] == index % 3
      (size,) = set(tokens.size_index[row, own])
      h, w = tokens.patch_sizes[size]
      pixels = tokens.patches[row, own].reshape(-1, 8, 6, 3)
      assert (pixels[:, :h, :w] == index).all()
      (grid,) = set(map(tuple, tokens.grid_hw[row, own].tolist()))
      coords = tokens.coords[row, own]
      assert (coords < grid).all()
      assert len(set(map(tuple, coords.tolist()))) == len(coords)
      # Sides of 8 to 32 pixels, up to the rounding of long sides.
      assert math.prod(grid) * h * w < 2 * 32**2
    padding = tokens.segments == 0
    assert not tokens.patches[padding].any()
    assert not tokens.coords[padding].any()
    assert (tokens.grid_hw[padding] == 1).all()
  assert seen == set(range(N))


def test_every_image_comes_once_an_epoch():
  # In rows of one open row no image waits, so epochs end one after another.
  packing = dataclasses.replace(PACKING, open_rows=1)
  batches, order = make(packing=packing, batch_size=1), []
  while len(order) < 3 * N:
    order += indices(next(batches))
  epochs = [order[i * N : (i + 1) * N] for i in range(3)]
  assert [sorted(epoch) for epoch in epochs] == [list(range(N))] * 3
  assert len(set(map(tuple, epochs))) == 3


def test_batches_are_a_function_of_the_seed():
  assert take(make(), 6) == take(make(), 6)
  assert not set(take(make(seed=1), 6)) & set(take(make(), 6))


def test_an_image_is_cut_anew_in_every_epoch():
  groups = make().cut_images
  seen = {}
  for number in range(N):  # 16 epochs
    group = groups[number]
    ends = np.cumsum(group["lengths"])
    for (_, index), end, length in zip(
      group["images"], ends, group["lengths"], strict=True
    ):
      seen.setdefault(int(index), []).append(
        group["cells"][end - length : end].tobytes()
      )
  assert {len(cuts) for cuts in seen.values()} == {GROUP}
  assert all(len(set(cuts)) > GROUP // 2 for cuts in seen.values())


def test_threads_change_nothing():
  batches, expected = make(threads=3), take(make(), 12)
  assert take(batches, 8) == expected[:8]
  state = make(threads=2)
  state.set_state(through_json(batches.get_state()))
  assert take(state, 4) == expected[8:]


STEPS = 24  # two epochs and more; groups of four rows end in mid-batch


@pytest.fixture(scope="module")
def uninterrupted():
  batches, seen = make(), 0
  found = []
  for _ in range(STEPS):
    batch = next(batches)
    seen += len(indices(batch))
    found.append(content(batch))
  assert seen > 2 * N
  return found


def test_a_loader_resumes_at_every_step(uninterrupted):
  going, start = make(), make().get_state()
  for step in range(STEPS):
    state = through_json(going.get_state())
    assert state["next_step"] == step
    resumed = make()
    resumed.set_state(state)
    assert through_json(resumed.get_state()) == state
    assert take(resumed, min(3, STEPS - step)) == uninterrupted[step : step + 3]
    assert take(going, 1) == uninterrupted[step : step + 1]
    going.close()  # which forgets nothing
  # Back again, in a loader that went on.
  going.set_state(start)
  assert take(going, 2) == uninterrupted[:2]


@pytest.mark.slow
def test_worker_processes_change_nothing(uninterrupted):
  others = set(multiprocessing.active_children())

  def running():
    return len(set(multiprocessing.active_children()) - others)

  batches = make(workers=2, threads=1)
  assert not running()  # they start when needed
  assert take(batches, 7) == uninterrupted[:7]
  assert running() == 2
  state = through_json(batches.get_state())
  batches.close()
  assert not running()
  # On workers started anew, in mid-pack, to the third epoch.
  assert take(batches, 3) == uninterrupted[7:10]
  batches.set_state(state)
  assert take(batches, STEPS - 7) == uninterrupted[7:]
  batches.close()
  one = make()  # without workers
  one.set_state(state)
  assert take(one, 4) == uninterrupted[7:11]


class _Interrupted(Exception):
  """As `training.interruption` raises it, while a batch is waited for."""


@pytest.mark.parametrize("threads", [0, 2])
def test_an_interruption_loses_no_row(threads, uninterrupted, monkeypatch):
  batches = make(threads=threads)
  real, calls, taken = cut_images.CutImages.__getitem__, [], []

  def group(self, number):
    calls.append(number)
    if len(calls) == 4:
      raise _Interrupted
    return real(self, number)

  monkeypatch.setattr(cut_images.CutImages, "__getitem__", group)
  with contextlib.suppress(_Interrupted):
    while True:
      state = through_json(batches.get_state())
      taken += take(batches, 1)
  monkeypatch.undo()
  # In mid-pack, with rows of the batch taken.
  assert state["next_step"] == len(taken) > 2
  assert through_json(batches.get_state()) == state
  resumed = make()
  resumed.set_state(state)
  for going in (batches, resumed):
    assert taken + take(going, 4) == uninterrupted[: len(taken) + 4]


def _merged(shards):
  """The states of shards as one, through JSON as a checkpoint has them."""
  return through_json(shards[0].merged([x.get_state() for x in shards]))


@pytest.mark.parametrize("before", [1, 3])
def test_another_number_of_processes_is_refused(before):
  shards = [make(shard=(i, before)) for i in range(before)]
  state = _merged(shards) if before > 1 else shards[0].get_state()
  now = 4 - before
  text = rf"packed by {before} processes.* by {now}: go on with {before} "
  with pytest.raises(ValueError, match=text):
    make(shard=(0, now)).set_state(state)


def test_as_many_processes_go_on_where_they_were():
  packing = dataclasses.replace(PACKING, overflow="drop", max_images=2)
  shards = [make(shard=(i, 3), packing=packing) for i in range(3)]
  for _ in range(3):
    batches = [next(shard) for shard in shards]
  shards[0].bad, shards[2].bad = {4: "four"}, {5: "five"}
  state = _merged(shards)
  # Their rows differ, so that a mix-up would be noticed.
  assert len({content(batch) for batch in batches}) == 3
  for i, going in enumerate(shards):
    resumed = make(shard=(i, 3), packing=packing)
    resumed.set_state(state)
    assert resumed.overflowed == going.overflowed
    assert resumed.bad == {4: "four", 5: "five"}
    assert take(resumed, 3) == take(going, 3)
  assert len({shard.overflowed for shard in shards}) > 1


def test_what_draws_nothing_may_change(uninterrupted):
  going = make()
  take(going, 3)
  state = through_json(going.get_state())
  by_sum = dataclasses.replace(PACKING, loss="sum")
  for changes in (dict(packing=by_sum), dict(on_bad_image=SKIP)):
    resumed = make(**changes)
    resumed.set_state(state)
    assert take(resumed, 2) == uninterrupted[3:5]


def test_names_of_a_step_are_those_of_its_batch(monkeypatch):
  monkeypatch.setattr(loader_lib, "REMEMBERED", 4)
  batches = make()
  named = []
  for step in range(7):
    batch = next(batches)
    named.append([f"dir/{i}.png" for i in indices(batch)])
    assert batches.names(step) == named[step]
  assert [batches.names(step) for step in range(3, 7)] == named[3:]
  assert batches.names(0) == batches.names(2) == batches.names(7) == []


def test_what_overflowed_is_counted_also_when_a_run_resumes():
  packing = dataclasses.replace(PACKING, overflow="drop", max_images=2)
  going, images = make(packing=packing), 0
  for step in range(12):
    state = through_json(going.get_state())
    resumed = make(packing=packing)
    resumed.set_state(state)
    assert resumed.overflowed == going.overflowed
    batch = next(going)
    assert content(next(resumed)) == content(batch)
    assert resumed.overflowed == going.overflowed
    images += len(indices(batch))
    assert (step, batch.inputs.segments.max()) == (step, 2)
  assert going.overflowed > 10
  # No image is both left out and in a batch: together they were read.
  read = going.get_state()["packer"]["parent"]["place"]
  assert abs(images + going.overflowed - read) <= 4 * 40


def test_processes_share_the_images_of_one():
  n = 3 * GROUP
  source = Varied(n=n)
  one = make(source).cut_images
  images = [make(source, shard=(i, 3)).cut_images[0] for i in range(3)]
  whole = [one[i] for i in range(3)]
  order = np.concatenate([group["images"] for group in whole])
  assert sorted(order[:, 1].tolist()) == list(range(n))
  for i, own in enumerate(images):
    np.testing.assert_array_equal(own["images"], order[i::3])
  # Cut alike, too: what is drawn is a function of epoch and index.
  lengths = np.concatenate([group["lengths"] for group in whole])
  for i, own in enumerate(images):
    np.testing.assert_array_equal(own["lengths"], lengths[i::3])


SKIP = bad_images.Skip(max_share=0.5)
SPOILT = Varied(bad=(2, 3, 7))


@pytest.mark.parametrize(
  "workers", [0, pytest.param(2, marks=pytest.mark.slow)]
)
def test_a_bad_image_is_replaced_by_the_next_good_one(workers):
  batches = make(SPOILT, on_bad_image=SKIP, workers=workers)
  stands_for = {2: 4, 3: 4, 7: 8}
  met = set()
  for _ in range(STEPS):
    batch = next(batches)
    tokens = batch.inputs
    for row, slot in zip(*np.nonzero(batch.index >= 0)):
      index = batch.index[row, slot]
      met.add(index)
      shown = stands_for.get(index, index)
      own = tokens.segments[row] == slot + 1
      assert tokens.patches[row, own].max() == shown
      assert batch.labels[row, slot] == shown % 3
  assert met >= set(stands_for)
  assert batches.bad == {i: f"dir/{i}.png: torn" for i in (2, 3, 7)}
  resumed = make(SPOILT, on_bad_image=SKIP)
  resumed.set_state(through_json(batches.get_state()))
  assert resumed.bad == batches.bad
  assert content(next(resumed)) == content(next(batches))
  batches.close()


@pytest.mark.slow
def test_workers_leave_nothing_behind(command, tmp_path):
  """Neither processes nor shared memory, closed or not."""
  script = tmp_path / "script.py"
  script.write_text(
    "import test_pack_loader as t\n"
    "if __name__ == '__main__':\n"
    "  closed, left = (t.make(workers=2, threads=1) for _ in range(2))\n"
    "  t.take(closed, 5), t.take(left, 5)\n"
    "  closed.close()\n"
    "  left.close()\n"
    "  print('done')\n"
  )
  here, root = __file__.rpartition("/")[0], __file__.rpartition("/tests/")[0]
  done = command(script, PYTHONPATH=f"{root}:{here}")
  assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


EVAL_CUTTER = Cutter(
  resolution.Native(),
  SampledPatchSize((4,)),
  token_drop.Constant(0.9),  # of training alone
  row_length=64,
)
EVAL_PACKING = Packing(64, max_images=4, open_rows=3, overflow="drop")


def evaluate(source=None, cutter=EVAL_CUTTER, **options):
  views = [(cutter, EVAL_PACKING)]
  transforms = options.pop("transforms", ())
  return PackEvalLoader(source or Varied(), transforms, views, BATCH, **options)


@pytest.mark.parametrize("n", [1, 16, 37])
def test_an_evaluation_sees_every_image_once_and_whole(n):
  source = Varied(n=n)
  batches = views_of(evaluate(source))
  assert sorted(i for b in batches for i in indices(b)) == list(range(n))
  for batch in batches:
    assert batch.index.shape == (BATCH, 4)
    np.testing.assert_array_equal(batch.weights, batch.index >= 0)
    tokens = batch.inputs
    for row, slot in zip(*np.nonzero(batch.index >= 0)):
      index = batch.index[row, slot]
      own = tokens.segments[row] == slot + 1
      plan = EVAL_CUTTER.plan(source.size(index), None, 0, "")
      assert own.sum() == plan.tokens
      assert (tokens.patches[row, own] == index).all()
      assert batch.labels[row, slot] == index % 3
  # What fills up the last batch are rows without an image.
  assert all(b.weights.any(axis=1).all() for b in batches[:-1])
  last = batches[-1].weights.any(axis=1)
  assert last[0]
  assert (np.diff(last.astype(int)) <= 0).all()


def test_processes_share_the_images_of_an_evaluation():
  parts = [views_of(evaluate(shard=(i, 3))) for i in range(3)]
  seen = [[i for b in part for i in indices(b)] for part in parts]
  assert [set(s) for s in seen] == [set(range(i, N, 3)) for i in range(3)]
  assert sum(map(len, seen)) == N
  assert parts[0][0].index.shape == (1, 4)


@pytest.mark.parametrize(
  "bad", [(0, 7), tuple(range(GROUP)), tuple(range(GROUP, N)), (N - 1,)]
)
def test_an_evaluation_leaves_bad_images_out(bad):
  skip = bad_images.Skip(max_share=0.9)
  batches = evaluate(Varied(bad=bad), on_bad_image=skip)
  for _ in range(2):
    seen = sorted(i for b in views_of(batches) for i in indices(b))
    assert seen == [i for i in range(N) if i not in bad]
  assert batches.bad == {i: f"dir/{i}.png: torn" for i in bad}


def test_an_evaluation_of_no_image_is_empty():
  # The one image is bad, or another process's.
  skip = bad_images.Skip()
  assert list(evaluate(Varied(1, (0,)), on_bad_image=skip)) == []
  assert list(evaluate(Varied(n=1), shard=(1, 3))) == []


COARSE = dataclasses.replace(EVAL_CUTTER, patch_size=SampledPatchSize((8,)))
LONGER = dataclasses.replace(EVAL_PACKING, row_length=96, max_images=5)
VIEWS = [
  (EVAL_CUTTER, EVAL_PACKING),
  (dataclasses.replace(COARSE, row_length=96), LONGER),
  (COARSE, EVAL_PACKING),
]


@pytest.mark.parametrize("n", [1, 17, 37])
def test_every_view_of_an_evaluation_equals_its_own(n):
  loader = PackEvalLoader(Varied(n=n), (), VIEWS, BATCH)
  for _ in range(2):
    next(iter(loader))  # given up
    together = list(loader)
    for i, view in enumerate(VIEWS):
      alone = PackEvalLoader(Varied(n=n), (), [view], BATCH)
      seen = [content(batch) for at, batch in together if at == i]
      assert seen == list(map(content, views_of(alone)))
      assert loader.scaled_down[i] == alone.scaled_down[0]


def test_views_share_what_was_decoded_and_few_images_wait():
  decoded = collections.Counter()

  class Counted(Varied):
    def image(self, index):
      decoded[index] += 1
      return super().image(index)

  loader = PackEvalLoader(Counted(n=200), (), VIEWS, BATCH)
  order = [view for view, _ in loader]
  # In turn, not one view's batches before those of another.
  assert set(order[:6]) == {0, 1, 2}
  assert decoded == dict.fromkeys(range(200), 1)


def views_of(loader, view=0):
  """The batches of one view."""
  return [batch for at, batch in loader if at == view]


def test_examples_have_the_shapes_of_batches_and_no_weight():
  train, evaluation = make(), evaluate()
  for example, batch in (
    (train.example(), next(train)),
    (evaluation.example(0), views_of(evaluation)[0]),
  ):
    assert not example.weights.any()
    assert (example.index == -1).all()
    found, expected = content(example), content(batch)
    assert [x[:2] for x in found[0]] == [x[:2] for x in expected[0]]
    assert found[1] == expected[1]


NO_DROP = dataclasses.replace(CUTTER, drop=token_drop.NoDrop())


REFUSING = Cutter(
  resolution.Native(), FixedPatchSize(4), token_drop.NoDrop(), 40, False
)


FEW = bad_images.Skip(max_share=0.03)


@pytest.mark.parametrize(
  ("changes", "text"),
  [
    (dict(seed=1), "seed: 0 -> 1"),
    (dict(batch_size=6), "batch_size: 3 -> 6"),
    (dict(transforms=(Flip(),)), r"transforms: .* -> .*Flip"),
    (dict(cutter=NO_DROP), r"patches: .*Beta.* -> .*NoDrop"),
    (dict(packing=Packing(40, 5, 5)), r"packing: .*rows=4.* -> .*rows=5"),
    (dict(source=Varied(n=38)), "data: '37 images' -> '38 images'"),
  ],
)
def test_a_state_of_other_batches_is_refused(changes, text):
  going = make()
  next(going)
  state = going.get_state()
  with pytest.raises(ValueError, match=rf"drawn otherwise \({text}"):
    make(changes.pop("source", None), **changes).set_state(state)


@pytest.mark.parametrize(
  ("build", "error", "text"),
  [
    (lambda: make(Varied(bad=(7,))), BadImageError, r"^dir/7\.png: torn"),
    (
      lambda: make(SPOILT, on_bad_image=FEW),
      bad_images.TooManyBadImagesError,
      "^[23] of 37 ",
    ),
    (
      lambda: make(cutter=REFUSING),
      TooLongError,
      "^dir/.* patches, and a row takes 40: give ",
    ),
    pytest.param(
      lambda: make(cutter=REFUSING, workers=2),
      TooLongError,
      "^dir/.* patches, and a row takes 40: give ",
      marks=pytest.mark.slow,
    ),
    (lambda: make(shard=(0, 2)), ValueError, "batch_size 3 .* over 2"),
    (lambda: evaluate(Varied(bad=(7,))), BadImageError, r"^dir/7\.png: torn"),
    (
      lambda: evaluate(SPOILT, on_bad_image=FEW),
      bad_images.TooManyBadImagesError,
      "^3 of 37 ",
    ),
    (
      lambda: evaluate(transforms=(Flip(),)),
      ValueError,
      "^Flip is random: .* Resize, or Native$",
    ),
    (lambda: evaluate(cutter=CUTTER), ValueError, "^Sampled is random"),
  ],
)
def test_refusals(build, error, text):
  def loaded():
    with contextlib.ExitStack() as stack:
      batches = build()
      stack.callback(getattr(batches, "close", lambda: None))
      list(zip(batches, range(N)))

  with pytest.raises(error, match=text):
    loaded()
