"""The command, as a user runs it, on real files."""

import csv
import json
import pathlib
import re
import shutil
import types

import jax
import numpy as np
import pytest
from PIL import Image

from flexivit_jax.checkpoints import load, origin, save
from flexivit_jax.checkpoints import model as model_lib
from flexivit_jax.cli import predict as cli_predict
from flexivit_jax.cli import prediction_plan
from flexivit_jax.core.errors import ConfigError, Fault
from flexivit_jax.core.resolution import NaFlex, Square
from flexivit_jax.core.tokens import patchify
from flexivit_jax.data.pixels import decode, preprocessing, resize
from flexivit_jax.data.sources import digits
from flexivit_jax.evaluation import eval_transforms
from flexivit_jax.evaluation import predict as evaluation_predict
from tests import tiny

NAMES = ("ant", "bee", "cat")


def _saved(path, **fields):
  """A made-up model as a file."""
  model = tiny.tiny(**fields)
  pixels = np.zeros((1, 24, 24, model.channels), np.uint8)
  shapes = jax.eval_shape(
    model.init, jax.random.key(0), patchify(pixels, (8, 8))
  )
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda x: 0.2 * rng.normal(size=x.shape).astype("f4"), shapes["params"]
  )
  classes = NAMES if model.num_classes else ()
  spec = origin.Spec("made up", "x", patch_size=None, classes=classes)
  save.save(model_lib.LoadedModel(model, params, spec), path, "orbax")
  return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
  """With names for three classes of four."""
  return _saved(tmp_path_factory.mktemp("model") / "m", num_classes=4)


@pytest.fixture(scope="module")
def headless(tmp_path_factory):
  return _saved(tmp_path_factory.mktemp("model") / "h", num_classes=0)


SHAPES = [(24, 24), (30, 17), (9, 40), (24, 31), (12, 12)]


@pytest.fixture
def photos(tmp_path, monkeypatch):
  """One is in the folder that holds photos/."""
  monkeypatch.chdir(tmp_path)
  folder = tmp_path / "photos"
  folder.mkdir()
  rng = np.random.default_rng(0)
  for i, hw in enumerate(SHAPES):
    pixels = rng.integers(0, 256, (*hw, 3), np.uint8)
    Image.fromarray(pixels).save(folder / f"{i}.png")
  return folder


@pytest.fixture
def run(capsys, checkpoint):
  """Runs the command in this process; returns the lines that it printed."""

  def call(*arguments, of=checkpoint):
    capsys.readouterr()
    cli_predict.main([f"--checkpoint={of}", *map(str, arguments)])
    return capsys.readouterr().out.splitlines()

  return call


SIZES = ("--patch_size=8x6", "--resolution=24")
AT_24, OF_8 = ("photos", "--resolution=24"), ("photos", "--patch_size=8")


def test_a_run_is_used_as_it_was_evaluated(small_run, command, tmp_path):
  source = digits.Digits("test").open()
  for i in range(3):
    Image.fromarray(source.image(i)).save(tmp_path / f"{i}.png")
  done = command(
    *("-m", "flexivit_jax", "predict", f"--checkpoint={small_run[0]}"),
    *("--patch_size=6", "--top_k=2", tmp_path),
  )
  assert done.returncode == 0, done.stderr
  lines = done.stdout.splitlines()
  at = next(i for i, line in enumerate(lines) if line.startswith("3 images: "))
  assert lines[at : at + 2] == [
    "3 images: Resize(size=(24, 24)) (the size of the run's test data), "
    "patches of 6x6",
    "probabilities: softmax (as the run's loss)",
  ]
  assert lines[at + 2].startswith("compiled prediction: 6x6 patches, ")
  model = load.load(small_run[0])
  logits = np.asarray(model(source.pixels[:3], 6))
  expected = []
  for i, row in enumerate(logits):
    best = np.argsort(-row)[:2]
    p = np.exp(row - row.max())
    p = 100 * p / p.sum()
    expected += [str(tmp_path / f"{i}.png")]
    expected += [f"  {p[c]:6.2f} %  {c}" for c in best]
  assert lines[at + 3 :] == [*expected, "3 images"]


def test_a_packed_run_is_used_as_it_was_evaluated(
  small_run, run, photos, tmp_path
):
  """With its own resolution and rows, for which an image is too large."""
  saved = json.loads((small_run[0] / "config.json").read_text())
  for data in ("train", "test"):
    saved["config"][data]["resolution"] = {"name": "native"}
  saved["config"]["packing"] = {"row_length": 16, "max_images": 3}
  path = tmp_path / "run"
  shutil.copytree(small_run[0], path)
  (path / "config.json").write_text(json.dumps(saved))
  lines = run("photos", "--patch_size=6", of=path)
  assert (
    "5 images: Native(max_patches=None) (as the run's test data), patches of "
    "6x6"
  ) in lines
  # Those of 4x4, 5x3, 2x7 and 2x2 patches fit, not that of 4x5.
  assert lines[-2:] == [
    "1 image scaled down: more patches than a row takes, or than the model has "
    "positions for",
    "5 images",
  ]
  shown = [line for line in lines if line.startswith("photos/")]
  assert shown == [f"photos/{i}.png" for i in range(5)]


def _decoded(path):
  return decode.decode_rgb(pathlib.Path(path).read_bytes(), str(path))


def test_files_hold_what_was_printed_and_more(
  run, photos, checkpoint, tmp_path
):
  out = tmp_path / "new" / "out"
  (tmp_path / "names").write_text("one\ntwo\nthree\nfour")
  lines = run(
    *("photos/3.png", photos.name, *SIZES, "--top_k=9", "--class_names=names"),
    *(f"--output={out}", "--features", "--tokens", "--batch_size=1"),
  )
  paths = [f"photos/{i}.png" for i in (3, 0, 1, 2, 4)]
  assert lines[-1] == (
    f"wrote {out}/predictions.json, {out}/predictions.csv, {out}/features.npz"
  )
  assert lines[-2] == "5 images"
  pixels = [resize.resize(_decoded(path), (24, 24)) for path in paths]
  model = load.load(checkpoint)
  expected = jax.device_get(model.outputs(np.stack(pixels), (8, 6)))
  powers = np.exp(expected["logits"])
  probabilities = powers / powers.sum(-1, keepdims=True)

  result = json.loads((out / "predictions.json").read_text())
  assert (result["patch_size"], result["skipped"]) == ([8, 6], [])
  assert "jax" in result["provenance"]["versions"]
  assert [p["path"] for p in result["predictions"]] == paths
  names = ["one", "two", "three", "four"]
  blocks = []
  for own, row in zip(result["predictions"], probabilities, strict=True):
    order = np.argsort(-row).tolist()
    assert [x["class"] for x in own["top"]] == order
    assert [x["name"] for x in own["top"]] == [names[c] for c in order]
    found = [x["probability"] for x in own["top"]]
    # Float32, in programs of different batch sizes.
    np.testing.assert_allclose(found, row[order], atol=1e-5)
    blocks += [own["path"]]
    blocks += [
      f"  {100 * x['probability']:6.2f} %  {x['name']}" for x in own["top"]
    ]
  assert lines[-2 - len(blocks) : -2] == blocks

  with open(out / "predictions.csv", newline="") as file:
    head, *rows = csv.reader(file)
  assert head == ["path", "rank", "class", "name", "probability"]
  assert rows == [
    [own["path"], str(rank), *map(str, x.values())]
    for own in result["predictions"]
    for rank, x in enumerate(own["top"], start=1)
  ]

  arrays = np.load(out / "features.npz")
  assert arrays["paths"].tolist() == paths
  assert arrays["patch_size"].tolist() == [8, 6]
  np.testing.assert_allclose(arrays["features"], expected["pooled"], atol=2e-5)
  for i, tokens in enumerate(expected["encoded"]):
    np.testing.assert_allclose(arrays[f"tokens/{i}"], tokens, atol=2e-5)


def test_a_budget_keeps_the_aspect_ratio(run, photos, checkpoint, tmp_path):
  lines = run(
    *(photos, "--patch_size=4", "--budget=12", f"--output={tmp_path / 'out'}"),
    *("--features", "--tokens", "--probabilities=sigmoid"),
  )
  assert "5 images: NaFlex(max_patches=12) (--budget), patches of 4x4" in lines
  assert "probabilities: sigmoid (as asked for)" in lines
  pixels = [_decoded(path) for path in sorted(photos.iterdir())]
  expected = load.load(checkpoint).outputs(pixels, 4, resolution=NaFlex(12))
  arrays = np.load(tmp_path / "out" / "features.npz")
  np.testing.assert_allclose(arrays["features"], expected["pooled"], atol=2e-5)
  grids = [arrays[f"tokens/{i}"].shape[:2] for i in range(5)]
  assert grids == [x.shape[:2] for x in expected["encoded"]]
  assert len(set(grids)) == 4
  result = json.loads((tmp_path / "out" / "predictions.json").read_text())
  found = [p["top"][0]["probability"] for p in result["predictions"]]
  highest = 1 / (1 + np.exp(-np.asarray(expected["logits"]).max(-1)))
  np.testing.assert_allclose(found, highest, atol=1e-5)


def test_without_a_head_there_are_features(run, photos, headless, tmp_path):
  out = tmp_path / "out"
  lines = run(photos, *SIZES, f"--output={out}", "--features", of=headless)
  assert lines[-2:] == ["5 images", f"wrote {out}/features.npz"]
  assert [path.name for path in out.iterdir()] == ["features.npz"]
  assert np.load(out / "features.npz")["features"].shape == (5, 32)
  assert not any(line.startswith("probabilities") for line in lines)


def test_a_bad_image_is_named_and_may_be_left_out(run, photos, tmp_path):
  bad = photos / "1.png"
  bad.write_bytes(bad.read_bytes()[:50])
  (photos / "0.png").write_bytes(b"")
  (photos / "readme.txt").write_text("x")
  out = tmp_path / "out"
  arguments = ("photos", *SIZES, f"--output={out}", "--features")
  with pytest.raises(Fault, match=r"^photos/0\.png: .* --on_bad_image skip$"):
    run(*arguments)
  lines = run(*arguments, "--on_bad_image=skip")
  assert lines[0] == "note: other files are left out: 1 .txt"
  starts = (
    "skipped: photos/0.png: cannot decode this image: its 0 bytes",
    "skipped: photos/1.png: cannot decode this image: it ends within",
    "3 images, 2 left out",
  )
  for line, start in zip(lines[-4:-1], starts, strict=True):
    assert line.startswith(start)
  paths = [f"photos/{i}.png" for i in (2, 3, 4)]
  assert np.load(out / "features.npz")["paths"].tolist() == paths
  result = json.loads((out / "predictions.json").read_text())
  assert [p["path"] for p in result["predictions"]] == paths
  assert [f"skipped: {text}" for text in result["skipped"]] == lines[-4:-2]


def test_files_stay_as_they_were_where_an_image_is_bad(run, photos, tmp_path):
  out = tmp_path / "out"
  out.mkdir()
  before = out / "predictions.json"
  before.write_text("before")
  arguments = ("photos", *SIZES, f"--output={out}", "--features")
  # After others, and where none is good.
  (photos / "9.png").write_bytes(b"bad")
  with pytest.raises(Fault, match=r"^photos/9.png: cannot decode this image"):
    run(*arguments)
  for path in photos.iterdir():
    path.write_bytes(b"not an image")
  with pytest.raises(Fault, match=r"^none of the images can be decoded: "):
    run(*arguments, "--on_bad_image=skip")
  assert before.read_text() == "before"
  assert list(out.iterdir()) == [before]


def test_a_path_may_hold_what_cannot_be_printed(run, photos, tmp_path):
  (photos / "0.png").rename(photos / "a\nb\udc80.png")
  out = tmp_path / "out"
  assert "photos/a\\nb\\udc80.png" in run("photos", *SIZES, f"--output={out}")
  path = "photos/a\nb\udc80.png"
  result = json.loads((out / "predictions.json").read_text())
  assert result["predictions"][-1]["path"] == path
  raw = (out / "predictions.csv").read_bytes()
  assert path.encode("utf-8", "surrogateescape") in raw


def test_the_preprocessing_is_the_one_that_is_asked_for(
  run, photos, checkpoint, tmp_path
):
  pixels = np.random.default_rng(0).integers(0, 256, (60, 70, 3), np.uint8)
  Image.fromarray(pixels).save(photos / "0.jpg", quality=90)

  def features(*options):
    lines = run(
      *("photos/0.jpg", *SIZES, *options),
      *(f"--output={tmp_path / 'out'}", "--features"),
    )
    result = json.loads((tmp_path / "out" / "predictions.json").read_text())
    found = np.load(tmp_path / "out" / "features.npz")["features"]
    return found, result["preprocessing"], lines

  model, file = load.load(checkpoint), (photos / "0.jpg").read_bytes()
  for name, mode in (
    ("antialias", preprocessing.ANTIALIAS),
    ("bv_compat", preprocessing.BvCompat()),
  ):
    found, told, lines = features(f"--preprocessing={name}")
    image = mode.resize(mode.decode(file, "x"), (24, 24))
    expected = model.features(image[None], (8, 6))
    # Of two compilations; the modes differ by 0.1 and more.
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert told == name
    assert any("by BvCompat()" in x for x in lines) == (name == "bv_compat")
  usual, told, _ = features()
  assert told == "antialias"
  assert np.abs(usual - found).max() > 1e-2


def test_orientations_are_heeded_where_asked(run, photos, tmp_path):
  exif = Image.Exif()
  exif[0x0112] = 6
  with Image.open(photos / "0.png") as image:
    image.save(photos / "0.png", exif=exif)
    upright = image.transpose(Image.Transpose.ROTATE_270)
  upright.save(photos / "1.png")

  def features(*options):
    run(
      *("photos/0.png", "photos/1.png", *SIZES, *options),
      *(f"--output={tmp_path / 'out'}", "--features"),
    )
    return np.load(tmp_path / "out" / "features.npz")["features"]

  turned, upright = features("--exif_transpose")
  np.testing.assert_allclose(turned, upright, atol=2e-5)
  stored, upright = features()
  assert np.abs(stored - upright).max() > 1e-2


def test_batches_are_no_larger_than_there_are_images():
  """Or a single image would cost as much as a batch of them."""
  args = types.SimpleNamespace(budget=None, batch_size=32)
  usual = types.SimpleNamespace(resolution=None)
  # A multiple of the eight devices of the tests.
  for count, rows in ((1, 8), (9, 16), (100, 32)):
    chosen = prediction_plan.choose_rows(args, None, usual, count)
    assert chosen == (rows, None)
  # Rows of 256 patches take at least four images of 64 each.
  for budget, count, rows, length in ((64, 65, 24, 256), (300, 9, 16, 300)):
    args = types.SimpleNamespace(budget=budget, batch_size=32)
    found, packing = prediction_plan.choose_rows(args, None, usual, count)
    assert (found, packing.row_length) == (rows, length)


@pytest.fixture
def refused(run, photos, monkeypatch):
  """The error of arguments; nothing may be compiled before it."""

  def compiles(*args, **kwargs):
    raise AssertionError("compiled")

  monkeypatch.setattr(evaluation_predict, "compile_forward", compiles)
  (photos.parent / "texts").mkdir()
  (photos.parent / "names").write_text("one\ntwo\n")
  (photos.parent / "gap").write_text("one\n\ntwo\n")

  def call(*arguments, **options):
    with pytest.raises(ConfigError) as caught:
      run(*arguments, **options)
    assert not (photos.parent / "out").exists()
    return str(caught.value)

  return call


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["gone.png", *SIZES], "IMAGE: gone.png: no such file or directory"),
    (["texts", *SIZES], "IMAGE: no image in texts: looked for .jpg, "),
    ([*SIZES], "the following arguments are required: IMAGE"),
    (["photos", "--resolution=24"], "--patch_size: .*: give one .16, say"),
    ([*AT_24, "--patch_size=x"], "--patch_size: size 'x': give pixels, 8 or"),
    ([*AT_24, "--patch_size=1025"], "1025: give patches of at most 1024 pix"),
    (
      [*AT_24, "--patch_size=32"],
      "--patch_size: an image of 24x24 .*; --resolution makes images of",
    ),
    (["photos", "--patch_size=8"], "--resolution: .*240 say, or --budget"),
    ([*OF_8, "--resolution=0"], "--resolution: size '0': give pixels, 8 or"),
    ([*OF_8, "--resolution=99999"], "--resolution: .*: give .* 1 to 16384"),
    ([*OF_8, "--budget=0"], "--budget: max_patches is 0: give 1 to 1048576"),
    (["photos", *SIZES, "--budget=9"], "--budget and --resolution: give one"),
    (["photos", *SIZES, "--top_k=0"], "--top_k 0: give at least 1"),
    (["photos", *SIZES, "--batch_size=0"], "--batch_size 0: give at least 1"),
    (["photos", *SIZES, "--features"], "--features and --tokens need --output"),
    (
      ["photos", *SIZES, "--tokens", "--output=out"],
      "--tokens adds to features.npz: give --features as well",
    ),
    (["photos", *SIZES, "--output=names"], "--output names is a file: give a"),
    (
      ["photos", *SIZES, "--class_names=names"],
      "--class_names: names has 2 names, and the head of .* 4 classes",
    ),
    (["photos", *SIZES, "--class_names=gap"], "--class_names: gap: line 2 is"),
    (["photos", *SIZES, "--step=3"], "--checkpoint: .*only a run's directory"),
  ],
)
def test_what_cannot_work_is_refused(refused, arguments, message):
  assert re.search(message, refused(*arguments))


def test_a_model_that_does_not_fit_is_refused(
  refused, headless, tmp_path, monkeypatch
):
  for options in ([], ["--probabilities=softmax"]):
    found = refused("photos", *SIZES, *options, of=headless)
    assert found.endswith("give --output DIR --features")
  path = _saved(tmp_path / "grey", num_classes=0, channels=1)
  found = refused("photos", *SIZES, of=path)
  assert "takes images of 1 channels, and the images have 3" in found
  # A square of a run, before the first image is cut, in a thread.
  made = eval_transforms.Preprocessing((), Square(24), "made up")
  monkeypatch.setattr(eval_transforms, "usual", lambda vit, name: made)
  found = refused("photos", "--patch_size=7")
  assert found.startswith("--patch_size: a side of 24 pixels is not")
