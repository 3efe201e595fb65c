"""Requirements of a backbone on images and patch sizes."""

from flexivit_jax.core.sizes import check_tiling
from flexivit_jax.core.tokens import grid_shape
from flexivit_jax.models import vit
from flexivit_jax.nn.positions import position


def check_patch_size(
  model: vit.ViT, image_hw: tuple[int, int], patch_hw: tuple[int, int]
) -> None:
  """Refuses a patch size that a model cannot use on an image.

  Raises:
    ValueError: it does not tile the image, is no whole number of the stem's
      cells, or makes more patches than the model has positions for.
  """
  check_tiling(image_hw, patch_hw, model.stem.stride)
  model.stem.cells(patch_hw)
  position.check_grid(model.position, grid_shape(image_hw, patch_hw))
