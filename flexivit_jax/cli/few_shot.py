"""Few-shot accuracy of a checkpoint's features at many patch sizes.

  flexivit few-shot --checkpoint runs/flexivit \\
      --data folder:PATH --resolutions 240 --patch_sizes 8:48 --output DIR
  flexivit few-shot --checkpoint vit.npz --data digits \\
      --resolutions 48 --patch_sizes 8,16 --shots 1,5,10
  flexivit few-shot --checkpoint vit.npz \\
      --data tfds:oxford_iiit_pet --resolutions 224 --patch_sizes 16 \\
      --train_split train[:90%] --validation_split train[90%:] \\
      --penalty 64,1024,16384

The model stays as it is. A linear classifier of its pooled features is
trained on a few images of each class, by least squares with an L2 penalty, and
tested on all test images; several draws of images give a mean and its standard
error. The checkpoint may have been trained on other classes, or have no head.

Prints a table: a line for each patch size, a column for each number of images
(shots). With --output also writes few_shot.json and a figure.
"""

import contextlib
import functools
import json
import pathlib

import jax
import numpy as np
from tqdm import tqdm

from flexivit_jax.checkpoints import atomic, provenance
from flexivit_jax.cli import (
  arguments,
  checkpoint_arguments,
  few_shot_data,
  views,
)
from flexivit_jax.cli import main as main_lib
from flexivit_jax.core.errors import ConfigError, Fault
from flexivit_jax.devices import compilation, out_of_memory, placement
from flexivit_jax.devices import mesh as mesh_lib
from flexivit_jax.evaluation import reading, sweep
from flexivit_jax.evaluation.linear_probe import features, ridge, table
from flexivit_jax.evaluation.linear_probe.figure import draw_few_shot
from flexivit_jax.evaluation.linear_probe.table import FewShot, Point
from flexivit_jax.evaluation.report.figures import style
from flexivit_jax.evaluation.settings import Setting

# Beyond, the draws of a table would take days.
MOST_SEEDS = 1000


def main(argv=None):
  parser = arguments.parser(__doc__, "few-shot")
  add = parser.add_argument
  checkpoint_arguments.add_checkpoint(parser)
  views.add_arguments(add)
  add(
    "--train_split",
    help="of --data, to draw from; default: train; without --data a run's "
    "training data",
  )
  add(
    "--shots",
    default=",".join(map(str, ridge.SHOTS)),
    help="1,5,10: images of each class to train on; default: %(default)s",
  )
  add(
    "--seeds",
    type=int,
    default=ridge.SEEDS,
    help="draws of images; default: %(default)s",
  )
  add(
    "--penalty",
    default=f"{ridge.PENALTY:g}",
    help="of the squared weights; or several, 64,1024,16384, to choose from on "
    "validation data; default: %(default)s, big_vision's",
  )
  add(
    "--validation_split",
    help="of --data, to choose the penalty on; without --data a run's "
    "validation data",
  )
  views.add_loading_arguments(add)
  add("--output", help="directory for few_shot.json and the figure")
  args, _ = arguments.parse(parser, argv)
  args.command = arguments.command("few-shot", argv)
  evaluate(args)


def evaluate(args) -> FewShot:
  args.shots = few_shot_data.parse_shots(args.shots)
  args.penalties = few_shot_data.parse_penalties(args.penalty)
  if not 1 <= args.seeds <= MOST_SEEDS:
    raise ConfigError(f"--seeds {args.seeds}: give 1 to {MOST_SEEDS}")
  if args.output:
    arguments.output_directory(args).mkdir(parents=True, exist_ok=True)
  vit = checkpoint_arguments.load_vit(args)
  run = vit.spec.experiment
  mesh = mesh_lib.make_mesh()
  batch_size = views.choose_batch_size(args, run, mesh)
  policy = views.choose_policy(args, run)
  chosen = few_shot_data.choose(args, vit, (batch_size, policy))

  compilation.enable_persistent_cache()
  points = measure(args, vit, chosen, mesh, batch_size)
  _, model, *_ = str(vit).splitlines()
  train, validation, test = chosen.names
  found = FewShot(
    checkpoint=vit.spec.path,
    step=vit.spec.step,
    model=model.strip(),
    train=train,
    validation=validation,
    test=test,
    classes=chosen.classes,
    command=args.command,
    provenance=provenance.describe(),
    points=points,
  )
  draws = f"mean of {args.seeds} draws +- its standard error"
  print(
    f"\n{points[0].images} images of {test}\nafter training on {train}; "
    f"top-1 in %, {draws if args.seeds > 1 else 'one draw'}"
  )
  print(table.table(found))
  if validation is not None:
    print(
      f"\npenalties chosen on {len(chosen.validation.loader)} images of "
      f"{validation}\n{table.penalties(found)}"
    )
  if args.output:
    print(f"wrote {write(arguments.output_directory(args), found)}")
  return found


def measure(args, vit, chosen, mesh, batch_size) -> tuple[Point, ...]:
  """Reads all images once for all settings; then, setting by setting, trains
  and tests."""
  # Nobody asks what the head of other classes says.
  model = vit.model.clone(num_classes=0)
  params = jax.device_put(vit.params, placement.replicated(mesh))
  forward = functools.partial(features.forward, model)
  setting_name = "--batch_size"
  if args.budgets:
    setting_name += ", or the largest of --budgets"
  with out_of_memory.explaining_evaluation(batch_size, setting_name):
    # One program for all three: their batches have one shape.
    programs = sweep.compile_programs(
      lambda setting: (forward, params),
      [chosen.test],
      mesh,
      functools.partial(print, flush=True),
    )
    calls = {s: p.of(params) for s, p in programs.items()}
    train = read(calls, chosen.train, mesh, "training images")
    validation = {}
    if chosen.validation is not None:
      validation = read(calls, chosen.validation, mesh, "validation images")
    test = read(calls, chosen.test, mesh, "test images")
  points = []
  total = len(test) * len(args.shots)
  with tqdm(total=total, desc="fitting", disable=None) as bar:
    for setting, found in test.items():
      accuracies = []
      for shots in args.shots:
        with few_shot_faults(setting):
          accuracies.append(
            ridge.measure(
              drawn(chosen, shots, train[setting].answers),
              images(found.answers),
              chosen.classes,
              shots=shots,
              penalties=args.penalties,
              validation=(
                images(validation[setting].answers) if validation else None
              ),
            )
          )
        bar.update()
      count = len(found.answers)
      points.append(Point(setting, found.tokens, count, tuple(accuracies)))
  return tuple(points)


def read(calls, wanted, mesh, name) -> dict[Setting, sweep.Found]:
  """The features of all images of a reading, in each of its settings."""
  total = len(wanted.loader) * sum(map(len, wanted.views))
  with tqdm(total=total, desc=name, unit=" images", disable=None) as bar:
    found = sweep.sweep(
      calls,
      [wanted],
      functools.partial(placement.to_devices, mesh=mesh),
      bar.update,
      features.gather,
    )
  for reason in reading.bad_images([wanted]).values():
    print(f"skipped: {reason}")
  views.report_scaled_down(wanted)
  return found


def images(found: features.Features) -> ridge.Images:
  return ridge.Images(found.pooled, found.label)


def drawn(chosen, shots: int, found: features.Features) -> list:
  """The training images of each draw, without those that were skipped."""
  draws = []
  for draw in chosen.draws:
    # From the training data to the drawn images, to those that were decoded.
    places = np.searchsorted(chosen.indices, draw[:, :shots].ravel())
    rows = np.flatnonzero(np.isin(found.index, places))
    draws.append(images(found).at(rows))
  return draws


@contextlib.contextmanager
def few_shot_faults(setting: Setting):
  """Says at which setting features are of no use."""
  try:
    yield
  except ValueError as e:
    raise Fault(f"{setting}: {e}") from e


def write(directory: pathlib.Path, found: FewShot) -> pathlib.Path:
  """few_shot.png, few_shot.svg and few_shot.json, the last of these last."""
  figure = draw_few_shot(found.points)
  path = directory / table.NAME
  text = json.dumps(table.to_json(found), indent=2, allow_nan=False)
  for suffix, content in (
    (".png", style.png(figure)),
    (".svg", style.svg(figure)),
    (".json", f"{text}\n".encode()),
  ):
    with atomic.replacing(path.with_suffix(suffix)) as unfinished:
      unfinished.write_bytes(content)
  return path


if __name__ == "__main__":
  main_lib.run_renamed("few-shot")
