"""Whether all processes of a run run the same program on the same data."""

import hashlib
import importlib.metadata
import pathlib
from collections.abc import Mapping
from typing import Any

from flexivit_jax.core.faults import Fault
from flexivit_jax.core.peers import Peers
from flexivit_jax.core.text import cut


class DisagreementError(Fault):
  """The processes of a run were started otherwise, or see other data."""


def check_same(peers: Peers, described: Mapping[str, Any]) -> None:
  """Refuses processes that describe themselves otherwise than the first.

  Args:
    described: name to JSON; in every process the same names are compared.

  Raises:
    DisagreementError: in every process, with the first name that differs.
  """
  if peers.count == 1:
    return
  first, *others = peers.gather(dict(described))
  for index, other in enumerate(others, start=1):
    for name in sorted(first.keys() | other.keys()):
      here, there = first.get(name), other.get(name)
      if here != there:
        raise DisagreementError(
          f"{name} is {cut(repr(here), 100)} in process 0 and "
          f"{cut(repr(there), 100)} in process {index}: start all processes "
          "with the same command, code and data"
        )


def digest(root: pathlib.Path) -> str:
  """SHA-256 of the Python files under a directory, in 16 digits."""
  total = hashlib.sha256()
  for path in sorted(root.rglob("*.py")):
    total.update(path.relative_to(root).as_posix().encode() + b"\0")
    total.update(hashlib.sha256(path.read_bytes()).digest())
  return total.hexdigest()[:16]


def describe_program(config: Mapping[str, Any]) -> dict[str, Any]:
  """What has to be the same in all processes: each value of the config, this
  package's code, and the versions of what computes.

  Args:
    config: dotted names to JSON.
  """
  versions = {
    f"the version of {name}": importlib.metadata.version(name)
    for name in ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint")
  }
  values = {f"config.{name}": value for name, value in config.items()}
  code = digest(pathlib.Path(__file__).parents[1])
  return {**values, **versions, "the code of flexivit_jax": code}
