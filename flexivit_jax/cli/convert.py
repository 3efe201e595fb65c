"""Converts a checkpoint: another format, patch size, input size or pixels.

  flexivit convert IN --inspect
  flexivit convert vit.npz OUT --format timm
  flexivit convert flexivit_b_i1k OUT --format timm \\
      --patch 8 --image 384 --check

IN is all that `load` takes: a run, a big_vision npz, a timm or Hugging Face
ViT, a published name. OUT is a file that ends in .npz for big_vision, and a
directory for all other formats; it is not written over.
"""

import dataclasses
import pathlib
import re

import jax
import numpy as np

from flexivit_jax.checkpoints import load, manifest, parity, repatch, save
from flexivit_jax.checkpoints.formats import hugging_face, infer, timm
from flexivit_jax.checkpoints.model import StoredModel, on_device
from flexivit_jax.cli import arguments, checkpoint_arguments
from flexivit_jax.cli import main as main_lib
from flexivit_jax.core.errors import ConfigError, config_errors_at
from flexivit_jax.core.sizes import parse_hw
from flexivit_jax.core.text import align
from flexivit_jax.nn.positions import learned_grid

# (mean, std) of pixels in 0 to 1 that a patch embedding may expect.
NORMALIZATIONS = {
  "unit": ((0.5,), (0.5,)),
  "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


def main(argv=None):
  parser = arguments.parser(__doc__, "convert")
  add = parser.add_argument
  checkpoint_arguments.add_source(parser)
  add(
    "out", metavar="OUT", nargs="?", help="where to write; not with --inspect"
  )
  add("--format", choices=tuple(save.FORMATS))
  add("--inspect", action="store_true", help="say what IN is; write nothing")
  add("--check", action="store_true", help="run both on the same images")
  add("--patch", help="8 or 8x6: store the patch embedding at this size")
  add("--image", help="384 or 384x256: store the positions of this input size")
  add(
    "--pixels",
    choices=tuple(NORMALIZATIONS),
    help="fold a normalisation into the patch embedding: the result expects "
    "pixels in [-1, 1] (unit), or with ImageNet's mean and std",
  )
  add(
    "--fold_layer_scale",
    action="store_true",
    help="multiply LayerScale into the projections, for where there is none",
  )
  args, _ = arguments.parse(parser, argv)
  if args.inspect and args.out is not None:
    raise ConfigError(f"--inspect writes nothing: leave out {args.out}")
  if args.inspect:
    inspect(checkpoint_arguments.read(args))
    return
  if args.out is None or args.format is None:
    raise ConfigError(
      "give OUT and --format, one of "
      + ", ".join(save.FORMATS)
      + "; or --inspect to see what IN is"
    )
  convert(args)


def inspect(checkpoint: StoredModel) -> None:
  """Prints what a checkpoint is, its sum, and each of its arrays."""
  print(checkpoint)
  text = checkpoint.spec.path
  # One model of several in a file: FILE.npz:img.
  path = pathlib.Path(re.sub(r"(?<=\.npz):[^:]*$", "", text))
  if (path / load.WEIGHTS).is_file():
    path /= load.WEIGHTS
  if checkpoint.spec.checked:
    print("  its SHA-256 agrees with what was saved beside it")
  if path.is_file():
    print(f"  SHA-256 {manifest.digest(path)}")
    if not checkpoint.spec.checked:
      print("  (no sum is beside it: compare this one with its source's)")
  rows = [("array", "shape", "type", "mean", "std")]
  for name, x in sorted(checkpoint.arrays.items()):
    shape = "x".join(map(str, x.shape))
    mean, std = (f"{f(x, dtype=np.float64):.4g}" for f in (np.mean, np.std))
    rows.append((name, shape, x.dtype.name, mean, std))
  print(align(rows, left=1))


def convert(args) -> None:
  out = pathlib.Path(args.out)
  with config_errors_at("OUT"):
    save.check_target(out, args.format)
  patch_hw = parsed("--patch", args.patch)
  image_hw = parsed("--image", args.image)
  before = checkpoint_arguments.read(args)
  print(before, flush=True)
  after = transformed(before, args, patch_hw, image_hw)
  with config_errors_at(f"--format {args.format}"):
    notes = save.save(after, out, args.format)
  print(f"wrote {args.out} ({args.format})")
  for note in notes:
    print(f"note: {note}")
  if args.check:
    check(before, load.read(args.out))


def parsed(name: str, text: str | None) -> tuple[int, int] | None:
  with config_errors_at(name):
    return None if text is None else parse_hw(text)


def transformed(
  checkpoint: StoredModel, args, patch_hw, image_hw
) -> StoredModel:
  """Apply --fold_layer_scale, --pixels, --patch and --image."""
  model, arrays = checkpoint.model, checkpoint.arrays
  spec = checkpoint.spec
  if args.fold_layer_scale:
    model, arrays = repatch.without_layer_scale(model, arrays)
  if args.pixels:
    normalization = NORMALIZATIONS[args.pixels]
    with config_errors_at("--pixels"):
      model, arrays = repatch.with_normalization(model, arrays, *normalization)
  one_size = args.format in ("timm", "hugging_face")
  if patch_hw or image_hw:
    with config_errors_at("--image" if image_hw else "--patch"):
      if image_hw is None:
        image_hw = kept_image_hw(checkpoint, one_size)
      elif not isinstance(model.position, learned_grid.LearnedGrid):
        raise ValueError("the model has no table of positions to resize")
      patch_hw = patch_hw or model.stored_patch_hw
      model, arrays = repatch.repatch(model, arrays, patch_hw, image_hw)
    # What it was trained at is not what it is for any more.
    spec = dataclasses.replace(spec, patch_size=patch_hw, trained_sizes=())
  elif args.format not in ("big_vision", "orbax") and {*spec.trained_sizes} - {
    model.stored_patch_hw
  }:
    h, w = model.stored_patch_hw
    sizes = ", ".join(f"{h}x{w}" for h, w in spec.trained_sizes)
    print(
      f"note: OUT has patches of {h}x{w} only, the size that is stored, and IN "
      f"was trained at {sizes}: give --patch and --image for another"
    )
  return StoredModel(model, arrays, spec)


def kept_image_hw(checkpoint: StoredModel, one_size: bool):
  """The input size that a model was made for; None: the table stays.

  Args:
    one_size: whether it is written for one input size.

  Raises:
    ValueError: it has to be known, and is not.
  """
  model, spec = checkpoint.model, checkpoint.spec
  if not isinstance(model.position, learned_grid.LearnedGrid):
    return None
  made_for_one = spec.source in (timm.NAME, hugging_face.NAME)
  if made_for_one or spec.patch_size == model.stored_patch_hw:
    return infer.stored_image_hw(model)
  if one_size:
    raise ValueError(
      "OUT stores positions for one input size: give --image too"
    )
  return None


def check(before: StoredModel, after: StoredModel) -> None:
  """Runs both on photographs, the first resized on the fly, and compares.

  Raises:
    Fault: they differ by more than rounding.
  """
  model = after.model
  patch_hw, rows_cols = model.stored_patch_hw, (7, 7)
  if isinstance(model.position, learned_grid.LearnedGrid):
    rows_cols = model.position.size
  image_hw = tuple(n * p for n, p in zip(rows_cols, patch_hw))
  pixels = parity.photographs(image_hw, model.channels)
  stored = np.result_type(*after.arrays.values())
  with jax.default_matmul_precision("highest"):
    outputs = [on_device(x).outputs(pixels, patch_hw) for x in (before, after)]
  names = {"features": "pooled", "logits": "logits"}
  parity.compare(
    *(
      {name: x[key] for name, key in names.items() if key in x} for x in outputs
    ),
    image_hw=image_hw,
    patch_hw=patch_hw,
    precise=stored in (np.float32, np.float64),
  )


if __name__ == "__main__":
  main_lib.run_renamed("convert")
