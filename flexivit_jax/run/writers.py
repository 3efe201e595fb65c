"""Where a run's rows of metrics go beside `metrics.jsonl`."""

import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from flexivit_jax.config.writer_specs import Resumed, Writer, WriterSpec


def open_all(
  specs: Iterable[WriterSpec],
  workdir: pathlib.Path,
  record: Mapping[str, Any],
  resumed: Resumed,
  report: Callable[[str], None],
) -> list[Writer]:
  """Writers that end no run: one that fails is left alone from then on.

  Args:
    report: called with the line that says so.

  Raises:
    ValueError: one cannot be opened at the run's beginning.
  """
  opened = []
  for spec in specs:
    try:
      writer = spec.open(workdir, record, resumed)
    except Exception as e:  # whatever a library raises of files and networks
      if not resumed.first_step:
        raise ValueError(f"{spec.name!r} fails: {_reason(e)}") from e
      report(_lost(spec.name, e))
    else:
      opened.append(_Tolerant(writer, spec.name, report))
  return opened


class _Tolerant:
  def __init__(self, writer, name, report):
    self._writer, self._name, self._report = writer, name, report

  def write(self, step, values):
    self._try(lambda writer: writer.write(step, values))

  def close(self):
    self._try(lambda writer: writer.close())

  def _try(self, action):
    if self._writer is None:
      return
    try:
      action(self._writer)
    except Exception as e:
      self._writer = None
      self._report(_lost(self._name, e))


def _reason(error):
  lines = str(error).strip().splitlines() or [type(error).__name__]
  return lines[0][:300]


def _lost(name, error):
  return (
    f"warning: {name}: {_reason(error)}: it gets no more rows from this "
    "process; metrics.jsonl has all"
  )
