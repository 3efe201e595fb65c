"""Converts a checkpoint: another format, patch size, input size or pixels.

  python -m flexivit_jax.cli.convert IN --inspect
  python -m flexivit_jax.cli.convert vit.npz OUT --format timm
  python -m flexivit_jax.cli.convert flexivit_b_i1k OUT --format timm \\
      --patch 8 --image 384 --check

IN is all that `load` takes: a run, a big_vision npz, a timm or Hugging Face
ViT, a published name. OUT is a file that ends in .npz for big_vision, and a
directory for timm, hugging_face and orbax; it is not written over.
"""

import dataclasses
import pathlib

import jax
import numpy as np
from sklearn import datasets

from flexivit_jax import pretrained, saving
from flexivit_jax.checkpoints import manifest
from flexivit_jax.cli import arguments, errors
from flexivit_jax.core.faults import Fault
from flexivit_jax.core.patch_size import parse_hw
from flexivit_jax.core.text import align
from flexivit_jax.data import images
from flexivit_jax.experiment import ConfigError, blaming
from flexivit_jax.formats import architecture, repatch
from flexivit_jax.loaded import Checkpoint, on_device
from flexivit_jax.nn import positions

# (mean, std) of pixels in 0 to 1 that a patch embedding may expect.
NORMALIZATIONS = {
  "unit": ((0.5,), (0.5,)),
  "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


def main(argv=None):
  parser = arguments.parser(__doc__)
  add = parser.add_argument
  add("source", metavar="IN", help="a checkpoint, or a published one's name")
  add(
    "out", metavar="OUT", nargs="?", help="where to write; not with --inspect"
  )
  add("--format", choices=tuple(saving.FORMATS))
  add("--step", type=int, help="of a run: which checkpoint; default: the best")
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
  group = parser.add_argument_group("what IN's file may not say")
  parser.names += [f"--{name}" for name in given_arguments(group)]
  args, _ = arguments.parse(parser, argv)
  if args.inspect:
    inspect(read(args))
    return
  if args.out is None or args.format is None:
    raise ConfigError(
      "give OUT and --format, one of "
      + ", ".join(saving.FORMATS)
      + "; or --inspect to see what IN is"
    )
  convert(args)


def given_arguments(group) -> list[str]:
  """Adds an argument for each fact that `load` may be given."""
  group.add_argument("--num_heads", type=int)
  group.add_argument("--gelu", choices=("tanh", "exact"))
  group.add_argument("--eps", type=float, help="of every LayerNorm")
  group.add_argument("--pool", choices=("tok", "gap", "map"))
  group.add_argument("--posemb", help="7x7: rows and columns of the positions")
  return ["num_heads", "gelu", "eps", "pool", "posemb"]


def read(args) -> Checkpoint:
  with blaming("--posemb"):
    posemb = None if args.posemb is None else parse_hw(args.posemb)
  with blaming("IN"):
    return pretrained.read(
      args.source,
      step=args.step,
      num_heads=args.num_heads,
      gelu=args.gelu,
      eps=args.eps,
      pool=args.pool,
      posemb=posemb,
    )


def inspect(checkpoint: Checkpoint) -> None:
  """Prints what a checkpoint is, its sum, and each of its arrays."""
  print(checkpoint)
  path = pathlib.Path(checkpoint.spec.path)
  if (path / pretrained.WEIGHTS).is_file():
    path /= pretrained.WEIGHTS
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
  with blaming("OUT"):
    saving.check_target(out, args.format)
  before = read(args)
  print(before, flush=True)
  with blaming("--image" if args.image else "--patch"):
    after = transformed(before, args)
  with blaming("OUT"):
    notes = saving.save(after, out, args.format)
  print(f"wrote {args.out} ({args.format})")
  for note in notes:
    print(f"note: {note}")
  if args.check:
    check(before, pretrained.read(args.out))


def transformed(checkpoint: Checkpoint, args) -> Checkpoint:
  """As --fold_layer_scale, --pixels, --patch and --image ask for."""
  model, arrays = checkpoint.model, checkpoint.arrays
  spec = checkpoint.spec
  if args.fold_layer_scale:
    model, arrays = repatch.without_layer_scale(model, arrays)
  if args.pixels:
    normalization = NORMALIZATIONS[args.pixels]
    model, arrays = repatch.with_normalization(model, arrays, *normalization)
  if args.patch or args.image:
    patch_hw, image_hw = chosen_sizes(model, spec, args)
    model, arrays = repatch.repatch(model, arrays, patch_hw, image_hw)
    spec = dataclasses.replace(spec, patch_size=patch_hw)
  return Checkpoint(model, arrays, spec)


def chosen_sizes(model, spec, args):
  """(patch size, image size or None) of --patch and --image."""
  patch_hw = parse_hw(args.patch) if args.patch else model.kernel_hw
  if args.image:
    return patch_hw, parse_hw(args.image)
  if spec.patch_size == model.kernel_hw and isinstance(
    model.position, positions.LearnedGrid
  ):
    # Made for one input size, and kept for it.
    return patch_hw, architecture.stored_image_hw(model)
  if args.format in ("timm", "hugging_face"):
    raise ValueError(
      f"{args.format} stores positions for one input size: give --image too"
    )
  return patch_hw, None


def check(before: Checkpoint, after: Checkpoint) -> None:
  """Runs both on photographs, the first resized on the fly, and compares.

  Raises:
    Fault: they differ by more than rounding.
  """
  model = after.model
  patch_hw, rows_cols = model.kernel_hw, (7, 7)
  if isinstance(model.position, positions.LearnedGrid):
    rows_cols = model.position.size
  image_hw = tuple(n * p for n, p in zip(rows_cols, patch_hw))
  pixels = photographs(image_hw, model.channels)
  stored = np.result_type(*after.arrays.values())
  precise = stored in (np.float32, np.float64)
  with jax.default_matmul_precision("highest"):
    a, b = (
      np.asarray(on_device(x).outputs(pixels, patch_hw)["pooled"])
      for x in (before, after)
    )
  worst, largest = np.abs(a - b).max(), np.abs(a).max()
  h, w = image_hw
  print(
    f"check: two photographs at {h}x{w} pixels, patches of "
    f"{patch_hw[0]}x{patch_hw[1]}: features differ by at most {worst:.2g}, of "
    f"{largest:.2g}"
  )
  if not worst <= (1e-4 if precise else 3e-2) * largest:
    raise Fault("that is more than rounding: OUT does not compute what IN does")


def photographs(image_hw: tuple[int, int], channels: int) -> np.ndarray:
  """Two real images, u8 `[2, h, w, channels]`; colours recur beyond three."""
  colour = datasets.load_sample_images().images
  pixels = np.stack([images.resize(x, image_hw) for x in colour])
  if channels == 3:
    return pixels
  repeats = -(-channels // 3)
  return np.tile(pixels, (1, 1, 1, repeats))[..., :channels]


if __name__ == "__main__":
  errors.run(main)
