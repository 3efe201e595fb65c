"""Checks of a model whose rows devices share."""

from flexivit_jax.models.vit import ViT
from flexivit_jax.nn.positions.relative import Relative
from flexivit_jax.nn.stems.stem import NoStem


def check_model(model: ViT, *, parts: int) -> None:
  """Refuses a model that devices could not share, for rows of any length.

  Args:
    parts: devices that share a row.

  Raises:
    ValueError: with what would work.
  """
  if parts > 1:
    _check_tokens(model, parts)
  check_length(model, length=parts, parts=parts)


def check_length(model: ViT, *, length: int, parts: int) -> None:
  """Refuses rows that the devices could not share.

  Args:
    length: patches of a row.
    parts: devices that share it.

  Raises:
    ValueError: with what would work.
  """
  model.distribution.check(
    length=length,
    num_heads=model.size.num_heads,
    parts=parts,
    kernel=model.kernel,
  )


def _check_tokens(model: ViT, parts: int) -> None:
  shared = f"{parts} devices of the mesh's axis seq share each row"
  if model.pool.class_token:
    raise ValueError(
      f"a class token stands before the patches, and {shared}, which then "
      'would not divide: take pool="gap" or "map"'
    )
  if model.registers:
    raise ValueError(
      f"{model.registers} register tokens stand before the patches, and "
      f"{shared}, which then would not divide: take registers=0"
    )
  if not isinstance(model.stem, NoStem):
    raise ValueError(
      f"a convolutional stem takes whole images, and {shared}: take "
      'stem="none", or seq=1'
    )
  if isinstance(model.position, Relative):
    raise ValueError(
      f"relative positions need all pairs of tokens, and {shared}: take "
      "learned_grid, sincos2d or rotary positions, or seq=1"
    )
