"""Classes and features of images.

  flexivit predict --checkpoint runs/flexivit \\
      --patch_size 8 cat.jpg photos/
  flexivit predict --checkpoint flexivit_b_i1k \\
      --patch_size 16 --output out --features photos/
  flexivit predict --checkpoint vit.npz --patch_size 16 \\
      --budget 256 photos/

Each IMAGE is a file, or a folder that is searched at any depth. Prints the most
probable classes of each; --output writes them to predictions.json and
predictions.csv, with --features also features.npz: docs/predict.md says what is
in them, and how images are read.
"""

import pathlib
from collections.abc import Sequence

import jax

from flexivit_jax.checkpoints import provenance
from flexivit_jax.cli import arguments, checkpoint_arguments, data_arguments
from flexivit_jax.cli import main as main_lib
from flexivit_jax.cli.prediction_plan import (
  Plan,
  choose_output,
  counted,
  make_plan,
  shown,
)
from flexivit_jax.core.errors import Fault
from flexivit_jax.core.text import cut
from flexivit_jax.data.pixels.decode import BadImageError
from flexivit_jax.devices import compilation, out_of_memory, placement
from flexivit_jax.devices import mesh as mesh_lib
from flexivit_jax.evaluation import predict as predict_lib
from flexivit_jax.evaluation import prediction_files


def main(argv=None):
  parser = arguments.parser(__doc__, "predict")
  add = parser.add_argument
  add("images", nargs="+", metavar="IMAGE", help="a file or a folder")
  checkpoint_arguments.add_checkpoint(parser)
  add(
    "--patch_size",
    help="16 or 16x12; default: the checkpoint's, where it has one only",
  )
  add(
    "--resolution",
    help="240 or 240x320: images are squashed to it; default: as the "
    "checkpoint was evaluated, where it says so",
  )
  add(
    "--budget",
    type=int,
    help="256: most patches of an image, which is scaled to come near them "
    "and keeps its aspect ratio; instead of --resolution",
  )
  add("--top_k", type=int, default=5, help="classes of each image; default: 5")
  add(
    "--probabilities",
    choices=tuple(predict_lib.PROBABILITIES),
    help="of one class among all, or of each by itself; default: by the run's "
    "loss, else softmax",
  )
  add("--class_names", help="text file with a name in each line")
  add(
    "--exif_transpose",
    action="store_true",
    help="turn images as their EXIF orientation says; default: as the run's "
    "data, else not",
  )
  data_arguments.add_mode_argument(add)
  add("--batch_size", type=int, default=32, help="most images at once")
  add(
    "--on_bad_image",
    choices=("error", "skip"),
    default="error",
    help="whether an image that cannot be decoded ends it, or is left out; "
    "default: error",
  )
  add("--output", help="directory to write to")
  add(
    "--features",
    action="store_true",
    help="with --output: pooled features of each image, in features.npz",
  )
  add(
    "--tokens",
    action="store_true",
    help="with --features: those of each patch as well",
  )
  args, _ = arguments.parse(parser, argv)
  predict(args)


def predict(args) -> None:
  """Predicts, prints and writes.

  Raises:
    ConfigError: an argument cannot be used.
    Fault: of the first bad image, unless they are skipped; or none is good.
  """
  try:
    output = choose_output(args)
    plan = make_plan(args)
    print(plan, flush=True)
    carry_out(plan, output)
  except BadImageError as e:
    if args.on_bad_image == "skip":
      raise Fault(f"none of the images can be decoded: {e}") from e
    raise Fault(f"{e}; mend it, or leave it out: --on_bad_image skip") from e


def carry_out(plan: Plan, output: pathlib.Path | None) -> None:
  """Compiles, predicts, prints and writes."""
  compilation.enable_persistent_cache()
  mesh, loader = mesh_lib.make_mesh(), plan.loader
  params = jax.device_put(plan.vit.params, placement.replicated(mesh))
  done = 0
  with (
    out_of_memory.explaining_evaluation(plan.batch_size, "--batch_size"),
    prediction_files.open_files(output, plan.wanted) as files,
  ):
    forward = predict_lib.compile_forward(
      plan.vit.model,
      params,
      loader.example(0),
      plan.patch_hw,
      plan.wanted,
      mesh,
      lambda line: print(line, flush=True),
    )
    name = plan.source.name
    for each in predict_lib.predict(
      forward, params, loader, plan.patch_hw, mesh, name
    ):
      path, names = name(each.index), []
      if each.classes is not None:
        names = [plan.names[i] for i in each.classes]
        print(block(path, names, each.probabilities), flush=True)
      files.add(path, each, names)
      done += 1
    skipped = [loader.bad[i] for i in sorted(loader.bad)]
    if not done:
      raise Fault(f"none of the images can be decoded: {skipped[0]}")
    files.finish(
      plan.facts() | {"skipped": skipped, "provenance": provenance.describe()}
    )
  for reason in skipped:
    print(f"skipped: {shown(reason)}")
  if smaller := sum(getattr(loader, "scaled_down", [])):
    print(
      f"{counted(smaller)} scaled down: more patches than a row takes, or than "
      "the model has positions for"
    )
  left_out = f", {len(skipped)} left out" if skipped else ""
  print(f"{counted(done)}{left_out}")
  if files.written:
    print(f"wrote {', '.join(map(str, files.written))}")


def block(path: str, names: Sequence[str], probabilities) -> str:
  """Text of an image for the terminal."""
  lines = [
    f"  {100 * p:6.2f} %  {cut(shown(name), 60)}"
    for name, p in zip(names, probabilities.tolist(), strict=True)
  ]
  return "\n".join([shown(path), *lines])


if __name__ == "__main__":
  main_lib.run_renamed("predict")
