"""What training and evaluation ask of a task."""

from collections.abc import Sequence
from typing import ClassVar, Protocol

import jax

from flexivit_jax.core import cut
from flexivit_jax.core.metric import Metric
from flexivit_jax.core.tokens import Batch
from flexivit_jax.devices.mesh import MeshSpec
from flexivit_jax.models import cost
from flexivit_jax.models.vit import ViT
from flexivit_jax.nn import adaln
from flexivit_jax.tasks.losses import Loss


class Task(Protocol):
  """Parameters, loss and metrics for a backbone.

  A task's parameters are the backbone's tree and beside it, at the top level,
  trees of its own, so that any task's checkpoint starts any other task.

  Attributes:
    metrics: names of the single numbers that `measure` returns.
    own_parameters: top-level names of parameters that are not the backbone's.
    classifies: whether it is a `Classification`, which is evaluated by its
      answers; another task is evaluated by what it measures.
    used_by: the command that takes a finished run, whose directory is {run}.
  """

  metrics: tuple[str, ...]
  used_by: ClassVar[str]
  own_parameters: ClassVar[tuple[str, ...]]
  classifies: ClassVar[bool]

  def for_classes(
    self, model: ViT, classes: tuple[str, ...]
  ) -> tuple[ViT, "Task"]:
    """Model and task for data of these classes.

    Raises:
      ValueError: what the task does with classes cannot be done with these.
    """

  def check_run(
    self,
    mesh: MeshSpec,
    patch_sizes: Sequence[tuple[int, int]],
    *,
    packed: bool,
  ) -> None:
    """Refuses what the task does not do.

    Args:
      patch_sizes: all that a step may have.
      packed: whether images share rows.

    Raises:
      ValueError: naming the field of the config.
    """

  def check_grid(
    self, image_hw: tuple[int, int], patch_hw: tuple[int, int]
  ) -> None:
    """Refuses images of which, cut so, the task could not learn.

    Raises:
      ValueError: naming the grid.
    """

  def init(self, model: ViT, key: jax.Array, inputs, patch_hw):
    """Parameters for inputs like these (shapes only matter)."""

  def measure(
    self,
    model: ViT,
    params,
    batch: Batch,
    *,
    patch_hw: tuple[int, int] | None,
    dropout_key: jax.Array | None = None,
  ) -> dict[str, Metric]:
    """Sums and counts over the batch's real images, among them "loss"; where
    patch sizes share rows, also `by_patch_size.loss_by_patch_size`.

    Args:
      patch_hw: patch size in pixels; static. None: packed rows know it.
      dropout_key: turns training mode on, and is what is drawn from. Without
        it the same is drawn for an image whenever it comes (`draws`).
    """

  def multiply_adds(
    self, model: ViT, image_hw: tuple[int, int], patch_hw: tuple[int, int]
  ) -> int:
    """As `cost.multiply_adds`, with all that the task adds."""

  def packed_multiply_adds(
    self,
    model: ViT,
    patches,
    num_images: int,
    patch_sizes: Sequence[tuple[int, int]],
  ):
    """As `cost.packed_multiply_adds`, with all that the task adds; `patches`
    may be an array."""


class Classification(Task, Protocol):
  """A task whose model answers with classes.

  Attributes:
    loss: by the labels, for evaluation as well.
  """

  loss: Loss

  def logits(
    self,
    model: ViT,
    params,
    batch: Batch,
    *,
    patch_hw: tuple[int, int] | None,
    dropout_key: jax.Array | None = None,
  ) -> jax.Array:
    """`[b, e, c]` of a batch; arguments as for `measure`."""


class Draws(Task, Protocol):
  """A task that can be looked at."""

  def draw(
    self,
    model: ViT,
    params,
    batch: Batch,
    *,
    patch_hw: tuple[int, int],
  ) -> jax.Array:
    """u8 `[rows, columns, h, w, c]`: images to be laid out so; always the same
    for the same parameters and batch.

    Args:
      batch: of images of one size, which is theirs.
    """


def refuse_strided(mesh: MeshSpec) -> None:
  """Of a task that asks something of each patch, which stays at its place.

  Raises:
    ValueError: the tokens are out of their order.
  """
  if mesh.order == cut.STRIDED:
    raise ValueError(
      "mesh.order=strided goes with the tasks supervised and distill alone: "
      'give mesh.order="contiguous"'
    )


class Classifies:
  """What the tasks that classify share: the backbone alone, with a head."""

  classifies: ClassVar[bool] = True
  used_by: ClassVar[str] = "python evaluate.py --checkpoint {run}"
  own_parameters: ClassVar[tuple[str, ...]] = ()

  def for_classes(self, model: ViT, classes: tuple[str, ...]):
    """As `Task`: a head of as many outputs as there are classes.

    Raises:
      ValueError: there is nothing to tell apart, the model's own number of
        classes is too small, or its blocks read more than images.
    """
    if isinstance(model.conditioning, adaln.AdaLNZero):
      raise ValueError(
        "config.model.conditioning is adaln_zero, whose blocks are told time "
        'and class: give config.task.name="diffusion", or '
        'config.model.conditioning="none"'
      )
    if len(classes) < 2:
      raise ValueError(
        f"config.train: the data has one class, {', '.join(classes)!r}: give "
        "at least two"
      )
    wanted = model.num_classes
    if wanted is None:
      return model.clone(num_classes=len(classes)), self
    if wanted < len(classes):
      raise ValueError(
        f"config.model.num_classes is {wanted}, but the data has "
        f"{len(classes)} classes: leave it out, or give {len(classes)} or more"
      )
    return model, self

  def check_run(self, mesh: MeshSpec, patch_sizes, *, packed: bool) -> None:
    """As `Task`: refuses nothing."""

  def check_grid(self, image_hw, patch_hw) -> None:
    """As `Task`: refuses nothing."""

  def multiply_adds(self, model: ViT, image_hw, patch_hw):
    return cost.multiply_adds(model, image_hw, patch_hw)

  def packed_multiply_adds(self, model: ViT, patches, num_images, patch_sizes):
    return cost.packed_multiply_adds(model, patches, num_images, patch_sizes)
