"""Hybrids as a user trains, plans, exports and draws them."""

import jax
import numpy as np
import pytest

from flexivit_jax.checkpoints import export, save, serving
from flexivit_jax.checkpoints.formats import parameters
from flexivit_jax.checkpoints.model import StoredModel, on_device
from flexivit_jax.checkpoints.origin import Spec
from flexivit_jax.config import build
from flexivit_jax.core.errors import ConfigError
from flexivit_jax.core.tokens import patchify
from flexivit_jax.nn import encoder
from flexivit_jax.nn.positions import learned_grid
from flexivit_jax.nn.stems.early_convolutions import EarlyConvolutions
from flexivit_jax.nn.stems.resnet import ResNet
from flexivit_jax.run.plan import workload
from flexivit_jax.training import parameter_groups
from tests import tiny

HYBRID = "--config=configs/hybrid_digits.py"


@pytest.mark.parametrize(
  ("arguments", "place", "text"),
  [
    (
      (HYBRID, "--config.patch_size.size=6"),
      "config.patch_size",
      "such as 8x8",
    ),
    ((HYBRID, "--config.mesh.seq=2"), "config.model", 'stem="none", or seq=1'),
    (
      (
        "--config=configs/navit_digits.py",
        "--config.model.stem=early_convolutions",
        "--config.model.kernel_hw=(1,1)",
      ),
      "config.model",
      'stem="none", or images of one size without packing',
    ),
    (("--config=configs/hybrid_digits.py:x",), "configs", "resnet, none"),
  ],
)
def test_what_cannot_be_trained_is_refused(
  arguments, place, text, here, tmp_path
):
  done = here("train.py", *arguments, f"--workdir={tmp_path / 'run'}")
  assert done.returncode == 2
  assert done.stderr.startswith(f"error: {place}")
  assert text in done.stderr
  assert not (tmp_path / "run").exists()


def test_a_stem_is_not_planned():
  experiment = build.load("configs/hybrid_digits.py")
  with pytest.raises(ConfigError, match=r"config.model.stem: .*--dry_run"):
    workload.read(experiment)


def _model(stem, **changes):
  size, position = encoder.Size(16, 2, 32, 2), learned_grid.LearnedGrid((3, 3))
  fields = {"size": size, "position": position, "kernel_hw": (1, 1)}
  return tiny.tiny(**fields | {"num_classes": 5} | changes, stem=stem)


def _checkpoint(model):
  rng = np.random.default_rng(0)
  arrays = {
    name: (0.2 * rng.normal(size=x.shape)).astype(np.float32)
    for name, x in parameters.shapes(model).items()
  }
  return StoredModel(model, arrays, Spec("test", "made up", patch_size=(4, 4)))


@pytest.mark.parametrize("stem", [ResNet((1,), 8), EarlyConvolutions((8, 8))])
def test_a_stem_is_the_lowest_layer(stem):
  model = _model(stem)
  tokens = patchify(np.zeros((1, 12, 12, 3), np.uint8), (4, 4))
  params = jax.eval_shape(lambda: model.init(jax.random.key(0), tokens))
  found = parameter_groups.multipliers(params["params"], (), 0.5)
  own = {
    top: {float(x) for x in jax.tree.leaves(tree)}
    for top, tree in found.items()
    if top not in ("Transformer", "head")
  }
  assert len(own) > 2
  assert set.union(*own.values()) == {0.5**3}


@pytest.mark.parametrize(
  ("arguments", "texts"),
  [
    (("--budgets=9",), ("--budgets: ", 'stem="none"')),
    (
      ("--resolutions=24,12", "--patch_sizes=8"),
      ("--patch_sizes: none of 8 tiles images of 12x12 pixels; 4, 12 do",),
    ),
    (
      ("--resolutions=18", "--patch_sizes=4"),
      ("18x18 pixels", "4x4", "multiples of the stem's 4 that divide both: no"),
    ),
  ],
)
def test_evaluation_offers_what_a_stem_can(arguments, texts, here, tmp_path):
  path = tmp_path / "model"
  model = _model(EarlyConvolutions((8, 8)), num_classes=10)
  save.save(_checkpoint(model), path, "orbax")
  done = here(
    *("evaluate.py", f"--checkpoint={path}", "--data=digits"),
    *("--split=test[:8]", *arguments),
  )
  assert done.returncode == 2
  assert all(text in done.stderr for text in texts)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("stem", "dtype"),
  [(ResNet((1,), 8), "bfloat16"), (EarlyConvolutions((8, 8)), "float32")],
)
def test_exported(stem, dtype, tmp_path):
  loaded = on_device(_checkpoint(_model(stem, dtype=dtype)))
  sizes = (4, 12)
  export.export(
    loaded,
    tmp_path / "out",
    patch_sizes=sizes,
    image_hw=(24, 24),
    platforms=("cpu",),
  )
  served = serving.load(tmp_path / "out")
  images = np.random.default_rng(1).integers(0, 256, (2, 24, 24, 3), np.uint8)
  for size in sizes:
    wanted = np.asarray(loaded(images, patch_size=size))
    got = served(images, patch_size=size)["logits"]
    # float32 is the same; the logits of bfloat16, up to 0.3, differ by what XLA
    # fuses otherwise.
    atol = 1e-6 if dtype == "float32" else 2e-3
    np.testing.assert_allclose(got, wanted, rtol=0, atol=atol)
    assert np.abs(wanted).max() > 0.1


@pytest.mark.slow
def test_dry_run_counts_the_stem(here):
  done = here("train.py", HYBRID, "--dry_run")
  assert done.returncode == 0, done.stderr
  lines = done.stdout.splitlines()
  assert any(line.startswith("210,266 parameters, ") for line in lines)
  (row,) = (line.split() for line in lines if line.split()[:2] == ["4", "36"])
  assert row[2] == "0.00804"
