"""The project's commands, each a process of its own."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]


def python(*arguments: object, quiet: bool = True, **environment: str) -> None:
  """Runs "train.py" or "-m", MODULE with its arguments, in the checkout.

  Args:
    quiet: what it prints is dropped; what it says went wrong is not.
    environment: variables beside this process's own.

  Raises:
    CalledProcessError: it failed.
  """
  subprocess.run(  # noqa: S603
    [sys.executable, *map(str, arguments)],
    cwd=ROOT,
    env=os.environ | environment,
    check=True,
    stdout=subprocess.DEVNULL if quiet else None,
  )
