"""What the recipes share: where their data is, and how to try one in seconds.

A recipe's argument begins with its data: `smoke`, the embedded digits;
`tfds:NAME`, prepared by `flexivit prepare`; else a folder
PATH/SPLIT/CLASS/*.jpg. More follows commas.
"""

import hashlib
import os

from ml_collections import ConfigDict

SMOKE = "smoke"
FLEXIVIT_SIZES = (48, 40, 30, 24, 20, 16, 15, 12, 10, 8)  # at 240 px


def split_argument(argument: str, *defaults: str) -> tuple[str, ...]:
  """(data, further values): those left out or empty have their defaults."""
  where, *given = argument.split(",")
  if len(given) > len(defaults):
    raise ValueError(
      f"{argument!r}: give the data and at most {len(defaults)} values after it"
    )
  given += [""] * (len(defaults) - len(given))
  return where, *(x or y for x, y in zip(given, defaults, strict=True))


def pixels(what: str, text: str) -> int:
  """A number of an argument: `what` names it where it is none."""
  try:
    return int(text)
  except ValueError:
    raise ValueError(
      f"{what} is {text!r}: give a whole number of pixels, 16 say"
    ) from None


def source(where: str, split: str) -> dict:
  """The data that a recipe was given, as a source."""
  if where == SMOKE:
    return dict(name="digits", split=split, side=48)
  kind, _, name = where.partition(":")
  if kind == "tfds" and name:
    return dict(name="tfds", dataset=name, split=split)
  return dict(name="image_folder", path=where, split=split)


def big_vision_adam(
  learning_rate: float, weight_decay: float, warmup_steps: int
) -> dict:
  """The optimiser that big_vision's recipes share, its decay in their way."""
  return dict(
    name="adamw",
    learning_rate=learning_rate,
    weight_decay=weight_decay,
    decay_scale="schedule",
    clip_norm=1.0,
    mu_dtype="bfloat16",
    schedule=dict(name="cosine", warmup_steps=warmup_steps),
  )


def config_of(where: str, **values) -> ConfigDict:
  """The recipe's config; of smoke, as much of it as runs in seconds."""
  config = ConfigDict(values)
  return _smoke(config) if where == SMOKE else config


def _smoke(config: ConfigDict) -> ConfigDict:
  """Three steps of the smallest model, on digits; all else as it is."""
  del config.model.size  # it may be a name or fields
  config.model.size = "mu"
  config.model.dtype = "float32"  # what a CPU computes in
  for name, split in (
    ("train", "train[:64]"),
    ("validation", "train[64:80]"),
    ("test", "test[:16]"),
  ):
    if name in config:
      config[name].source.split = split
  if "choices" in config.patch_size:
    config.patch_size.choices = config.patch_size.choices[:2]
  if "packing" in config:
    # Rows of so many images that three steps have enough.
    config.packing.open_rows = 8
  # Digits are of ten classes, whatever a checkpoint has.
  if "task" in config and "teacher" in config.task:
    config.task.teacher.checkpoint = smoke_checkpoint()
    config.init_from.checkpoint = config.task.teacher.checkpoint
  if "task" in config and "sampler" in config.task:
    config.task.sampler.steps = 2
  if "mesh" in config:
    config.mesh.seq = 1  # however many devices there are
    config.accumulate = 1
  config.optimizer.schedule.warmup_steps = 1
  if "cooldown_steps" in config.optimizer.schedule:
    config.optimizer.schedule.cooldown_steps = 1
  config.total_epochs = None
  config.total_steps = config.eval_every = config.save_every = 3
  config.batch_size = config.eval_batch_size = 8
  config.log_every = 1
  config.workers = config.threads = 0
  return config


def smoke_checkpoint() -> str:
  """A file of random parameters to start from, or to learn from: of the
  smallest model with patches of 16 px at 384 px and ten classes.

  It lies in the user's cache, and is made where it is not there yet.
  """
  # Here, so that the other recipes do not wait for JAX.
  import jax
  import numpy as np

  import flexivit_jax
  from flexivit_jax.checkpoints import download
  from flexivit_jax.checkpoints.model import LoadedModel
  from flexivit_jax.checkpoints.origin import Spec
  from flexivit_jax.core.tokens import patchify
  from flexivit_jax.models import sizes, vit
  from flexivit_jax.nn import pooling
  from flexivit_jax.nn.positions.learned_grid import LearnedGrid

  model = vit.ViT(
    size=sizes.SIZES["mu"],
    kernel_hw=(16, 16),
    position=LearnedGrid((24, 24)),
    pool=pooling.ClassToken(),
    num_classes=10,
  )
  name = hashlib.sha256(repr(model).encode()).hexdigest()[:16]
  path = download.cache_directory() / f"smoke_{name}.npz"
  if not path.exists():
    path.parent.mkdir(parents=True, exist_ok=True)
    tokens = patchify(np.zeros((1, 384, 384, 3), np.uint8), (16, 16))
    params = model.init(jax.random.key(0), tokens)["params"]
    # A head begins at zero: all answers would be alike.
    head = params["head"]["kernel"]
    head = jax.random.normal(jax.random.key(1), head.shape) / len(head) ** 0.5
    params["head"]["kernel"] = head
    spec = Spec("recipe", "smoke", patch_size=(16, 16))
    own = path.with_name(f"{path.stem}_{os.getpid()}.npz")
    flexivit_jax.save(LoadedModel(model, params, spec), own, "big_vision")
    os.replace(own, path)  # whole, whoever else makes it meanwhile
    own.with_name(f"{own.name}.sha256").unlink()
  return str(path)
