"""The model that a run's student learns from, opened and checked."""

import contextlib
import dataclasses
from collections.abc import Iterator

from flexivit_jax.checkpoints import load as load_lib
from flexivit_jax.checkpoints.model import LoadedModel, digest
from flexivit_jax.checkpoints.origin import Spec
from flexivit_jax.core.sizes import as_hw, common_divisors, size_name
from flexivit_jax.core.text import cut, listed
from flexivit_jax.evaluation import eval_transforms
from flexivit_jax.models.backbone import check_patch_size
from flexivit_jax.tasks.distillation import Teacher, TeacherSpec


@dataclasses.dataclass(frozen=True)
class Opened:
  """A teacher, and what tells it from another.

  Attributes:
    description: lines that say what it is.
    digest: SHA-256 of its parameters.
  """

  teacher: Teacher
  description: tuple[str, ...]
  digest: str


def load(
  spec: TeacherSpec,
  classes: tuple[str, ...],
  num_classes: int,
  image_hw: tuple[int, int],
) -> Opened:
  """A teacher for a student.

  Args:
    classes: of the data.
    num_classes: of the student's head.
    image_hw: of the images that the teacher is shown.

  Raises:
    ValueError: it cannot be loaded, its classes are not the student's, or it
      cannot be used on such images.
  """
  vit = load_lib.load(spec.checkpoint, step=spec.step)
  path, model = vit.spec.path, vit.model
  if model.num_classes != num_classes:
    raise ValueError(
      f"{path} has {model.num_classes or 'no'} classes, and the student "
      f"{num_classes}: a teacher needs the student's classes"
    )
  if vit.spec.classes and tuple(vit.spec.classes) != tuple(classes):
    have, want = (cut(", ".join(x), 60) for x in (vit.spec.classes, classes))
    raise ValueError(
      f"the classes of {path} are not those of the data, or in another order: "
      f"{have}, not {want}"
    )
  patch_size = spec.patch_size
  if patch_size is None:
    patch_size = vit.spec.patch_size
  if patch_size is None:
    raise ValueError(
      f"{path} does not name one patch size: give patch_size, one of "
      f"{_offer(vit, image_hw)}"
    )
  patch_hw = as_hw(patch_size)
  check_patch_size(model, image_hw, patch_hw)
  if spec.dtype is not None:
    model = model.clone(dtype=spec.dtype)
  description = str(vit).splitlines()
  description.append(
    f"  teaches with patches of {size_name(patch_hw)} px on images of "
    f"{size_name(image_hw)} px"
  )
  description.extend(_warnings(vit.spec, patch_hw, image_hw))
  return Opened(
    Teacher(vit.params, model, patch_hw), tuple(description), digest(vit.params)
  )


def _warnings(spec: Spec, patch_hw, image_hw) -> Iterator[str]:
  """Of sizes that the teacher's own record does not have."""
  if spec.trained_sizes and patch_hw not in spec.trained_sizes:
    yield (
      f"  warning: patches of {size_name(patch_hw)} px are none of those that "
      f"it was trained at, {listed(map(size_name, spec.trained_sizes))}"
    )
  run = spec.experiment
  trained_hw = None if run is None else eval_transforms.trained_hw(run)
  if trained_hw not in (None, image_hw):
    yield (
      f"  warning: it was trained on images of {size_name(trained_hw)} px, not "
      f"{size_name(image_hw)}"
    )


def _offer(vit: LoadedModel, image_hw) -> str:
  """Patch sizes that the teacher can use on such images."""

  def usable(sizes):
    for patch_hw in sizes:
      with contextlib.suppress(ValueError):
        check_patch_size(vit.model, image_hw, patch_hw)
        yield patch_hw

  if trained := list(usable(vit.spec.trained_sizes)):
    return f"{listed(map(size_name, trained))}, which it was trained at"
  stride = vit.model.stem.stride
  sides = [(p, p) for p in common_divisors(image_hw, stride)]
  names = listed(map(size_name, usable(sides)))
  return f"{names}, which tile images of {size_name(image_hw)} px"
