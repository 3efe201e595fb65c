"""The command, as a user runs it, on real files."""

import hashlib
import json
import pathlib

import numpy as np
import pytest

from flexivit_jax.checkpoints import load, origin, save
from flexivit_jax.checkpoints import model as model_lib
from flexivit_jax.checkpoints.formats import parameters
from flexivit_jax.cli import convert
from flexivit_jax.core.errors import ConfigError, Fault
from flexivit_jax.models import vit
from flexivit_jax.nn import encoder, pooling
from flexivit_jax.nn.positions import learned_grid, waves

DATA = pathlib.Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def flexivit(tmp_path_factory):
  golden = np.load(DATA / "big_vision_flexivit_tok.npz")
  path = tmp_path_factory.mktemp("in") / "flexivit.npz"
  np.savez(path, **{k: golden[k] for k in golden.files if "params/" in k})
  return path


@pytest.fixture
def run(capsys):
  """Runs the command in this process; returns the lines that it printed."""

  def call(*arguments):
    convert.main([str(a) for a in arguments])
    return capsys.readouterr().out.splitlines()

  return call


def test_inspect_as_a_process(command, flexivit):
  done = command("-m", "flexivit_jax.cli.convert", flexivit, "--inspect")
  assert done.returncode == 0, done.stderr
  lines = done.stdout.splitlines()
  assert lines[0] == f"big_vision npz: {flexivit}"
  assert lines[1].startswith("  ViT-custom: width 48, depth 2, MLP 96, 3 heads")
  digest = hashlib.sha256(flexivit.read_bytes()).hexdigest()
  assert lines[8:10] == [
    f"  SHA-256 {digest}",
    "  (no sum is beside it: compare this one with its source's)",
  ]
  table = [line.split() for line in lines[10:]]
  assert table[0] == ["array", "shape", "type", "mean", "std"]
  assert len(table) == 1 + len(np.load(flexivit).files)
  kernel = np.load(flexivit)["params/embedding/kernel"]
  row = next(row for row in table if row[0] == "embedding/kernel")
  assert row[1:3] == ["32x32x3x48", "float32"]
  assert float(row[4]) == pytest.approx(kernel.std(), rel=1e-3)


def test_inspect_says_that_a_sum_agrees(run, flexivit, tmp_path):
  run(flexivit, tmp_path / "a.npz", "--format=big_vision")
  run(flexivit, tmp_path / "b", "--format=timm")
  agrees = "  its SHA-256 agrees with what was saved beside it"
  for path, file in (("a.npz", "a.npz"), ("b", "b/model.safetensors")):
    lines = run(tmp_path / path, "--inspect")
    digest = hashlib.sha256((tmp_path / file).read_bytes()).hexdigest()
    assert agrees in lines
    assert f"  SHA-256 {digest}" in lines


def test_one_of_several_models_is_inspected(run, flexivit, tmp_path):
  arrays = dict(np.load(flexivit))
  path = tmp_path / "towers.npz"
  np.savez(
    path, **{k.replace("params/", "params/img/"): x for k, x in arrays.items()}
  )
  lines = run(f"{path}:img", "--inspect")
  assert lines[0] == f"big_vision npz: {path}:img"
  digest = hashlib.sha256(path.read_bytes()).hexdigest()
  assert f"  SHA-256 {digest}" in lines


CHECK = "check: two photographs at {} pixels, patches of {}: "


@pytest.mark.parametrize(
  ("arguments", "size", "patch"),
  [
    (("--format=orbax",), "224x224", "32x32"),
    (("--format=timm", "--patch=16", "--image=96"), "96x96", "16x16"),
    (("--format=timm", "--patch=24x12", "--image=96x48"), "96x48", "24x12"),
    (("--format=hugging_face", "--patch=8", "--image=64"), "64x64", "8x8"),
    (("--format=orbax", "--patch=8"), "56x56", "8x8"),
    (("--format=timm", "--pixels=imagenet"), "224x224", "32x32"),
  ],
)
def test_out_computes_what_in_does(
  run, flexivit, tmp_path, arguments, size, patch
):
  lines = run(flexivit, tmp_path / "out", *arguments, "--check")
  assert lines[-3] == f"wrote {tmp_path}/out ({arguments[0].split('=')[1]})"
  start = CHECK.format(size, patch)
  for line, name in zip(lines[-2:], ("features", "logits"), strict=True):
    assert line.startswith(f"{start}{name} differ by at most ")
    worst, largest = line.split("at most ")[1].split(", of ")
    assert float(worst) < 1e-5 < 0.1 < float(largest)
  kernel_hw = load.read(tmp_path / "out").model.kernel_hw
  assert patch == f"{kernel_hw[0]}x{kernel_hw[1]}"


def test_a_model_for_one_size_keeps_its_input(run, flexivit, tmp_path):
  run(flexivit, tmp_path / "a", "--format=timm", "--patch=16", "--image=96")
  run(tmp_path / "a", tmp_path / "b", "--format=timm", "--patch=8")
  model = load.read(tmp_path / "b").model
  assert model.kernel_hw == (8, 8)
  assert model.position == learned_grid.LearnedGrid((12, 12))
  config = json.loads((tmp_path / "b" / "config.json").read_text())
  assert config["model_args"]["img_size"] == [96, 96]
  # Another input alone: more of the same patches.
  run(tmp_path / "a", tmp_path / "c", "--format=timm", "--image=160")
  model = load.read(tmp_path / "c").model
  assert (model.kernel_hw, model.position.size) == ((16, 16), (10, 10))


def test_a_flexible_model_for_one_size_is_noted(run, small_run, tmp_path):
  lines = run(small_run[0], tmp_path / "out", "--format=timm")
  assert lines[-2] == (
    "note: OUT has patches of 32x32 only, the size that is stored, and IN was "
    "trained at 6x6, 12x12: give --patch and --image for another"
  )
  # Stored at 6 px, it is for 6 px.
  run(small_run[0], tmp_path / "6", "--format=timm", "--patch=6", "--image=24")
  spec = load.read(tmp_path / "6").spec
  assert (spec.patch_size, spec.trained_sizes) == ((6, 6), ())


def test_our_own_timm_files_keep_their_input(run, flexivit, tmp_path):
  run(flexivit, tmp_path / "a", "--format=timm")
  run(tmp_path / "a", tmp_path / "b", "--format=timm", "--patch=16")
  assert load.read(tmp_path / "b").model.position.size == (14, 14)


def test_what_a_format_has_no_place_for_names_the_way_out(run, tmp_path):
  model = vit.ViT(
    size=encoder.Size(8, 1, 12, 2),
    position=learned_grid.LearnedGrid((3, 3)),
    pool=pooling.ClassToken(),
    kernel_hw=(4, 4),
    num_classes=5,
    layer_scale=1e-5,
  )
  rng = np.random.default_rng(0)
  arrays = {
    name: rng.normal(size=x.shape).astype(np.float32)
    for name, x in parameters.shapes(model).items()
  }
  spec = origin.Spec("test", "made up", patch_size=(4, 4))
  save.save(model_lib.StoredModel(model, arrays, spec), tmp_path / "a", "timm")
  arguments = (tmp_path / "a", tmp_path / "b.npz", "--format=big_vision")
  with pytest.raises(ConfigError) as caught:
    run(*arguments)
  assert str(caught.value) == (
    "--format big_vision: big_vision has no layer_scale (--fold_layer_scale "
    "multiplies it into its layers)"
  )
  lines = run(*arguments, "--fold_layer_scale", "--check")
  assert lines[-1].startswith("check: ")


def test_positions_without_a_table_need_no_image(run, tmp_path):
  model = vit.ViT(
    size=encoder.Size(8, 1, 12, 2),
    position=waves.SinCos2D(),
    pool=pooling.Gap(),
    kernel_hw=(4, 4),
    num_classes=5,
  )
  arrays = {
    name: np.ones(x.shape, np.float32)
    for name, x in parameters.shapes(model).items()
  }
  spec = origin.Spec("test", "made up")
  path, out = tmp_path / "a", tmp_path / "b"
  save.save(model_lib.StoredModel(model, arrays, spec), path, "orbax")
  with pytest.raises(ConfigError) as caught:
    run(path, out, "--format=orbax", "--image=24")
  assert str(caught.value) == (
    "--image: the model has no table of positions to resize"
  )
  run(path, out, "--format=orbax", "--patch=2", "--check")
  assert load.read(out).model.kernel_hw == (2, 2)


def test_ctrl_c_leaves_nothing(command, flexivit, tmp_path):
  # Interrupted where half of it is written: the first file, before its sum.
  code = """
import os, signal, sys
from flexivit_jax.checkpoints import manifest
from flexivit_jax.cli import convert, errors

def interrupted(path):
  assert list(path.parent.iterdir())
  os.kill(os.getpid(), signal.SIGINT)

manifest.digest = interrupted
sys.argv = ["convert", *sys.argv[1:]]
errors.run(convert.main)
"""
  for name, format_ in (("out", "timm"), ("out.npz", "big_vision")):
    out = tmp_path / name
    done = command("-c", code, flexivit, out, f"--format={format_}")
    assert done.returncode == 130, done.stderr
    assert done.stderr == "interrupted\n"
    assert list(tmp_path.iterdir()) == []


def test_what_the_file_does_not_say_is_given(run, flexivit, tmp_path):
  run(flexivit, tmp_path / "a", "--format=timm")
  for name in ("config.json", "manifest.sha256", "model.safetensors.sha256"):
    (tmp_path / "a" / name).unlink()
  file = tmp_path / "a" / "model.safetensors"
  arguments = ("--gelu=exact", "--eps=1e-5", "--posemb=7x7", "--pool=tok")
  lines = run(file, "--inspect", "--num_heads=4", *arguments)
  assert "12" not in lines[1]
  assert lines[1].split(", ")[3] == "4 heads"
  assert lines[4] == "  pool tok, GELU exact, eps 1e-05"


def test_what_the_format_cannot_say_is_noted(run, flexivit, tmp_path):
  lines = run(
    flexivit, tmp_path / "a.npz", "--format=big_vision", "--gelu=exact"
  )
  assert lines[-1] == "note: gelu is exact, and will be tanh there"


def test_a_run_is_converted(run, small_run, tmp_path):
  workdir, _ = small_run
  lines = run(workdir, tmp_path / "run.npz", "--format=big_vision", "--check")
  assert lines[-1].startswith("check: ")
  again = load.read(tmp_path / "run.npz")
  assert again.spec.trained_sizes == ((6, 6), (12, 12))
  assert again.spec.classes == tuple("0123456789")


@pytest.mark.parametrize(
  ("arguments", "text"),
  [
    (
      ("{in}",),
      "give OUT and --format, one of big_vision, timm, naflexvit, "
      "hugging_face, siglip2, pix2struct, orbax; or "
      "--inspect to see what IN is",
    ),
    (
      ("{in}", "{out}", "--format=timm", "--patch=16"),
      "--patch: OUT stores positions for one input size: give --image too",
    ),
    (
      ("{in}", "{out}", "--format=timm", "--patch=16", "--image=100"),
      "--image: an image of 100x100 pixels is not a whole number of 16x16 "
      "patches: resize it to 96x96, or take a patch size whose sides divide "
      "100 and 100",
    ),
    (
      ("{in}", "{out}", "--format=timm", "--patch=sixteen"),
      "--patch: size 'sixteen': give pixels, 8 or 8x6",
    ),
    (
      ("{in}", "{in}", "--format=big_vision"),
      "OUT: {in} exists and is not written over: give another",
    ),
    (
      ("{in}", "{out}.npz", "--format=timm"),
      "OUT: {out}.npz: for the format timm give a directory",
    ),
    (("{out}", "--inspect"), "IN: {out}: no such file or directory"),
    (
      ("{in}", "{out}", "--inspect"),
      "--inspect writes nothing: leave out {out}",
    ),
    (
      ("{in}", "{out}", "--format=orbax", "--patch=2000"),
      "--patch: kernel_hw (2000, 2000): give (height, width), each of 1 to "
      "1024 pixels",
    ),
    (
      ("{in}", "--inspect", "--step=3"),
      "IN: {in}: only a run's directory has steps",
    ),
    (
      ("{in}", "--inspect", "--posemb=seven"),
      "--posemb: size 'seven': give pixels, 8 or 8x6",
    ),
    (
      ("{in}", "{out}", "--format=npz"),
      "argument --format: invalid choice: 'npz' (choose from 'big_vision', "
      "'timm', 'naflexvit', 'hugging_face', 'siglip2', 'pix2struct', 'orbax') "
      "(try --help)",
    ),
    (
      ("{in}", "{out}", "--fromat=timm"),
      "unknown argument '--fromat=timm'; did you mean --format? (try --help)",
    ),
  ],
)
def test_refusals(run, flexivit, tmp_path, arguments, text):
  places = {"in": str(flexivit), "out": str(tmp_path / "out")}

  def fill(x):
    return x.replace("{in}", places["in"]).replace("{out}", places["out"])

  with pytest.raises(ConfigError) as caught:
    run(*map(fill, arguments))
  # Python 3.12 writes the choices without quotes.
  quoted = str(caught.value).replace("'", "")
  assert quoted == fill(text).replace("'", "")
  assert list(tmp_path.iterdir()) == []


def test_check_fails_where_out_computes_otherwise(flexivit, capsys):
  before = load.read(flexivit)
  after = load.read(flexivit, gelu="exact")
  with pytest.raises(Fault) as caught:
    convert.check(before, after)
  assert str(caught.value) == (
    "that is more than rounding: OUT does not compute what IN does"
  )
  assert "features differ by at most 0.000" in capsys.readouterr().out
