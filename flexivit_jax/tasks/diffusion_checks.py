"""Checks of the model and the data of a diffusion task."""

from flexivit_jax.models.vit import ViT
from flexivit_jax.nn import adaln, pooling
from flexivit_jax.nn.stems import stem


def num_classes(task, model: ViT, classes: tuple[str, ...]) -> int:
  """Number of classes that the model is told, 0 for none.

  Args:
    task: a `Diffusion`.
    classes: of the data.

  Raises:
    ValueError: for a model that cannot learn by diffusion, or classes that do
      not fit the task.
  """
  _check_model(task, model)
  wanted = len(classes) if task.num_classes is None else task.num_classes
  if 0 < wanted < len(classes):
    raise ValueError(
      f"config.task.num_classes is {wanted}, but the data has "
      f"{len(classes)} classes: leave it out, or give {len(classes)} or more"
    )
  if task.sampler.guidance != 1 and not (wanted and task.class_dropout):
    raise ValueError(
      f"config.task.sampler.guidance is {task.sampler.guidance:g}, for which "
      "a model must know classes and do without them: give "
      "config.task.class_dropout=0.1 and classes, or guidance=1"
    )
  return wanted


def _check_model(task, model: ViT) -> None:
  if not isinstance(model.conditioning, adaln.AdaLNZero):
    raise ValueError(
      "config.task diffusion tells the blocks time and class, and they read "
      'neither: give config.model.conditioning="adaln_zero"'
    )
  # A model that was checked before has 0, and its task a number of classes.
  checked = model.num_classes == 0 and task.num_classes is not None
  if model.num_classes is not None and not checked:
    raise ValueError(
      f"config.model.num_classes is {model.num_classes}, and a model that "
      "learns by diffusion has no head: leave it out; "
      "config.task.num_classes=0 learns without classes"
    )
  if isinstance(model.pool, pooling.Map):
    raise ValueError(
      "config.model.pool is map, and nothing is pooled in diffusion, so that "
      'its parameters would learn nothing: give config.model.pool="gap"'
    )
  if not isinstance(model.stem, stem.NoStem):
    raise ValueError(
      "config.model.stem is for images without noise: give "
      'config.model.stem="none"'
    )
  if model.standardize:
    raise ValueError(
      "config.model.standardize would undo the noise that is added: give "
      "config.model.standardize=False"
    )
