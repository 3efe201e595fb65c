"""The analyses of activations, as a user runs them."""

import dataclasses
import re

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from flexivit_jax.checkpoints import save
from flexivit_jax.checkpoints.formats import parameters
from flexivit_jax.checkpoints.model import LoadedModel, StoredModel, on_device
from flexivit_jax.checkpoints.origin import Spec
from flexivit_jax.cli import analysis
from flexivit_jax.cli.analyses import images
from flexivit_jax.core.errors import ConfigError, Fault
from flexivit_jax.models import vit
from flexivit_jax.nn import encoder, pooling
from flexivit_jax.nn.positions import learned_grid, position

POOLS = {
  "gap": pooling.Gap(),
  "map": pooling.Map(),
  "tok": pooling.ClassToken(),
}
# Of each, so that a program compiles in a moment.
FEW = ("--data=digits", "--images=3")


def make(pool="gap", spec=None, **changes):
  """A small model of random numbers."""
  fields = {
    "size": encoder.Size(8, 2, 12, 2),
    "position": learned_grid.LearnedGrid((3, 4)),
    "pool": POOLS[pool],
    "kernel_hw": (6, 6),
    "num_classes": 5,
  }
  model = vit.ViT(**fields | changes)
  rng = np.random.default_rng(0)
  arrays = {
    name: rng.normal(size=x.shape).astype(np.float32)
    for name, x in parameters.shapes(model).items()
  }
  spec = spec or Spec("test", "made up", trained_sizes=((6, 6), (12, 12)))
  return StoredModel(model, arrays, spec)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
  """Pool to a checkpoint's path."""
  paths = {}
  for pool in POOLS:
    paths[pool] = tmp_path_factory.mktemp("in") / pool
    save.save(make(pool), paths[pool], "orbax")
  return paths


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
  """A folder of images of several shapes, and those."""
  root, rng = tmp_path_factory.mktemp("photographs"), np.random.default_rng(1)
  (root / "test/a").mkdir(parents=True)
  pixels = [
    rng.integers(0, 256, (*hw, 3), np.uint8)
    for hw in ((12, 20), (31, 9), (16, 16), (8, 24))
  ]
  for i, image in enumerate(pixels):
    Image.fromarray(image).save(root / f"test/a/{i}.png")
  return root, pixels


@pytest.fixture
def run(capsys, tmp_path):
  """Runs the command in this process; returns what it printed of the findings,
  the files that it wrote, and the numbers."""

  def call(name, *arguments):
    out = tmp_path / "out"
    analysis.main([name, f"--output={out}", *map(str, arguments)])
    lines = capsys.readouterr().out.splitlines()
    # The checkpoint's report comes first.
    starts = [i for i, x in enumerate(lines) if re.match(r"tokens|\d+ im", x)]
    own = lines[starts[0] :]
    assert own[-1].startswith("wrote ")
    files = {p.name for p in out.iterdir()}
    for file in files:
      if file.endswith(".png"):
        with Image.open(out / file) as figure:
          # Something is drawn.
          assert np.asarray(figure.convert("L")).std() > 5
    return own[:-1], files, dict(np.load(out / f"{name}.npz"))

  return call


def names(*figures, numbers):
  return {f"{x}.{e}" for x in figures for e in ("png", "svg")} | {
    f"{numbers}.npz"
  }


IMAGES = "3 images of Digits(split='test', side=24)"


def test_attention_distance(run, checkpoints):
  lines, files, numbers = run(
    "attention-distance", f"--checkpoint={checkpoints['tok']}", *FEW
  )
  assert files == names("attention_distance", numbers="attention-distance")
  assert lines[0] == IMAGES
  assert lines[1].split() == [
    *("patch", "block", "mean", "px", "least", "head", "most", "uniform")
  ]
  assert [x.split()[:2] for x in lines[2:]] == [
    [p, b] for p in ("6", "12") for b in ("0", "1")
  ]
  for patch in (6, 12):
    distances = numbers[f"distance_{patch}"]
    assert distances.shape == (2, 2)
    # No farther than the farthest patches are apart.
    assert (distances > 0).all()
    assert (distances < (24 - patch) * 2**0.5).all()
  # Means over 2x2 patches: of 0, 12, 12 and 12 sqrt(2).
  assert numbers["uniform_12"] == pytest.approx(3 * (2 + 2**0.5), rel=1e-5)


@pytest.mark.parametrize(
  ("pool", "reader"),
  [
    ("gap", "the mean of the patches"),
    ("tok", "the class token"),
    ("map", "the probe of the MAP head"),
  ],
)
def test_rollout(run, checkpoints, pool, reader):
  lines, files, numbers = run(
    "rollout", f"--checkpoint={checkpoints[pool]}", *FEW, "--patch_size=12"
  )
  assert files == names("rollout", numbers="rollout")
  assert lines[0] == IMAGES
  assert lines[1].startswith(
    f"Rollout to {reader}, patches of 12 px, residual 0.5: a patch has "
  )
  # Spread evenly over 500 images.
  assert {*numbers} == {"image_0", "image_250", "image_499"}
  for x in numbers.values():
    assert x.shape == (2, 2)
    if pool == "tok":
      assert x.sum() < 0.75
    else:
      assert x.sum() == pytest.approx(1, abs=1e-6)


def test_rollout_of_nothing_but_the_residual(run, checkpoints):
  # The mean of the patches is of each patch alike.
  lines, _, numbers = run(
    "rollout",
    f"--checkpoint={checkpoints['gap']}",
    *FEW,
    *("--patch_size=12", "--residual=1"),
  )
  assert lines[1].endswith(
    "residual 1: a patch has 1.00 to 1.00 times the mean"
  )
  for x in numbers.values():
    np.testing.assert_allclose(x, 0.25, rtol=1e-6)


@pytest.mark.parametrize(
  ("pool", "arguments", "title"),
  [
    ("gap", (), "Attention of patch 2,2 in block 1, patches of 6 px"),
    ("tok", (), "Attention of the class token in block 1, patches of 6 px"),
    (
      "tok",
      ("--query=3,1", "--block=0"),
      "Attention of patch 3,1 in block 0, patches of 6 px",
    ),
    ("map", (), "Attention of the probe in the MAP head, patches of 6 px"),
  ],
)
def test_attention_maps(run, checkpoints, pool, arguments, title):
  lines, files, numbers = run(
    "attention-maps", f"--checkpoint={checkpoints[pool]}", *FEW, *arguments
  )
  assert files == names("attention_maps", numbers="attention-maps")
  assert lines == [IMAGES, title]
  for x in numbers.values():
    assert x.shape == (4, 4, 2)
    assert (x.sum((0, 1)) < 1 + 1e-6).all()
    if pool != "tok":
      np.testing.assert_allclose(x.sum((0, 1)), 1, rtol=1e-5)


@pytest.mark.parametrize(
  ("pool", "pooled", "layers"),
  [("gap", "mean of patches", 3), ("tok", "class token", 2)],
)
def test_cka(run, checkpoints, pool, pooled, layers):
  lines, files, numbers = run(
    "cka",
    f"--checkpoint={checkpoints[pool]}",
    *("--data=digits", "--images=9", "--patch_sizes=6,8,12"),
  )
  assert files == names("cka_layers", "cka_sizes", numbers="cka")
  assert lines[0] == IMAGES.replace("3", "9", 1)
  assert lines[1] == f"CKA of the same layer, {pooled}:"
  assert lines[2].split() == ["sizes", *["in", "0", "1"][3 - layers :]]
  pairs = ("6 and 8", "6 and 12", "8 and 12")
  assert [x.split("  ")[0] for x in lines[3:7]] == [*pairs, "chance"]
  assert lines[7] == "CKA of the same layer, patches, on 2x2:"
  assert numbers["pooled_6_by_12"].shape == (layers, layers)
  assert numbers["patches_6_by_12"].shape == (3, 3)
  for kind in ("pooled", "patches"):
    np.testing.assert_allclose(
      numbers[f"{kind}_same_layer_6_12"],
      np.diag(numbers[f"{kind}_6_by_12"]),
      rtol=1e-12,
    )
  for x in numbers.values():
    assert ((x > 0) & (x <= 1)).all()


@pytest.mark.parametrize("block", [(), ("--block=-1",)])
def test_pca(run, checkpoints, block):
  lines, files, numbers = run(
    "pca", f"--checkpoint={checkpoints['gap']}", *FEW, *block
  )
  assert files == names("pca", numbers="pca")
  where = f"block {int(block[0][8:]) % 2}" if block else "the final norm"
  assert lines[0] == IMAGES
  assert lines[1].startswith(
    f"Patch features after {where}: three components as colours; they have "
  )
  assert numbers["colours_6_image_250"].shape == (4, 4, 3)
  assert numbers["colours_12_image_499"].shape == (2, 2, 3)
  for x in numbers.values():
    assert x.min() >= 0
    assert x.max() <= 1


def test_blocks_are_counted_from_the_first_or_the_last(run, checkpoints):
  arguments = ("pca", f"--checkpoint={checkpoints['gap']}", *FEW)
  found = [
    run(*arguments, *block, "--patch_sizes=6")[2]["colours_6_image_0"]
    for block in ((), ("--block=0",), ("--block=1",), ("--block=-1",))
  ]
  np.testing.assert_array_equal(found[2], found[3])
  for a, b in ((0, 1), (0, 2), (1, 2)):
    assert np.abs(found[a] - found[b]).max() > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["tok", "map"])
def test_images_of_any_shape_are_packed(run, checkpoints, photographs, pool):
  root, _ = photographs
  own = (
    f"--checkpoint={checkpoints[pool]}",
    f"--data=folder:{root}",
    "--budget=12",
  )
  lines, _, numbers = run("rollout", *own, "--patch_size=6")
  assert lines[0] == (
    f"4 images of ImageFolder(path='{root}', split='test', "
    "exif_transpose=False)"
  )
  # At most 12 patches each; the positions are resized.
  shapes = [numbers[f"image_{i}"].shape for i in range(4)]
  assert shapes == [(3, 4), (6, 2), (3, 3), (2, 6)]
  _, _, numbers = run("pca", *own, "--patch_sizes=6")
  assert [numbers[f"colours_6_image_{i}"].shape for i in range(4)] == [
    (*shape, 3) for shape in shapes
  ]


def test_a_run_shows_its_own_test_data(monkeypatch, run, small_experiment):
  experiment = small_experiment("patch_size.choices=(8,12)")
  spec = Spec(
    "flexivit_jax run",
    "runs/x",
    trained_sizes=((8, 8), (12, 12)),
    experiment=experiment,
  )
  monkeypatch.setattr(images, "load", lambda args: on_device(make(spec=spec)))
  lines, _, numbers = run("rollout", "--checkpoint=runs/x", "--images=2")
  assert lines[0] == "2 images of Digits(split='test', side=24)"
  assert numbers["image_0"].shape == (3, 3)
  # With a budget it is packed.
  _, _, numbers = run(
    "rollout", "--checkpoint=runs/x", "--images=2", "--budget=4"
  )
  assert numbers["image_0"].shape == (2, 2)


def test_fewer_images_than_asked_for_are_all_of_them(
  run, checkpoints, photographs
):
  lines, _, _ = run(
    "attention-distance",
    f"--checkpoint={checkpoints['gap']}",
    f"--data=folder:{photographs[0]}",
    *("--resolution=24", "--patch_sizes=12"),
  )
  assert lines[0].startswith("4 images of ")


def refused(name, *arguments):
  with pytest.raises((ConfigError, Fault)) as error:
    analysis.main([name, *map(str, arguments)])
  return str(error.value)


@pytest.fixture
def no_output(monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  yield
  assert not (tmp_path / "analysis").exists()


@pytest.mark.parametrize(
  ("name", "arguments", "text"),
  [
    ("rollout", ("--images=0",), "--images 0: give at least 1"),
    (
      "pca",
      ("--images=65",),
      "--images 65: each is drawn, so give at most 64",
    ),
    ("rollout", ("--residual=2",), "--residual 2: give 0 to 1"),
    (
      "rollout",
      ("--data=mnist",),
      "--data 'mnist': give digits, folder:PATH or tfds:NAME",
    ),
    (
      "rollout",
      ("--data=folder:x",),
      "--data folder:PATH needs --resolution, 240 say, or --budget",
    ),
    (
      "rollout",
      ("--budget=4", "--resolution=24"),
      "--budget and --resolution: give one of them, the size of an image "
      "follows from its budget",
    ),
    (
      "rollout",
      ("--budget=0",),
      "--budget: max_patches is 0: give 1 to 1048576 patches",
    ),
    (
      "rollout",
      ("--patch_size=7",),
      "--patch_size: an image of 24x24 pixels is not a whole number of 7x7 "
      "patches: resize it to 21x21, or take a patch size whose sides divide "
      "24 and 24; sides that divide both: 1, 2, 3, 4, 6, 8, 12, 24; "
      "--resolution, with --data, makes images of another size",
    ),
    (
      "pca",
      ("--patch_sizes=6,2000",),
      "--patch_sizes: 6,2000: give patches of at most 1024 pixels",
    ),
    (
      "attention-maps",
      ("--query=middle",),
      "--query 'middle': give class, probe, or row and column of a patch, 3,4 "
      "say",
    ),
    (
      "attention-maps",
      ("--query=class",),
      "--query: query 'class': the model has no such token, give a patch",
    ),
    (
      "attention-maps",
      ("--query=4,0",),
      "--query: patch 4,0: image 0 has 4x4 patches, give rows 0 to 3 and "
      "columns 0 to 3",
    ),
    (
      "attention-maps",
      ("--block=2",),
      "--block: block 2: the model has 2, give 0 to 1, or -1 for the last",
    ),
    (
      "pca",
      ("--block=-3",),
      "--block: block -3: the model has 2, give 0 to 1, or -1 for the last",
    ),
    (
      "pca",
      ("--images=1", "--patch_sizes=24"),
      "--images: 3 components of 1 patches with 8 features: give more than 3 "
      "patches, and a model at least 3 wide",
    ),
    ("cka", ("--images=1",), "--images 1: CKA compares at least 2"),
    (
      "cka",
      ("--patch_sizes=6",),
      "--patch_sizes: CKA compares at least 2, and there is only 6: give 8,16 "
      "say",
    ),
    (
      "cka",
      ("--split=test[:1]",),
      "--data: CKA compares at least 2 images, of 1 images of "
      "Digits(split='test[:1]', side=24)",
    ),
  ],
)
def test_what_cannot_work_is_refused(
  no_output, checkpoints, name, arguments, text
):
  data = () if any("--data" in x for x in arguments) else ("--data=digits",)
  own = (f"--checkpoint={checkpoints['gap']}", *data, *arguments)
  assert refused(name, *own) == text


def test_a_checkpoint_that_says_too_little_is_refused(
  no_output, checkpoints, tmp_path
):
  own = f"--checkpoint={checkpoints['gap']}"
  path = checkpoints["gap"]
  assert refused("rollout", own) == (
    f"{path} names no data: give --data digits, folder:PATH or tfds:NAME"
  )
  bare = dataclasses.replace(make(), spec=Spec("test", "made up"))
  save.save(bare, tmp_path / "bare", "orbax")
  own = f"--checkpoint={tmp_path / 'bare'}"
  for name, option, give in (
    ("rollout", "--patch_size", "one, 16 say"),
    ("pca", "--patch_sizes", "some, 8,16,32 say"),
  ):
    assert refused(name, own, *FEW) == (
      f"{option}: {tmp_path / 'bare'} does not say at which patch sizes it was "
      f"trained: give {give}"
    )


def test_a_run_s_test_data_has_its_own_size(monkeypatch, small_experiment):
  spec = Spec("flexivit_jax run", "runs/x", experiment=small_experiment())
  monkeypatch.setattr(images, "load", lambda args: on_device(make(spec=spec)))
  for option in ("--resolution=24", "--split=train"):
    assert refused("rollout", "--checkpoint=runs/x", option) == (
      "--resolution, --split and --data_dir need --data: a run's test data "
      "has its own"
    )


def test_a_model_of_other_channels_is_refused(monkeypatch):
  grey = on_device(make(channels=1))
  monkeypatch.setattr(images, "load", lambda args: grey)
  assert refused("pca", "--checkpoint=x", *FEW) == (
    "--checkpoint: made up takes images of 1 channels, and the images have 3"
  )


def test_a_model_of_two_channels_of_features_has_no_three_components(
  monkeypatch,
):
  narrow = make(size=encoder.Size(2, 1, 4, 1), position=position.NoPosition())
  monkeypatch.setattr(images, "load", lambda args: on_device(narrow))
  assert refused("pca", "--checkpoint=x", *FEW) == (
    "--checkpoint: 3 components of features 2 wide"
  )


def test_a_bad_image_is_named(checkpoints, photographs, tmp_path):
  folder = tmp_path / "data/test/a"
  folder.mkdir(parents=True)
  (folder / "0.png").write_bytes(b"no image")
  text = refused(
    "rollout",
    f"--checkpoint={checkpoints['gap']}",
    f"--data=folder:{tmp_path / 'data'}",
    "--resolution=24",
  )
  assert text.startswith(f"{folder / '0.png'}: ")
  assert text.endswith("; mend it, or move it out of the data")


def test_a_model_without_a_head_is_analysed(monkeypatch, run):
  headless = make(num_classes=0)
  model = LoadedModel(
    headless.model.clone(num_classes=None),
    on_device(headless).params,
    make().spec,
  )
  monkeypatch.setattr(images, "load", lambda args: model)
  _, _, numbers = run("rollout", "--checkpoint=x", *FEW)
  assert jnp.isfinite(numbers["image_0"]).all()
