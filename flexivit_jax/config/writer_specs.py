"""Specifications of metric writers, as a config names them."""

import dataclasses
import importlib
import json
import pathlib
import secrets
import socket
import struct
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

# (step, whether it is an evaluation): identifies a row.
Row = tuple[int, bool]


class Writer(Protocol):
  """Takes a run's rows in the order of their steps."""

  def write(self, step: int, values: Mapping[str, float]) -> None: ...

  def close(self) -> None: ...


@dataclasses.dataclass(frozen=True)
class Resumed:
  """Where a run goes on, for its writers.

  Attributes:
    first_step: 0 at its beginning. Rows of later steps are written again.
    written: rows of later steps.
    is_evaluation: of the values of a row.
  """

  first_step: int
  written: Collection[Row]
  is_evaluation: Callable[[Mapping[str, float]], bool]


class WriterSpec:
  """A metric writer of a config.

  Attributes:
    needs: package and an attribute of it.
  """

  name = ""
  needs = None

  def check(self) -> None:
    """Refuses a missing package. Raises: ValueError, with the remedy."""
    if self.needs is None:
      return
    package, attribute = self.needs
    try:
      # A directory of the package's name would be imported as well.
      getattr(importlib.import_module(package), attribute)
    except (ImportError, AttributeError) as e:
      raise ValueError(
        f"{self.name!r} needs the package {package} ({e}): "
        f"pip install -e '.[{self.name}]', or leave it out"
      ) from e

  def open(
    self, workdir: pathlib.Path, record: Mapping[str, Any], resumed: Resumed
  ) -> Writer:
    """Opens it for a run's directory and record (config, data, machine)."""
    raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class TensorBoard(WriterSpec):
  """Event files for TensorBoard, under `tensorboard/` of the run."""

  name = "tensorboard"
  needs = ("tensorboardX", "summary")

  def open(self, workdir, record, resumed):
    return _EventFile(workdir / "tensorboard", record, resumed.first_step)


class _EventFile:
  """Writes at once: the package's own writer hangs once its disk is full."""

  def __init__(self, directory, record, first_step):
    from tensorboardX import record_writer, summary
    from tensorboardX.proto import event_pb2, summary_pb2

    self._event, self._summary = event_pb2.Event, summary_pb2.Summary
    self._checksum = record_writer.masked_crc32c
    directory.mkdir(parents=True, exist_ok=True)
    # Files are read in the order of their names, and clocks may go back.
    number = len(list(directory.glob("*.tfevents.*")))
    name = f"{number:04d}.tfevents.{int(time.time())}.{socket.gethostname()}"
    self._file = (directory / name).open("xb", buffering=0)
    self._put(file_version="brain.Event:2")
    if first_step:
      # Later steps of the files before are forgotten.
      start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
      self._put(step=first_step + 1, session_log=start)
    # Four spaces: as it is, in a text that is else read as Markdown.
    lines = json.dumps(record, indent=2).splitlines()
    text = "\n".join(f"    {line}" for line in lines)
    self._put(step=first_step, summary=summary.text("run", text))

  def _put(self, **fields):
    data = self._event(wall_time=time.time(), **fields).SerializeToString()
    length = struct.pack("<Q", len(data))
    sums = (struct.pack("<I", self._checksum(x)) for x in (length, data))
    block = b"".join(x for pair in zip((length, data), sums) for x in pair)
    if self._file.write(block) != len(block):
      raise OSError("the disk is full")

  def write(self, step, values):
    row = self._summary()
    for name, value in values.items():
      row.value.add(tag=name, simple_value=value)
    self._put(step=step, summary=row)

  def close(self):
    self._file.close()


@dataclasses.dataclass(frozen=True)
class WeightsAndBiases(WriterSpec):
  """Weights & Biases; `WANDB_MODE=offline` writes under `wandb/` of the run.

  Attributes:
    project, entity, group: as in `wandb.init`.
    title: of the run; None: the name of its directory.
    tags: to find it by.
  """

  project: str = "flexivit_jax"
  entity: str | None = None
  group: str | None = None
  title: str | None = None
  tags: tuple[str, ...] = ()

  name = "wandb"
  needs = ("wandb", "init")

  def open(self, workdir, record, resumed):
    return _WandbRun(self, workdir, record, resumed)


class _WandbRun:
  def __init__(self, spec, workdir, record, resumed):
    import wandb

    # What it has got cannot be taken back, and will come again as it was.
    path = workdir / "wandb" / "run_id"
    self._known, self._resumed = set(), resumed
    if path.exists():
      self._known = set(resumed.written)
    else:
      path.parent.mkdir(exist_ok=True)
      path.write_text(secrets.token_hex(4))
    self._run = wandb.init(
      project=spec.project,
      entity=spec.entity,
      group=spec.group,
      name=spec.title or workdir.resolve().name,
      tags=spec.tags,
      id=path.read_text().strip(),
      resume="allow",
      dir=str(workdir),
      config=dict(record),
      # Our output is ours: it may be closed, and the run goes on.
      settings=wandb.Settings(console="off"),
    )
    # Its own count of steps only goes up; an evaluation may be late.
    self._run.define_metric("step")
    self._run.define_metric("*", step_metric="step")

  def write(self, step, values):
    if (step, self._resumed.is_evaluation(values)) not in self._known:
      self._run.log({"step": step, **values})

  def close(self):
    self._run.finish()
