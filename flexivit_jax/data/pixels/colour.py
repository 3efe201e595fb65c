"""Random changes of colour, as in MoCo's recipe (arXiv:1911.05722)."""

import dataclasses

import numpy as np
from PIL import Image, ImageEnhance


@dataclasses.dataclass(frozen=True)
class ColorJitter:
  """Brightness, contrast, saturation and hue, in random order.

  Factors are uniform in [max(0, 1 - x), 1 + x]: 0 is black, the image's mean
  grey, or grey; 1 changes nothing. 0 leaves one out.

  Attributes:
    brightness, contrast, saturation: largest change of the factor.
    hue: largest change either way, as a share of the colour circle.
  """

  brightness: float = 0.4
  contrast: float = 0.4
  saturation: float = 0.4
  hue: float = 0.4

  def __post_init__(self):
    for name in ("brightness", "contrast", "saturation"):
      value = getattr(self, name)
      if not 0 <= value <= 10:
        raise ValueError(f"{name} is {value}: give 0 to 10, 0.4 say")
    if not 0 <= self.hue <= 0.5:
      raise ValueError(f"hue is {self.hue}: give a share from 0 to 0.5")

  def __call__(self, image, rng):
    image = Image.fromarray(image)
    # All drawn first, so that no field changes what another one draws.
    draws, order = rng.uniform(-1, 1, 4), rng.permutation(4)
    for which in order.tolist():
      name, change = _CHANGES[which]
      largest = getattr(self, name)
      if largest:
        image = change(image, largest, draws[which])
    return np.asarray(image)


def _enhanced(by):
  def change(image, largest, draw):
    low, high = max(0, 1 - largest), 1 + largest
    return by(image).enhance(low + (draw + 1) / 2 * (high - low))

  return change


def _turn_hue(image, largest, draw):
  hue, saturation, value = image.convert("HSV").split()
  turn = round(largest * draw * 256)
  hue = hue.point([(x + turn) % 256 for x in range(256)])
  return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


_CHANGES = (
  ("brightness", _enhanced(ImageEnhance.Brightness)),
  ("contrast", _enhanced(ImageEnhance.Contrast)),
  ("saturation", _enhanced(ImageEnhance.Color)),
  ("hue", _turn_hue),
)


@dataclasses.dataclass(frozen=True)
class Grayscale:
  """Takes all colour out, with a probability; ITU-R 601 luma.

  Attributes:
    probability: 0 to 1.
  """

  probability: float = 0.2

  def __post_init__(self):
    if not 0 <= self.probability <= 1:
      raise ValueError(f"probability is {self.probability}: give 0 to 1")

  def __call__(self, image, rng):
    if rng.random() >= self.probability:
      return image
    grey = np.asarray(Image.fromarray(image).convert("L"))
    return np.repeat(grey[..., None], 3, axis=-1)
