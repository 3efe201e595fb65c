import dataclasses
import pathlib
import re
import types

import numpy as np
import pytest

from flexivit_jax.checkpoints import parity, repatch, serving
from flexivit_jax.cli import checkpoint_arguments, export
from flexivit_jax.core import pi_resize
from flexivit_jax.core.errors import ConfigError, Fault

DATA = pathlib.Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
  path = tmp_path_factory.mktemp("npz") / "flexivit.npz"
  golden = np.load(DATA / "big_vision_flexivit_tok.npz")
  np.savez(path, **{k: x for k, x in golden.items() if k.startswith("params/")})
  return path


def _arguments(checkpoint, out, *more):
  sizes = ("--patch_sizes=8,24x16", "--resolution=96x144")
  return [str(checkpoint), str(out), "--num_heads=3", *sizes, *more]


def test_it_is_written_and_compared_with_the_model(
  checkpoint, tmp_path, capsys
):
  out = tmp_path / "out"
  export.main(_arguments(checkpoint, out, "--platforms=cpu,cuda"))
  printed = capsys.readouterr().out.splitlines()
  assert printed[0] == f"big_vision npz: {checkpoint}"
  assert re.fullmatch(rf"wrote {out} \(\d+\.\d (K|M)iB\)", printed[-5])
  checks = [
    re.fullmatch(
      r"check: two photographs at 96x144 pixels, patches of (\w+): (\w+) "
      r"differ by at most (\S+), of (\S+)",
      line,
    ).groups()
    for line in printed[-4:]
  ]
  assert [x[:2] for x in checks] == [
    (size, output)
    for size in ("8x8", "24x16")
    for output in ("features", "logits")
  ]
  for *_, worst, largest in checks:
    # Float32 rounding; the values are of order 1.
    assert float(worst) < 1e-5 < 0.5 < float(largest)
  served = serving.load(out)
  assert served.contract["platforms"] == ["cpu", "cuda"]
  # What was compared is what lies there.
  images = parity.photographs((96, 144), 3)
  largest = np.abs(served(images, 8)["logits"]).max()
  assert checks[1][3] == f"{largest:.2g}"


def test_what_computes_something_else_is_a_fault(
  checkpoint, tmp_path, capsys, monkeypatch
):
  def antialiased(kernel, hw, *, antialias):
    return pi_resize.pi_resize(kernel, hw, antialias=not antialias)

  # As other programs resize: near to it, but not the same.
  other = types.SimpleNamespace(pi_resize=antialiased)
  monkeypatch.setattr(repatch, "pi_resize", other)
  with pytest.raises(Fault, match="OUT does not compute what IN does"):
    export.main(_arguments(checkpoint, tmp_path / "out"))
  last = capsys.readouterr().out.splitlines()[-1]
  worst = float(last.split("at most ")[1].split(",")[0])
  # A thousand times what tests/checkpoints/test_serving.py allows.
  assert worst > 1e-2


def test_a_bfloat16_model_may_differ_by_its_rounding(
  checkpoint, tmp_path, monkeypatch
):
  read = checkpoint_arguments.read

  def as_bfloat16(args):
    found = read(args)
    model = found.model.clone(dtype="bfloat16")
    return dataclasses.replace(found, model=model)

  monkeypatch.setattr(checkpoint_arguments, "read", as_bfloat16)
  export.main(_arguments(checkpoint, tmp_path / "out"))
  assert b"BF16" in (tmp_path / "out" / serving.WEIGHTS).read_bytes()


def test_what_does_not_run_here_is_not_checked(checkpoint, tmp_path, capsys):
  export.main(_arguments(checkpoint, tmp_path / "out", "--platforms=tpu,cuda"))
  assert capsys.readouterr().out.splitlines()[-1] == (
    "not checked: it does not run on cpu, which this machine has"
  )


@pytest.mark.parametrize(
  ("argument", "message"),
  [
    ("--patch_sizes=8,x", "--patch_sizes: size 'x': give pixels, 8 or 8x6"),
    ("--resolution=96x", "--resolution: size '96x': give pixels, 8 or 8x6"),
    ("--patch_sizes=7", "cannot export: .* 7x7 patches: resize it to 98x147"),
    ("--platforms=gpu", "platforms gpu: give some of cpu, cuda, rocm, tpu"),
  ],
)
def test_what_cannot_be_is_refused_and_nothing_written(
  checkpoint, tmp_path, argument, message
):
  with pytest.raises(ConfigError, match=message):
    export.main(_arguments(checkpoint, tmp_path / "out", argument))
  assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_over(checkpoint, tmp_path):
  out = tmp_path / "out"
  out.mkdir()
  with pytest.raises(ConfigError, match=r"out exists .*: give another"):
    export.main(_arguments(checkpoint, out))
  assert list(out.iterdir()) == []
