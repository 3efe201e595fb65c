"""Parts of prepared data: each process reads its own files, all read all."""

import collections

import numpy as np
import pytest
from test_loader import content, joined, take
from zoo import encoded, pixels

from flexivit_jax.core.patch_size import FixedPatchSize
from flexivit_jax.core.resolution import Native
from flexivit_jax.core.token_drop import NoDrop
from flexivit_jax.data.loading.loader import TrainLoader
from flexivit_jax.data.loading.shards import Parts
from flexivit_jax.data.packing import rows
from flexivit_jax.data.packing.cutter import Cutter
from flexivit_jax.data.packing.loader import PackLoader
from flexivit_jax.data.pixels import transforms
from flexivit_jax.data.prepare import tfds_writer
from flexivit_jax.data.sources import array_record
from flexivit_jax.data.sources.image_folder import ImageFiles
from flexivit_jax.data.sources.source import InMemory
from flexivit_jax.data.sources.tfds import Tfds

# Eight files of three images.
N, FILES, BATCH, PARTS = 24, 8, 8, 4
TRANSFORMS = (transforms.Resize((8, 8)), transforms.Flip())


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  """A data_dir with records whose labels are their numbers."""
  root = tmp_path_factory.mktemp("parts")
  (directory := root / "set" / "1.0.0").mkdir(parents=True)
  examples = [
    tfds_writer.Example("train", i, f"{i:02}.png", encoded(pixels(3 * i)))
    for i in range(N)
  ]
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(tfds_writer, "SHARD_BYTES", 1200)
    classes = tuple(map(str, range(N)))
    tfds_writer.write(directory, "set", "1.0.0", classes, examples)
  assert len(list(directory.glob("*.array_record-*"))) == FILES
  return root


def opened(prepared, split="train"):
  return Tfds("set", split, str(prepared)).open()


def make(source, shard=(0, 1), **changes):
  fields = dict(batch_size=BATCH, seed=0, read_parts=PARTS)
  return TrainLoader(source, TRANSFORMS, shard=shard, **fields | changes)


def indices(batches, steps):
  return np.concatenate([next(batches).index[:, 0] for _ in range(steps)])


def files_read(monkeypatch, source, loader, steps):
  """Record counts by file, of the batches after the probe."""
  seen = collections.Counter()
  array_record._latest.record = None, None  # what the probe has read
  record = array_record._record

  def spy(shard, position):
    seen[shard.path.name[-14:-9], position] += 1
    return record(shard, position)

  monkeypatch.setattr(array_record, "_record", spy)
  for _ in range(steps):
    next(loader)
  monkeypatch.setattr(array_record, "_record", record)
  return seen


@pytest.mark.parametrize("count", [2, 4])
def test_a_process_reads_its_own_files_and_each_record_once(
  prepared, monkeypatch, count
):
  source, together = opened(prepared), collections.Counter()
  for i in range(count):
    loader = make(source, (i, count))
    seen = files_read(monkeypatch, source, loader, N // BATCH)
    first = i * FILES // count
    own = range(first, first + FILES // count)
    assert {file for file, _ in seen} == {f"{file:05}" for file in own}
    together += seen
  # An epoch: all of them, none twice.
  assert len(together) == N
  assert set(together.values()) == {1}


def test_a_slice_of_a_split_is_cut_along_its_files(prepared, monkeypatch):
  # Its indices are in the order of a shuffle.
  source = opened(prepared, "train[:50%]")
  assert not np.array_equal(source.indices, np.sort(source.indices))
  numbers = [
    source.indices[Parts(PARTS).indices(source, part)] for part in range(PARTS)
  ]
  np.testing.assert_array_equal(
    np.concatenate(numbers), np.sort(source.indices)
  )


@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_the_batches_of_one(prepared, count):
  source = opened(prepared)
  one = make(source)
  shards = [make(source, (i, count)) for i in range(count)]
  for _ in range(7):
    parts = [next(shard) for shard in shards]
    assert content(joined(parts)) == content(next(one))
  for shard in shards:  # resumed from the state of one process, too
    shard.set_state(one.get_state())
  assert content(joined(list(map(next, shards)))) == content(next(one))


def test_every_epoch_is_another_order_of_every_part(prepared):
  order = indices(make(opened(prepared)), 4 * N // BATCH)
  epochs = order.reshape(4, N)
  np.testing.assert_array_equal(np.sort(epochs), [np.arange(N)] * 4)
  # By part: rows of a batch in pairs.
  parts = order.reshape(4, -1, PARTS, BATCH // PARTS).swapaxes(1, 2)
  parts = parts.reshape(4, PARTS, -1)
  for part in range(PARTS):
    own = np.arange(6) + 6 * part
    assert set(parts[:, part].ravel()) == set(own)
    orders = {tuple(epoch - 6 * part) for epoch in parts[:, part]}
    assert len(orders) == 4
  # Nor do the parts share an order; one of 720 by chance.
  assert len({tuple(parts[0, p] - 6 * p) for p in range(PARTS)}) == PARTS


def test_parts_of_unequal_sizes_have_epochs_of_their_own():
  data = InMemory(
    np.zeros((11, 2, 2, 3), np.uint8), np.zeros(11, int), ("a", "b")
  )
  parts = Parts(4, 1)
  sizes = [len(parts.indices(data, part)) for part in range(4)]
  assert sum(sizes) == 11
  assert set(sizes) == {2, 3}
  loader = TrainLoader(data, (), batch_size=4, seed=0, read_parts=4)
  order = indices(loader, 12).reshape(12, 4)
  for part, size in enumerate(sizes):
    epochs = order[:, part].reshape(-1, size)
    own = np.sort(parts.indices(data, part))
    np.testing.assert_array_equal(np.sort(epochs), [own] * len(epochs))


def test_one_part_is_the_shuffle_of_all(prepared):
  source = opened(prepared)
  fields = dict(batch_size=BATCH, seed=0)
  plain = TrainLoader(source, TRANSFORMS, **fields)
  assert take(make(source, read_parts=1), 5) == take(plain, 5)
  assert make(source, read_parts=1).get_state() == plain.get_state() | {
    "next_step": 0
  }


def test_a_run_resumes_with_its_parts_only(prepared):
  state = make(opened(prepared), read_parts=1).get_state()
  with pytest.raises(ValueError, match=r"\(read_parts: None -> 4\): give"):
    make(opened(prepared)).set_state(state)


@pytest.mark.parametrize("count", [1, 4])
def test_packed_rows_are_of_a_processs_own_files(prepared, count):
  source, seen = opened(prepared), []
  cutter = Cutter(Native(), FixedPatchSize((4, 4)), NoDrop(), 64)
  packing = rows.Packing(row_length=64, max_images=8)
  options = dict(batch_size=4, seed=0, read_parts=PARTS)
  for i in range(count):
    loader = PackLoader(
      source, (), cutter, packing, shard=(i, count), **options
    )
    # Places of the first epoch, some groups of 16 with what comes after it.
    groups = [loader.cut_images[g] for g in range(2)]
    found = np.concatenate([group["images"][:, 1] for group in groups])
    own = {6 * part + j for part in range(i, PARTS, count) for j in range(6)}
    assert set(found[: N // count]) == set(found) == own
    seen += found[: N // count].tolist()
  assert sorted(seen) == list(range(N))


@pytest.mark.parametrize(
  ("fields", "shard", "message"),
  [
    ({"read_parts": 3}, (0, 1), "batch_size 8 .* over read_parts 3: take 9"),
    ({"batch_size": 24}, (0, 8), "read_parts 4 .* over 8 processes: take 8"),
    (
      {"read_parts": 32, "batch_size": 32},
      (0, 1),
      "read_parts is 32, of 24 images: take fewer",
    ),
  ],
)
def test_parts_that_cannot_be_shared(prepared, fields, shard, message):
  with pytest.raises(ValueError, match=message):
    make(opened(prepared), shard, **fields)


def test_files_of_a_folder_are_kept_by_their_names(tmp_path):
  paths = ("b/1", "a/2", "b/0", "a/1")
  files = ImageFiles(tmp_path, paths, np.zeros(4, int), ("a", "b"), "x")
  assert [paths[i] for i in files.stored_order()] == sorted(paths)


def test_without_parts_a_process_reads_of_all_files(prepared, monkeypatch):
  source = opened(prepared)
  loader = make(source, (0, 2), read_parts=1)
  seen = files_read(monkeypatch, source, loader, N // BATCH)
  assert len(seen) == N / 2
  assert len({file for file, _ in seen}) >= FILES - 1  # 4 with parts
