"""Ten configs of configs/, made tiny."""

import dataclasses
import pathlib

DIRECTORY = pathlib.Path(__file__).parent
# From the root, as it is recorded in a config.json.
RESUMABLE = "tests/golden_records/resumable"

SIZE = 'size={"name":"custom","width":16,"depth":2,"mlp_dim":32,"num_heads":2}'
TINY = (f"model.{SIZE}", "batch_size=8", "eval_batch_size=8")
GRID = ("model.kernel_hw=(8,8)", "model.position.size=(4,4)")


@dataclasses.dataclass(frozen=True)
class Case:
  """A config file, overrides, and fixed images that its model is shown.

  Attributes:
    patch_size: of the fixed images; None: the model is not called on images.
    sides: (height, width) of the images; several: they are packed.
  """

  config: str
  overrides: tuple[str, ...]
  patch_size: int | None
  sides: tuple[tuple[int, int], ...] = ((24, 24),)


SEVERAL = ((24, 24), (12, 24), (24, 8))

CASES = {
  "flexivit": Case(
    "flexivit_digits.py", (*GRID, "patch_size.choices=(6,8,12)"), 6
  ),
  "class_token": Case(
    "vit_digits.py",
    (
      *(*GRID, "model.pool=tok", "model.registers=2"),
      "model.prefix_position=True",
    ),
    6,
  ),
  "packed": Case("navit_digits.py", (), 4, SEVERAL),
  "mixed_sizes": Case("flexi_navit_digits.py", (), 4, SEVERAL),
  "mae": Case("mae_digits.py", (*GRID, f"task.decoder.{SIZE}"), 6),
  "diffusion": Case("dit_digits.py:2", (), None),
  "distilled": Case(
    f"flexivit_digits_distill.py:{RESUMABLE}/flexivit",
    (
      *("model.kernel_hw=(8,8)", "model.position.size=(4,4)"),
      *("task.teacher.patch_size=6", "patch_size.choices=(6,12)"),
      *("model.size.depth=1", "model.qkv_bias=False"),
    ),
    6,
  ),
  "hybrid": Case(
    "hybrid_digits.py:resnet",
    ("model.stem.width=8", "model.stem.blocks=(1,)"),
    4,
  ),
  "rotary": Case(
    "vit_digits.py:8",
    (
      *("model.kernel_hw=(8,8)", "model.position=rotary"),
      *("model.qk_norm=True", "model.gated_mlp=True", "model.rms_norm=True"),
    ),
    8,
  ),
  "long": Case(
    "long_digits.py",
    (
      *("train.source.side=12", "validation.source.side=12"),
      *("test.source.side=12", "model.position.size=(12,12)"),
    ),
    1,
    ((12, 12),),
  ),
}

# Two runs of six steps with a checkpoint after the third, which are resumed.
# Without biases of keys: their gradients are rounding alone, which Adam makes
# as large as any other step.
SHORT = (
  *("total_steps=6", "save_every=3", "eval_every=6", "log_every=1"),
  *("optimizer.schedule.warmup_steps=1", "validation=None"),
  *("model.size.depth=1", "model.qkv_bias=False"),
)
RESUMED = {
  "flexivit": Case(
    "flexivit_digits.py", (*GRID, "patch_size.choices=(6,12)", *SHORT), None
  ),
  "packed": Case("flexi_navit_digits.py", SHORT, None),
}
