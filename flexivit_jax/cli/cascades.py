"""evaluate.py --cascade: what it is chosen on, and its measurement."""

import dataclasses
import functools
import math

from flexivit_jax.cli import data_arguments, views
from flexivit_jax.core.errors import ConfigError, config_errors_at
from flexivit_jax.data.pixels import preprocessing
from flexivit_jax.devices import placement
from flexivit_jax.evaluation import reading, sweep
from flexivit_jax.evaluation.cascade import measure as measure_lib
from flexivit_jax.evaluation.settings import Route
from flexivit_jax.models import cost

# Of each batch, in turn with the single sizes.
ROUNDS = 5


def check(args, whole: reading.Reading) -> None:
  """Refuses what a cascade cannot go through.

  Raises:
    ConfigError: naming the argument.
  """
  settings = list(whole.settings)
  if args.resize != "pi":
    raise ConfigError(
      f"--cascade and --resize {args.resize}: one set of weights serves all "
      "sizes of a cascade, so leave --resize out"
    )
  if len(whole.views) > 1 or settings[0].image_hw is None:
    raise ConfigError(
      "--cascade needs images of one size: give one of --resolutions, and no "
      "--budgets"
    )
  if len(settings) < 2:
    raise ConfigError(
      "--cascade needs two patch sizes at least: give them with --patch_sizes"
    )


def parse_target(args) -> float | None:
  """--target as a share of images.

  Raises:
    ConfigError: it is no percentage, or there is no cascade to want it of.
  """
  for name in ("target", "cascade_split"):
    if getattr(args, name) is not None and not args.cascade:
      raise ConfigError(f"--{name} needs --cascade: it is of a cascade")
  if args.target is None:
    return None
  try:
    percent = float(args.target.removesuffix("%"))
  except ValueError:
    percent = 0.0
  # A share of images would be taken for less than one percent.
  if not 1 < percent <= 100:
    raise ConfigError(
      f"--target {args.target}: give a percentage above 1 and at most 100, 97 "
      "say"
    )
  return percent / 100


def validation(args, vit, data, whole, batch_size, policy) -> reading.Reading:
  """Other images, shown in the same way.

  Raises:
    ConfigError: there are none, or they differ in size.
  """
  run = vit.spec.experiment
  if args.cascade_split is not None:
    if args.data is None:
      raise ConfigError("--cascade_split needs --data: it is a split of it")
    source = dataclasses.replace(data.source, split=args.cascade_split)
    other = dataclasses.replace(data, source=source)
  elif args.data is None and run.validation is not None:
    other = run.validation
  else:
    raise ConfigError(
      "--cascade needs other images to choose on: give --cascade_split, a "
      "split of --data"
    )
  if other.source == data.source:
    raise ConfigError(
      f"--cascade_split {args.cascade_split}: these are the images that are "
      "evaluated; give others"
    )
  with config_errors_at("--cascade_split" if args.cascade_split else "config"):
    mode = data_arguments.choose_mode(args, run)
    source = preprocessing.open_source(other.source, mode)
    found = views.choose_reading(args, vit, other, source, batch_size, policy)
  if found.views != whole.views:
    raise ConfigError(
      f"the images of {other.source} have another size than those that are "
      "evaluated: give --resolutions"
    )
  return found


def measure(args, vit, at, whole, chosen_on, mesh) -> tuple[Route, ...]:
  """Chooses, compiles and measures."""
  say = functools.partial(print, flush=True)
  ((*settings,),) = whole.views
  forward, params = at(settings[0])
  programs = sweep.compile_programs(at, [chosen_on], mesh, lambda line: None)
  place = functools.partial(placement.to_devices, mesh=mesh)
  seen = sweep.sweep(
    {s: p.of(params) for s, p in programs.items()}, [chosen_on], place
  )
  multiply_adds = {
    s.patch_hw: cost.multiply_adds(vit.model, s.image_hw, s.patch_hw)
    for s in settings
  }
  chosen, measured = measure_lib.measure_cascade(
    forward,
    params,
    validation={s.patch_hw: x.answers for s, x in seen.items()},
    costs=multiply_adds,
    loader=reading.OneView(whole.loader),
    mesh=mesh,
    report=say,
    target=args.target,
    rounds=ROUNDS,
  )
  sizes = sorted(multiply_adds, key=math.prod, reverse=True)
  there = {s.patch_hw: x.answers for s, x in seen.items()}[sizes[-1]]
  say(
    f"chosen on {len(there)} other images: {chosen.cascade} is right on "
    f"{100 * chosen.top1:.1f} % of them, the smallest patches on "
    f"{100 * there.top(1):.1f} %"
  )
  return measure_lib.routes(chosen, measured, multiply_adds)
