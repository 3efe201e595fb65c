"""The points of a sweep: settings, and what was measured at each."""

import dataclasses
from typing import Any

from flexivit_jax.core.sizes import size_name
from flexivit_jax.tasks.predictions import Answers


@dataclasses.dataclass(frozen=True)
class Setting:
  """Patch size with image size or budget.

  Attributes:
    patch_hw: (height, width) in pixels.
    image_hw: of all images, in pixels; None: they differ.
    budget: most tokens of an image; None: images of one size.
  """

  patch_hw: tuple[int, int]
  image_hw: tuple[int, int] | None = None
  budget: int | None = None

  @property
  def name(self) -> str:
    """Name in files: "16_at_240", "16_budget_256"."""
    size = size_name(self.patch_hw)
    if self.budget is not None:
      return f"{size}_budget_{self.budget}"
    return size if self.image_hw is None else f"{size}_at_{self.at}"

  @property
  def short_name(self) -> str:
    """Name in training metrics: "16", "16:256" with a budget."""
    size = size_name(self.patch_hw)
    return size if self.budget is None else f"{size}:{self.budget}"

  def __str__(self) -> str:
    """Text of messages: "16x16 patches of 240x240 pixels"."""
    h, w = self.patch_hw
    text = f"{h}x{w} patches"
    if self.budget is not None:
      return f"{text}, at most {self.budget}"
    if self.image_hw is not None:
      text += f" of {self.image_hw[0]}x{self.image_hw[1]} pixels"
    return text

  @property
  def at(self) -> str:
    """The images' size, or their budget, as people say it."""
    if self.budget is not None:
      return f"{self.budget} tokens"
    return "own size" if self.image_hw is None else size_name(self.image_hw)


@dataclasses.dataclass(frozen=True)
class Cost:
  """Cost of a forward pass.

  Attributes:
    multiply_adds: of one image, their mean where images differ.
    peak_bytes: of each device for a batch, as the compiler plans it:
      parameters, inputs, outputs and temporaries.
    compile_s: seconds to compile it for a batch.
    latency_s: (median, 95th percentile) in seconds of one image alone, warm;
      None: not measured.
    images_per_s: of the compiled forward pass on whole batches, without
      loading; None: not measured.
  """

  multiply_adds: float
  peak_bytes: int
  compile_s: float
  latency_s: tuple[float, float] | None = None
  images_per_s: float | None = None


@dataclasses.dataclass(frozen=True)
class Point:
  """One setting measured.

  Attributes:
    tokens: patches per image, their mean where images differ.
    images: that were evaluated.
    top1, top5: share of images whose label has the highest logit, is among
      the five highest.
    loss: mean over images.
    calibration_error: see `Answers`.
  """

  setting: Setting
  tokens: float
  images: int
  top1: float
  top5: float
  loss: float
  calibration_error: float
  cost: Cost


@dataclasses.dataclass(frozen=True)
class Route:
  """A way through one or more patch sizes, measured in turn with others.

  Attributes:
    kind: "single size" or "cascade".
    name: "12 -(0.93)> 4", "12".
    top1: share of images.
    difference: top-1 less that of the smallest patches on the same images, and
      its standard error.
    multiply_adds: of an image on the mean.
    seconds: of an image on the mean, in whole batches.
    chosen: whether it is the cascade that was asked for.
  """

  kind: str
  name: str
  top1: float
  difference: tuple[float, float]
  multiply_adds: float
  seconds: float
  chosen: bool = False


@dataclasses.dataclass(frozen=True)
class Sweep:
  """All that an evaluation found.

  Attributes:
    checkpoint: path or name of what was evaluated.
    step: of a run.
    model: one line that describes it.
    parameters: numbers that the model has.
    data: one line that describes the images.
    classes: names, by label.
    command: what was run, as it can be pasted into a shell.
    provenance: versions, hardware, commit.
    points: in the order asked for.
    answers: of each point.
    routes: cascades beside single sizes; of one resolution.
    resize: how the patch embedding was resized, of `core.resize.RESIZES`.
  """

  checkpoint: str
  step: int | None
  model: str
  parameters: int
  data: str
  classes: tuple[str, ...]
  command: str
  provenance: dict[str, Any]
  points: tuple[Point, ...]
  answers: tuple[Answers, ...]
  routes: tuple[Route, ...] = ()
  resize: str = "pi"
