"""evaluate.py, most of it in this process."""

import itertools
import json
import pathlib
import re
import shlex
import time

import numpy as np
import pytest
from PIL import Image

import evaluate
from flexivit_jax.cli import errors
from flexivit_jax.core import resolution

DATA = pathlib.Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def evaluated(small_run, command, tmp_path_factory):
  """A run's evaluation: the finished process, and where it wrote."""
  output = tmp_path_factory.mktemp("evaluated") / "out"
  done = command(
    *("evaluate.py", f"--checkpoint={small_run[0]}", f"--output={output}"),
    *("--patch_sizes=4,6,8x12,12", "--under=0.002 GFLOP"),
  )
  assert done.returncode == 0, done.stderr
  return done, output


def _rows(stdout):
  """The table's cells by column, in the order of its rows."""
  lines = stdout.splitlines()
  start = next(i for i, x in enumerate(lines) if " images of " in x) + 1
  head = re.split(r"\s{2,}", lines[start].strip())
  rows = itertools.takewhile(
    lambda line: re.match(r"\s*\d", line), lines[start + 1 :]
  )
  return [dict(zip(head, line.split(), strict=True)) for line in rows]


def _folder(root, shapes):
  """An image of each shape, each of a class of its own."""
  rng = np.random.default_rng(0)
  for i, shape in enumerate(shapes):
    path = root / "test" / f"class{i}" / "a.png"
    path.parent.mkdir(parents=True)
    Image.fromarray(rng.integers(0, 256, (*shape, 3), np.uint8)).save(path)
  return f"--data=folder:{root}"


def test_evaluates_a_run_at_every_size(evaluated):
  done, output = evaluated
  assert "500 images of Digits(split='test', side=24)" in done.stdout
  rows = _rows(done.stdout)
  sizes = [("4", "36"), ("6", "16"), ("8x12", "6"), ("12", "4")]
  assert [(r["patch"], r["tokens"]) for r in rows] == sizes
  points = json.loads((output / "results.json").read_text())["points"]
  for point, row in zip(points, rows, strict=True):
    assert row["patch"] == point["name"].partition("_")[0]
    assert row["top-1 %"] == f"{100 * point['top1']:.1f}"
    # 500 images: top-1 is a whole number of them.
    assert point["images"] == 500
    assert point["top1"] * 500 == pytest.approx(round(point["top1"] * 500))
    assert point["top1"] <= point["top5"] <= 1
    assert point["images_per_s"] > 0
  assert re.search(r"under 0\.002 GFLOP: patch (8x12|12) at 24", done.stdout)
  assert "--patch_sizes=4,6,8x12,12" in (output / "report.html").read_text()
  with Image.open(output / "figures" / "curve_tokens.png") as curve:
    assert min(curve.size) > 300


@pytest.mark.slow
def test_a_finished_point_is_not_measured_again(
  evaluated, small_run, command, here
):
  _, output = evaluated
  before = json.loads((output / "results.json").read_text())["points"]
  kept = {p: p.stat().st_mtime_ns for p in (output / "points").iterdir()}
  arguments = (f"--checkpoint={small_run[0]}", f"--output={output}")
  done = command("evaluate.py", *arguments, "--patch_sizes=12,4,24")
  assert done.returncode == 0, done.stderr
  assert f"2 points were measured before: {output}/points" in done.stdout
  assert "compiled evaluation: 24x24 patches" in done.stdout
  assert done.stdout.count("compiled") == 2  # batches, and one image
  after = json.loads((output / "results.json").read_text())["points"]
  assert after[:2] == [before[3], before[0]]
  assert after[2]["patch_hw"] == [24, 24]
  said = f"replaced the report in {output}, which had other points: "
  assert f"{said}{before[1]['name']}, {before[2]['name']}; " in done.stdout
  assert all(p.stat().st_mtime_ns == time for p, time in kept.items())
  # But of other images it is.
  done = here(
    *("evaluate.py", *arguments, "--patch_sizes=4", "--no_timing"),
    *("--data=digits", "--split=train[:50]"),
  )
  assert done.returncode == 0, done.stderr
  assert "were measured before" not in done.stdout
  assert "50 images of" in done.stdout


@pytest.mark.slow
def test_points_survive_a_kill_while_they_are_timed(
  small_run, command, tmp_path
):
  arguments = (f"--checkpoint={small_run[0]}", f"--output={tmp_path}")
  arguments = (*arguments, "--patch_sizes=6,12")
  process = command("evaluate.py", *arguments, wait=False)
  points = tmp_path / "points"
  while len(list(points.glob("*.npz"))) < 2:
    assert process.poll() is None, process.communicate()
    time.sleep(0.01)
  process.kill()
  process.communicate()
  done = command("evaluate.py", *arguments, "--no_timing")
  assert done.returncode == 0, done.stderr
  assert "2 points were measured before" in done.stdout
  assert "compiled" not in done.stdout
  assert len(_rows(done.stdout)) == 2


def test_ways_to_resize_differ_off_the_stored_size(small_run, capsys):
  losses = {}
  for how in ("pi", "bilinear", "area", "norm"):
    evaluate.main(
      [
        f"--checkpoint={small_run[0]}",
        *("--patch_sizes=6,32", "--resolutions=96", f"--resize={how}"),
        *("--no_timing", "--data=digits", "--split=test[:32]"),
      ]
    )
    losses[how] = [row["loss"] for row in _rows(capsys.readouterr().out)]
  # At its own size, 32 px, a kernel stays as it is.
  assert len({at_32 for _, at_32 in losses.values()}) == 1
  assert len({at_6 for at_6, _ in losses.values()}) == 4


@pytest.fixture(scope="module")
def npz(tmp_path_factory):
  golden = np.load(DATA / "big_vision_flexivit_gap.npz")
  path = tmp_path_factory.mktemp("npz") / "flexivit.npz"
  np.savez(path, **{k: x for k, x in golden.items() if k.startswith("params/")})
  return path


@pytest.mark.slow
def test_a_published_file_is_evaluated_as_it_was_published(
  npz, capsys, tmp_path
):
  folder = _folder(tmp_path / "data", [(90 + i, 120) for i in range(10)])

  def losses(*options):
    evaluate.main(
      [
        *(f"--checkpoint={npz}", folder, "--no_timing"),
        *("--resolutions=48", "--patch_sizes=16,24"),
        *(f"--output={tmp_path / 'out'}", *options),
      ]
    )
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    return results["data"], [point["loss"] for point in results["points"]]

  usual = losses()
  # Not taken from the points that are stored.
  data, compat = losses("--preprocessing=bv_compat")
  assert data == f"{usual[0]} by BvCompat()"
  assert f"10 images of {data}" in capsys.readouterr().out
  assert np.abs(np.subtract(usual[1], compat)).min() > 1e-3
  assert losses("--preprocessing=antialias") == usual


def _refusal(capsys, *argv):
  """The line that evaluate.py ends with; nothing may be compiled before it."""
  with pytest.raises(SystemExit) as ended:
    errors.run(lambda: evaluate.main(argv))
  out, err = capsys.readouterr()
  assert ended.value.code == 2
  assert len(err.strip().splitlines()) == 1
  assert "compiled" not in out
  return err


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ("--patch_sizes=48", "image of 24x24 .*; --resolutions makes images of"),
    ("--patch_sizes=12:6", "--patch_sizes: '12:6' .*: give 6:12"),
    ("--patch_sizes=20:30", "none of 6, 12 lies in 20:30"),
    ("--patch_sizes=a", "size 'a': give pixels"),
    ("--data=configs", "--data 'configs' .did you mean folder:configs"),
    ("--step=7", "no checkpoint of step 7"),
    ("--resolutions=4x", "--resolutions: size '4x': give pixels, 8 or 8x6"),
    ("--data=digits --split=val", "--data: digits have no split 'val'"),
    ("--data=digits --resize_first=40", "--resize_first needs --resolutions"),
    (
      "--data=digits --resize_first=40 --resolutions=24,36",
      "--resize_first 40: give one of --resolutions with it, not 2",
    ),
    ("--target=97", "--target needs --cascade"),
    ("--under='5 ms' --no_timing", "--under 5 ms and --no_timing: .*GFLOP"),
    ("--output=README.md/x", "README.md is a file: give a directory"),
    ("--cascade_split=train", "--cascade_split needs --cascade"),
    ("--data=folder:/nowhere", "folder:PATH needs --resolutions"),
    ("--data=folder:/nowhere --resolutions=24", "no directory /nowhere/te"),
    (
      "--data=tfds:zoo --data_dir=/nowhere --resolutions=24",
      "--data: no directory /nowhere: set data_dir to where 'zoo' is prepared",
    ),
    ("--data=digits --data_dir=/x", "--data_dir is for --data tfds:NAME"),
    ("--data_dir=/x", "--split and --data_dir need --data"),
    ("--batch_size=0", "--batch_size 0: give at least 1"),
    ("--budgets=64,x", "--budgets '64,x': give numbers of patches"),
    (
      "--budgets=64 --data=digits --resolutions=24",
      "--budgets and --resolutions: give one of them",
    ),
    ("--budgets=64 --patch_sizes=4000", "patches of at most 1024 pixels"),
    ("--cascade --resize=area", "--cascade and --resize area: .*leave"),
    ("--cascade --budgets=9", "--cascade .* give one of --resolutions"),
    ("--cascade --patch_sizes=6", "--cascade needs two patch sizes"),
    ("--cascade --target=0.97", "--target 0.97: give a percentage above 1"),
    ("--cascade --cascade_split=train", "--cascade_split needs --data"),
    ("--cascade --data=digits", "--cascade needs .*: give --cascade_split"),
    (
      "--cascade --data=digits --cascade_split=test",
      "--cascade_split test: .*; give others",
    ),
  ],
)
def test_what_cannot_work_is_refused(small_run, arguments, message, capsys):
  argv = (f"--checkpoint={small_run[0]}", *shlex.split(arguments))
  assert re.search(message, _refusal(capsys, *argv))


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ("", "names no data: give --data"),
    ("--data=digits --resolutions=48", "does not say at which patch sizes"),
    ("--data=digits --budgets=9 --patch_sizes=8:24", "instead of 8:24, 8,16"),
  ],
)
def test_a_file_that_names_no_data_or_sizes_asks_for_them(
  npz, arguments, message, capsys
):
  argv = (f"--checkpoint={npz}", *arguments.split())
  assert message in _refusal(capsys, *argv)


@pytest.mark.parametrize(
  ("classes", "message"),
  [
    (0, "no image in {root}/test/CLASS/: looked for .jpg"),
    (2, "2 classes, class0, class1, but "),
    (11, "11 classes, class0, class1, class10, ..., but "),
  ],
)
def test_data_of_other_classes_is_refused(
  small_run, classes, message, tmp_path, capsys
):
  (tmp_path / "test").mkdir()
  folder = _folder(tmp_path, [(24, 24)] * classes)
  argv = (f"--checkpoint={small_run[0]}", folder, "--resolutions=24")
  err = _refusal(capsys, *argv)
  assert err.startswith("error: --data: ")
  assert message.format(root=tmp_path) in err


@pytest.mark.slow
def test_budgets_pack_images_of_any_aspect_ratio(npz, here, tmp_path):
  """And each image counts once, whatever its budget."""
  shapes = [(30, 90), (64, 64), (90, 30), (17, 200), (50, 40)] * 2
  output = tmp_path / "out"
  done = here(
    *("evaluate.py", f"--checkpoint={npz}", f"--output={output}"),
    _folder(tmp_path / "data", shapes),
    *("--budgets=9,300,9", "--patch_sizes=8,16", "--batch_size=3"),
  )
  assert done.returncode == 0, done.stderr
  sizes = [("8", "9"), ("16", "9"), ("8", "300"), ("16", "300")]
  assert [(row["patch"], row["budget"]) for row in _rows(done.stdout)] == sizes
  points = json.loads((output / "results.json").read_text())["points"]
  for point in points:
    policy = resolution.NaFlex(point["budget"])
    areas = [np.prod(policy(hw, point["patch_hw"], None)) for hw in shapes]
    tokens = np.mean(areas) / np.prod(point["patch_hw"])
    # A float32 mean of whole numbers.
    np.testing.assert_allclose(point["tokens"], tokens, rtol=1e-6)
    assert point["images"] == 10


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_cascade_is_chosen_on_validation_data(small_run, capsys, tmp_path):
  argv = [
    *(f"--checkpoint={small_run[0]}", "--cascade", "--no_timing"),
    *("--patch_sizes=6,12", f"--output={tmp_path}", "--batch_size=64"),
  ]
  evaluate.main(argv)
  assert "single size" in capsys.readouterr().out
  numbers = json.loads((tmp_path / "results.json").read_text())
  assert sum(r["chosen"] for r in numbers["routes"]) == 1
  points = {p["patch_hw"][0]: p["top1"] for p in numbers["points"]}
  singles = {
    int(r["name"]): r["top1"]
    for r in numbers["routes"]
    if r["kind"] == "single size"
  }
  assert singles == points
  # A target out of reach comes after the report.
  (tmp_path / "report.html").unlink()
  with pytest.raises(SystemExit):
    errors.run(lambda: evaluate.main([*argv, "--target=100"]))
  out, err = capsys.readouterr()
  assert err.startswith("error: --target: no cascade reaches 100 % on its ")
  assert "500 images of" in out
  assert (tmp_path / "report.html").exists()
