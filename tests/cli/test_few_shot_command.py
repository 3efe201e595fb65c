"""flexivit_jax.cli.few_shot, in this process."""

import json
import pathlib
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from flexivit_jax.cli import errors, few_shot, few_shot_data
from flexivit_jax.data.sources import digits, image_folder
from flexivit_jax.evaluation.linear_probe.ridge import draw

DATA = pathlib.Path(__file__).parents[1] / "data"
NUMBER = r"\d+\.\d(?: \+- \d+\.\d)?"


@pytest.fixture(scope="module")
def npz(tmp_path_factory):
  """A checkpoint of big_vision with a head of ten classes."""
  golden = np.load(DATA / "big_vision_flexivit_gap.npz")
  path = tmp_path_factory.mktemp("npz") / "flexivit.npz"
  np.savez(path, **{k: x for k, x in golden.items() if k.startswith("params/")})
  return path


@pytest.fixture(scope="module")
def headless(npz):
  path = npz.with_name("headless.npz")
  arrays = {k: x for k, x in np.load(npz).items() if "/head/" not in k}
  assert len(arrays) < len(np.load(npz).files)
  np.savez(path, **arrays)
  return path


def _folder(root, images=6, classes=("dark", "grey", "bright")):
  """Classes that are told apart by their brightness; sizes differ."""
  rng = np.random.default_rng(0)
  for split, count in (("train", images), ("test", 4)):
    for label, name in enumerate(classes):
      for i in range(count):
        path = root / split / name / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        low = 80 * label
        pixels = rng.integers(low, low + 80, (30 + i, 40, 3), np.uint8)
        Image.fromarray(pixels).save(path)
  return root


def _run(*argv):
  few_shot.main([str(word) for word in argv])


def _ends(capsys, *argv):
  """Status and what was printed of a command that is refused."""
  with pytest.raises(SystemExit) as ended:
    errors.run(lambda: _run(*argv))
  return ended.value.code, *capsys.readouterr()


def _rows(out):
  return [
    line.split(maxsplit=3)[:3] + re.findall(NUMBER, line.split(maxsplit=3)[3])
    for line in out.splitlines()
    if re.match(rf" *\d+ +\d+ +\d+ +{NUMBER}", line)
  ]


def test_a_model_of_other_classes(npz, tmp_path, capsys):
  """Images of three classes of any size, read in one go at all patch sizes."""
  root, output = _folder(tmp_path / "data"), tmp_path / "out"
  argv = [
    *(f"--checkpoint={npz}", f"--data=folder:{root}", "--resolutions=48"),
    *("--patch_sizes=24,16", "--shots=1,6", "--seeds=2", "--batch_size=8"),
    f"--output={output}",
  ]
  _run(*argv)
  out = capsys.readouterr().out
  assert f"12 images of ImageFolder(path='{root}', split='test'" in out
  assert "; top-1 in %, mean of 2 draws +- its standard error" in out
  rows = _rows(out)
  assert [row[:3] for row in rows] == [["24", "48", "4"], ["16", "48", "9"]]
  values = json.loads((output / "few_shot.json").read_text())
  points = values["points"]
  assert [(p["patch_hw"][0], p["shots"]) for p in points] == [
    *((24, 1), (24, 6)),
    *((16, 1), (16, 6)),
  ]
  cells = [cell for row in rows for cell in row[3:]]
  for point, cell in zip(points, cells, strict=True):
    assert cell == (
      f"{100 * point['mean']:.1f} +- {100 * point['standard_error']:.1f}"
    )
    assert point["penalty"] == 1024
    # Twelve images: accuracy is a whole number of them.
    for top1 in point["top1"]:
      assert 12 * top1 == pytest.approx(round(12 * top1))
  # All six images of each class: every draw is the same, and brightness
  # is seen by any weights.
  for point in (points[1], points[3]):
    assert point["top1"] == [1.0, 1.0]
    assert point["standard_error"] == 0
  assert values["classes"] == ["bright", "dark", "grey"]
  assert "--patch_sizes=24,16" in values["command"]
  with Image.open(output / "few_shot.png") as figure:
    assert min(figure.size) > 300


def test_a_draw_is_read_and_nothing_else(npz, tmp_path, capsys, monkeypatch):
  """Each image once for all sizes; training images that no draw takes never,
  so that they may be as bad as they like."""
  root = _folder(tmp_path)
  opened = image_folder.ImageFolder(str(root), "train").open()
  labels = np.array([opened.label(i) for i in range(len(opened))])
  taken = {
    opened.name(i)
    for seed in (0, 1)
    for i in draw(labels, opened.classes, 2, seed).ravel()
  }
  assert 6 < len(taken) < len(opened)
  for i in range(len(opened)):
    if opened.name(i) not in taken:
      pathlib.Path(opened.name(i)).write_bytes(b"no image")
  read = []
  image = image_folder.ImageFiles.image

  def counting(self, index):
    read.append(self.name(index))
    return image(self, index)

  monkeypatch.setattr(image_folder.ImageFiles, "image", counting)
  argv = [
    *(f"--checkpoint={npz}", f"--data=folder:{root}", "--resolutions=48"),
    *("--patch_sizes=24,16,12", "--shots=1,2", "--seeds=2"),
  ]
  _run(*argv)
  assert len(_rows(capsys.readouterr().out)) == 3
  # And the first of each data once more, to see its size.
  tested = {str(p) for p in root.glob("test/*/*")}
  assert {*read} == taken | tested
  assert len(read) == len(taken | tested) + 2


def test_a_checkpoint_without_a_head_has_the_same_features(
  npz, headless, capsys
):
  tables = []
  for checkpoint in (npz, headless):
    _run(
      *(f"--checkpoint={checkpoint}", "--data=digits", "--resolutions=24"),
      *("--patch_sizes=12", "--shots=1,5", "--split=test[:100]"),
    )
    tables.append(_rows(capsys.readouterr().out))
  assert tables[0] == tables[1]
  ((*_, one, five),) = tables[0]
  # Chance is 10 %.
  assert 15 < float(one.split()[0]) < float(five.split()[0])


def test_budgets_and_a_penalty_that_is_chosen(npz, capsys):
  _run(
    *(f"--checkpoint={npz}", "--data=digits", "--budgets=4,16"),
    *("--patch_sizes=6", "--shots=2", "--seeds=1", "--penalty=1,1e9"),
    *("--train_split=train[:300]", "--validation_split=train[300:400]"),
    *("--split=test[:50]", "--batch_size=16"),
  )
  out = capsys.readouterr().out
  assert out.count("compiled evaluation") == 2
  assert "; top-1 in %, one draw\npatch  budget  tokens  2 shots\n" in out
  _, chosen = out.split(
    "\npenalties chosen on 100 images of Digits(split='train[300:400]', "
    "side=24)\n"
  )
  rows = [line.split() for line in chosen.splitlines()[1:]]
  assert [row[:3] for row in rows] == [["6", "4", "4"], ["6", "16", "16"]]
  assert {row[3] for row in rows} <= {"1", "1e+09"}


def test_a_run_has_its_own_data(small_run, capsys):
  _run(f"--checkpoint={small_run[0]}", "--shots=1", "--penalty=1,1024")
  out = capsys.readouterr().out
  assert "500 images of Digits(split='test', side=24)" in out
  assert "after training on Digits(split='train[200:]', side=24); " in out
  assert "penalties chosen on 200 images of Digits(split='train[:200]'" in out
  assert [row[0] for row in _rows(out)] == ["6", "12"]


def test_bad_images(npz, tmp_path, capsys):
  root = _folder(tmp_path, images=3)
  bad = [root / "train" / "dark" / "1.png", root / "test" / "grey" / "0.png"]
  for path in bad:
    path.write_bytes(path.read_bytes()[:60])
  argv = [
    *(f"--checkpoint={npz}", f"--data=folder:{root}", "--resolutions=48"),
    *("--patch_sizes=24", "--seeds=1"),
  ]
  status, _, err = _ends(capsys, *argv, "--shots=3")
  assert status == 1
  assert err.startswith(f"error: {bad[0]}: cannot decode this image: ")
  _run(*argv, "--shots=3", "--on_bad_image=skip")
  out = capsys.readouterr().out
  for path in bad:
    assert f"skipped: {path}: cannot decode this image: " in out
  assert "\n11 images of ImageFolder(" in out
  # A class that is left without images.
  labels = np.repeat(np.arange(3), 3)  # bright, dark, grey
  seed = next(s for s in range(99) if draw(labels, "abc", 1, s)[1, 0] == 4)
  argv[-1] = f"--seeds={seed + 1}"
  status, _, err = _ends(capsys, *argv, "--shots=1", "--on_bad_image=skip")
  assert status == 1
  assert err == (
    "error: 24x24 patches of 48x48 pixels: no training image of dark\n"
  )


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ("--shots=0", "--shots '0': give numbers of images of each class, 1,5,10"),
    ("--seeds=1001", "--seeds 1001: give 1 to 1000"),
    ("--penalty=much", "--penalty 'much': give a number, 1024 say, or"),
    ("--penalty=0", "--penalty 0: give a finite number of at least 1e-06"),
    ("--penalty=1,2", "--penalty: .*: give one penalty, or --data and --val"),
    ("--validation_split=train[:9]", "needs several of --penalty to choose"),
    ("--batch_size=0", "--batch_size 0: give at least 1"),
    ("--shots=5,200", "--shots: 200 shots, .* '8' has 126 .*: give at most"),
    ("--train_split=train[:20] --shots=9", "'4' has 0 .*: give data with more"),
    ("--train_split=val", "--train_split: digits have no split 'val': take"),
    ("--train_split=test[400:]", "training data, .* test data, .*share 100"),
    (
      "--penalty=1,2 --validation_split=train[:100]",
      "training data, .* validation data, .* share 100 images: give another",
    ),
    (
      "--penalty=1,2 --validation_split=test[:50]",
      "test data, .* validation data, .* share 50 images: give another",
    ),
    ("--patch_sizes=5", "of 5x5 patches: .*; --resolutions makes images of"),
    ("--output=README.md/x", "README.md is a file: give a directory"),
  ],
)
def test_what_cannot_work_is_refused(npz, arguments, message, capsys):
  argv = [f"--checkpoint={npz}", "--data=digits", "--patch_sizes=12"]
  status, out, err = _ends(capsys, *argv, *arguments.split())
  assert re.search(message, err)
  assert (status, "compiled" in out) == (2, False)


def test_what_does_not_fit_a_run_is_refused(small_run, tmp_path, capsys):
  def refusal(*argv, **source):
    run = tmp_path / "run"
    shutil.copytree(small_run[0], run, dirs_exist_ok=True)
    record = json.loads((small_run[0] / "config.json").read_text())
    record["config"]["test"]["source"] |= source
    (run / "config.json").write_text(json.dumps(record))
    status, out, err = _ends(capsys, f"--checkpoint={run}", *argv)
    assert (status, "compiled" in out) == (2, False)
    return err

  for name in ("train_split", "validation_split"):
    assert f"--{name} needs --data: a run's" in refusal(f"--{name}=train")
  assert "--shots: 105 shots, but class " in refusal("--shots=1,105")
  err = refusal("--shots=1", side=36)
  assert "'train[200:]', side=24) have another size than those of" in err
  err = refusal("--shots=1", split="train[:300]")
  assert "share 100 images: give --data and --split, --train_split" in err


def test_a_model_of_grey_images(npz, capsys):
  path, name = npz.with_name("grey.npz"), "params/embedding/kernel"
  arrays = dict(np.load(npz))
  np.savez(path, **arrays | {name: arrays[name][:, :, :1]})
  argv = (f"--checkpoint={path}", "--data=digits", "--patch_sizes=12")
  status, _, err = _ends(capsys, *argv)
  assert "takes images of 1 channels, and the images have 3" in err
  assert status == 2


def test_folders_that_do_not_fit(npz, tmp_path, capsys):
  argv = [f"--checkpoint={npz}", "--resolutions=48", "--patch_sizes=24"]

  def refusal(root):
    status, _, err = _ends(capsys, *argv, f"--data=folder:{root}")
    assert status == 2
    return err

  root = _folder(tmp_path / "one", classes=("all",))
  assert "--data: one class, 'all': give at least two" in refusal(root)
  root = _folder(tmp_path / "two", images=2)
  (root / "train" / "dark").rename(root / "train" / "night")
  text = "--train_split: 3 classes, .*only here: .'dark'., only there: .'night'"
  assert re.search(text, refusal(root))
  (root / "train").rename(root / "other")
  assert f"--train_split: no directory {root}/train: images" in refusal(root)


@pytest.mark.parametrize(
  ("one", "other", "images"),
  [
    ("train", "train", 1297),
    ("train", "train[:50]", 50),
    ("train[:50%]", "train[50%:]", 0),
    ("train[:50%]", "train[600:]", 48),
    ("train", "test", 0),
  ],
)
def test_images_that_two_splits_share(one, other, images):
  one, other = (digits.Digits(x, side=24) for x in (one, other))
  assert few_shot_data.shared(one, other) == images
