"""Checks of a model's fields."""

import jax

from flexivit_jax.nn import adaln
from flexivit_jax.nn.encoder import MAX_SIDE, check_count
from flexivit_jax.nn.stems import stem as stem_lib


def check_fields(model) -> None:
  """Refuse values of a `ViT` that cannot work.

  Raises:
    ValueError: with what would work.
  """
  _check_pixels(model)
  _check_numbers(model)
  if model.dtype not in ("float32", "bfloat16", "float64"):
    raise ValueError(f"dtype {model.dtype!r}: give float32 or bfloat16")
  if model.dtype == "float64" and not jax.config.jax_enable_x64:
    # JAX would compute in float32.
    raise ValueError(
      "dtype 'float64' needs jax_enable_x64: give float32 or bfloat16"
    )
  stem_lib.check_kernel(model.stem, model.kernel_hw)
  if isinstance(model.conditioning, adaln.AdaLNZero) and model.norm_after_pool:
    raise ValueError(
      "conditioning adaln_zero shifts and scales the final norm of each "
      "token, and norm_after_pool leaves none: give norm_after_pool=False"
    )


def _check_pixels(model):
  check_count("channels", model.channels, 1, 10_000)
  if not 1 <= min(model.kernel_hw) <= max(model.kernel_hw) <= MAX_SIDE:
    raise ValueError(
      f"kernel_hw {model.kernel_hw}: give (height, width), each of 1 to "
      f"{MAX_SIDE} pixels"
    )
  for name in ("image_mean", "image_std"):
    values = getattr(model, name)
    low = 0 if name == "image_mean" else 1e-3
    if len(values) not in (1, model.channels) or not all(
      low <= v <= 1 for v in values
    ):
      raise ValueError(
        f"{name} is {values}: give one number of {low:g} to 1, or one for "
        f"each of {model.channels} channels"
      )
  if model.standardize and {*model.image_mean, *model.image_std} != {0.5}:
    raise ValueError(
      f"standardize with image_mean {model.image_mean} and image_std "
      f"{model.image_std}: leave these at (0.5,)"
    )


def _check_numbers(model):
  for name in ("dropout", "drop_path"):
    if not 0 <= getattr(model, name) < 1:
      raise ValueError(
        f"{name} is {getattr(model, name)}: give at least 0 and less than 1"
      )
  check_count("registers", model.registers, 0, 10_000)
  check_count("num_classes", model.num_classes or 0, 0, 10_000_000)
  if model.layer_scale is not None and not 0 <= model.layer_scale <= 1:
    raise ValueError(
      f"layer_scale is {model.layer_scale}: give 0 to 1, or None for none"
    )
  scale = model.attention_scale
  if scale is not None and not 0 < scale <= 100:
    raise ValueError(
      f"attention_scale is {scale}: give more than 0 and at most 100, or "
      "None for 1 / sqrt(width / num_heads)"
    )
  if not 0 < model.norm_eps < 1:
    raise ValueError(
      f"norm_eps is {model.norm_eps}: give more than 0 and less than 1"
    )
