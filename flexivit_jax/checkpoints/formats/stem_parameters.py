"""The convolutional stem that a checkpoint's arrays are of."""

import re
from collections.abc import Mapping

import numpy as np

from flexivit_jax.checkpoints.formats.parameters import naming, of_rank
from flexivit_jax.nn.stems.early_convolutions import EarlyConvolutions
from flexivit_jax.nn.stems.resnet import ResNet
from flexivit_jax.nn.stems.stem import NoStem, Stem

ROOT, FIRST = "conv_root/kernel", "stem/Conv_0/kernel"
_UNIT = re.compile(r"block(\d{1,3})/unit(\d{1,3})/conv1/kernel")
_CONVOLUTION = re.compile(r"stem/Conv_(\d{1,3})/kernel")
_NAME = re.compile(r"(conv_root|gn_root|block\d+|stem)/.*")


def is_one(name: str) -> bool:
  """Whether a parameter of this name is a stem's."""
  return _NAME.fullmatch(name) is not None


def read(arrays: Mapping[str, np.ndarray], path) -> Stem:
  """The stem, as its arrays' names and shapes tell.

  Args:
    arrays: under our names.

  Raises:
    ValueError: an array has another rank, or no stem has such values.
  """
  root = of_rank(arrays, ROOT, 4, path)
  with naming(path):
    if root is not None:
      return ResNet(_blocks(arrays), root.shape[-1])
    numbers = [int(m[1]) for m in map(_CONVOLUTION.fullmatch, arrays) if m]
    if not numbers:
      return NoStem()
    widths = (
      of_rank(arrays, f"stem/Conv_{i}/kernel", 4, path)
      for i in range(1 + max(numbers))
    )
    return EarlyConvolutions(
      # One that is missing is told by name, when all names are compared.
      tuple(8 if x is None else x.shape[-1] for x in widths)
    )


def _blocks(arrays) -> tuple[int, ...]:
  """Units of each stage: what is missing in between is found missing later."""
  units: dict[int, int] = {}
  for name in arrays:
    if match := _UNIT.fullmatch(name):
      stage, unit = map(int, match.groups())
      units[stage] = max(units.get(stage, 0), unit)
  return tuple(units.get(i + 1, 1) for i in range(max(units, default=0)))


def image_channels(arrays: Mapping[str, np.ndarray], path) -> int | None:
  """Channels of the images that the stem takes; None: there is no stem."""
  for name in (ROOT, FIRST):
    if (kernel := of_rank(arrays, name, 4, path)) is not None:
      return kernel.shape[2]
  return None
