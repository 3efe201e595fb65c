"""Evaluates one checkpoint at many patch sizes, resolutions or token budgets.

  python evaluate.py --checkpoint runs/flexivit --patch_sizes 4,6,8,12
  python evaluate.py --checkpoint vit.npz --data folder:PATH \\
      --resolutions 160,240,320 --patch_sizes 8:48 --output DIR
  python evaluate.py --checkpoint vit.npz --data tfds:imagenet2012:5.1.0 \\
      --split validation --resolutions 240 --patch_sizes 8:48
  python evaluate.py --checkpoint runs/navit --budgets 64,256

Prints a table: accuracy and cost of each. With --output also writes
report.html, results.json and figures; points that are already there are not
measured again. A run's own test data is the default; the images of --data
folder:PATH are those of PATH/test/CLASS, of tfds:NAME those prepared in
--data_dir, squashed to each of --resolutions. With --budgets images keep their
aspect ratio, have so many patches at most, and are packed.
"""

import functools
import pathlib
import shlex
import sys

import jax
import numpy as np
from tqdm import tqdm

from flexivit_jax.checkpoints import load, provenance
from flexivit_jax.checkpoints.model import digest, parameter_count
from flexivit_jax.cli import (
  arguments,
  cascades,
  checkpoint_arguments,
  data_arguments,
  distributed,
  errors,
  views,
)
from flexivit_jax.core import pi_resize
from flexivit_jax.core.errors import ConfigError, config_errors_at
from flexivit_jax.core.text import cut
from flexivit_jax.data.pixels import preprocessing
from flexivit_jax.devices import compilation, out_of_memory, placement
from flexivit_jax.devices import mesh as mesh_lib
from flexivit_jax.evaluation import costs, deploy, reading, sweep, table
from flexivit_jax.evaluation.cascade import measure as measure_lib
from flexivit_jax.evaluation.report import report, results
from flexivit_jax.evaluation.settings import Point, Setting, Sweep
from flexivit_jax.evaluation.store import Store
from flexivit_jax.tasks.classification import Supervised


def main(argv=None):
  parser = arguments.parser(__doc__)
  add = parser.add_argument
  checkpoint_arguments.add_checkpoint(parser)
  views.add_arguments(add)
  add(
    "--resize",
    choices=pi_resize.RESIZES,
    default="pi",
    help="how the patch embedding is resized: the way of FlexiViT, or one of "
    "those that it is compared with; default: pi",
  )
  views.add_loading_arguments(add)
  add(
    "--no_timing",
    action="store_true",
    help="no latency and no throughput of patch sizes; a cascade is timed",
  )
  add(
    "--under",
    action="append",
    default=[],
    metavar="LIMIT",
    help="'5 ms', '10 GFLOP', '64 tokens' or '1 GiB': says which patch size "
    "is the most accurate under it; may be given more than once",
  )
  add(
    "--cascade",
    action="store_true",
    help="chooses on validation data a cascade that starts with large patches "
    "and goes on to smaller ones where it is not confident, and measures it",
  )
  add(
    "--target",
    metavar="PERCENT",
    help="top-1 that the cascade is to have on the validation data; default: "
    "that of the smallest patches",
  )
  add(
    "--cascade_split",
    help="of --data, to choose the cascade on; default: a run's validation "
    "data",
  )
  add("--output", help="directory for the report, results.json and figures")
  distributed.refuse(sys.argv[1:] if argv is None else argv)
  args, _ = arguments.parse(parser, argv)
  args.command = shlex.join(["python", "evaluate.py", *(argv or sys.argv[1:])])
  evaluate(args)


def evaluate(args) -> Sweep:
  args.limits = limits(args)
  args.target = cascades.parse_target(args)
  if args.output:
    arguments.output_directory(args).mkdir(parents=True, exist_ok=True)
  given = checkpoint_arguments.facts(args)
  with config_errors_at("--checkpoint"):
    vit = load.load(args.checkpoint, step=args.step, **given)
  print(vit, flush=True)
  run = vit.spec.experiment
  if run is not None and not run.task.classifies:
    raise ConfigError(
      f"--checkpoint {args.checkpoint}: its task gives no classes; what it "
      "measured at each patch size is in its metrics.jsonl, and what takes it "
      f"is {run.task.used_by.format(run=args.checkpoint)}"
    )
  data = views.choose_data(args, run)
  mode = data_arguments.choose_mode(args, run, packed=args.budgets is not None)
  mesh = mesh_lib.make_mesh()
  batch_size = views.choose_batch_size(args, run, mesh)
  with config_errors_at("--data" if args.data else "config.test"):
    source = preprocessing.open_source(data.source, mode)
    check_classes(vit, source)
    policy = views.choose_policy(args, run)
    whole = views.choose_reading(args, vit, data, source, batch_size, policy)

  compilation.enable_persistent_cache()
  task = run.task if run else Supervised()
  store = None
  if args.output:
    store = Store(
      pathlib.Path(args.output) / "points",
      keys(args, vit, task, source, whole, batch_size),
    )
  at = models(vit, task, args.resize, mesh)
  chosen_on = None
  if args.cascade:
    cascades.check(args, whole)
    chosen_on = cascades.validation(args, vit, data, whole, batch_size, policy)
  done = measure(args, vit.model, whole, at, mesh, batch_size, store)
  points, answers = zip(*(done[setting] for setting in whole.settings))
  found, failure = (), None
  if chosen_on is not None:
    try:
      found = cascades.measure(args, vit, at, whole, chosen_on, mesh)
    except ValueError as e:  # after the report, which has all but the cascade
      failure = ConfigError(f"--target: {e}")
  result = Sweep(
    checkpoint=vit.spec.path,
    step=vit.spec.step,
    model=model_line(vit, args.resize),
    parameters=parameter_count(vit.params),
    data=data_arguments.describe(data.source, mode),
    classes=tuple(source.classes),
    command=args.command,
    provenance=provenance.describe(),
    points=points,
    answers=answers,
    routes=found,
    resize=args.resize,
  )
  print(f"\n{points[0].images} images of {result.data}")
  print(table.table(result))
  if found:
    print(f"\n{measure_lib.table(found)}")
  for limit in args.limits:
    print(deploy.recommendation(points, limit))
  if args.output:
    directory = pathlib.Path(args.output)
    if left := results.others(directory, result):
      print(
        f"replaced the report in {directory}, which had other points: "
        f"{cut(', '.join(left), 200)}; they are kept, and the command that "
        "asks for all of them will show them together"
      )
    written = report.write(directory, result, source.image)
    print(f"wrote {written[0]}")
  if failure is not None:
    raise failure
  return result


def limits(args) -> list[deploy.Limit]:
  """What --under asks for."""
  with config_errors_at("--under"):
    found = [deploy.parse_limit(text) for text in args.under]
  for limit in found:
    if limit.unit.cost is deploy.latency and args.no_timing:
      raise ConfigError(
        f"--under {limit} and --no_timing: the latency is not measured, so "
        "leave --no_timing out, or limit GFLOP, tokens or GiB"
      )
  return found


def model_line(vit, how) -> str:
  """The model in one line."""
  _, line, *_ = str(vit).splitlines()
  if how != "pi":
    line += f"; patch embedding resized by {how}"
  return line.strip()


def keys(args, vit, task, source, whole, batch_size):
  """What a point depends on beside its setting, as a function of the setting:
  one that was stored under another key is measured again."""
  same = {
    "model": repr(vit.model),
    "parameters": digest(vit.params),
    "task": repr(task),
    "data": source.fingerprint,
    "resize": args.resize,
    "batch_size": batch_size,
    "devices": [d.device_kind for d in jax.devices()],
  }
  shown = {
    setting: text
    for settings, text in zip(whole.views, whole.shown, strict=True)
    for setting in settings
  }
  return lambda setting: same | {"shown": shown[setting]}


def models(vit, task, how, mesh):
  """From a setting to its forward pass, and parameters on the devices."""
  params = jax.device_put(vit.params, placement.replicated(mesh))
  if how == "pi":  # as the model itself resizes
    forward = functools.partial(sweep.forward, task, vit.model)
    return lambda setting: (forward, params)

  @functools.cache
  def at_size(patch_hw):
    kernel_hw = vit.model.stem.cells(patch_hw)
    kernel = pi_resize.resize_kernel(
      np.asarray(vit.params["embedding"]["kernel"]),
      kernel_hw,
      how=how,
      antialias=vit.model.kernel_antialias,
    )
    embedding = params["embedding"] | {
      "kernel": jax.device_put(kernel, placement.replicated(mesh))
    }
    model = vit.model.clone(kernel_hw=kernel_hw)
    forward = functools.partial(sweep.forward, task, model)
    return forward, params | {"embedding": embedding}

  return lambda setting: at_size(setting.patch_hw)


def measure(args, model, whole, at, mesh, batch_size, store):
  """{setting: (point, answers)}: what is stored, and what was missing."""
  done = {}
  if store is not None:
    stored = {setting: store.load(setting) for setting in whole.settings}
    done = {setting: x for setting, x in stored.items() if x is not None}
    untimed = [s for s, (p, _) in done.items() if p.cost.images_per_s is None]
    if not args.no_timing:
      for setting in untimed:
        del done[setting]
  missing = whole.only(lambda view, setting: setting not in done)
  if done:
    count = f"{len(done)} point{'s were' if len(done) > 1 else ' was'}"
    print(f"{count} measured before: {store.directory}")
  if not any(missing.views):
    return done

  say = functools.partial(print, flush=True)
  setting_name = "--batch_size"
  if args.budgets:
    setting_name += ", or the largest of --budgets"
  with out_of_memory.explaining_evaluation(batch_size, setting_name):
    programs = sweep.compile_programs(at, [missing], mesh, say)
    singles = {}
    if not args.no_timing:
      largest = model.position.largest_grid
      singles = costs.compile_for_one(at, missing.settings, largest, say)
    calls = {s: p.of(at(s)[1]) for s, p in programs.items()}
    total = len(missing.loader) * sum(map(len, missing.views))
    with tqdm(
      total=total, desc="evaluating", unit=" images", disable=None
    ) as bar:
      found = sweep.sweep(
        calls,
        [missing],
        functools.partial(placement.to_devices, mesh=mesh),
        bar.update,
      )
    planned = costs.plan(model, missing, programs, found)

    def finish(setting: Setting, cost) -> None:
      point = describe(setting, found[setting], cost)
      done[setting] = point, found[setting].answers
      if store is not None:
        store.save(*done[setting])

    for setting, cost in planned.items():
      finish(setting, cost)
    if not args.no_timing:
      with tqdm(total=len(found), desc="timing", disable=None) as bar:

        def timed(setting, cost):
          finish(setting, cost)
          bar.update()

        costs.measure_time(
          planned, at, missing, programs, singles, found, mesh, timed
        )
  for reason in reading.bad_images([missing]).values():
    print(f"skipped: {reason}")
  views.report_scaled_down(missing)
  return done


def describe(setting, found, cost) -> Point:
  answers = found.answers
  return Point(
    setting=setting,
    tokens=found.tokens,
    images=len(answers),
    top1=answers.top(1),
    top5=answers.top(5),
    loss=answers.mean_loss,
    calibration_error=answers.calibration_error,
    cost=cost,
  )


def check_classes(vit, source) -> None:
  """Refuses data whose labels the head cannot mean."""
  if vit.spec.classes and tuple(source.classes) != vit.spec.classes:
    raise ValueError(
      f"{len(source.classes)} classes, {_first(source.classes)}, but "
      f"{vit.spec.path} was trained on {len(vit.spec.classes)}, "
      f"{_first(vit.spec.classes)}: give data with the same class folders, or "
      "save the model in another format, which knows no names"
    )
  if len(source.classes) > (vit.model.num_classes or 0):
    raise ValueError(
      f"{len(source.classes)} classes, but the head of {vit.spec.path} has "
      f"{vit.model.num_classes or 'none'}"
    )


def _first(names) -> str:
  return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


if __name__ == "__main__":
  errors.run(main)
