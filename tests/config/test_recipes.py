"""Recipes against the numbers of the configs of big_vision that they name.

The right side of each comparison is written from those configs.
"""

import ast
import dataclasses
import pathlib
import re

import pytest

from flexivit_jax.config import build
from flexivit_jax.core import errors
from flexivit_jax.data.pixels.preprocessing import BvCompat
from flexivit_jax.nn import pooling
from flexivit_jax.nn.positions import learned_grid
from flexivit_jax.tasks import classification, distillation, losses
from flexivit_jax.training import schedules

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"


def load(recipe):
  name, _, argument = recipe.partition(":")
  return build.load(f"{CONFIGS}/{name}.py:{argument}")


@dataclasses.dataclass(frozen=True)
class Published:
  """What a config of big_vision says."""

  lr: float
  wd: float
  warmup: int
  batch: int
  epochs: float
  mixup: float
  sizes: tuple[int, ...]
  side: int
  randaug: tuple[int, int] | None = None
  head_bias: float = 0.0
  kernel: int = 16


FLEXI = (48, 40, 30, 24, 20, 16, 15, 12, 10, 8)
# configs/vit_s16_i1k.py, configs/proj/flexivit/{i1k_deit3_distill,i21k_distill,
# i21k_sup}.py; i21k's public ones store kernels of 8 x 8.
TABLE = {
  "vit_s16_i1k:PATH": Published(
    1e-3, 1e-4, 10_000, 1024, 90, 0.2, (16,), 224, randaug=(2, 10)
  ),
  "flexivit_s_i1k:PATH": Published(1e-4, 1e-5, 5000, 1024, 90, 1.0, FLEXI, 240),
  "flexivit_b_i1k:PATH": Published(1e-4, 1e-5, 5000, 1024, 90, 1.0, FLEXI, 240),
  "flexivit_l_i1k:PATH": Published(1e-4, 1e-5, 5000, 1024, 90, 1.0, FLEXI, 240),
  "flexivit_b_i21k:PATH": Published(
    *(1e-3, 1e-4, 10_000, 4096, 90, 0.2, FLEXI, 240),
    randaug=(2, 10),
    head_bias=-10.0,
    kernel=8,
  ),
  "flexivit_b_i21k:PATH,distilled": Published(
    1e-4, 1e-5, 5000, 4096, 90, 1.0, FLEXI, 240, kernel=8
  ),
}


@pytest.mark.parametrize("recipe", TABLE)
def test_values_of_the_config_that_it_names(recipe):
  found, wanted = load(recipe), TABLE[recipe]
  assert found.batch_size == wanted.batch
  assert found.total_epochs == wanted.epochs
  (mixup,) = found.mix
  assert (mixup.alpha, mixup.images, mixup.probability) == (wanted.mixup, 2, 1)
  assert found.patch_size.sizes == tuple((p, p) for p in wanted.sizes)
  crop, _, *augment = found.train.transforms
  assert crop.size == (wanted.side, wanted.side)
  assert (crop.area, crop.ratio) == ((0.05, 1.0), (3 / 4, 4 / 3))
  drawn = [(x.layers, x.magnitude) for x in augment]
  assert drawn == ([] if wanted.randaug is None else [wanted.randaug])
  assert found.model.head_bias == wanted.head_bias
  assert found.model.kernel_hw == (wanted.kernel, wanted.kernel)
  assert found.preprocessing == BvCompat()
  optimizer = found.optimizer
  assert (optimizer.b1, optimizer.b2, optimizer.eps) == (0.9, 0.999, 1e-8)
  assert (optimizer.clip_norm, optimizer.mu_dtype) == (1.0, "bfloat16")
  rates = optimizer.learning_rate, optimizer.weight_decay
  assert rates == (wanted.lr, wanted.wd)
  assert optimizer.decay_scale == "schedule"
  assert optimizer.schedule == schedules.Cosine(warmup_steps=wanted.warmup)


@pytest.mark.parametrize(
  ("recipe", "side", "patch"),
  [
    *((f"flexivit_{n}_i1k:PATH", 384, 16) for n in "sbl"),
    ("flexivit_b_i21k:PATH,distilled", 224, 8),
  ],
)
def test_distilled_recipes_have_their_teachers(recipe, side, patch):
  found = load(recipe)
  assert found.task.distance == distillation.KL(1.0)
  assert found.task.label_weight == 0
  teacher = found.task.teacher
  assert (teacher.image_size, teacher.patch_size) == (side, patch)
  assert found.init_from.checkpoint == teacher.checkpoint
  size = {"s": "deit3_s_384_1k", "b": "deit3_b_384_1k", "l": "deit3_l_384_1k"}
  name = recipe.split("_")[1]
  wanted = size[name] if "i1k" in recipe else "augreg_b8_i21k"
  assert teacher.checkpoint == wanted
  assert found.model.pool == pooling.ClassToken()
  assert found.model.position == learned_grid.LearnedGrid((7, 7))


def test_supervised_recipes_have_their_losses():
  assert load("vit_s16_i1k:PATH").task == classification.Supervised()
  sigmoid = classification.Supervised(losses.SigmoidLoss())
  for recipe in ("flexivit_b_i21k:PATH", "navit_b16:PATH"):
    assert load(recipe).task == sigmoid
  optimizer = load("navit_b16:PATH").optimizer
  assert (optimizer.learning_rate, optimizer.weight_decay) == (8e-4, 0.03)
  (group,) = optimizer.groups
  assert (group.pattern, group.weight_decay) == ("head/kernel", 3.0)


@pytest.mark.parametrize(
  "path",
  [p for p in sorted(CONFIGS.glob("[!_]*.py")) if "`smoke`" in p.read_text()],
  ids=lambda path: path.stem,
)
def test_a_header_has_commands_and_what_to_expect(path):
  header = ast.get_docstring(ast.parse(path.read_text()))
  assert f"python train.py --config configs/{path.name}:" in header
  commands = r"(python evaluate\.py|flexivit sample)"
  assert re.search(rf"{commands} --checkpoint runs/", header)
  assert re.search(r"\bExpected\b.*:", header)


@pytest.mark.parametrize(
  ("recipe", "text"),
  [
    ("finetune:PATH", "DATA,CHECKPOINT"),
    ("pix2struct_finetune:PATH", "DATA,"),
    ("flexivit_b_i21k:PATH,both", "'both': give labels or distilled"),
    ("vit_s16_i1k:PATH,B", "'PATH,B': give the data and at most 0 values"),
    ("vit_digits:X", "patch size is 'X': give a whole number"),
    ("finetune:smoke,,X", "patch size is 'X': give a whole number"),
    ("finetune:smoke,,16,X", "side of the images is 'X': give a whole number"),
    ("pit_trend:PATH,1,X", "side of the images is 'X': give a whole number"),
  ],
)
def test_arguments_that_cannot_be(recipe, text):
  with pytest.raises(errors.ConfigError, match=text):
    load(recipe)


@pytest.mark.parametrize(
  ("name", "needs"),
  [
    ("vit_s16_i1k", "argument: --config {0}:DATA, or {0}:smoke to try it"),
    ("finetune", "argument: --config {0}:DATA,CHECKPOINT, or {0}:smoke to"),
    ("pit_trend", "argument: --config {0}:tfds:cifar10, or {0}:smoke to try"),
    ("flexivit_folder", "path_and_size: --config {0}:PATH"),
    ("flexivit_digits_distill", "teacher: --config {0}:runs/teacher"),
  ],
)
def test_a_recipe_without_its_argument_says_what_it_takes(name, needs):
  path = f"{CONFIGS}/{name}.py"
  with pytest.raises(errors.ConfigError) as caught:
    build.load(path)
  assert str(caught.value).startswith(f"{path} needs its {needs.format(path)}")
