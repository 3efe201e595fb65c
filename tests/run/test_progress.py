"""Rows of metrics that survive a crash, and the lines of a run."""

import io
import json
import sys
import time

import pytest

from flexivit_jax.checkpoints import run_metrics
from flexivit_jax.run import progress as progress_lib


def steps(path):
  return [row["step"] for row in run_metrics.read_rows(path)]


def metrics_file(path, first_step, rows=()):
  file = run_metrics.MetricsFile(path, first_step)
  for step in rows:
    file.write(step, {"loss": 1 / step})
  return file


@pytest.fixture
def path(tmp_path):
  return tmp_path / "metrics.jsonl"


def test_a_row_is_a_line_of_json_with_its_step(path):
  file = run_metrics.MetricsFile(path, 0)
  file.write(10, {"loss": 0.5, "validation/top1@8": 0.25})
  file.write(20, {"loss": 0.25})
  file.close()
  lines = path.read_text().splitlines()
  assert [json.loads(line) for line in lines] == [
    {"step": 10, "loss": 0.5, "validation/top1@8": 0.25},
    {"step": 20, "loss": 0.25},
  ]


def test_a_row_is_on_disk_at_once(path):
  file = metrics_file(path, 0, [10])
  assert steps(path) == [10]  # while the file is open: a kill loses nothing
  file.write(20, {})
  assert steps(path) == [10, 20]
  file.close()


@pytest.mark.parametrize(
  ("first_step", "kept"),
  [(0, []), (10, [10]), (25, [10, 20]), (30, [10, 20, 30]), (99, [10, 20, 30])],
)
def test_a_resumed_run_writes_later_rows_again(path, first_step, kept):
  metrics_file(path, 0, [10, 20, 30]).close()
  metrics_file(path, first_step, [100]).close()
  assert steps(path) == [*kept, 100]
  # What is kept is what was there, to the last digit.
  for row in run_metrics.read_rows(path):
    assert row["loss"] == 1 / row["step"]


def test_a_torn_last_line_is_left_out(path):
  metrics_file(path, 0, [10, 20]).close()
  whole = path.read_text()
  row = json.dumps({"step": 30, "loss": 0.125})
  for length in range(1, len(row)):
    path.write_text(whole + row[:length])
    assert steps(path) == [10, 20]
  # Only the line's end is missing: the row is whole.
  path.write_text(whole + row)
  assert steps(path) == [10, 20, 30]


def test_a_run_goes_on_after_a_torn_line(path):
  metrics_file(path, 0, [10, 20]).close()
  path.write_text(path.read_text() + '{"step": 30, "lo')
  metrics_file(path, 20, [30]).close()
  assert steps(path) == [10, 20, 30]
  assert path.read_text().count("\n") == 3


@pytest.mark.parametrize(
  "damage", [b"\xff\n", b"5\n", b"[]\n", b'{"loss": 1}\n', b'{"step": "4"}\n']
)
def test_a_damaged_line_costs_no_other(path, damage):
  metrics_file(path, 0, [10, 20]).close()
  first, second = path.read_bytes().splitlines(keepends=True)
  path.write_bytes(first + damage + second)
  assert steps(path) == [10, 20]


def test_no_file_has_no_rows(path):
  assert run_metrics.read_rows(path) == []


class Clock:
  def __init__(self, monkeypatch):
    self.now = 1000.0
    monkeypatch.setattr(time, "perf_counter", lambda: self.now)


def test_lines_where_there_is_no_terminal(capsys, monkeypatch):
  clock = Clock(monkeypatch)
  progress = progress_lib.Progress(first_step=0, total_steps=100)
  progress.line("compiling took 9 s")
  clock.now += 500.0  # before the first step: no part of a step's time
  progress.advance()
  clock.now += 10.0
  progress.log(20, {"loss": 0.123456, "learning_rate": 0.001, "images": 1e6})
  progress.close()
  captured = capsys.readouterr()
  # 20 of 100 steps in 10 s leave 40 s.
  assert captured.out == (
    "compiling took 9 s\n"
    "step 20/100  loss 0.1235  learning_rate 0.001  images 1e+06  (40 s left)\n"
  )
  assert captured.err == ""


def test_the_time_left_of_a_resumed_run(capsys, monkeypatch):
  clock = Clock(monkeypatch)
  progress = progress_lib.Progress(first_step=80, total_steps=100)
  progress.advance()
  clock.now += 10.0
  # This process did 10 steps in 10 s; the 80 before were another's.
  progress.log(90, {"loss": 1.0})
  progress.close()
  assert capsys.readouterr().out == "step 90/100  loss 1  (10 s left)\n"


def test_a_bar_in_a_terminal(capsys, monkeypatch):
  class Terminal(io.StringIO):
    def isatty(self):
      return True

  terminal = Terminal()
  monkeypatch.setattr(sys, "stderr", terminal)
  progress = progress_lib.Progress(first_step=3, total_steps=9)
  progress.advance()
  progress.log(4, {"loss": 1.0})
  progress.close()
  assert "| 4/9 [" in terminal.getvalue()
  assert capsys.readouterr().out.startswith("step 4/9  loss 1  (")
