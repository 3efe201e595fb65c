"""Every format there and back, and what damage to it does."""

import errno
import random

import flax.traverse_util
import numpy as np
import pytest

import flexivit_jax
from flexivit_jax.checkpoints import load, manifest, npz, origin, save
from flexivit_jax.checkpoints import model as model_lib
from flexivit_jax.checkpoints.formats import parameters
from flexivit_jax.models import sizes, vit
from flexivit_jax.nn import encoder, pooling
from flexivit_jax.nn.positions import (
  learned_grid,
  relative,
  rotary,
  row_column,
  waves,
)
from flexivit_jax.nn.positions import position as position_lib


def _model(**changes):
  fields = dict(
    size=encoder.Size(16, 2, 32, 2),
    position=learned_grid.LearnedGrid((7, 7)),
    pool=pooling.ClassToken(),
    num_classes=5,
  )
  return vit.ViT(**(fields | changes))


def _random(model, seed=0):
  """A checkpoint with other numbers in every place."""
  rng = np.random.default_rng(seed)
  arrays = {
    name: rng.standard_normal(x.shape, np.float32)
    for name, x in parameters.shapes(model).items()
  }
  spec = origin.Spec(
    source="test",
    path="made up",
    trained_sizes=((8, 8), (16, 12)),
    classes=("a", "b", "c", "d", "e") if model.num_classes == 5 else (),
  )
  return model_lib.StoredModel(model, arrays, spec)


def _path(directory, format):
  return directory / ("out.npz" if format == "big_vision" else "out")


def _assert_equal(found, wanted):
  assert found.keys() == wanted.keys()
  for name, x in wanted.items():
    assert found[name].dtype == x.dtype
    np.testing.assert_array_equal(found[name], x)


def test_orbax_holds_every_model(tmp_path):
  for number, changes in enumerate(
    (
      dict(position=waves.SinCos2D(500.0), registers=3),
      dict(position=position_lib.NoPosition(), pool=pooling.Map(), scan=True),
      dict(pool=pooling.Gap(class_token=True), norm_after_pool=True),
      dict(position=learned_grid.LearnedGrid((2, 5), False), qkv_bias=False),
      dict(position=waves.Fourier(fractional_side=2.0), scan=True),
      dict(position=row_column.RowColumn((9, 8), "product", first=1)),
      dict(position=row_column.JointTable((4, 5))),
      dict(position=rotary.Rotary(30.0)),
      dict(position=relative.Relative((4, 5)), scan=True),
      dict(rms_norm=True, gated_mlp=True),
      dict(standardize=True, attention_scale=2.0, proj_bias=False),
    )
  ):
    checkpoint = _random(_model(**changes))
    save.save(checkpoint, tmp_path / str(number), "orbax")
    again = load.read(tmp_path / str(number))
    _assert_equal(again.arrays, checkpoint.arrays)
    assert again.model == checkpoint.model


OURS = [
  (waves.Fourier(), "fourier positions"),
  (row_column.RowColumn((4, 5)), "row_column positions"),
]


@pytest.mark.parametrize(("position", "lacking"), OURS, ids=str)
def test_positions_that_only_orbax_holds_are_refused_elsewhere(
  position, lacking, tmp_path
):
  checkpoint = _random(_model(position=position, prefix_position=True))
  for format, program in (
    ("big_vision", "big_vision"),
    ("timm", "timm"),
    ("hugging_face", "Hugging Face's ViT"),
  ):
    with pytest.raises(ValueError) as caught:
      save.save(checkpoint, _path(tmp_path, format), format)
    assert str(caught.value) == f"{program} has no {lacking}"
  fractional = _model(position=waves.SinCos2D(fractional_side=7.0))
  with pytest.raises(ValueError, match="big_vision has no sincos2d of frac"):
    save.save(_random(fractional), tmp_path / "x.npz", "big_vision")
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("format", ["big_vision", "timm", "orbax"])
def test_stored_types_are_kept(format, dtype, tmp_path):
  checkpoint = _random(_model())
  arrays = {
    name: x.astype(np.dtype(dtype)) for name, x in checkpoint.arrays.items()
  }
  path = _path(tmp_path, format)
  half = model_lib.StoredModel(checkpoint.model, arrays, checkpoint.spec)
  save.save(half, path, format)
  _assert_equal(load.read(path).arrays, arrays)
  # A model computes in float32.
  params = flexivit_jax.load(path).params
  flat = flax.traverse_util.flatten_dict(params, sep="/")
  for name, x in arrays.items():
    np.testing.assert_array_equal(flat[name], x.astype(np.float32))


# Leaf tables of the published files: kernel 32x32, 7x7 positions, a class
# token, 1,000 classes.
FLEXIVIT = {"S": 22_878_568, "B": 88_223_464, "L": 306_534_376}


@pytest.mark.parametrize("format", ["big_vision", "timm"])
@pytest.mark.parametrize(
  "name",
  [
    "S",
    pytest.param("B", marks=pytest.mark.slow),
  ],
)
def test_the_published_sizes_load_exactly(name, format, tmp_path):
  checkpoint = _random(_model(size=sizes.SIZES[name], num_classes=1000))
  path = _path(tmp_path, format)
  save.save(checkpoint, path, format)
  again = load.read(path)
  assert sum(x.size for x in again.arrays.values()) == FLEXIVIT[name]
  assert again.model == checkpoint.model
  _assert_equal(again.arrays, checkpoint.arrays)


@pytest.mark.parametrize(
  "pool", [pooling.ClassToken(), pooling.Gap(), pooling.Map()], ids=str
)
@pytest.mark.parametrize("prefix_position", [False, True])
def test_big_vision_to_timm_to_big_vision(pool, prefix_position, tmp_path):
  prefix_position = prefix_position and pool.class_token
  checkpoint = _random(_model(pool=pool, prefix_position=prefix_position))
  first, middle, last = (tmp_path / x for x in ("a.npz", "timm", "b.npz"))
  save.save(checkpoint, first, "big_vision")
  save.save(load.read(first), middle, "timm")
  save.save(load.read(middle), last, "big_vision")
  assert last.read_bytes() == first.read_bytes()


@pytest.mark.parametrize(
  "format", ["big_vision", "timm", "hugging_face", "orbax"]
)
def test_every_flipped_byte_is_noticed(format, tmp_path):
  checkpoint = _random(_model())
  path = _path(tmp_path, format)
  save.save(checkpoint, path, format)
  # A name in FILE.sha256 does not matter; tests/checkpoints has its digits.
  files = [path] if path.is_file() else sorted(path.rglob("*"))
  files = [p for p in files if p.is_file()]
  rng = random.Random(0)  # noqa: S311
  for _ in range(50):
    file = rng.choice(files)
    whole = file.read_bytes()
    damaged = bytearray(whole)
    damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
    file.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"has changed|is damaged"):
      load.read(path)
    file.write_bytes(whole)
  assert load.read(path).spec.checked


@pytest.mark.parametrize(
  ("path", "format", "text"),
  [
    (
      "out",
      "npz",
      "format 'npz': give one of big_vision, timm, naflexvit, hugging_face, "
      "siglip2, pix2struct, orbax",
    ),
    ("taken", "orbax", "{}/taken exists and is not written over: give another"),
    (
      "out",
      "big_vision",
      "{}/out: for the format big_vision give a file that ends in .npz",
    ),
    ("out.npz", "timm", "{}/out.npz: for the format timm give a directory"),
  ],
)
def test_targets_that_cannot_be_are_refused(path, format, text, tmp_path):
  (tmp_path / "taken").mkdir()
  with pytest.raises(ValueError) as caught:
    save.save(_random(_model()), tmp_path / path, format)
  assert str(caught.value) == text.format(tmp_path)


@pytest.mark.parametrize("format", ["timm", "orbax", "big_vision"])
def test_a_full_disk_leaves_nothing(format, small_disk):
  disk = small_disk(256)
  checkpoint = _random(_model(size=encoder.Size(64, 2, 128, 2)))
  with pytest.raises(OSError) as caught:
    save.save(checkpoint, _path(disk, format), format)
  assert caught.value.errno == errno.ENOSPC
  assert str(disk) in str(caught.value.filename)
  assert list(disk.iterdir()) == []


def test_a_file_that_another_process_wrote_meanwhile_stays(
  tmp_path, monkeypatch
):
  path = tmp_path / "out.npz"
  note_of = save.note_of

  def meanwhile(checkpoint):
    npz.write(path, {"precious": np.ones(3)})
    return note_of(checkpoint)

  monkeypatch.setattr(save, "note_of", meanwhile)
  with pytest.raises(FileExistsError, match="made by another process"):
    save.save(_random(_model()), path, "big_vision")
  assert sorted(p.name for p in tmp_path.iterdir()) == [
    "out.npz",
    "out.npz.sha256",
  ]
  assert list(npz.read(path)[0]) == ["precious"]
  assert manifest.check_sum(path) is not None


def test_a_model_of_ours_without_its_sums_is_refused(tmp_path):
  save.save(_random(_model()), tmp_path / "out", "orbax")
  (tmp_path / "out" / "manifest.sha256").unlink()
  with pytest.raises(ValueError) as caught:
    load.read(tmp_path / "out")
  assert str(caught.value) == (
    f"{tmp_path}/out is damaged: {tmp_path}/out/manifest.sha256 is missing; "
    "get it from its source, or delete manifest.sha256 if the change was meant"
  )
