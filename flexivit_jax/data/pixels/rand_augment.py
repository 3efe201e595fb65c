"""RandAugment: random operations of one strength (arXiv:1909.13719).

The operations and their strengths are those of big_vision's randaug, which are
TensorFlow's for EfficientNet. They differ from the paper's and from other
libraries' in ways that its recipes were tuned with, and are kept: a magnitude
of 10 sets most strengths to the end of the paper's range and not at random
within it, solarize inverts less the larger its threshold is, and contrast turns
about a grey that depends on the size of the image.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image, ImageChops, ImageEnhance

# What enters at an edge, and what is cut out.
GREY = (128, 128, 128)

MAX_MAGNITUDE = 30


@dataclasses.dataclass(frozen=True)
class RandAugment:
  """`layers` operations in turn, each one of the 16 with equal probability.

  | operation | strength at magnitude m |
  |---|---|
  | auto_contrast | darkest 0, brightest 255, in each channel |
  | equalize | equal histogram, in each channel |
  | invert | 255 - x |
  | rotate | 3 m degrees, either way, about the centre |
  | posterize | the upper 0.4 m bits are kept, 1 to 8 |
  | solarize | 255 - x where x >= 25.6 m modulo 256; at 10, everywhere |
  | solarize_add | 11 m added where x < 128 |
  | color, brightness, sharpness | factor 0.1 + 0.18 m; 1 is none |
  | contrast | the same, about the grey min(255, pixels / 256) |
  | shear_x, shear_y | 0.03 m pixels per pixel, either way, from the corner |
  | translate_x, translate_y | 10 m pixels, either way |
  | cutout | a grey square of 8 m pixels, centred anywhere |

  What enters from outside is grey. color and sharpness are Pillow's, which
  round where TensorFlow cuts off: 1 grey level at m = 10. big_vision writes it
  randaug(layers, magnitude).

  Attributes:
    layers: operations on one image.
    magnitude: m, 0 to 30; 10 is the end of the paper's range.
  """

  layers: int = 2
  magnitude: float = 10.0

  def __post_init__(self):
    if not 1 <= self.layers <= 16:
      raise ValueError(f"layers is {self.layers}: give 1 to 16")
    if not 0 <= self.magnitude <= MAX_MAGNITUDE:
      raise ValueError(
        f"magnitude is {self.magnitude}: give 0 to {MAX_MAGNITUDE}, 10 say"
      )

  def __call__(self, image, rng):
    image, operations = Image.fromarray(image), list(OPERATIONS.values())
    for number in rng.integers(len(OPERATIONS), size=self.layers).tolist():
      image = operations[number](image, self.magnitude, rng)
    return np.asarray(image)


def auto_contrast(image: Image.Image) -> Image.Image:
  return image.point(
    [x for ends in image.getextrema() for x in _stretch(*ends)]
  )


def _stretch(low, high):
  levels = np.arange(256, dtype=np.float32)
  if high > low:
    scale = np.float32(255) / np.float32(high - low)
    levels = np.clip(levels * scale - np.float32(low) * scale, 0, 255)
  return levels.astype(np.uint8).tolist()


def equalize(image: Image.Image) -> Image.Image:
  counts = np.reshape(image.histogram(), (3, 256))
  return image.point([x for channel in counts for x in _flatten(channel)])


def _flatten(counts):
  # The brightest level that is there is not counted, as in Pillow's own.
  step = (counts.sum() - counts[counts > 0][-1]) // 255
  if not step:
    return range(256)
  below = np.concatenate([[0], np.cumsum(counts)[:-1] + step // 2])
  return np.minimum(below // step, 255).tolist()


def posterize(image: Image.Image, bits: int) -> Image.Image:
  """The upper 1 to 8 bits; a number outside is moved there."""
  lost = 8 - min(max(bits, 1), 8)
  return image.point([x >> lost << lost for x in range(256)] * 3)


def solarize(image: Image.Image, threshold: int) -> Image.Image:
  """Inverts what is not below the threshold, which is an uint8: 256 is 0."""
  threshold %= 256
  return image.point([x if x < threshold else 255 - x for x in range(256)] * 3)


def solarize_add(image: Image.Image, addition: int) -> Image.Image:
  """Brightens what is below 128."""
  lighter = [min(x + addition, 255) if x < 128 else x for x in range(256)]
  return image.point(lighter * 3)


def brightness(image: Image.Image, factor: float) -> Image.Image:
  return _away_from(image, 0, factor)


def contrast(image: Image.Image, factor: float) -> Image.Image:
  """About a grey that grows with the image: TensorFlow's, and no mean."""
  return _away_from(image, min(image.width * image.height // 256, 255), factor)


def _away_from(image, grey, factor):
  distance = np.arange(256, dtype=np.float32) - np.float32(grey)
  levels = np.clip(grey + np.float32(factor) * distance, 0, 255)
  return image.point(levels.astype(np.uint8).tolist() * 3)


def rotate(image: Image.Image, degrees: float) -> Image.Image:
  """About the centre, counterclockwise."""
  cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
  cx, cy = (image.width - 1) / 2, (image.height - 1) / 2
  across = cos, -sin, cx - cos * cx + sin * cy
  down = sin, cos, cy - sin * cx - cos * cy
  return _take(image, across, down)


def shear_x(image: Image.Image, share: float) -> Image.Image:
  """Row r shows what was r * share to the right."""
  return _take(image, (1, share, 0), (0, 1, 0))


def shear_y(image: Image.Image, share: float) -> Image.Image:
  """Column c shows what was c * share below."""
  return _take(image, (1, 0, 0), (share, 1, 0))


def translate_x(image: Image.Image, pixels: float) -> Image.Image:
  """Shows what was so far to the right."""
  return _take(image, (1, 0, pixels), (0, 1, 0))


def translate_y(image: Image.Image, pixels: float) -> Image.Image:
  """Shows what was so far below."""
  return _take(image, (1, 0, 0), (0, 1, pixels))


def _take(image, across, down):
  """Pixel (x, y) from (a x + b y + c, d x + e y + f) of the image."""
  # Pillow's coordinates are 1/2 at the centre of the first pixel.
  shifted = [c + (1 - a - b) / 2 for a, b, c in (across, down)]
  matrix = (*across[:2], shifted[0], *down[:2], shifted[1])
  return image.transform(
    image.size,
    Image.Transform.AFFINE,
    matrix,
    Image.Resampling.NEAREST,
    fillcolor=GREY,
  )


def cutout(
  image: Image.Image, pad: int, centre: tuple[int, int]
) -> Image.Image:
  """A grey square of 2 pad pixels around (row, column)."""
  row, column = centre
  image = image.copy()
  image.paste(GREY, (column - pad, row - pad, column + pad, row + pad))
  return image


def _anywhere(image, rng):
  return int(rng.integers(image.height)), int(rng.integers(image.width))


def _either_way(rng, amount):
  return amount if rng.random() < 0.5 else -amount


def _factor(magnitude):
  return 0.1 + 0.18 * magnitude


Operation = Callable[[Image.Image, float, np.random.Generator], Image.Image]

# From image, magnitude and generator; in big_vision's order.
OPERATIONS: Mapping[str, Operation] = {
  "auto_contrast": lambda image, m, rng: auto_contrast(image),
  "equalize": lambda image, m, rng: equalize(image),
  "invert": lambda image, m, rng: ImageChops.invert(image),
  "rotate": lambda image, m, rng: rotate(image, _either_way(rng, 3 * m)),
  "posterize": lambda image, m, rng: posterize(image, int(m / 10 * 4)),
  "solarize": lambda image, m, rng: solarize(image, int(m / 10 * 256)),
  "color": lambda image, m, rng: ImageEnhance.Color(image).enhance(_factor(m)),
  "contrast": lambda image, m, rng: contrast(image, _factor(m)),
  "brightness": lambda image, m, rng: brightness(image, _factor(m)),
  "sharpness": (
    lambda image, m, rng: ImageEnhance.Sharpness(image).enhance(_factor(m))
  ),
  "shear_x": lambda image, m, rng: shear_x(image, _either_way(rng, 0.03 * m)),
  "shear_y": lambda image, m, rng: shear_y(image, _either_way(rng, 0.03 * m)),
  "translate_x": (
    lambda image, m, rng: translate_x(image, _either_way(rng, 10 * m))
  ),
  "translate_y": (
    lambda image, m, rng: translate_y(image, _either_way(rng, 10 * m))
  ),
  "cutout": (
    lambda image, m, rng: cutout(image, int(m / 10 * 40), _anywhere(image, rng))
  ),
  "solarize_add": lambda image, m, rng: solarize_add(image, int(m / 10 * 110)),
}
