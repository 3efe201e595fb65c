"""Hybrids as a user trains, plans, exports and draws them."""

import jax
import numpy as np
import pytest

from configs import hybrid_digits
from flexivit_jax.checkpoints import export, save, serving
from flexivit_jax.checkpoints.formats import parameters
from flexivit_jax.checkpoints.model import StoredModel, on_device
from flexivit_jax.checkpoints.origin import Spec
from flexivit_jax.config import build
from flexivit_jax.core.errors import ConfigError
from flexivit_jax.core.tokens import patchify
from flexivit_jax.models import vit
from flexivit_jax.nn import encoder, pooling
from flexivit_jax.nn.positions import learned_grid
from flexivit_jax.nn.stems.early_convolutions import EarlyConvolutions
from flexivit_jax.nn.stems.resnet import ResNet
from flexivit_jax.run.plan import workload
from flexivit_jax.training import parameter_groups

HYBRID = "--config=configs/hybrid_digits.py"
WHOLE = (
  "a convolutional stem takes whole images: packed rows and parts of an image "
  'have none, so take stem="none", or images of one size without packing or '
  "masking"
)


@pytest.mark.parametrize(
  ("arguments", "text"),
  [
    (
      (HYBRID, "--config.patch_size.size=6"),
      "config.patch_size: patches of 6x6 pixels, but the stem makes one cell "
      "of 4x4: give multiples of 4, such as 8x8, or a stem of a smaller stride",
    ),
    (
      (HYBRID, "--config.mesh.seq=2"),
      "config.model: a convolutional stem takes whole images, and 2 devices of "
      'the mesh\'s axis seq share each row: take stem="none", or seq=1',
    ),
    (
      (
        "--config=configs/navit_digits.py",
        "--config.model.stem=early_convolutions",
        "--config.model.kernel_hw=(1,1)",
      ),
      f"config.model: {WHOLE}",
    ),
  ],
)
def test_what_cannot_be_trained_is_refused(arguments, text, here, tmp_path):
  done = here("train.py", *arguments, f"--workdir={tmp_path / 'run'}")
  assert (done.returncode, done.stderr) == (2, f"error: {text}\n")
  assert not (tmp_path / "run").exists()


def test_a_stem_that_the_recipe_has_not_is_refused():
  with pytest.raises(ValueError) as caught:
    hybrid_digits.get_config("dense")
  assert str(caught.value) == (
    "the stem is 'dense': give one of early_convolutions, resnet, none, or "
    "smoke"
  )


def test_the_three_of_the_recipe_have_as_many_parameters():
  counts = {}
  for name in ("early_convolutions", "resnet", "none"):
    model = build.load(f"configs/hybrid_digits.py:{name}").model
    shapes = parameters.shapes(model.clone(num_classes=10))
    counts[name] = sum(int(np.prod(x.shape)) for x in shapes.values())
  assert max(counts.values()) < 1.003 * min(counts.values())


def test_a_stem_is_not_planned():
  experiment = build.load("configs/hybrid_digits.py")
  with pytest.raises(ConfigError) as caught:
    workload.read(experiment)
  assert str(caught.value) == (
    "config.model.stem: the plan has no formula for the memory of "
    "convolutions: train.py --dry_run says what a step needs, "
    "--config.model.stem=none plans without them"
  )


def _model(stem, **changes):
  fields = dict(
    size=encoder.Size(16, 2, 32, 2),
    position=learned_grid.LearnedGrid((3, 3)),
    pool=pooling.Gap(),
    kernel_hw=(1, 1),
    num_classes=5,
  )
  return vit.ViT(**(fields | changes), stem=stem)


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


def test_features_are_not_drawn_as_filters(here, tmp_path):
  path = tmp_path / "model.npz"
  save.save(_checkpoint(_model(ResNet((1,), 8))), path, "big_vision")
  analysis = ["filters", f"--checkpoint={path}"]
  done = here(
    "flexivit_jax.cli.analysis", *analysis, f"--output={tmp_path / 'out'}"
  )
  assert done.stderr == (
    f"error: --checkpoint {path}: its patch embedding is of the "
    "features of a convolutional stem, which are no pixels to draw: give a "
    "model without a stem\n"
  )


@pytest.mark.parametrize(
  ("arguments", "text"),
  [
    (("--budgets=9",), f"--budgets: {WHOLE}"),
    (
      ("--resolutions=24,12", "--patch_sizes=8"),
      "--patch_sizes: none of 8 tiles images of 12x12 pixels; 4, 12 do; "
      "--resolutions makes images of another size",
    ),
    (
      ("--resolutions=18", "--patch_sizes=4"),
      "--patch_sizes: an image of 18x18 pixels is not a whole number of 4x4 "
      "patches: resize it to 16x16, or take a patch size whose sides divide 18 "
      "and 18; multiples of the stem's 4 that divide both: none; --resolutions "
      "makes images of another size",
    ),
  ],
)
def test_evaluation_offers_what_a_stem_can(arguments, text, here, tmp_path):
  path = tmp_path / "model"
  model = _model(EarlyConvolutions((8, 8)), num_classes=10)
  save.save(_checkpoint(model), path, "orbax")
  done = here(
    *("evaluate.py", f"--checkpoint={path}", "--data=digits"),
    *("--split=test[:8]", *arguments),
  )
  assert (done.returncode, done.stderr) == (2, f"error: {text}\n")


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
def test_dry_run_counts_the_stem(command, tmp_path):
  done = command("train.py", HYBRID, "--dry_run", f"--workdir={tmp_path}")
  assert done.returncode == 0, done.stderr
  lines = done.stdout.splitlines()
  assert any(line.startswith("210,266 parameters, ") for line in lines)
  (row,) = (line.split() for line in lines if line.split()[:2] == ["4", "36"])
  assert row[2] == "0.00804"
