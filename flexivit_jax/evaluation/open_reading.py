"""Readings of real data: what loads it, and the settings of each view."""

import dataclasses
from collections.abc import Callable, Sequence

from flexivit_jax.core.patch_size import FixedPatchSize
from flexivit_jax.core.resolution import Resolution
from flexivit_jax.core.token_drop import NoDrop
from flexivit_jax.data.loading import bad_images
from flexivit_jax.data.loading.eval_loader import EvalLoader
from flexivit_jax.data.loading.example import Example
from flexivit_jax.data.packing import rows
from flexivit_jax.data.packing.cutter import Cutter
from flexivit_jax.data.packing.eval_loader import PackEvalLoader
from flexivit_jax.data.pixels import transforms as transforms_lib
from flexivit_jax.data.sources import source as source_lib
from flexivit_jax.evaluation.reading import Reading
from flexivit_jax.evaluation.settings import Setting
from flexivit_jax.models.vit import ViT
from flexivit_jax.nn.stems import stem

Size = tuple[int, int]
Transforms = tuple[transforms_lib.Transform, ...]


def of_one_size(
  source: source_lib.Source,
  views: Sequence[Transforms],
  sizes: Callable[[Size], Sequence[Size]],
  *,
  batch_size: int,
  shard: tuple[int, int],
  on_bad_image: bad_images.OnBadImage,
) -> Reading:
  """Images that are of one size after each view's transforms.

  Args:
    sizes: from a view's image size to the patch sizes to measure there.
    batch_size: images, over all processes.
    shard: (index, count) of this process.

  Raises:
    ValueError: a transform is random, or images differ in size.
  """
  loader = EvalLoader(
    source, views, batch_size, shard=shard, on_bad_image=on_bad_image
  )
  return Reading(
    loader,
    tuple(
      tuple(Setting(size, hw) for size in sizes(hw))
      for hw in map(loader.image_hw, range(len(views)))
    ),
    tuple(str(Example(source, view)) for view in views),
  )


def packed(
  source: source_lib.Source,
  transforms: Transforms,
  views: Sequence[tuple[Resolution, rows.Packing]],
  sizes: Sequence[Size],
  *,
  model: ViT,
  batch_size: int,
  shard: tuple[int, int],
  on_bad_image: bad_images.OnBadImage,
) -> Reading:
  """Images resized by each view's policy and packed, for each patch size.

  A budget larger than a view's rows gets rows of its own.

  Args:
    transforms: before the resolution's.
    batch_size: rows, over all processes.
    shard: (index, count) of this process.

  Raises:
    ValueError: a transform or a resolution is random, or the model has a
      convolutional stem.
  """
  stem.check_packing(model.stem)
  cut, settings = [], []
  for resolution, packing in views:
    budget = getattr(resolution, "max_patches", None)
    if budget is not None and budget > packing.row_length:
      packing = dataclasses.replace(packing, row_length=budget)
    for size in sizes:
      cutter = Cutter(
        resolution,
        FixedPatchSize(size),
        NoDrop(),
        packing.row_length,
        packing.too_long == "resize",
        model.position.largest_grid,
      )
      cut.append((cutter, packing))
      settings.append((Setting(size, budget=budget),))
  loader = PackEvalLoader(
    source, transforms, cut, batch_size, shard=shard, on_bad_image=on_bad_image
  )
  shown = [repr((transforms, cutter, packing)) for cutter, packing in cut]
  return Reading(loader, tuple(settings), tuple(shown))
