"""The command, as a user runs it, on real files."""

import hashlib
import json
import pathlib
import re

import numpy as np
import pytest

from flexivit_jax.checkpoints import load, origin, save
from flexivit_jax.checkpoints import model as model_lib
from flexivit_jax.checkpoints.formats import parameters
from flexivit_jax.cli import convert
from flexivit_jax.core.errors import ConfigError, Fault
from flexivit_jax.nn import pooling
from flexivit_jax.nn.positions import learned_grid, waves
from tests import tiny

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


def test_inspect(run, flexivit, tmp_path):
  digest = hashlib.sha256(flexivit.read_bytes()).hexdigest()
  lines = run(flexivit, "--inspect")
  assert lines[0] == f"big_vision npz: {flexivit}"
  assert lines[1].startswith("  ViT-custom: width 48, depth 2, MLP 96, 3 heads")
  assert lines[8] == f"  SHA-256 {digest}"
  table = [line.split() for line in lines[10:]]
  assert table[0] == ["array", "shape", "type", "mean", "std"]
  arrays = dict(np.load(flexivit))
  assert len(table) == 1 + len(arrays)
  row = next(row for row in table if row[0] == "embedding/kernel")
  assert row[1:3] == ["32x32x3x48", "float32"]
  std = arrays["params/embedding/kernel"].std()
  assert float(row[4]) == pytest.approx(std, rel=1e-3)
  # One of several models.
  path = tmp_path / "towers.npz"
  img = {k.replace("params/", "params/img/"): x for k, x in arrays.items()}
  np.savez(path, **img)
  lines = run(f"{path}:img", "--inspect")
  assert lines[0] == f"big_vision npz: {path}:img"


def test_inspect_says_that_a_sum_agrees(run, flexivit, tmp_path):
  run(flexivit, tmp_path / "a.npz", "--format=big_vision")
  run(flexivit, tmp_path / "b", "--format=timm")
  agrees = "  its SHA-256 agrees with what was saved beside it"
  for path, file in (("a.npz", "a.npz"), ("b", "b/model.safetensors")):
    lines = run(tmp_path / path, "--inspect")
    digest = hashlib.sha256((tmp_path / file).read_bytes()).hexdigest()
    assert agrees in lines
    assert f"  SHA-256 {digest}" in lines


CHECK = "check: two photographs at {} pixels, patches of {}: "


@pytest.mark.parametrize(
  ("arguments", "size", "patch"),
  [
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


def _saved(path, format_, position, pool, **fields):
  """A tiny model of random numbers as a file."""
  model = tiny.tiny(position=position, pool=pool, kernel_hw=(4, 4), **fields)
  rng = np.random.default_rng(0)
  arrays = {
    name: rng.normal(size=x.shape).astype(np.float32)
    for name, x in parameters.shapes(model).items()
  }
  spec = origin.Spec("test", "made up", patch_size=(4, 4))
  save.save(model_lib.StoredModel(model, arrays, spec), path, format_)
  return path


def test_what_a_format_has_no_place_for_names_the_way_out(run, tmp_path):
  grid, pool = learned_grid.LearnedGrid((3, 3)), pooling.ClassToken()
  path = _saved(tmp_path / "a", "timm", grid, pool, layer_scale=1e-5)
  arguments = (path, tmp_path / "b.npz", "--format=big_vision")
  text = "^--format big_vision: .* no layer_scale .--fold_layer_scale"
  with pytest.raises(ConfigError, match=text):
    run(*arguments)
  lines = run(*arguments, "--fold_layer_scale", "--check")
  assert lines[-1].startswith("check: ")


def test_positions_without_a_table_need_no_image(run, tmp_path):
  path = _saved(tmp_path / "a", "orbax", waves.SinCos2D(), pooling.Gap())
  arguments = (path, tmp_path / "b", "--format=orbax")
  with pytest.raises(ConfigError, match=r"^--image: the model has no table"):
    run(*arguments, "--image=24")
  run(*arguments, "--patch=2", "--check")
  assert load.read(tmp_path / "b").model.kernel_hw == (2, 2)


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
    ("IN", "give OUT and --format, one of big_vision, timm, .*; or --inspect"),
    ("IN OUT --format=timm --patch=16", "--patch: OUT stores .*: give --image"),
    (
      "IN OUT --format=timm --patch=16 --image=100",
      "--image: an image of 100x100 .* 16x16 patches: resize it to 96x96",
    ),
    ("IN OUT --format=timm --patch=sixteen", "--patch: size 'sixteen': give"),
    ("IN IN --format=big_vision", "OUT: IN exists and .*: give another"),
    ("IN OUT.npz --format=timm", "OUT: OUT.npz: for .* timm give a directory"),
    ("OUT --inspect", "IN: OUT: no such file or directory"),
    ("IN OUT --inspect", "--inspect writes nothing: leave out OUT"),
    ("IN OUT --format=orbax --patch=2000", "--patch: .* each of 1 to 1024"),
    ("IN --inspect --step=3", "IN: only a run's directory has steps"),
    ("IN --inspect --posemb=seven", "--posemb: size 'seven': give pixels"),
    ("IN OUT --format=npz", "--format: invalid choice: 'npz' .choose from"),
  ],
)
def test_refusals(run, flexivit, tmp_path, arguments, text):
  places = {"IN": str(flexivit), "OUT": str(tmp_path / "out")}
  arguments = [
    str(tmp_path / "out.npz") if x == "OUT.npz" else places.get(x, x)
    for x in arguments.split()
  ]
  with pytest.raises(ConfigError) as caught:
    run(*arguments)
  found = str(caught.value)
  for name, path in places.items():
    found = found.replace(path, name)
  assert re.search(text, found)
  assert list(tmp_path.iterdir()) == []


def test_check_fails_where_out_computes_otherwise(flexivit, capsys):
  before = load.read(flexivit)
  after = load.read(flexivit, gelu="exact")
  with pytest.raises(Fault, match="OUT does not compute what IN does"):
    convert.check(before, after)
  assert "features differ by at most 0.000" in capsys.readouterr().out
