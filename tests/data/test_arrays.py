"""Arrays of numbers as data: the file, its errors, loaders, what is refused."""

import pickle

import numpy as np
import pytest

from flexivit_jax.config import build
from flexivit_jax.core.errors import ConfigError
from flexivit_jax.data.loading import eval_loader, loader
from flexivit_jax.data.pixels import transforms
from flexivit_jax.data.sources import arrays
from flexivit_jax.run import open as open_lib

LATENTS = np.random.default_rng(0).normal(size=(10, 4, 4, 5)).astype("f4")
LABELS = np.arange(10, dtype=np.int32) % 3


def _file(path, **changes):
  found = {"latents": LATENTS, "labels": LABELS} | changes
  np.savez(path, **{k: x for k, x in found.items() if x is not None})
  return str(path)


@pytest.fixture
def file(tmp_path):
  return _file(tmp_path / "x.npz")


def test_reads_scales_slices_and_names(tmp_path):
  path = _file(
    tmp_path / "y.npz",
    latents=None,
    z=LATENTS.astype(np.float64),
    classes=np.array(["a", "b", "c"]),
  )
  whole = arrays.Arrays(path, images="z", scale=0.5).open()
  assert whole.classes == ("a", "b", "c")
  assert len(whole) == 10
  np.testing.assert_array_equal(whole.image(3), LATENTS[3] / 2)
  assert whole.image(3).dtype == np.float32
  assert whole.label(4) == 1
  assert whole.size(0) == (4, 4)
  parts = [
    arrays.Arrays(path, split=split, images="z").open()
    for split in ("all[:30%]", "all[30%:]")
  ]
  assert [len(part) for part in parts] == [3, 7]
  both = np.concatenate([part.pixels for part in parts])
  np.testing.assert_array_equal(np.sort(both, 0), np.sort(LATENTS, 0))
  assert parts[0].fingerprint != parts[1].fingerprint
  again = pickle.loads(pickle.dumps(whole))  # noqa: S301 (what workers get)
  assert again.fingerprint == whole.fingerprint


def test_arrays_without_labels_are_of_one_class(tmp_path):
  path = _file(tmp_path / "y.npz", labels=None)
  found = arrays.Arrays(path, labels=None).open()
  assert found.classes == ("all",)
  assert [found.label(i) for i in range(10)] == [0] * 10
  np.testing.assert_array_equal(found.image(0), LATENTS[0])


def test_loaders_give_floats_as_they_are(file):
  source = arrays.Arrays(file).open()
  train = loader.TrainLoader(source, (), batch_size=4, seed=0)
  assert train.example().inputs.dtype == np.float32
  batch = next(train)
  np.testing.assert_array_equal(
    batch.inputs, LATENTS[np.asarray(batch.index[:, 0])]
  )
  evaluation = eval_loader.EvalLoader(source, [()], 8)
  batches = [batch for _, batch in evaluation]
  assert [b.inputs.dtype for b in batches] == [np.float32] * 2
  np.testing.assert_array_equal(batches[1].inputs[:2], LATENTS[8:])
  assert not batches[1].inputs[2:].any()
  example = evaluation.example(0).inputs
  assert (example.shape, example.dtype) == ((8, 4, 4, 5), np.float32)


def test_transforms_of_pictures_are_refused(file):
  source = arrays.Arrays(file).open()
  with pytest.raises(ValueError) as error:
    loader.TrainLoader(
      source, (transforms.Flip(), transforms.Affine()), batch_size=2, seed=0
    )
  assert str(error.value) == (
    "Affine is for pictures, and these are arrays of floats: leave it out; "
    "CentralCrop and Flip take any"
  )
  crop = transforms.CentralCrop((2, 2))
  train = loader.TrainLoader(
    source, (transforms.Flip(), crop), batch_size=2, seed=0
  )
  assert next(train).inputs.shape == (2, 2, 2, 5)


@pytest.mark.parametrize(
  ("changes", "fields", "text"),
  [
    ({}, {"split": "train"}, "has no split 'train': give 'all', or a slice"),
    ({}, {"images": "z"}, "has no array 'z': .* labels, latents; give images="),
    (
      {"latents": LATENTS[0]},
      {},
      r"latents is float32 of shape \(4, 4, 5\): expected floats \[n, h, w, c",
    ),
    (
      {"latents": np.zeros((10, 4, 4, 3), np.uint8)},
      {},
      r"latents is uint8 of shape \(10, 4, 4, 3\): expected floats ",
    ),
    (
      {"labels": LABELS[:9]},
      {},
      r"labels is int32 of shape \(9,\): expected whole numbers \[10\]",
    ),
    (
      {"latents": LATENTS[:0], "labels": LABELS[:0]},
      {},
      r"latents of \(0, 4, 4, 5\) is empty",
    ),
    (
      {"classes": np.array(["a", "b"])},
      {},
      "labels are 0 to 2, and its array 'classes' has 2 names: give 0 to 1",
    ),
    ({"labels": LABELS - 1}, {}, "labels are -1 to 1: classes are counted"),
    ({"labels": None}, {}, "has no array 'labels': .* give labels=NAME, or "),
    (
      {"latents": np.full_like(LATENTS, np.nan)},
      {},
      "latents has numbers that are not finite",
    ),
  ],
  ids=lambda x: "",
)
def test_bad_files(tmp_path, changes, fields, text):
  path = _file(tmp_path / "bad.npz", **changes)
  with pytest.raises(ValueError, match=f"^{path}:? {text}"):
    arrays.Arrays(path, **fields).open()


def test_what_is_no_npz(tmp_path):
  path = tmp_path / "x.npz"
  source = arrays.Arrays(str(path))
  with pytest.raises(ValueError, match=f"^no file {path}$"):
    source.open()
  for content in (b"PK\3\4 and no more", b"", b"anything"):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"no whole \.npz.*: write it with"):
      source.open()
  np.savez(path, latents=np.array([object()]), labels=LABELS)
  with pytest.raises(ValueError, match="it has more than numbers, or is none"):
    source.open()
  with pytest.raises(ValueError, match=r"^scale is 0\.0: give more than 0$"):
    arrays.Arrays(str(path), scale=0.0)


@pytest.mark.parametrize(
  ("overrides", "text"),
  [
    ((), "channels is 3, .*train have 5: give config.model.channels=5"),
    (
      ("model.channels=5",),
      r"clip keeps samples in \[-1, 1\], .* lie in "
      rf"\[{LATENTS.min():.3g}, {LATENTS.max():.3g}\]: give .*clip=False",
    ),
    (
      (
        "model.channels=5",
        "validation={'source': {'name': 'arrays', 'path': 'FILE'}}",
        "train.source.scale=0.5",
      ),
      r"validation\.source\.scale is 1, and that of config\.train 0\.5",
    ),
    (
      (
        "model.channels=5",
        "packing={'row_length': 16, 'max_images': 4}",
        "train.resolution.name=native",
      ),
      "packing is for pictures, .* leave it out",
    ),
    (
      ("train.source={'name': 'digits'}", "model.channels=4"),
      "channels is 4, and the pictures of .* have 3: give",
    ),
  ],
  ids=("channels", "clip", "scale", "packing", "pictures"),
)
def test_runs_that_cannot_be_are_refused(file, overrides, text):
  overrides = (
    f"train.source={ {'name': 'arrays', 'path': file} }",
    *("validation=None", "test=None", "model.size=mu"),
    *(x.replace("FILE", str(file)) for x in overrides),
  )
  experiment = build.load("configs/dit_digits.py", overrides)
  with pytest.raises(ConfigError, match=text):
    open_lib.prepare(experiment, print)
