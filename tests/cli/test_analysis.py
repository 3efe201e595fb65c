"""The command, as a user runs it: what it writes, prints and refuses."""

import pathlib
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from flexivit_jax.analysis import filters, positions, resizing
from flexivit_jax.checkpoints import save as save_lib
from flexivit_jax.checkpoints.formats import parameters
from flexivit_jax.checkpoints.model import StoredModel
from flexivit_jax.checkpoints.origin import Spec
from flexivit_jax.cli import analysis
from flexivit_jax.core import pi_resize, resize
from flexivit_jax.core.errors import ConfigError
from flexivit_jax.models import vit
from flexivit_jax.nn import encoder, pooling
from flexivit_jax.nn.positions import learned_grid, rotary, row_column, waves
from flexivit_jax.nn.positions import position as position_lib


@pytest.fixture
def run(capsys):
  """Runs the command in this process; returns the lines that it printed."""

  def call(*arguments):
    analysis.main([str(a) for a in arguments])
    return capsys.readouterr().out.splitlines()

  return call


def save(path, position, **changes):
  """A small model of random numbers; returns it."""
  model = vit.ViT(
    size=encoder.Size(8, 1, 12, 2),
    position=position,
    pool=pooling.Gap(),
    kernel_hw=(6, 6),
    num_classes=5,
    **changes,
  )
  rng = np.random.default_rng(0)
  arrays = {
    name: rng.normal(size=x.shape).astype(np.float32)
    for name, x in parameters.shapes(model).items()
  }
  spec = Spec("test", "made up", trained_sizes=((3, 3), (6, 6)))
  save_lib.save(StoredModel(model, dict(arrays), spec), path, "orbax")
  return model, arrays


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
  """A checkpoint's path, its model and arrays."""
  path = tmp_path_factory.mktemp("in") / "learned"
  return path, *save(path, learned_grid.LearnedGrid((3, 4)))


def check_files(line, output, figures, name):
  """The files that a line names are there, complete, and no others."""
  expected = [f"{x}.{ending}" for x in figures for ending in ("png", "svg")]
  expected.append(f"{name}.npz")
  assert line == "wrote " + ", ".join(f"{output}/{x}" for x in expected)
  assert {p.name for p in output.iterdir()} == {*expected}
  for figure in figures:
    png = (output / f"{figure}.png").read_bytes()
    assert png.startswith(b"\x89PNG")
    assert png.rstrip().endswith(b"IEND\xaeB`\x82")
    root = ET.parse(output / f"{figure}.svg").getroot()  # noqa: S314 (ours)
    assert root.tag.endswith("}svg")
  return np.load(output / f"{name}.npz")


RESIZE = ("resize_matrices", "resize_spectra", "resize_gain")


def test_resize(run, tmp_path):
  out = tmp_path / "new" / "out"
  lines = run("resize", "--from=8", "--to=4,12", f"--output={out}")
  numbers = check_files(lines[-1], out, RESIZE, "resize")
  assert lines[:-1] == [
    "resize   antialias  gain  error, noise  error, smooth",
    *lines[1:5],
  ]
  cells = [line.split() for line in lines[1:5]]
  assert [" ".join(x[:4]) for x in cells] == [
    "8 -> 4 off",
    "8 -> 12 off",
    "8 -> 4 on",
    "8 -> 12 on",
  ]
  for _, _, new, aa, gain, noise, smooth in cells:
    new, antialias = int(new), aa == "on"
    key = f"8_to_{new}_antialias_{aa}"
    np.testing.assert_array_equal(
      numbers[f"B_{key}"], resize.bilinear_matrix(8, new, antialias)
    )
    np.testing.assert_array_equal(
      numbers[f"P_{key}"], resize.pi_matrix(8, new, antialias)
    )
    assert numbers[f"singular_values_{key}"].shape == (min(8, new),)
    curve = resizing.curve(8, range(2, 13), antialias=antialias)
    np.testing.assert_array_equal(numbers["sides"], curve.sides)
    at = new - 2
    for name, values, printed in (
      ("gain", curve.gain, gain),
      ("response_error_noise", curve.error_noise, noise),
      ("response_error_smooth", curve.error_smooth, smooth),
    ):
      np.testing.assert_array_equal(numbers[f"{name}_antialias_{aa}"], values)
      # Two digits are printed.
      assert float(printed) == pytest.approx(values[at], rel=0.05, abs=0.005)


def test_resize_of_whole_patches_with_antialias(run, tmp_path):
  run(
    "resize",
    "--from=4",
    "--to=3",
    "--antialias=on",
    "--dimensions=2",
    f"--output={tmp_path}",
  )
  numbers = np.load(tmp_path / "resize.npz")
  assert not [name for name in numbers.files if name.endswith("off")]
  np.testing.assert_array_equal(
    numbers["P_4_to_3_antialias_on"],
    resize.pi_resize_matrix((4, 4), (3, 3), True),
  )


def test_the_same_command_writes_the_same_bytes(run, tmp_path):
  for name in ("a", "b"):
    run("resize", "--from=4", "--to=3", f"--output={tmp_path / name}")
  a, b = (
    {p.name: p.read_bytes() for p in (tmp_path / name).iterdir()}
    for name in ("a", "b")
  )
  # Not the .npz: a zip holds the time.
  for name in [x for x in a if not x.endswith(".npz")]:
    assert a[name] == b[name], name


def test_filters(run, learned, tmp_path):
  path, _, arrays = learned
  lines = run(
    "filters", f"--checkpoint={path}", "--count=4", f"--output={tmp_path}"
  )
  assert lines[0] == f"flexivit_jax model: {path}"
  numbers = check_files(lines[-1], tmp_path, ["filters"], "filters")
  # Stored, and what it was trained at, once each.
  found = filters.filters(
    arrays["embedding/kernel"],
    [(6, 6), (3, 3)],
    filters.Choice(filters.principal_components, True, ""),
    n=4,
    antialias=False,
  )
  for name, tiles in zip(("6x6", "3x3"), found.tiles, strict=True):
    np.testing.assert_array_equal(numbers[f"tiles_{name}"], tiles)
  np.testing.assert_array_equal(numbers["shares"], found.shares)
  np.testing.assert_array_equal(numbers["mixtures"], found.mixtures)
  table = [line.split() for line in lines[-5:-2]]
  assert " ".join(table[0]) == "patch norm response to grey share of 4"
  for row, name, norm, grey, shares in zip(
    table[1:],
    ("6x6", "3x3"),
    found.norms,
    found.grey,
    found.shares,
    strict=True,
  ):
    share = f"{100 * shares.sum():.1f}"
    assert row == [name, f"{norm:.3f}", f"{grey:.3f}", share, "%"]
  assert lines[-2] == (
    "norm and response to grey: 1 is the stored kernel's; share: of the "
    "variance"
  )


@pytest.mark.parametrize("antialias", [False, True])
def test_filters_of_sizes_asked_for_as_the_model_resizes(
  run, tmp_path, antialias
):
  position = learned_grid.LearnedGrid((3, 4))
  _, arrays = save(tmp_path / "in", position, kernel_antialias=antialias)
  lines = run(
    "filters",
    f"--checkpoint={tmp_path / 'in'}",
    "--patch_sizes=2,4x3,2",
    "--show=strongest",
    "--count=3",
    f"--output={tmp_path / 'out'}",
  )
  numbers = np.load(tmp_path / "out" / "filters.npz")
  kernel = arrays["embedding/kernel"].astype(np.float64)
  norms = np.linalg.norm(kernel.reshape(-1, 8), axis=0)
  strongest = np.argsort(-norms)[:3]
  assert [x for x in numbers.files if "tiles" in x] == [
    "tiles_2x2",
    "tiles_4x3",
  ]
  for name, size in (("2x2", (2, 2)), ("4x3", (4, 3))):
    expected = pi_resize.pi_resize(kernel, size, antialias=antialias)
    np.testing.assert_allclose(
      numbers[f"tiles_{name}"],
      np.moveaxis(expected[..., strongest], -1, 0),
      rtol=0,
      atol=1e-12,
    )
  assert lines[-2].endswith("share: of the squared norm")


def test_positions(run, learned, tmp_path):
  path, model, arrays = learned
  lines = run(
    "positions",
    f"--checkpoint={path}",
    "--grids=2x2,3x4,1x5",
    f"--output={tmp_path}",
  )
  names = ["3x4", "2x2", "1x5"]
  numbers = check_files(
    lines[-1], tmp_path, [f"positions_{x}" for x in names], "positions"
  )
  crosses = []
  for name in names:
    grid = tuple(map(int, name.split("x")))
    found = positions.similarity(model.position, arrays, grid, 8)
    np.testing.assert_array_equal(numbers[f"cosines_{name}"], found.cosines)
    crosses.append(found.cross)
  assert lines[-5] == (
    "mean cosine of patches in the same row or column, less that of others:"
  )
  assert [line.split() for line in lines[-4:-1]] == [
    ["3x4", "stored", f"{crosses[0]:+.3f}"],
    ["2x2", "interpolated", f"{crosses[1]:+.3f}"],
    ["1x5", "interpolated", "none"],
  ]


@pytest.mark.parametrize(
  ("position", "grid", "how"),
  [
    (waves.SinCos2D(), "14x14", "computed"),
    (waves.Fourier(2.0), "14x14", "computed"),
    (row_column.RowColumn((5, 6), first=1), "4x5", "stored"),
    (row_column.RowColumn((5, 6), read="fractional"), "14x14", "interpolated"),
    (row_column.JointTable((4, 3)), "4x3", "stored"),
  ],
)
def test_positions_of_other_kinds(run, tmp_path, position, grid, how):
  path = tmp_path / "in"
  save(path, position)
  out = tmp_path / "out"
  lines = run("positions", f"--checkpoint={path}", f"--output={out}")
  check_files(lines[-1], out, [f"positions_{grid}"], "positions")
  assert lines[-2].startswith(f"{grid}  {how}  ")


def test_positions_of_a_long_table_on_grids_asked_for(run, tmp_path):
  path, out = tmp_path / "in", tmp_path / "out"
  save(path, row_column.RowColumn((64, 64), first=1))
  with pytest.raises(ConfigError) as caught:
    run("positions", f"--checkpoint={path}")
  assert str(caught.value) == (
    "the stored positions are for 63x63 patches, more than 32x32, which a "
    "figure can show: give --grids, 16x16 say"
  )
  lines = run(
    "positions", f"--checkpoint={path}", "--grids=4x4", f"--output={out}"
  )
  assert lines[-2].startswith("4x4  part of the table  ")


@pytest.mark.parametrize(
  "position", [position_lib.NoPosition(), rotary.Rotary()]
)
@pytest.mark.parametrize("more", [(), ("--grids=4x4",)])
def test_positions_that_are_not_added_are_refused(
  run, tmp_path, position, more
):
  save(tmp_path / "in", position)
  with pytest.raises(ConfigError) as caught:
    run("positions", f"--checkpoint={tmp_path / 'in'}", *more)
  assert str(caught.value) == (
    f"--checkpoint: {type(position).__name__} adds nothing to the patches: "
    "only learned, sincos2d, row and column, joint and fourier positions can "
    "be compared"
  )


def test_a_grid_beyond_the_positions_is_refused(run, tmp_path):
  save(tmp_path / "in", row_column.JointTable((4, 3)))
  with pytest.raises(ConfigError) as caught:
    run("positions", f"--checkpoint={tmp_path / 'in'}", "--grids=4x4")
  assert str(caught.value) == (
    "--grids: 4x4 patches are more than the 4x3 that the model has positions "
    "for: take larger patches, smaller images, or positions of another size or "
    "kind"
  )


NAMES = ", ".join(x.name for x in analysis.ANALYSES)


@pytest.mark.parametrize(
  ("arguments", "text"),
  [
    ((), f"give the name of an analysis: {NAMES} (try --help)"),
    (
      ("filter",),
      f"no analysis 'filter' (did you mean filters?): give one of {NAMES}",
    ),
    (("--output", "x"), f"no analysis '--output': give one of {NAMES}"),
    (
      ("filters",),
      "the following arguments are required: --checkpoint (try --help)",
    ),
    (
      ("resize", "--checkpoint=x"),
      "unknown argument '--checkpoint=x' (try --help)",
    ),
    (
      ("resize", "--form=8"),
      "unknown argument '--form=8'; did you mean --from? (try --help)",
    ),
    (
      ("resize", "--from=8,16"),
      "--from '8,16': give one side",
    ),
    (
      ("resize", "--from=big"),
      "--from 'big': give one side of square patches in pixels, 32 say",
    ),
    (
      ("resize", "--to=8x6"),
      "--to '8x6': give sides of square patches in pixels, 8,12,16 say",
    ),
    (
      ("resize", "--to=8,0"),
      "--to 0: give 1 to 256 pixels with --dimensions 1",
    ),
    (
      ("resize", "--from=65", "--dimensions=2"),
      "--from 65: give 1 to 64 pixels with --dimensions 2",
    ),
    (
      ("resize", "--to=1,2,3,4,5,6,7,8,9,10,11,12,13"),
      "--to '1,2,3,4,5,6,7,8,9,10,11,12,13': give at most 12 sides",
    ),
    (
      ("filters", "--checkpoint=nowhere", "--count=33"),
      "--count 33: give 1 to 32",
    ),
    (
      ("filters", "--checkpoint=nowhere", "--count=0"),
      "--count 0: give 1 to 32",
    ),
    (
      ("filters", "--checkpoint=nowhere"),
      "--checkpoint: nowhere: no such file or directory, and ",
    ),
    (
      ("filters", "--checkpoint=nowhere", "--patch_sizes=8,y"),
      "--patch_sizes: size 'y': give pixels, 8 or 8x6",
    ),
    (
      ("filters", "--checkpoint=nowhere", "--patch_sizes=2000"),
      "--patch_sizes 2000: give patches of at most 1024 pixels",
    ),
    (
      ("positions", "--checkpoint=nowhere", "--grids=7by7"),
      "--grids '7by7': give rows and columns of patches, 7x7,15x10 say",
    ),
    (
      ("positions", "--checkpoint=nowhere", "--grids=7,8x33"),
      "--grids 8x33: give at most 32x32 patches, more cannot be seen in a "
      "figure",
    ),
    (
      ("positions", "--checkpoint=nowhere", "--posemb=x"),
      "--posemb: size 'x': give pixels, 8 or 8x6",
    ),
  ],
)
def test_what_cannot_work_is_refused(run, arguments, text):
  with pytest.raises(ConfigError) as caught:
    run(*arguments)
  # What follows names the published checkpoints.
  start = str(caught.value)[: len(text)] if text.endswith(" ") else None
  assert (start or str(caught.value)) == text


def test_a_count_beyond_the_kernel_is_refused(run, learned):
  with pytest.raises(ConfigError) as caught:
    run("filters", f"--checkpoint={learned[0]}", "--count=8")
  assert str(caught.value) == (
    "--count: 8 is not 1 to 7, what a kernel of 6x6 pixels, 3 channels and 8 "
    "filters has"
  )


@pytest.mark.parametrize("below", ["", "deeper/still"])
def test_an_output_that_is_a_file_is_refused_first(run, tmp_path, below):
  file = tmp_path / "file"
  file.write_text("mine")
  out = file / below
  with pytest.raises(ConfigError) as caught:
    run("filters", "--checkpoint=nowhere", f"--output={out}")
  named = f"{out}: {file}" if below else file
  assert str(caught.value) == f"--output {named} is a file: give a directory"
  assert file.read_text() == "mine"


def test_help_lists_every_analysis(run, capsys):
  with pytest.raises(SystemExit) as caught:
    run("--help")
  assert caught.value.code == 0
  text = " ".join(capsys.readouterr().out.split())
  for each in analysis.ANALYSES:
    assert f"{each.name} {each.help}" in text


def test_an_analysis_has_only_its_own_options(run, capsys):
  options = {}
  for each in analysis.ANALYSES:
    with pytest.raises(SystemExit):
      run(each.name, "--help")
    text = capsys.readouterr().out
    options[each.name] = {x for x in text.split() if x.startswith("--")}
    assert "--output" in options[each.name]
  assert "--checkpoint" not in options["resize"]
  assert "--checkpoint" in options["filters"] & options["positions"]
  assert "--patch_sizes" in options["filters"] - options["positions"]


def test_as_a_process_into_the_usual_directory(command, tmp_path):
  root = pathlib.Path(__file__).parents[2]
  code = (
    f"import os, sys; os.chdir({str(tmp_path)!r}); sys.path.insert(0, "
    f"{str(root)!r}); from flexivit_jax.cli import analysis, errors; "
    "errors.run(lambda: analysis.main(sys.argv[1:]))"
  )
  done = command("-c", code, "resize", "--from=4", "--to=2")
  assert done.returncode == 0, done.stderr
  check_files(
    done.stdout.splitlines()[-1].replace("analysis/", f"{tmp_path}/analysis/"),
    tmp_path / "analysis",
    RESIZE,
    "resize",
  )
  done = command("-m", "flexivit_jax.cli.analysis", "resize", "--to=x")
  assert done.returncode == 2
  assert done.stderr == (
    "error: --to 'x': give sides of square patches in pixels, 8,12,16 say\n"
  )
