"""Exports a model for serving, where jax alone runs it, and checks the result.

  flexivit export runs/flexivit OUT --patch_sizes 4,6 \\
      --resolution 24
  flexivit export flexivit_b_i1k OUT --patch_sizes 16,30x24 \\
      --resolution 240 --platforms cpu,cuda,tpu

IN is all that `load` takes: a run, a big_vision npz, a timm or Hugging Face
ViT, a published name. OUT is a directory to be made;
flexivit_jax/checkpoints/serving.py says what is in it and how to use it. It
takes any number of images at once, uint8, of the one size. Where it can run
here, it is read back and compared with the model on photographs.
"""

import pathlib

import jax.export

from flexivit_jax.checkpoints import export as export_lib
from flexivit_jax.checkpoints import parity, serving
from flexivit_jax.checkpoints.model import LoadedModel, on_device
from flexivit_jax.cli import arguments, checkpoint_arguments
from flexivit_jax.cli import main as main_lib
from flexivit_jax.core.errors import config_errors_at
from flexivit_jax.core.sizes import parse_hw
from flexivit_jax.core.text import format_bytes


def main(argv=None):
  parser = arguments.parser(__doc__, "export")
  add = parser.add_argument
  checkpoint_arguments.add_source(parser)
  add("out", metavar="OUT", help="directory to be made")
  add("--patch_sizes", required=True, help="8,16x12: a program for each")
  add("--resolution", required=True, help="240 or 240x320: of all images")
  add(
    "--platforms",
    default="cpu",
    help=f"of {','.join(export_lib.PLATFORMS)}; default: cpu",
  )
  args, _ = arguments.parse(parser, argv)
  export(args)


def export(args) -> None:
  with config_errors_at("--patch_sizes"):
    patch_sizes = [parse_hw(text) for text in args.patch_sizes.split(",")]
  with config_errors_at("--resolution"):
    image_hw = parse_hw(args.resolution)
  vit = on_device(checkpoint_arguments.read(args))
  print(vit, flush=True)
  platforms = args.platforms.split(",")
  with config_errors_at("cannot export"):
    export_lib.export(
      vit,
      args.out,
      patch_sizes=patch_sizes,
      image_hw=image_hw,
      platforms=platforms,
    )
  size = sum(path.stat().st_size for path in pathlib.Path(args.out).iterdir())
  print(f"wrote {args.out} ({format_bytes(size)})", flush=True)
  here = jax.export.default_export_platform()
  if here in platforms:
    check(vit, serving.load(args.out))
  else:
    print(f"not checked: it does not run on {here}, which this machine has")


def check(vit: LoadedModel, served: serving.Served) -> None:
  """Runs both on photographs at each patch size, and compares.

  Raises:
    Fault: they differ by more than rounding.
  """
  _, h, w, channels = served.contract["input"]["shape"]
  pixels = parity.photographs((h, w), channels)
  for patch_hw in served.programs:
    expected = vit.outputs(pixels, patch_hw)
    expected["features"] = expected["pooled"]
    found = served(pixels, patch_hw)
    parity.compare(
      {name: expected[name] for name in found},
      found,
      image_hw=(h, w),
      patch_hw=patch_hw,
      # Where products are rounded to fewer bits, so are the resized kernels.
      precise=vit.model.dtype == "float32" and jax.default_backend() == "cpu",
    )


if __name__ == "__main__":
  main_lib.run_renamed("export")
