"""Handwritten digits of scikit-learn, and canvases of them of many sizes."""

import dataclasses

import numpy as np

from flexivit_jax.data.pixels import resize
from flexivit_jax.data.sources import splits
from flexivit_jax.data.sources.source import InMemory

# The digit's side, as a share of the canvas's shorter one.
_SHARES = (0.75, 1.0)


@dataclasses.dataclass(frozen=True)
class DigitsCanvas:
  """The digits of scikit-learn, each on a black canvas of its own shape.

  A canvas has sqrt(height * width) uniform in `sides`, log(width / height)
  normal with mean 0, cut off at two standard deviations; the digit keeps its
  own aspect ratio, its side is 3/4 to all of the canvas's shorter one, and it
  lies anywhere. All of this depends on the digit's number in the whole set of
  1,797, so that it is the same image in every run and every slice.

  Attributes:
    split: as of Digits.
    sides: least and largest sqrt(height * width), in pixels.
    aspect: standard deviation of log(width / height); 0 for squares.
  """

  split: str = "train"
  sides: tuple[int, int] = (12, 32)
  aspect: float = 0.35

  def __post_init__(self):
    low, high = self.sides
    if not 4 <= low <= high <= 1024:
      raise ValueError(f"sides {self.sides}: give (least, largest), 4 to 1024")
    if not 0 <= self.aspect <= 1:
      raise ValueError(f"aspect {self.aspect}: give 0 to 1")

  def open(self) -> InMemory:
    indices, digits, labels, classes = read_digits(self.split)
    return InMemory(tuple(map(self._draw, digits, indices)), labels, classes)

  def _draw(self, pixels, number):
    random = np.random.default_rng(int(number))
    # All drawn first, so that no field changes what another one draws.
    side, share, row, column = random.uniform(size=4)
    deviation = np.clip(random.normal(), -2, 2)
    side = self.sides[0] + side * (self.sides[1] - self.sides[0])
    stretch = np.exp(self.aspect * deviation / 2)
    h, w = max(1, round(side / stretch)), max(1, round(side * stretch))
    share = _SHARES[0] + share * (_SHARES[1] - _SHARES[0])
    digit = max(1, round(share * min(h, w)))
    top, left = int(row * (h - digit + 1)), int(column * (w - digit + 1))
    canvas = np.zeros((h, w, 3), np.uint8)
    canvas[top : top + digit, left : left + digit] = resize.resize(
      pixels, (digit, digit)
    )
    return canvas


def read_digits(
  split: str,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[str, ...]]:
  """Digits of a split, "train" (1,297) or "test" (500), or of a slice of it.

  Returns:
    Number of each in the whole set `[n]`, pixels u8 `[n, 8, 8, 3]`, labels
    `[n]`, and names of the classes.

  Raises:
    ValueError: there is no such split.
  """
  # Here, as it takes most of a second that other sources need not wait.
  from sklearn import datasets, model_selection

  raw = datasets.load_digits()
  train, test = model_selection.train_test_split(
    np.arange(len(raw.target)),
    test_size=500,
    stratify=raw.target,
    random_state=0,
  )
  parts = {"train": train, "test": test}
  name = splits.parse_split(split)[0]
  if name not in parts:
    raise ValueError(f"digits have no split {name!r}: take 'train' or 'test'")
  indices = parts[name]
  indices = indices[splits.slice_indices(split, len(indices))]
  grey = np.round(raw.images[indices] * 255 / 16).astype(np.uint8)
  pixels = np.repeat(grey[..., None], 3, -1)
  classes = tuple(map(str, raw.target_names))
  return indices, pixels, raw.target[indices], classes


@dataclasses.dataclass(frozen=True)
class Digits:
  """The 1,797 handwritten digits that come with scikit-learn (UCI, 8x8 grey).

  Attributes:
    split: "train" (1,297) or "test" (500), stratified with seed 0; slices
      such as "train[:1100]" are allowed.
    side: pixels to which the 8x8 images are resized, bilinearly.
  """

  split: str = "train"
  side: int = 24

  def __post_init__(self):
    if not 1 <= self.side <= 1024:
      raise ValueError(f"side {self.side}: give 1 to 1024 pixels")

  def open(self) -> InMemory:
    _, digits, labels, classes = read_digits(self.split)
    hw = self.side, self.side
    pixels = np.stack([resize.resize(digit, hw) for digit in digits])
    return InMemory(pixels, labels, classes)
