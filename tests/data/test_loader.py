"""Batches are a function of (seed, step), however they are loaded."""

import collections
import dataclasses
import json
import multiprocessing

import numpy as np
import pytest
from fakes import Fake

from flexivit_jax.core.errors import Fault
from flexivit_jax.data.loading import bad_images, eval_loader, loader
from flexivit_jax.data.pixels.decode import BadImageError
from flexivit_jax.data.pixels.transforms import Affine, Flip, Resize
from flexivit_jax.data.sources.source import InMemory

TRANSFORMS = (Affine(), Flip())
N, BATCH = 11, 4  # an epoch is no whole number of batches


def source(n=N):
  pixels = np.random.default_rng(0).integers(0, 256, (n, 8, 8, 3), np.uint8)
  return InMemory(pixels, np.arange(n) % 3, ("a", "b", "c"))


def make(**changes):
  fields = dict(batch_size=BATCH, seed=0)
  return loader.TrainLoader(source(), TRANSFORMS, **fields | changes)


def content(batch):
  """A batch as bytes: equal only if everything is."""
  fields = (batch.inputs, batch.labels, batch.weights, batch.index)
  return tuple((x.dtype.str, x.shape, x.tobytes()) for x in fields)


def take(batches, n):
  return [content(next(batches)) for _ in range(n)]


def at(step):
  """A state of `make()`'s loader."""
  return make().get_state() | {"next_step": step}


def joined(parts):
  """The shards of a batch as one."""
  fields = ("inputs", "labels", "weights", "index")
  rows = {f: np.concatenate([getattr(p, f) for p in parts]) for f in fields}
  return dataclasses.replace(parts[0], **rows)


def test_a_batch_holds_the_examples_that_it_names():
  data = source()
  batch = next(loader.TrainLoader(data, (), batch_size=BATCH, seed=0))
  assert batch.inputs.shape == (BATCH, 8, 8, 3)
  assert batch.inputs.dtype == np.uint8
  for field in (batch.labels, batch.weights, batch.index):
    assert field.shape == (BATCH, 1)
  np.testing.assert_array_equal(batch.weights, 1.0)
  for image, label, index in zip(
    batch.inputs, batch.labels[:, 0], batch.index[:, 0], strict=True
  ):
    np.testing.assert_array_equal(image, data.image(index))
    assert label == data.label(index)


def test_batches_are_a_function_of_seed_and_step():
  batches = take(make(), 6)
  assert take(make(), 6) == batches
  assert len(set(batches)) == 6
  assert not set(take(make(seed=1), 6)) & set(batches)


def test_a_loader_resumes_at_any_step():
  uninterrupted = take(make(), 8)
  for step in (0, 1, 5):
    first = make()
    assert take(first, step) == uninterrupted[:step]
    state = first.get_state()
    assert state["next_step"] == step
    resumed = make()
    resumed.set_state(state)
    assert take(resumed, 3) == uninterrupted[step : step + 3]
  # Back again, in a loader that went on.
  resumed.set_state(at(2))
  assert take(resumed, 2) == uninterrupted[2:4]


def test_every_epoch_is_another_permutation():
  batches = make()
  order = np.concatenate([next(batches).index[:, 0] for _ in range(N)])
  epochs = order.reshape(BATCH, N)
  np.testing.assert_array_equal(np.sort(epochs, axis=1), [np.arange(N)] * BATCH)
  # Neither sorted nor repeated: one of 11! orders by chance.
  assert len({tuple(epoch) for epoch in (*epochs, range(N))}) == BATCH + 1


def test_an_example_is_augmented_anew_in_every_epoch():
  whole = make(batch_size=N)
  images = [
    {int(i): x.tobytes() for i, x in zip(b.index[:, 0], b.inputs)}
    for b in (next(whole), next(whole), next(whole))
  ]
  for index in range(N):
    assert len({epoch[index] for epoch in images}) == 3


def test_threads_change_nothing():
  batches = make(threads=4)
  assert take(batches, 6) == take(make(), 6)
  batches.set_state(at(2))
  assert take(batches, 2) == take(make(), 4)[2:]


@pytest.mark.slow
def test_worker_processes_change_nothing():
  expected = take(make(), 8)
  others = set(multiprocessing.active_children())

  def running():
    return set(multiprocessing.active_children()) - others

  batches = make(workers=2, threads=1)
  assert not running()  # they start when needed
  assert take(batches, 5) == expected[:5]
  assert len(running()) == 2
  # In the second epoch, on workers started anew.
  batches.set_state(at(3))
  assert take(batches, 5) == expected[3:]
  batches.close()
  assert not running()


@pytest.mark.parametrize("count", [2, 4])
def test_shards_share_the_batches_of_one_process(count):
  one = make()
  shards = [make(shard=(i, count)) for i in range(count)]
  for _ in range(6):
    parts = [next(shard) for shard in shards]
    assert [len(part.index) for part in parts] == [BATCH // count] * count
    assert content(joined(parts)) == content(next(one))
  for shard in shards:  # resumed from the state of one process, too
    shard.set_state(at(4))
  one.set_state(at(4))
  assert content(joined(list(map(next, shards)))) == content(next(one))


@pytest.mark.parametrize("count", [1, 2, 4])
def test_any_number_of_processes_goes_on_from_the_state_of_two(count):
  shards = [make(shard=(i, 2)) for i in range(2)]
  for _ in range(3):
    for shard in shards:
      next(shard)
  shards[0].bad, shards[1].bad = {4: "four"}, {5: "five"}
  state = json.loads(
    json.dumps(shards[0].merged([x.get_state() for x in shards]))
  )
  one, others = make(), [make(shard=(i, count)) for i in range(count)]
  one.set_state(at(3))
  for each in others:
    each.set_state(state)
    assert each.bad == {4: "four", 5: "five"}
  for _ in range(4):
    assert content(joined(list(map(next, others)))) == content(next(one))


def test_the_example_has_the_shapes_of_batches_and_costs_no_step():
  for shard in ((0, 1), (1, 2)):
    batches = make(shard=shard)
    example = batches.example()
    assert batches.get_state()["next_step"] == 0
    first = next(batches)
    assert [x[:2] for x in content(example)] == [x[:2] for x in content(first)]


def test_a_batch_size_that_does_not_divide():
  text = "^batch_size 10 does not divide over 4 processes: take 12$"
  with pytest.raises(ValueError, match=text):
    make(batch_size=10, shard=(0, 4))
  with pytest.raises(ValueError, match=r"batch_size 5 .* 2 processes"):
    evaluated(batch_size=5, shard=(0, 2))


class Ragged(Fake):
  """Image 5 is smaller than the others."""

  def size(self, index):
    return 6 if index == 5 else 8, 7


SIZES_DIFFER = (
  "^dir/5.png is 6x7 pixels after its transforms, another is 8x7: add a "
  r'transform that sets the size, such as dict\(name="resize", size=\(8, 7\)\)'
)


@pytest.mark.parametrize("threads", [0, 2])
def test_images_that_differ_in_size(threads):
  def make(*transforms):
    return loader.TrainLoader(
      Ragged(8), transforms, batch_size=8, seed=0, threads=threads
    )

  with pytest.raises(Fault, match=SIZES_DIFFER):
    next(make())
  with pytest.raises(ValueError, match=SIZES_DIFFER):
    evaluated(Ragged(8), 4)
  batches = make(Resize((8, 7)))
  assert next(batches).inputs.shape == (8, 8, 7, 3)


def test_names_of_a_step_are_those_of_its_batch():
  batches = make()
  for step in range(4):
    index = next(batches).index[:, 0]
    assert make().names(step) == [f"image {i}" for i in index]


SKIP = bad_images.Skip(max_share=0.5)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_image_is_replaced_by_the_next_good_one(workers):
  batches = loader.TrainLoader(
    Fake(N, (2, 3, 7)),
    (),
    batch_size=N,
    seed=0,
    on_bad_image=SKIP,
    workers=workers,
  )
  stands_for = {2: 4, 3: 4, 7: 8}
  for _ in range(3):
    batch = next(batches)
    shown = [stands_for.get(i, i) for i in batch.index[:, 0]]
    np.testing.assert_array_equal(batch.inputs[:, 0, 0, 0], shown)
    np.testing.assert_array_equal(batch.labels[:, 0], np.asarray(shown) % 3)
    np.testing.assert_array_equal(batch.weights, 1)
  assert batches.bad == {i: f"dir/{i}.png: torn" for i in (2, 3, 7)}
  batches.close()


@pytest.mark.parametrize("evaluate", [False, True])
def test_a_label_outside_the_classes_is_refused(evaluate):
  labels = np.arange(N) % 3
  labels[5] = 3
  data = InMemory(np.zeros((N, 2, 2, 3), np.uint8), labels, ("a", "b", "c"))
  train = loader.TrainLoader(data, (), batch_size=BATCH, seed=0)
  with pytest.raises(Fault, match=r"^image 5 has label 3: .* are 0 to 2"):
    evaluated(data) if evaluate else take(train, 3)


def draw(batches):
  """The index of every row, ".." where it is padding."""
  return " | ".join(
    " ".join(".." if i < 0 else f"{i:02}" for i in b.index[:, 0])
    for b in batches
  )


@pytest.mark.parametrize(
  ("n", "rows"),
  [
    (8, "00 01 02 03 | 04 05 06 07"),
    (9, "00 01 02 03 | 04 05 06 07 | 08 .. .. .."),
    (11, "00 01 02 03 | 04 05 06 07 | 08 09 10 .."),
    (1, "00 .. .. .."),
  ],
)
def test_evaluation_sees_every_example_once_in_order(n, rows):
  data = source(n)
  batches = evaluated(data)
  assert draw(batches) == rows
  for batch in batches:
    assert batch.inputs.shape == (BATCH, 8, 8, 3)
    real = batch.index >= 0
    np.testing.assert_array_equal(batch.weights, real)
    assert batch.weights.dtype == np.float32
    for i, index in enumerate(batch.index[:, 0]):
      # Padding is black: legal pixels and a legal label.
      image = data.image(index) if index >= 0 else np.zeros((8, 8, 3))
      np.testing.assert_array_equal(batch.inputs[i], image)
      assert batch.labels[i, 0] == (data.label(index) if index >= 0 else 0)


@pytest.mark.parametrize("n", [9, 11])
def test_shards_of_an_evaluation_are_the_rows_of_one_process(n):
  whole = evaluated(source(n))
  parts = [evaluated(source(n), shard=(i, 2)) for i in range(2)]
  for batch, *rows in zip(whole, *parts, strict=True):
    assert content(joined(rows)) == content(batch)


def test_the_example_of_an_evaluation_has_its_shapes_and_no_weight():
  batches = eval_loader.EvalLoader(source(), [()], BATCH)
  example = batches.example(0)
  assert not example.weights.any()
  _, first = next(iter(batches))
  assert [x[:2] for x in content(example)] == [x[:2] for x in content(first)]


def test_an_evaluation_leaves_bad_images_out():
  batches = eval_loader.EvalLoader(
    Fake(N, (0, 7)), [()], BATCH, on_bad_image=SKIP
  )
  for _ in range(2):
    seen = [batch for _, batch in batches]
    assert draw(seen) == ".. 01 02 03 | 04 05 06 .. | 08 09 10 .."
    for batch in seen:
      np.testing.assert_array_equal(batch.weights, batch.index >= 0)
  assert batches.bad == {i: f"dir/{i}.png: torn" for i in (0, 7)}
  with pytest.raises(BadImageError, match="dir/7"):
    evaluated(Fake(N, (7,)))


def test_every_view_of_an_evaluation_equals_its_own():
  views = [
    (),
    (Resize((4, 6)),),
    (Resize((16, 8)),),
  ]
  together = list(eval_loader.EvalLoader(source(), views, BATCH))
  assert [view for view, _ in together] == [0, 1, 2] * 3
  for view, transforms in enumerate(views):
    alone = evaluated(transforms=transforms)
    seen = [batch for i, batch in together if i == view]
    assert list(map(content, seen)) == list(map(content, alone))


def test_views_share_what_was_decoded():
  decoded = collections.Counter()

  class Counted(InMemory):
    def image(self, index):
      decoded[index] += 1
      return super().image(index)

  data = Counted(**vars(source()))
  batches = eval_loader.EvalLoader(data, [(), (Resize((4, 4)),)], BATCH)
  decoded.clear()  # the first image tells the shapes
  assert len(list(batches)) == 6
  assert decoded == dict.fromkeys(range(N), 1)


def evaluated(data=None, batch_size=BATCH, transforms=(), **options):
  """The batches of an evaluation in one view."""
  data = source() if data is None else data
  batches = eval_loader.EvalLoader(data, [transforms], batch_size, **options)
  return [batch for _, batch in batches]


@pytest.mark.parametrize(
  ("changes", "text"),
  [
    ({"seed": 1}, "seed: 0 -> 1"),
    ({"batch_size": 8}, "batch_size: 4 -> 8"),
    ({"source": source(12)}, "data: '[0-9a-f]{16}' -> '[0-9a-f]{16}"),
    ({"transforms": TRANSFORMS[1:]}, r"transforms: '\(Affine.*' -> '\(Flip"),
  ],
)
def test_a_state_of_other_batches_is_refused(changes, text):
  fields = dict(
    source=source(), transforms=TRANSFORMS, batch_size=BATCH, seed=0
  )
  other = loader.TrainLoader(**fields | changes)
  text = rf"drawn otherwise \({text}.*: give the old values to resume"
  with pytest.raises(ValueError, match=text):
    other.set_state(at(3))


def test_evaluation_refuses_what_is_random():
  for transform in (Flip(), Affine()):
    name = type(transform).__name__
    with pytest.raises(ValueError, match=f"^{name} is random: .* as Resize"):
      evaluated(transforms=(Resize((8, 8)), transform))


def spoilt(bad=(2, 3, 7), *, share=None, batch_size=1):
  """Batches of images some of which are bad."""
  action = {} if share is None else {"on_bad_image": bad_images.Skip(share)}
  return loader.TrainLoader(
    Fake(N, bad), (), batch_size=batch_size, seed=0, **action
  )


@pytest.mark.parametrize(
  ("build", "error", "text"),
  [
    (lambda: spoilt((7,)), BadImageError, r"^dir/7\.png: torn"),
    (
      lambda: spoilt(share=0.2),
      bad_images.TooManyBadImagesError,
      r"^3 of 11 images .* on_bad_image\.max_share \(0\.2\) allows 2: mend",
    ),
    (
      lambda: spoilt(tuple(range(N)), share=0.5),
      BadImageError,
      r"all 11 images are bad; dir/\d+",
    ),
  ],
)
def test_bad_images_end_a_run(build, error, text):
  with pytest.raises(error, match=text):
    take(build(), N)


def test_one_bad_image_is_always_allowed():
  batches = spoilt((7,), share=0.0, batch_size=N)
  next(batches)
  assert list(batches.bad) == [7]
