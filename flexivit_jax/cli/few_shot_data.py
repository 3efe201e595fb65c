"""Arguments of a few-shot evaluation: shots, penalties, and three splits."""

import contextlib
import dataclasses
import io

import numpy as np

from flexivit_jax.cli import data_arguments, views
from flexivit_jax.core.errors import ConfigError, config_errors_at
from flexivit_jax.core.text import cut
from flexivit_jax.data.dataset import Dataset, check_same_classes
from flexivit_jax.data.loading import example as example_lib
from flexivit_jax.data.pixels import preprocessing
from flexivit_jax.data.sources import splits
from flexivit_jax.data.sources.subset import Subset
from flexivit_jax.evaluation import reading as reading_lib
from flexivit_jax.evaluation.linear_probe import ridge


def parse_shots(text: str) -> list[int]:
  """ "1,5,10" as [1, 5, 10].

  Raises:
    ConfigError: it is no list of whole numbers from 1 on.
  """
  try:
    shots = list(dict.fromkeys(map(int, text.split(","))))
  except ValueError:
    shots = []
  if not shots or min(shots) < 1:
    raise ConfigError(
      f"--shots {text!r}: give numbers of images of each class, 1,5,10 say"
    )
  return shots


def parse_penalties(text: str) -> list[float]:
  """ "64,1024" as [64.0, 1024.0].

  Raises:
    ConfigError: it is no list of numbers, or one is too small.
  """
  try:
    found = list(dict.fromkeys(map(float, text.split(","))))
  except ValueError:
    raise ConfigError(
      f"--penalty {text!r}: give a number, 1024 say, or several, 64,1024"
    ) from None
  for penalty in found:
    try:
      ridge.check_penalty(penalty)
    except ValueError as e:
      raise ConfigError(f"--{e}") from None
  return found


@dataclasses.dataclass(frozen=True)
class Chosen:
  """Images, opened and checked, each shown as the test's.

  Attributes:
    train: the reading of the images that a draw takes, and of no other.
    indices: i64, which images of the training data these are, sorted.
    draws: for each seed i64 `[classes, shots]`, indices of the training data.
    validation: to choose the penalty on; None where one is given.
    names: the training, validation (or None) and test data in a line each.
  """

  train: reading_lib.Reading
  indices: np.ndarray
  draws: tuple[np.ndarray, ...]
  validation: reading_lib.Reading | None
  test: reading_lib.Reading
  names: tuple[str, str | None, str]
  classes: tuple[str, ...]


def choose(args, vit, options) -> Chosen:
  """Open the images of --data and its splits.

  Args:
    args: with `shots`, `seeds` and `penalties` read already.
    options: batch size and policy for bad images, for `views.choose_reading`.

  Raises:
    ConfigError: naming the argument that cannot work.
  """
  run = vit.spec.experiment
  test = views.choose_data(args, run)
  train = _train(args, run, test)
  validation = _validation(args, run, test)
  mode = data_arguments.choose_mode(args, run, packed=args.budgets is not None)
  there = "--data" if args.data else "config.test"
  with config_errors_at(there):
    opened = preprocessing.open_source(test.source, mode)
    if len(opened.classes) < 2:
      raise ValueError(
        f"one class, {cut(opened.classes[0], 100)!r}: give at least two"
      )
    whole = views.choose_reading(args, vit, test, opened, *options)
  with config_errors_at("--train_split" if args.data else "config.train"):
    source = preprocessing.open_source(train.source, mode)
    check_same_classes(source, opened)
  _refuse_shared(args, train, test, validation)
  example = example_lib.Example(source, ())
  labels = np.array([example.label(i) for i in range(len(source))])
  if labels.ndim > 1:
    raise ConfigError(
      f"images of {train.source} may have several labels: few-shot evaluation "
      "is of one each"
    )
  with config_errors_at("--shots"):
    draws = tuple(
      ridge.draw(labels, source.classes, max(args.shots), seed)
      for seed in range(args.seeds)
    )
  indices = np.unique(draws)
  drawn = _shown_alike(args, vit, train, Subset(source, indices), options)
  chosen_on = None
  if validation is not None:
    with config_errors_at(
      "--validation_split" if args.data else "config.validation"
    ):
      other = preprocessing.open_source(validation.source, mode)
      check_same_classes(source, other)
    chosen_on = _shown_alike(args, vit, validation, other, options)
  for data, reading in ((train, drawn), (validation, chosen_on)):
    if reading is not None and reading.views != whole.views:
      raise ConfigError(
        f"the images of {data.source} have another size than those of "
        f"{test.source}: give --resolutions"
      )
  return Chosen(
    drawn,
    indices,
    draws,
    chosen_on,
    whole,
    (
      data_arguments.describe(train.source, mode),
      None
      if validation is None
      else data_arguments.describe(validation.source, mode),
      data_arguments.describe(test.source, mode),
    ),
    tuple(source.classes),
  )


def _train(args, run, test) -> Dataset:
  if args.data is not None:
    return _split(test, args.train_split or "train")
  for name in ("train_split", "validation_split"):
    if getattr(args, name) is not None:
      raise ConfigError(
        f"--{name} needs --data: a run's training and validation data have "
        "their own"
      )
  return dataclasses.replace(test, source=run.train.source)


def _validation(args, run, test) -> Dataset | None:
  if len(args.penalties) == 1:
    if args.validation_split is not None:
      raise ConfigError(
        "--validation_split needs several of --penalty to choose from"
      )
    return None
  if args.validation_split is not None:
    return _split(test, args.validation_split)
  if args.data is None and run.validation is not None:
    return dataclasses.replace(test, source=run.validation.source)
  raise ConfigError(
    "--penalty: to choose one of several, other images than the test's are "
    "needed: give one penalty, or --data and --validation_split, a split of it"
  )


def _split(test, split) -> Dataset:
  return dataclasses.replace(
    test, source=dataclasses.replace(test.source, split=split)
  )


def _shown_alike(args, vit, data, source, options) -> reading_lib.Reading:
  # What is left out, and why, was said of the test's images.
  with contextlib.redirect_stdout(io.StringIO()):
    return views.choose_reading(args, vit, data, source, *options)


def _refuse_shared(args, train, test, validation) -> None:
  """Refuses parts that share images: what was trained or chosen on is not
  tested on."""
  parts = [("training", train), ("test", test), ("validation", validation)]
  parts = [(name, data.source) for name, data in parts if data is not None]
  for i, (name, source) in enumerate(parts):
    for other_name, other in parts[i + 1 :]:
      with config_errors_at("--data" if args.data else "config"):
        count = shared(source, other)
      if count:
        ways = "--split, --train_split or --validation_split"
        raise ConfigError(
          f"the {name} data, split {source.split!r}, and the {other_name} "
          f"data, split {other.split!r}, share {count} images: "
          + (f"give another {ways}" if args.data else f"give --data and {ways}")
        )


def shared(a, b) -> int:
  """Count of images that two splits share; 0 of different data.

  Raises:
    ValueError: a split is none.
  """
  if dataclasses.replace(a, split=b.split) != b:
    return 0
  name, other = (splits.parse_split(x.split)[0] for x in (a, b))
  if name != other:
    return 0
  total = len(dataclasses.replace(a, split=name).open())
  taken = [splits.slice_indices(x.split, total) for x in (a, b)]
  return len(np.intersect1d(*taken))
