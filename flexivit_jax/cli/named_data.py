"""Data that --data names."""

import contextlib
import pathlib

from flexivit_jax.data import sources, tfds
from flexivit_jax.experiment import ConfigError, TilingError


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


@contextlib.contextmanager
def offering(way: str):
  """Says, of images that a patch size does not tile, how to resize them."""
  try:
    yield
  except TilingError as e:
    raise TilingError(f"{e}; {way} makes images of another size") from e


def source(args, side: int | None):
  """What --data, --split and --data_dir name.

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
    return sources.Digits(*(split,) if side is None else (split, side))
  if kind == "folder" and path:
    return sources.ImageFolder(path, split)
  if kind == "tfds" and path:
    return tfds.Tfds(path, split, args.data_dir)
  meant = ""
  if pathlib.Path(args.data).is_dir():
    meant = f" (did you mean folder:{args.data}?)"
  raise ConfigError(
    f"--data {args.data!r}{meant}: give digits, folder:PATH or tfds:NAME"
  )


def check_sized(args, sized: bool, ways: str) -> None:
  """Refuses files of any size where no size is asked for.

  Args:
    ways: to ask for one.

  Raises:
    ConfigError: naming them.
  """
  kind, _, _ = args.data.partition(":")
  if kind != "digits" and not sized:
    form = {"folder": "PATH", "tfds": "NAME"}[kind]
    raise ConfigError(f"--data {kind}:{form} needs {ways}")
