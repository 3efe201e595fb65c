"""Policies for images that cannot be decoded."""

import dataclasses
from collections.abc import Mapping
from typing import Protocol

from flexivit_jax.core.errors import Fault


class TooManyBadImagesError(Fault):
  """More images were skipped than the config allows."""


class OnBadImage(Protocol):
  """Policy of a config for bad images."""

  @property
  def skip(self) -> bool:
    """True: a bad image is replaced, rather than raised."""

  def check(self, bad: Mapping[int, str], total: int) -> None:
    """Refuses too many bad images.

    Args:
      bad: index to error text of those met so far.
      total: images of the source.
    """


@dataclasses.dataclass(frozen=True)
class Error:
  """The first bad image ends the run."""

  skip = False

  def check(self, bad, total):
    del bad, total  # it was raised where it was met


ERROR = Error()


@dataclasses.dataclass(frozen=True)
class Skip:
  """In training, the next good image of the source takes its place.

  So a batch stays a function of (seed, step). In an evaluation it is left out.
  Each is named once and counted.

  Attributes:
    max_share: of the source's images that may be bad; one always may.
  """

  max_share: float = 0.001

  skip = True

  def __post_init__(self):
    if not 0 <= self.max_share < 1:
      raise ValueError(f"max_share {self.max_share}: give 0 to below 1")

  def check(self, bad, total):
    allowed = max(1, int(self.max_share * total))
    if len(bad) > allowed:
      shown = "\n".join(f"  {text}" for text in list(bad.values())[:3])
      raise TooManyBadImagesError(
        f"{len(bad)} of {total} images are bad, and on_bad_image.max_share "
        f"({self.max_share:g}) allows {allowed}: mend them, or raise it\n"
        f"{shown}"
      )
