"""A run's config.json: what it was started with."""

import contextlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from flexivit_jax.checkpoints import run_directory
from flexivit_jax.config import build
from flexivit_jax.core.errors import ConfigError
from flexivit_jax.core.text import cut

NAME = "config.json"
PARTS = {"config": dict, "data": dict, "classes": list}
WAY_OUT = "restore it from a copy, or start in another directory"

# Config values that may change when a run is resumed.
RESUMABLE = (
  *("keep", "log_every", "save_every", "eval_every", "eval_batch_size"),
  # Bad images change no batch before the first of them.
  *("threads", "workers", "test", "on_bad_image", "writers"),
  # The same step, computed another way.
  *("accumulate", "sharding", "mesh", "model.kernel", "model.distribution"),
)


def read(workdir: pathlib.Path) -> dict[str, Any]:
  """The record of the run in a directory: config, data, classes and more.

  Raises:
    ConfigError: it is missing or damaged.
  """
  path = workdir / NAME
  if not path.is_file():
    raise ConfigError(f"{workdir} has no {NAME}: {WAY_OUT}")
  try:
    record = json.loads(path.read_bytes())
  except ValueError as e:
    reason = cut(str(e), 100)
    raise ConfigError(f"{path} is damaged ({reason}): {WAY_OUT}") from e
  if not isinstance(record, dict) or any(
    not isinstance(record.get(name), kind) for name, kind in PARTS.items()
  ):
    raise ConfigError(f"{path} is no record of a run: {WAY_OUT}")
  return record


def write(workdir: pathlib.Path, record: Mapping[str, Any]) -> None:
  """Writes the record; where checkpoints exist, refuses another run's.

  Raises:
    ConfigError: config or data differ from what the run started with.
  """
  if run_directory.steps(workdir):
    old = read(workdir)
    # A run that has all its steps does not look at its teacher again.
    record = {**record, "data": old["data"] | record["data"]}
    _check_same_run(old, record, workdir)
    # What may change and did is what an evaluation should know.
    latest = ("config", "data", "flops_per_s")
    record = old | {name: record[name] for name in latest if name in record}
  path = workdir / NAME
  temporary = path.with_suffix(".tmp")
  temporary.write_text(json.dumps(record, indent=2) + "\n")
  temporary.replace(path)


def _check_same_run(old: Mapping, new: Mapping, workdir) -> None:
  old = old | {"config": _with_defaults(old["config"])}
  changed = [
    line
    for part in ("config", "data")
    for line in build.differences(old[part], new[part])
    if not f"{line.split(':')[0]}.".startswith(
      tuple(f"{name}." for name in RESUMABLE)
    )
  ]
  if changed:
    raise ConfigError(
      f"{workdir} holds a run that started otherwise ({'; '.join(changed)}): "
      "give the old values to resume it, or another --workdir"
    )


def _with_defaults(plain: Mapping) -> Mapping:
  """A config of an earlier version, with what it did not have yet."""
  with contextlib.suppress(ConfigError):
    return build.to_json(build.from_plain(plain))
  return plain
