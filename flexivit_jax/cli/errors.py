"""Errors that end a command, each with its status and in a few lines."""

import errno
import os
import pathlib
import select
import shutil
import signal
import sys
from collections.abc import Callable

from flexivit_jax.checkpoints import atomic
from flexivit_jax.core.errors import ConfigError, Fault
from flexivit_jax.core.text import format_bytes
from flexivit_jax.data.loading.stream import WorkerError
from flexivit_jax.data.pixels.decode import BadImageError


def run(main: Callable[[], None]) -> None:
  """Runs a command; what is no bug of ours ends it in a few lines.

  Status 2: what the user wrote. 1: a fault of files or machines. 130: Ctrl-C.
  """
  before = signal.signal(signal.SIGINT, _interrupted)
  try:
    main()
    sys.stdout.flush()  # a reader that left is noticed here, not at exit
  except ConfigError as e:
    _end(f"error: {e}", 2)
  except BadImageError as e:
    way_out = "mend it, or leave it out: --config.on_bad_image=skip of train.py"
    others = "--on_bad_image=skip of evaluate.py and few-shot"
    _end(f"error: {e}\n{way_out}, {others}", 1)
  except WorkerError as e:
    print(f"error: {e}", file=sys.stderr)
    atomic.remove_unfinished()
    _drop_output()
    os._exit(1)  # an orderly exit may wait for what the worker held
  except Fault as e:
    _end(f"error: {e}", 1)
  except BrokenPipeError:
    if not any(map(_lost_its_reader, (sys.stdout, sys.stderr))):
      raise  # another pipe, a worker's say
    _drop_output()
    sys.exit(141)  # 128 + SIGPIPE
  except OSError as e:
    text = _describe(e)
    if text is None:
      raise
    _end(f"error: {text}", 1)
  finally:
    signal.signal(signal.SIGINT, before)


def _interrupted(number, frame):
  # Not by an exception: one that is raised in a callback of a library is lost.
  del number, frame
  print("interrupted", file=sys.stderr, flush=True)
  atomic.remove_unfinished()
  _drop_output()
  os._exit(130)


def _end(text, status):
  print(text, file=sys.stderr)
  _drop_output()
  sys.exit(status)


def _drop_output():
  """Drops what cannot be printed: Python would complain of it at exit."""
  for stream in (sys.stdout, sys.stderr):
    try:
      stream.flush()
    except OSError:
      os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _lost_its_reader(stream):
  try:
    poll = select.poll()
    poll.register(stream.fileno(), select.POLLOUT)
  except (OSError, ValueError):  # no file at all, or closed
    return False
  broken = select.POLLERR | select.POLLHUP
  return any(events & broken for _, events in poll.poll(0))


def _describe(error):
  """An error of the operating system in a line; None without a path."""
  full = error.errno in (errno.ENOSPC, errno.EDQUOT)
  name = error.filename
  if not isinstance(name, (str, bytes, os.PathLike)):
    if not full:
      return None
    place, free = "", ""
  else:
    path = pathlib.Path(os.fsdecode(name))
    place, free = f"{path}: ", _free(path)
  if not full:
    return f"{place}{error.strerror}"
  return (
    f"{place}{error.strerror}{free}: free some space, then the same command "
    "goes on"
  )


def _free(path):
  """ " (20.0 MiB free)" on the path's file system."""
  existing = next(p for p in (path, *path.parents) if os.path.exists(p))
  try:
    usage = shutil.disk_usage(existing)
  except OSError:
    return ""
  return f" ({format_bytes(usage.free)} free)"
