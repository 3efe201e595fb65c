"""Data that --data names."""

import contextlib
import pathlib

from flexivit_jax.config import registry
from flexivit_jax.config.experiment import Experiment
from flexivit_jax.core.errors import ConfigError
from flexivit_jax.core.sizes import TilingError
from flexivit_jax.data.dataset import Dataset
from flexivit_jax.data.pixels import preprocessing
from flexivit_jax.data.sources import digits, image_folder, tfds
from flexivit_jax.data.sources import source as source_lib


def add_arguments(add) -> None:
  add(
    "--data",
    help="digits, folder:PATH, or tfds:NAME[:VERSION]; default: a run's test "
    "data",
  )
  add("--split", help="of --data; default: test")
  add(
    "--data_dir",
    help="where tfds:NAME is prepared; default: $TFDS_DATA_DIR, or "
    "~/tensorflow_datasets",
  )
  add_mode_argument(add)


def add_mode_argument(add) -> None:
  add(
    "--preprocessing",
    choices=tuple(registry.CHOICES[preprocessing.Mode]),
    help="how images are decoded and resized: antialias, or bv_compat, as for "
    "the published FlexiViT models; default: the run's, or antialias",
  )


def choose_mode(
  args, run: Experiment | None, *, packed: bool = False
) -> preprocessing.Mode:
  """Mode of decoding and resizing: as asked for, or the run's.

  Args:
    packed: whether --budget or --budgets asks for images of any size, which
      antialias alone makes.

  Raises:
    ConfigError: packed images cannot be had in the mode that is asked for.
  """
  name = args.preprocessing
  if packed and name not in (None, "antialias"):
    raise ConfigError(
      f"--preprocessing {name} is for images of one size: give an image size "
      "instead of a budget, or --preprocessing antialias"
    )
  if name is not None:
    return registry.CHOICES[preprocessing.Mode][name]()
  return preprocessing.ANTIALIAS if run is None or packed else run.preprocessing


def describe(source: source_lib.SourceSpec, mode: preprocessing.Mode) -> str:
  """A source, and the mode if it is not the usual one."""
  how = "" if mode == preprocessing.ANTIALIAS else f" by {mode!r}"
  return f"{source!r}{how}"


@contextlib.contextmanager
def offering(way: str):
  """Says, of images that a patch size does not tile, how to resize them."""
  try:
    yield
  except TilingError as e:
    raise TilingError(f"{e}; {way} makes images of another size") from e


def source(args, side: int | None):
  """The source that --data, --split and --data_dir name.

  Args:
    side: of digits, in pixels, to draw them as large as they are wanted; None:
      as they come.

  Raises:
    ConfigError: they name nothing.
  """
  split = args.split or "test"
  kind, _, path = args.data.partition(":")
  if args.data_dir and kind != "tfds":
    raise ConfigError("--data_dir is for --data tfds:NAME only")
  if kind == "digits" and not path:
    return digits.Digits(*(split,) if side is None else (split, side))
  if kind == "folder" and path:
    return image_folder.ImageFolder(path, split)
  if kind == "tfds" and path:
    return tfds.Tfds(path, split, args.data_dir)
  meant = ""
  if pathlib.Path(args.data).is_dir():
    meant = f" (did you mean folder:{args.data}?)"
  raise ConfigError(
    f"--data {args.data!r}{meant}: give digits, folder:PATH or tfds:NAME"
  )


def check_one_way(args, budget: str, resolution: str) -> None:
  """Refuse a budget beside an image size.

  Args:
    budget, resolution: names of the two arguments.

  Raises:
    ConfigError: both are given.
  """
  if getattr(args, budget) is not None and getattr(args, resolution):
    raise ConfigError(
      f"--{budget} and --{resolution}: give one of them, the size of an image "
      "follows from its budget"
    )


def run_test_data(args, run: Experiment | None, *names: str) -> Dataset:
  """A run's own test data, where --data names none.

  Args:
    names: of further arguments that need --data.

  Raises:
    ConfigError: the run has none, or such an argument is given.
  """
  if run is None or run.test is None:
    raise ConfigError(
      f"{args.checkpoint} names no data: give --data digits, folder:PATH or "
      "tfds:NAME"
    )
  *first, last = names = (*names, "split", "data_dir")
  if any(getattr(args, name) for name in names):
    raise ConfigError(
      f"--{', --'.join(first)} and --{last} need --data: a run's test data has "
      "its own"
    )
  return run.test


def is_of_any_size(args) -> bool:
  """True where --data names files, which may have any size."""
  return args.data.partition(":")[0] != "digits"


def check_sized(args, sized: bool, ways: str) -> None:
  """Refuses files of any size where no size is asked for.

  Args:
    ways: to ask for one.

  Raises:
    ConfigError: naming them.
  """
  kind, _, _ = args.data.partition(":")
  if is_of_any_size(args) and not sized:
    form = {"folder": "PATH", "tfds": "NAME"}[kind]
    raise ConfigError(f"--data {kind}:{form} needs {ways}")
