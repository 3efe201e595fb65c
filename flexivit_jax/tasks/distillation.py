"""Knowledge distillation: a student learns a frozen teacher's answers.

FlexiViT's recipe (arXiv:2212.08013, section 3.6 and appendix): the teacher has
its own patch size and resolution, and sees the same crop; the student the
patch size of the step.
"""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp

from flexivit_jax.core import cut, sizes
from flexivit_jax.core.metric import Metric
from flexivit_jax.core.tokens import Batch
from flexivit_jax.devices.mesh import MeshSpec
from flexivit_jax.models.vit import ViT
from flexivit_jax.tasks import classification, losses
from flexivit_jax.tasks.task import Classifies


class Distance(Protocol):
  """Of a student's logits from a teacher's, `[b, e, c]` each, to `[b, e]`."""

  def __call__(self, student: jax.Array, teacher: jax.Array) -> jax.Array: ...


@dataclasses.dataclass(frozen=True)
class KL:
  """KL divergence of the teacher's probabilities from the student's, times the
  square of the temperature, which leaves the gradient's size (Hinton et al.,
  arXiv:1503.02531).

  Attributes:
    temperature: that both logits are divided by.
  """

  temperature: float = 1.0

  def __post_init__(self):
    if not self.temperature > 0:
      raise ValueError(
        f"temperature is {self.temperature}: give more than 0, 1 say"
      )

  def __call__(self, student, teacher):
    t = self.temperature
    own, wanted = (jax.nn.log_softmax(x / t) for x in (student, teacher))
    # A class that the teacher rules out adds nothing.
    shares = jnp.exp(wanted)
    terms = jnp.where(shares > 0, shares * (wanted - own), 0)
    return t**2 * terms.sum(axis=-1)


@dataclasses.dataclass(frozen=True)
class Hard:
  """Cross-entropy of the class that the teacher answers (DeiT,
  arXiv:2012.12877, equation 3)."""

  def __call__(self, student, teacher):
    answer = teacher.argmax(axis=-1, keepdims=True)
    own = jax.nn.log_softmax(student)
    return -jnp.take_along_axis(own, answer, axis=-1)[..., 0]


@dataclasses.dataclass(frozen=True)
class L2:
  """Half the mean over classes of the squared difference of logits (Ba and
  Caruana, arXiv:1312.6184)."""

  def __call__(self, student, teacher):
    return 0.5 * jnp.square(student - teacher).mean(axis=-1)


@dataclasses.dataclass(frozen=True)
class TeacherSpec:
  """Which model teaches, and how it sees an image.

  Attributes:
    checkpoint: anything that `flexivit_jax.load` takes.
    patch_size: in pixels; None: the checkpoint's, where it has one.
    image_size: (height, width) or side of the images that it is shown, in
      pixels; None: those of the student. Transforms that set a size set this
      one for the teacher, with the same random draws.
    step: of a run: which checkpoint; None: the best.
    dtype: "float32" or "bfloat16" that it computes in; None: as it says.
  """

  checkpoint: str
  patch_size: int | tuple[int, int] | None = None
  image_size: int | tuple[int, int] | None = None
  step: int | None = None
  dtype: str | None = None

  def __post_init__(self):
    for name in ("patch_size", "image_size"):
      value = getattr(self, name)
      if value is not None:
        try:
          sizes.as_hw(value)
        except ValueError as e:
          raise ValueError(f"{name}: {e}") from e
    if self.dtype not in (None, "float32", "bfloat16"):
      raise ValueError(f"dtype {self.dtype!r}: give float32 or bfloat16")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Teacher:
  """A model that does not learn, with its parameters.

  Attributes:
    model: static.
    patch_hw: (height, width) in pixels; static.
  """

  params: dict
  model: ViT = dataclasses.field(metadata={"static": True})
  patch_hw: tuple[int, int] = dataclasses.field(metadata={"static": True})

  def logits(self, batch: Batch) -> jax.Array:
    """`[b, e, c]` of what a batch shows the teacher; no gradient passes."""
    inputs = batch.teacher_inputs
    inputs = batch.inputs if inputs is None else inputs
    return jax.lax.stop_gradient(
      classification.logits_of(
        self.model, self.params, inputs, patch_hw=self.patch_hw
      )
    )


@dataclasses.dataclass(frozen=True)
class Distill(Classifies):
  """Distillation, and as much of supervised training as wanted.

  Attributes:
    distance: of the student's logits from the teacher's.
    label_weight: share of the loss by labels; the distance has the rest.
    loss: by the labels; evaluations always show it.
  """

  teacher: TeacherSpec
  distance: Distance = KL()
  label_weight: float = 0.0
  loss: losses.Loss = losses.SoftmaxLoss()

  metrics = ("loss", "distance", "accuracy", "agreement", "teacher_accuracy")

  def __post_init__(self):
    if not 0 <= self.label_weight < 1:
      raise ValueError(
        f"label_weight is {self.label_weight}: give a number at least 0 and "
        "below 1; at 1 the task is supervised"
      )

  def check_run(self, mesh: MeshSpec, patch_sizes, *, packed: bool) -> None:
    """As `task.Task`."""
    if packed:
      raise ValueError(
        "task distill and packing: a teacher sees images of one size, so give "
        "images a size in train.transforms and leave packing out"
      )
    if mesh.order == cut.STRIDED:
      raise ValueError(
        "mesh.order=strided does not go with a teacher, which has an order of "
        'its own: give mesh.order="contiguous", or the task supervised'
      )

  init = classification.Supervised.init
  logits = classification.Supervised.logits

  def measure(
    self,
    model: ViT,
    params,
    batch: Batch,
    *,
    patch_hw: tuple[int, int] | None,
    teacher: Teacher,
    dropout_key: jax.Array | None = None,
  ) -> dict[str, Metric]:
    """Loss, accuracies and how often both answer alike; else as `task.Task`.

    Args:
      teacher: of as many classes as the model.
    """
    own = self.logits(
      model, params, batch, patch_hw=patch_hw, dropout_key=dropout_key
    )
    wanted = teacher.logits(batch)
    distance = self.distance(own, wanted)
    by_labels = classification.by_labels(self.loss, own, batch)
    answers = wanted.argmax(axis=-1)
    targets = losses.targets(batch, own.shape[-1])
    share = self.label_weight
    values = {
      "loss": (1 - share) * distance + share * by_labels["loss"],
      "distance": distance,
      "accuracy": by_labels["accuracy"],
      "agreement": (own.argmax(axis=-1) == answers).astype(jnp.float32),
      "teacher_accuracy": losses.is_right(answers, targets),
    }
    return {name: Metric.of(x, batch.weights) for name, x in values.items()}
