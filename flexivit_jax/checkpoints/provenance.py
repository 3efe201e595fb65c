"""Where a run came from: commit, versions, machine."""

import importlib.metadata
import pathlib
import platform
import subprocess
import sys
from typing import Any

import jax

PACKAGES = (
  "flexivit_jax jax jaxlib flax optax numpy grain orbax-checkpoint pillow "
  "matplotlib"
)


def describe() -> dict[str, Any]:
  """What one needs to know to repeat a run, as JSON."""
  return {
    "command": sys.argv,
    "commit": _git("rev-parse", "HEAD"),
    "modified": bool(_git("status", "--porcelain", "--untracked-files=no")),
    "python": platform.python_version(),
    "versions": {name: _version(name) for name in PACKAGES.split()},
    "devices": [d.device_kind for d in jax.devices()],
    "processes": jax.process_count(),
  }


def _git(*arguments) -> str | None:
  root = pathlib.Path(__file__).parent
  try:
    return subprocess.run(  # noqa: S603
      ["git", "-C", str(root), *arguments],  # noqa: S607
      capture_output=True,
      check=True,
      text=True,
    ).stdout.strip()
  except (OSError, subprocess.CalledProcessError):
    return None  # not a checkout


def _version(name):
  try:
    return importlib.metadata.version(name)
  except importlib.metadata.PackageNotFoundError:
    return None  # run from a checkout that is not installed
