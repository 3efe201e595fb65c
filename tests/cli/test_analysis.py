"""The command, as a user runs it: what it writes, prints and refuses."""

import pathlib
import re
import shlex
import xml.etree.ElementTree as ET

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from flexivit_jax.analysis import filters, positions, resizing
from flexivit_jax.checkpoints import save
from flexivit_jax.checkpoints.formats import parameters
from flexivit_jax.checkpoints.model import LoadedModel, StoredModel, on_device
from flexivit_jax.checkpoints.origin import Spec
from flexivit_jax.cli import analysis
from flexivit_jax.core import pi_resize, resize
from flexivit_jax.core.errors import ConfigError, Fault
from flexivit_jax.models import vit
from flexivit_jax.nn import encoder, pooling
from flexivit_jax.nn.positions import learned_grid, rotary, row_column, waves

POOLS = {
  "gap": pooling.Gap(),
  "map": pooling.Map(),
  "tok": pooling.ClassToken(),
}


ROOT = pathlib.Path(__file__).parents[2]
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
  the names of its figures, and the numbers."""

  def call(name, *arguments):
    out = tmp_path / f"out_{name}"
    analysis.main([name, f"--output={out}", *map(str, arguments)])
    *lines, last = capsys.readouterr().out.splitlines()
    files = last.removeprefix("wrote ").split(", ")
    assert {str(p) for p in out.iterdir()} == {*files}
    assert files[-1] == f"{out}/{name}.npz"
    figures = [pathlib.Path(x).stem for x in files[:-1:2]]
    for figure in figures:
      with Image.open(out / f"{figure}.png") as image:
        # Something is drawn.
        assert np.asarray(image.convert("L")).std() > 5
      root = ET.parse(out / f"{figure}.svg").getroot()  # noqa: S314 (ours)
      assert root.tag.endswith("}svg")
    # The checkpoint's report comes first.
    starts = [
      i
      for i, x in enumerate(lines)
      if re.match(r"resize|patch |mean cosine|\d+ (images|rows) of", x)
    ]
    return lines[starts[0] :], figures, dict(np.load(out / f"{name}.npz"))

  return call


def refused(name, *arguments):
  with pytest.raises((ConfigError, Fault)) as error:
    analysis.main([name, *map(str, arguments)])
  return str(error.value)


@pytest.fixture
def no_output(monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  yield
  assert not (tmp_path / "analysis").exists()


@pytest.fixture(scope="module")
def learned(checkpoints):
  """A checkpoint's path, its model and arrays."""
  own = make()
  return checkpoints["gap"], own.model, own.arrays


def saved(path, position, **changes):
  save.save(make(position=position, **changes), path, "orbax")
  return f"--checkpoint={path}"


def test_resize(run):
  lines, figures, numbers = run("resize", "--from=8", "--to=4,12")
  assert figures == ["resize_matrices", "resize_spectra", "resize_gain"]
  assert [" ".join(line.split()[:4]) for line in lines[1:]] == [
    *("8 -> 4 off", "8 -> 12 off", "8 -> 4 on", "8 -> 12 on")
  ]
  for _, _, new, aa, gain, noise, smooth in map(str.split, lines[1:]):
    new, antialias = int(new), aa == "on"
    matrix = numbers[f"P_8_to_{new}_antialias_{aa}"]
    np.testing.assert_array_equal(matrix, resize.pi_matrix(8, new, antialias))
    curve = resizing.curve(8, range(2, 13), antialias=antialias)
    for name, values, printed in (
      ("gain", curve.gain, gain),
      ("response_error_noise", curve.error_noise, noise),
      ("response_error_smooth", curve.error_smooth, smooth),
    ):
      np.testing.assert_array_equal(numbers[f"{name}_antialias_{aa}"], values)
      # Two digits are printed.
      near = pytest.approx(values[new - 2], rel=0.05, abs=0.005)
      assert float(printed) == near


def test_filters(run, learned):
  path, _, arrays = learned
  lines, figures, numbers = run("filters", f"--checkpoint={path}", "--count=4")
  assert figures == ["filters"]
  # Stored, and what it was trained at, once each.
  found = filters.filters(
    arrays["embedding/kernel"],
    [(6, 6), (12, 12)],
    filters.SHOW["components"],
    n=4,
    antialias=False,
  )
  for name in ("shares", "mixtures", "norms", "grey"):
    np.testing.assert_array_equal(numbers[name], getattr(found, name))
  np.testing.assert_array_equal(numbers["tiles_12x12"], found.tiles[1])
  assert lines[0].split() == "patch norm response to grey share of 4".split()
  share = f"{100 * found.shares[0].sum():.1f}"
  assert lines[1].split() == ["6x6", "1.000", "1.000", share, "%"]
  assert lines[-1].endswith("share: of the variance")


def test_filters_of_sizes_asked_for_as_the_model_resizes(run, tmp_path):
  own = saved(
    tmp_path / "in", learned_grid.LearnedGrid((3, 4)), kernel_antialias=True
  )
  sizes = ("--patch_sizes=2,4x3,2", "--show=strongest", "--count=3")
  lines, _, numbers = run("filters", own, *sizes)
  kernel = make().arrays["embedding/kernel"].astype(np.float64)
  strongest = np.argsort(-np.linalg.norm(kernel.reshape(-1, 8), axis=0))[:3]
  assert [x for x in numbers if "tiles" in x] == ["tiles_2x2", "tiles_4x3"]
  expected = pi_resize.pi_resize(kernel, (4, 3), antialias=True)
  np.testing.assert_allclose(
    numbers["tiles_4x3"],
    np.moveaxis(expected[..., strongest], -1, 0),
    rtol=0,
    atol=1e-12,
  )
  assert lines[-1].endswith("share: of the squared norm")


def test_positions(run, learned):
  path, model, arrays = learned
  lines, figures, numbers = run(
    "positions", f"--checkpoint={path}", "--grids=2x2,3x4,1x5"
  )
  names = ["3x4", "2x2", "1x5"]
  assert figures == [f"positions_{x}" for x in names]
  crosses = []
  for name in names:
    grid = tuple(map(int, name.split("x")))
    found = positions.similarity(model.position, arrays, grid, 8)
    np.testing.assert_array_equal(numbers[f"cosines_{name}"], found.cosines)
    crosses.append(found.cross)
  assert [line.split() for line in lines[1:]] == [
    ["3x4", "stored", f"{crosses[0]:+.3f}"],
    ["2x2", "interpolated", f"{crosses[1]:+.3f}"],
    ["1x5", "interpolated", "none"],
  ]


@pytest.mark.parametrize(
  ("position", "more", "grid", "how"),
  [
    (waves.SinCos2D(), (), "14x14", "computed"),
    (row_column.RowColumn((5, 6), first=1), (), "4x5", "stored"),
    (
      row_column.RowColumn((64, 64), first=1),
      ("--grids=4x4",),
      "4x4",
      "part of the table",
    ),
  ],
)
def test_positions_of_other_kinds(run, tmp_path, position, more, grid, how):
  own = saved(tmp_path / "in", position)
  lines, *_ = run("positions", own, *more)
  assert lines[-1].startswith(f"{grid}  {how}  ")


AT_12 = ("--patch_size=12",)
FIGURES = {"cka": ["cka_layers", "cka_sizes"]}


@pytest.mark.parametrize(
  ("name", "pool", "more", "text", "shape"),
  [
    ("attention-distance", "tok", (), "patch  block", (2, 2)),
    ("rollout", "gap", AT_12, "Rollout to the mean of the patches, ", (2, 2)),
    ("rollout", "tok", AT_12, "Rollout to the class token, ", (2, 2)),
    ("attention-maps", "gap", (), "Attention of patch 2,2 in bl", (4, 4, 2)),
    (
      *("attention-maps", "tok", ("--query=3,1", "--block=0")),
      *("Attention of patch 3,1 in block 0, patches of 6", (4, 4, 2)),
    ),
    ("attention-maps", "map", (), "Attention of the probe in the", (4, 4, 2)),
    ("cka", "tok", (), "CKA of the same layer, class token:", (2, 2)),
    (
      "pca",
      "gap",
      ("--block=-1",),
      "Patch features after block 1: ",
      (4, 4, 3),
    ),
  ],
)
def test_images_are_shown(run, checkpoints, name, pool, more, text, shape):
  lines, figures, numbers = run(
    name, f"--checkpoint={checkpoints[pool]}", *FEW, *more
  )
  assert figures == FIGURES.get(name, [name.replace("-", "_")])
  assert lines[0] == "3 images of Digits(split='test', side=24)"
  assert lines[1].startswith(text)
  assert shape in {x.shape for x in numbers.values()}
  assert all(np.isfinite(x).all() for x in numbers.values())


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
  spec = Spec("run", "x", trained_sizes=((8, 8),), experiment=experiment)
  monkeypatch.setattr(analysis, "load", lambda args: on_device(make(spec=spec)))
  lines, _, numbers = run("rollout", "--checkpoint=runs/x", "--images=2")
  assert lines[0] == "2 images of Digits(split='test', side=24)"
  assert numbers["image_0"].shape == (3, 3)
  # With a budget it is packed.
  _, _, numbers = run(
    "rollout", "--checkpoint=runs/x", "--images=2", "--budget=4"
  )
  assert numbers["image_0"].shape == (2, 2)


def test_a_config_is_drawn(run):
  lines, figures, numbers = run("packing", "--config=configs/navit_digits.py")
  assert figures == ["packing"]
  segments, per_row = numbers["segments"], numbers["images_per_row"]
  assert segments.shape == (16, 128)
  assert per_row.tolist() == segments.max(axis=1).tolist()
  fill = 100 * (segments > 0).mean()
  assert lines == [
    f"16 rows of 128 patches: {fill:.1f} % full, {per_row.mean():.1f} images "
    "in a row"
  ]


@pytest.mark.parametrize(
  ("arguments", "text"),
  [
    ("''", "no analysis '': give one of resize, "),
    ("filter", "no analysis 'filter' .did you mean filters"),
    ("filters", "the following arguments are required: --checkpoint"),
    ("resize --form=8", "unknown argument '--form=8'; did you mean --from"),
    ("resize --from=8,16", "--from 8,16: give 1 to 256"),
    ("resize --to=8x6", "--to 8x6: give sides of square patches in pixels"),
    ("resize --to=8,0", "--to 0: give 1 to 256 pixels with --dimensions 1"),
    ("resize --from=65 --dimensions=2", "--from 65: give 1 to 64 pixels"),
    ("resize --to=1,2,3,4,5,6,7,8,9,10,11,12,13", "give at most 12 sides"),
    ("filters IN --count=33", "--count 33: give 1 to 32"),
    ("filters IN --count=8", "--count: 8 .* 1 to 7, .* kernel of 6x6"),
    ("filters IN --patch_sizes=8,y", "--patch_sizes 8,y: size 'y': give pix"),
    ("filters IN --output=FILE/x", "--output FILE/x: FILE is a file: give a"),
    ("positions IN --grids=7by7", "--grids 7by7: give rows and columns of"),
    ("positions IN --grids=7,8x33", "--grids 7,8x33: give at most 32x32"),
    ("packing --config=PACKED --rows=0", "--rows 0: give at least 1"),
    ("packing --config=UNPACKED", "UNPACKED packs nothing: .*navit_digits.py"),
    ("rollout IN DIGITS --images=0", "--images 0: give 1 to 64"),
    ("rollout IN DIGITS --residual=2", "--residual 2: give 0 to 1"),
    ("rollout IN", "names no data: give --data digits, folder:PATH or tfds"),
    ("rollout IN --data=mnist", "--data 'mnist': give digits, folder:PATH"),
    ("rollout IN --data=folder:x", "needs --resolution, 240 say, or --budget"),
    ("rollout IN DIGITS --budget=4 --resolution=24", "give one of them"),
    ("rollout IN DIGITS --budget=0", "--budget: max_patches is 0: give 1 to"),
    ("rollout IN DIGITS --patch_size=7", "; --resolution, with --data"),
    ("rollout IN --data=folder:DAMAGED --resolution=24", "0.png: .*; mend it"),
    ("attention-maps IN DIGITS --query=middle", "--query middle: give class,"),
    ("attention-maps IN DIGITS --block=2", "--block: .* has 2, give 0 to 1"),
    ("cka IN DIGITS --images=1", "--images 1: give at least 2"),
    ("cka IN DIGITS --patch_sizes=6", "at least 2, and there is only 6: give"),
    ("cka IN DIGITS --split=test[:1]", "at least 2 images, of 1 images of"),
  ],
)
def test_refusals(no_output, checkpoints, tmp_path, arguments, text):
  names = {
    "IN": f"--checkpoint={checkpoints['gap']}",
    "DIGITS": "--data=digits",
    "UNPACKED": f"{ROOT}/configs/flexivit_digits.py",
    "PACKED": f"{ROOT}/configs/navit_digits.py",
    "FILE": f"{tmp_path}/file",
    "DAMAGED": f"{tmp_path}/data",
  }
  (tmp_path / "file").write_text("mine")
  (tmp_path / "data/test/a").mkdir(parents=True)
  (tmp_path / "data/test/a/0.png").write_bytes(b"no image")
  for name, given in names.items():
    arguments = arguments.replace(name, given)
    text = text.replace(name, given)
  assert re.search(text, refused(*shlex.split(arguments)))


@pytest.mark.parametrize(
  ("position", "more", "text"),
  [
    (
      row_column.RowColumn((64, 64), first=1),
      (),
      "for 63x63 patches, more than 32x32, .*: give --grids, 16x16 say",
    ),
    (
      rotary.Rotary(),
      ("--grids=4x4",),
      "--checkpoint: Rotary adds nothing to the patches: only learned, ",
    ),
    (
      row_column.JointTable((4, 3)),
      ("--grids=4x4",),
      "--grids: 4x4 patches are more than the 4x3 .*: take larger patches",
    ),
  ],
)
def test_positions_that_cannot_be_shown(
  no_output, tmp_path, position, more, text
):
  found = refused("positions", saved(tmp_path / "in", position), *more)
  assert re.search(text, found)


def test_a_model_that_does_not_fit_is_refused(monkeypatch, small_experiment):
  def of(name, *arguments, **changes):
    found = on_device(make(**changes))
    monkeypatch.setattr(analysis, "load", lambda args: found)
    return refused(name, "--checkpoint=x", *arguments)

  bare = Spec("test", "made up")
  for name, option in (("rollout", "--patch_size"), ("pca", "--patch_sizes")):
    found = of(name, *FEW, spec=bare)
    assert re.search(f"{option}: .*was trained: give (one|some), ", found)
  assert "1 channels, and the images have 3" in of("pca", *FEW, channels=1)
  run = Spec("flexivit_jax run", "runs/x", experiment=small_experiment())
  for option in ("--resolution=24", "--split=train"):
    assert "need --data: a run's test data" in of("rollout", option, spec=run)


def test_a_model_without_a_head_is_analysed(monkeypatch, run):
  headless = on_device(make(num_classes=0))
  model = headless.model.clone(num_classes=None)
  model = LoadedModel(model, headless.params, headless.spec)
  monkeypatch.setattr(analysis, "load", lambda args: model)
  _, _, numbers = run("rollout", "--checkpoint=x", *FEW)
  assert jnp.isfinite(numbers["image_0"]).all()
