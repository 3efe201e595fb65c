"""Readings of real data: what loads it, and the settings of each view."""

import dataclasses
from collections.abc import Callable, Sequence

from flexivit_jax.core.patch_size import FixedPatchSize
from flexivit_jax.core.resolution import Resolution
from flexivit_jax.core.token_drop import NoDrop
from flexivit_jax.data import augment, bad_images, packs, sources
from flexivit_jax.data.batches import Example
from flexivit_jax.data.cutting import Cutter
from flexivit_jax.data.loader import EvalLoader
from flexivit_jax.data.pack_loader import PackEvalLoader
from flexivit_jax.evaluation.points import Setting
from flexivit_jax.evaluation.sweep import Reading
from flexivit_jax.nn import stems
from flexivit_jax.nn.vit import ViT

Size = tuple[int, int]
Transforms = tuple[augment.Transform, ...]


def of_one_size(
  source: sources.Source,
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
  source: sources.Source,
  transforms: Transforms,
  views: Sequence[tuple[Resolution, packs.Packing]],
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
  stems.check_packing(model.stem)
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
    source,
    transforms,
    cut,
    batch_size,
    shard=shard,
    on_bad_image=on_bad_image,
  )
  shown = [repr((transforms, cutter, packing)) for cutter, packing in cut]
  return Reading(loader, tuple(settings), tuple(shown))
