"""Communication between the processes of a run, over `jax.distributed`."""

import collections
import functools
import hashlib
import importlib.metadata
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from flexivit_jax.core.errors import Fault
from flexivit_jax.core.text import cut

# Questions after which a stop is obeyed. A training loop waits for the step two
# before the one that it has just started anyway, so the answer costs no wait.
DELAY = 2


class Processes:
  """One process; the base of several.

  Attributes:
    index: of this process, 0 to below count.
    count: of the processes.
  """

  index: int = 0
  count: int = 1

  def gather(self, value: Any) -> list[Any]:
    """The value of each process, in order.

    All processes ask, in the same order of questions, from one thread.

    Args:
      value: JSON.
    """
    return [value]

  def stop_signal(self, own: int | None) -> int | None:
    """The signal after which all processes stop here; None: go on.

    The answer is the same in every process that has asked as often.

    Args:
      own: the signal that this process got; None: it got none.
    """
    return own


ALONE = Processes()


class Connected(Processes):
  """The processes that `devices.launch.start` has connected.

  Both questions run on the devices, after what was started there before.
  """

  def __init__(self):
    self.index, self.count = jax.process_index(), jax.process_count()
    self._flags: collections.deque[jax.Array] = collections.deque()

  def gather(self, value):
    data = json.dumps(value).encode()
    lengths = multihost_utils.process_allgather(np.int32(len(data))).tolist()
    # A power of two: each size is compiled once.
    size = 1 << (max(lengths) - 1).bit_length()
    own = np.frombuffer(data.ljust(size, b"\0"), np.uint8)
    found = multihost_utils.process_allgather(own)
    return [json.loads(x[:n].tobytes()) for x, n in zip(found, lengths)]

  def stop_signal(self, own):
    # Reading the flag at once would wait for the step under way.
    self._flags.append(_start_max(0 if own is None else own))
    if len(self._flags) <= DELAY:
      return None
    return int(self._flags.popleft()) or None


@functools.cache
def _max_program():
  mesh = Mesh(np.array(jax.devices()), ("devices",))
  placed = NamedSharding(mesh, PartitionSpec("devices"))
  everywhere = NamedSharding(mesh, PartitionSpec())
  return placed, jax.jit(jnp.max, out_shardings=everywhere)


def _start_max(number: int) -> jax.Array:
  """The largest number of all processes, perhaps still under way."""
  placed, program = _max_program()
  own = np.full(jax.local_device_count(), number, np.int32)
  return program(jax.make_array_from_process_local_data(placed, own))


class DisagreementError(Fault):
  """Processes of a run that were started otherwise, or see other data."""


def check_same(processes: Processes, described: Mapping[str, Any]) -> None:
  """Refuse processes that describe themselves otherwise than the first.

  Args:
    described: name to JSON; in every process the same names are compared.

  Raises:
    DisagreementError: in every process, with the first name that differs.
  """
  if processes.count == 1:
    return
  first, *others = processes.gather(dict(described))
  for index, other in enumerate(others, start=1):
    for name in sorted(first.keys() | other.keys()):
      here, there = first.get(name), other.get(name)
      if here != there:
        raise DisagreementError(
          f"{name} is {cut(repr(here), 100)} in process 0 and "
          f"{cut(repr(there), 100)} in process {index}: start all processes "
          "with the same command, code and data"
        )


def describe_program(config: Mapping[str, Any]) -> dict[str, Any]:
  """Values of the config, digest of this package, and library versions.

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


def digest(root: pathlib.Path) -> str:
  """SHA-256 of the Python files under a directory, in 16 digits."""
  total = hashlib.sha256()
  for path in sorted(root.rglob("*.py")):
    total.update(path.relative_to(root).as_posix().encode() + b"\0")
    total.update(hashlib.sha256(path.read_bytes()).digest())
  return total.hexdigest()[:16]
