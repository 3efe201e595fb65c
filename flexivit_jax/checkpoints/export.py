"""`export`: a model for serving, one program for each patch size.

serving.py says what is in the directory, and uses it.
"""

import dataclasses
import json
import pathlib
from collections.abc import Iterable, Sequence

import flax.linen as nn
import flax.traverse_util
import jax
import numpy as np
from jax import export as jax_export

from flexivit_jax.checkpoints import manifest, repatch, safetensors, serving
from flexivit_jax.checkpoints.formats import stem_parameters
from flexivit_jax.checkpoints.model import LoadedModel, StoredModel
from flexivit_jax.core.sizes import as_hw
from flexivit_jax.core.tokens import grid_shape, patchify
from flexivit_jax.models.vit import ViT
from flexivit_jax.nn import adaln
from flexivit_jax.nn.positions import learned_grid, position

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def export(
  vit: LoadedModel,
  directory,
  *,
  patch_sizes: Iterable,
  image_hw: tuple[int, int],
  platforms: Sequence[str] = ("cpu",),
) -> None:
  """Writes a directory for `serving.load`, all of it or nothing.

  What does not depend on the images is computed here: the patch embedding is
  resized to each size, positions that are added are those of its grid (those
  that attention uses are part of the program). The products have the
  precision of `jax.default_matmul_precision` now, not when it is called.

  Args:
    directory: to be made.
    patch_sizes: pixels, or (height, width), each of which tiles the images.
    image_hw: of all images that will be given, in pixels.
    platforms: of PLATFORMS, those where it will run; none is needed here.

  Raises:
    ValueError: the directory exists, or a size or a platform cannot be, or the
      model has no positions for so many patches.
  """
  adaln.refuse(vit.model.conditioning, vit.spec.path)
  directory, platforms = pathlib.Path(directory), tuple(platforms)
  if directory.exists():
    raise ValueError(
      f"{directory} exists and is not written over: give another"
    )
  if not platforms or set(platforms) - set(PLATFORMS):
    raise ValueError(
      f"platforms {', '.join(platforms) or '()'}: give some of "
      + ", ".join(PLATFORMS)
    )
  sizes = tuple(dict.fromkeys(map(as_hw, patch_sizes)))
  if not sizes:
    raise ValueError("patch_sizes is empty: give at least one")
  for size in sizes:
    grid_hw = grid_shape(image_hw, size)
    vit.model.stem.cells(size)
    position.check_grid(vit.model.position, grid_hw)

  def fill(unfinished):
    arrays, programs = _programs(vit.checkpoint(), sizes, image_hw, platforms)
    for size, program in programs.items():
      file = unfinished / f"{serving.part_name(size)}.jax_export"
      file.write_bytes(program.serialize())
    safetensors.write(unfinished / serving.WEIGHTS, arrays, {})
    contract = _contract(vit, programs)
    text = json.dumps(contract, indent=2) + "\n"
    (unfinished / serving.CONTRACT).write_text(text)

  manifest.make_directory(directory, fill)


def _programs(checkpoint: StoredModel, sizes, image_hw, platforms):
  """({name in the file: array}, {patch size: program})."""
  model = checkpoint.model
  own_names = {repatch.KERNEL, *model.position.tables(model.size.width)}
  shared = {
    name: _as_used(name, x, model)
    for name, x in checkpoint.arrays.items()
    if name not in own_names
  }
  (b,) = jax_export.symbolic_shape("b")
  images = jax.ShapeDtypeStruct((b, *image_hw, model.channels), np.uint8)
  arrays, programs = _prefixed(serving.SHARED, shared), {}
  for size in sizes:
    model, own = _at_size(checkpoint, size, image_hw)
    jitted = jax.jit(_function(model, size))
    exporter = jax_export.export(jitted, platforms=platforms)
    programs[size] = exporter(shared, own, images)
    arrays |= _prefixed(serving.part_name(size), own)
  return arrays, programs


def _as_used(name, array, model):
  """In the type of the products, to which each call would bring it."""
  # A stem's filters are standardised before they are brought to it.
  product = name.endswith("/kernel") and not stem_parameters.is_one(name)
  if product and name != "head/kernel":
    return array.astype(model.dtype, copy=False)
  return array


def _prefixed(part, arrays):
  return {f"{part}/{name}": array for name, array in arrays.items()}


def _at_size(checkpoint, patch_hw, image_hw) -> tuple[ViT, dict]:
  """The model with what depends on the patch size stored, and those arrays."""
  model, arrays = repatch.repatch(
    checkpoint.model, checkpoint.arrays, patch_hw, image_hw
  )
  own = {repatch.KERNEL: arrays[repatch.KERNEL]}
  one = np.zeros((1, *image_hw, model.channels), np.uint8)
  tokens, width = patchify(one, patch_hw), model.size.width
  tables = {name: arrays[name] for name in model.position.tables(width)}
  added = model.position(tables, tokens.coords, tokens.grid_hw, width)
  if added is not None:
    own[learned_grid.TABLE] = np.asarray(added)
    model = model.clone(position=_PerToken(added.shape[1]))
  return model, {name: x.astype(model.dtype) for name, x in own.items()}


@dataclasses.dataclass(frozen=True)
class _PerToken(position.Position):
  """Positions of one grid, stored token by token."""

  tokens: int

  def tables(self, width):
    return {
      learned_grid.TABLE: (nn.initializers.zeros, (1, self.tokens, width))
    }

  def __call__(self, tables, coords, grid_hw, width):
    del coords, grid_hw, width
    return tables[learned_grid.TABLE]


def _function(model, patch_hw):
  def serve(shared, own, images):
    params = flax.traverse_util.unflatten_dict({**shared, **own}, sep="/")
    out = model.apply({"params": params}, patchify(images, patch_hw))
    outputs = {"features": out.pooled[:, 0]}
    if out.logits is not None:
      outputs["logits"] = out.logits[:, 0]
    return {name: x.astype(np.float32) for name, x in outputs.items()}

  return serve


def _contract(vit, programs):
  program = next(iter(programs.values()))
  _, _, images = jax.tree.unflatten(program.in_tree, program.in_avals)[0]
  outputs = jax.tree.unflatten(program.out_tree, program.out_avals)
  return {
    "input": _described(images),
    "outputs": {name: _described(x) for name, x in outputs.items()},
    "patch_sizes": [list(size) for size in programs],
    "classes": list(vit.spec.classes),
    "platforms": list(program.platforms),
    "jax": jax.__version__,
    "calling_convention": program.calling_convention_version,
    "model": str(vit).splitlines(),
  }


def _described(aval):
  shape = [n if isinstance(n, int) else str(n) for n in aval.shape]
  return {"shape": shape, "dtype": aval.dtype.name}
