"""evaluate.py, as a process but for the choice of data."""

import json
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

import evaluate
from flexivit_jax.cli import errors
from flexivit_jax.core import resolution

DATA = pathlib.Path(__file__).parent / "data"


def test_evaluates_a_run_at_every_size(small_run, command, tmp_path):
  workdir, _ = small_run
  output = tmp_path / "out"
  done = command(
    "evaluate.py",
    f"--checkpoint={workdir}",
    "--patch_sizes=4,6,8x12,12",
    f"--output={output}",
  )
  assert done.returncode == 0, done.stderr
  lines = done.stdout.splitlines()
  start = next(i for i, x in enumerate(lines) if x.startswith("500 images of"))
  head = "patch  tokens  top-1 %  loss  images/s"
  assert lines[start + 1].split() == head.split()
  rows = [line.split() for line in lines[start + 2 : start + 6]]
  assert [(r[0], r[1]) for r in rows] == [
    ("4x4", "36"),
    ("6x6", "16"),
    ("8x12", "6"),
    ("12x12", "4"),
  ]
  results = json.loads((output / "results.json").read_text())
  points = results["points"]
  assert [p["patch_hw"] for p in points] == [[4, 4], [6, 6], [8, 12], [12, 12]]
  for point, row in zip(points, rows, strict=True):
    assert row[2] == f"{100 * point['top1']:.1f}"
    # 500 images: top-1 is a whole number of them.
    assert point["images"] == 500
    assert point["top1"] * 500 == pytest.approx(round(point["top1"] * 500))
  with Image.open(output / "curve.png") as curve:
    assert curve.size == (900, 600)


@pytest.fixture(scope="module")
def npz(tmp_path_factory):
  golden = np.load(DATA / "big_vision_flexivit_gap.npz")
  path = tmp_path_factory.mktemp("npz") / "flexivit.npz"
  params = {k: golden[k] for k in golden.files if k.startswith("params/")}
  np.savez(path, **params)
  return path


def test_evaluates_a_big_vision_file_on_a_folder(npz, command, tmp_path):
  # Ten classes of one image, as the head has; the sizes of the files differ.
  rng = np.random.default_rng(0)
  for i in range(10):
    folder = tmp_path / "data" / "test" / f"class{i}"
    folder.mkdir(parents=True)
    pixels = rng.integers(0, 256, (30 + i, 40, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")
  done = command(
    "evaluate.py",
    f"--checkpoint={npz}",
    f"--data=folder:{tmp_path / 'data'}",
    "--resolutions=48x96",
    "--patch_sizes=16:24",
    "--batch_size=4",
  )
  assert done.returncode == 0, done.stderr
  assert "10 images of ImageFolder(" in done.stdout
  sizes = [line.split()[0] for line in done.stdout.splitlines()[-2:]]
  assert sizes == ["16x16", "24x24"]


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--patch_sizes=5"], "--patch_sizes: an image of 24x24"),
    (["--patch_sizes=20:30"], "none of 6, 12 lies in 20:30"),
    (["--patch_sizes=a"], "size 'a': give pixels"),
    (["--patch_sizes=a:b"], "'a:b' is no range"),
    (["--step=7"], "no checkpoint of step 7"),
    (["--resolutions=4x"], "--resolutions: size '4x': give pixels, 8 or 8x6"),
    (
      ["--resolutions=24,20", "--patch_sizes=6"],
      "--patch_sizes: none of 6 tiles images of 20x20 pixels; 1, 2, 4, 5, 10, "
      "20 do",
    ),
    (["--data=digits", "--split=val"], "--data: digits have no split 'val'"),
    (
      ["--data=nothing"],
      "--data 'nothing': give digits, folder:PATH or tfds:NAME",
    ),
    (
      ["--data=digits", "--resize_first=40"],
      "--resize_first needs --resolutions, the size of the centre",
    ),
    (
      ["--data=digits", "--resize_first=4x", "--resolutions=24"],
      "--resize_first: size '4x': give pixels, 8 or 8x6",
    ),
    (
      ["--data=digits", "--resize_first=40", "--resolutions=24,36"],
      "--resize_first 40: give one of --resolutions with it, not 2",
    ),
    (["--resize=bicubic"], "argument --resize: invalid choice: 'bicubic'"),
    (["--data=folder:/nowhere"], "--data folder:PATH needs --resolutions"),
    (["--data=tfds:zoo"], "--data tfds:NAME needs --resolutions"),
    (
      ["--data=tfds:zoo", "--data_dir=/nowhere", "--resolutions=24"],
      "--data: no directory /nowhere: set data_dir to where 'zoo' is prepared",
    ),
    (["--data=digits", "--data_dir=/x"], "--data_dir is for --data tfds:NAME"),
    (["--data_dir=/x"], "--split and --data_dir need --data"),
    (
      ["--data=folder:/nowhere", "--resolutions=24"],
      "no directory /nowhere/te",
    ),
    (["--batch_size=0"], "--batch_size 0: give at least 1"),
    (
      ["--budgets=64,x"],
      "--budgets '64,x': give numbers of patches, 64,256 say",
    ),
    (["--budgets=0"], "--budgets '0': give numbers of patches, 64,256 say"),
    (
      ["--budgets=64", "--data=digits", "--resolutions=24"],
      "--budgets and --resolutions: give one of them",
    ),
    (["--budgets=64", "--patch_sizes=20:30"], "none of 6, 12 lies in 20:30"),
    (
      ["--budgets=64", "--patch_sizes=4,4000"],
      "4,4000: give patches of at most 1024 pixels",
    ),
    (["--frobnicate"], "unknown argument '--frobnicate'"),
  ],
)
def test_what_cannot_work_is_refused(small_run, arguments, message, capsys):
  argv = [f"--checkpoint={small_run[0]}", *arguments]
  with pytest.raises(SystemExit) as ended:
    errors.run(lambda: evaluate.main(argv))
  out, err = capsys.readouterr()
  assert ended.value.code == 2
  assert message in err
  assert len(err.strip().splitlines()) == 1
  assert "compiled" not in out


def test_a_file_that_names_no_data_or_sizes_asks_for_them(npz, command):
  done = command("evaluate.py", f"--checkpoint={npz}")
  assert done.returncode == 2
  assert "names no data: give --data" in done.stderr
  done = command(
    "evaluate.py", f"--checkpoint={npz}", "--data=digits", "--resolutions=48"
  )
  assert done.returncode == 2
  assert "does not say at which patch sizes" in done.stderr


def test_budgets_pack_images_of_any_aspect_ratio(npz, command, tmp_path):
  """And each image counts once, whatever its budget."""
  shapes = [(30, 90), (64, 64), (90, 30), (17, 200), (50, 40)] * 2
  rng = np.random.default_rng(0)
  for i, shape in enumerate(shapes):
    folder = tmp_path / "data" / "test" / f"class{i}"
    folder.mkdir(parents=True)
    pixels = rng.integers(0, 256, (*shape, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")
  output = tmp_path / "out"
  done = command(
    "evaluate.py",
    f"--checkpoint={npz}",
    f"--data=folder:{tmp_path / 'data'}",
    "--budgets=9,300,9",
    "--patch_sizes=8,16",
    "--batch_size=3",
    f"--output={output}",
  )
  assert done.returncode == 0, done.stderr
  head, *rows = (line.split() for line in done.stdout.splitlines()[-6:-1])
  assert head[:3] == ["patch", "budget", "tokens"]
  sizes = [("8x8", "9"), ("16x16", "9"), ("8x8", "300"), ("16x16", "300")]
  assert [tuple(row[:2]) for row in rows] == sizes
  points = json.loads((output / "results.json").read_text())["points"]
  for point in points:
    policy = resolution.NaFlex(point["budget"])
    areas = [np.prod(policy(hw, point["patch_hw"], None)) for hw in shapes]
    tokens = np.mean(areas) / np.prod(point["patch_hw"])
    # A float32 mean of whole numbers.
    np.testing.assert_allclose(point["tokens"], tokens, rtol=1e-6)
    assert point["images"] == 10


def test_budgets_of_a_run_undo_the_transforms_that_fix_a_size(
  small_run, command, tmp_path
):
  """Or else its images were squashed before their aspect ratio is kept."""
  config = json.loads((small_run[0] / "config.json").read_text())
  config["config"]["test"]["transforms"] = [
    {"name": "resize", "size": [24, 48]}
  ]
  run = tmp_path / "run"
  shutil.copytree(small_run[0], run)
  (run / "config.json").write_text(json.dumps(config))
  done = command(
    "evaluate.py", f"--checkpoint={run}", "--budgets=1,20", "--patch_sizes=6"
  )
  assert done.returncode == 0, done.stderr
  assert (
    "without Resize(size=(24, 48)): with --budgets images keep their aspect "
    "ratio"
  ) in done.stdout
  rows = [line.split()[:3] for line in done.stdout.splitlines()[-2:]]
  assert rows == [["6x6", "1", "1"], ["6x6", "20", "16"]]


def test_a_range_of_sizes_needs_known_ones_where_images_differ(
  npz, command, tmp_path
):
  done = command(
    "evaluate.py",
    f"--checkpoint={npz}",
    "--data=digits",
    "--budgets=9",
    "--patch_sizes=8:24",
  )
  assert done.returncode == 2
  assert (
    "does not say at which patch sizes it was trained, and any tile images of "
    "any size: give some instead of 8:24, 8,16,32 say"
  ) in done.stderr


def test_a_bad_image_can_be_left_out(small_run, command, tmp_path):
  for digit in range(10):
    path = tmp_path / "test" / str(digit) / "a.png"
    path.parent.mkdir(parents=True)
    Image.fromarray(np.full((24, 24, 3), digit, np.uint8)).save(path)
  path.write_bytes(path.read_bytes()[:50])
  arguments = (
    f"--checkpoint={small_run[0]}",
    f"--data=folder:{tmp_path}",
    "--resolutions=24",
    "--patch_sizes=6",
  )
  done = command("evaluate.py", *arguments)
  assert done.returncode == 1
  assert done.stderr.startswith(f"error: {path}: cannot decode this image: ")
  assert "--on_bad_image=skip of evaluate.py" in done.stderr
  done = command("evaluate.py", *arguments, "--on_bad_image=skip")
  assert done.returncode == 0, done.stderr
  assert f"skipped: {path}: cannot decode this image: " in done.stdout
  assert "\n9 images of ImageFolder" in done.stdout


@pytest.mark.parametrize("output", ["README.md", "/dev/null"])
def test_output_into_a_file_is_refused_at_once(small_run, command, output):
  done = command(
    "evaluate.py", f"--checkpoint={small_run[0]}", f"--output={output}"
  )
  assert done.returncode == 2
  assert (
    done.stderr == f"error: --output {output} is a file: give a directory\n"
  )
  assert done.stdout == ""
