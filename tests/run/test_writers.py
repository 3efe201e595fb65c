"""Writers beside metrics.jsonl: what they get, and that they end no run."""

import json
import struct
import sys

import pytest

from flexivit_jax.checkpoints import run_metrics
from flexivit_jax.config import writer_specs
from flexivit_jax.run import progress, writers


class Spec(writer_specs.WriterSpec):
  """A writer that fails when told to."""

  name = "made_up"

  def __init__(self, failing=()):
    self.failing, self.rows = failing, []

  def _fail(self, where):
    if where in self.failing:
      raise ConnectionError(f"no network for {where}\nand more")

  def open(self, workdir, record, resumed):
    self._fail("open")
    return self

  def write(self, step, values):
    self._fail(f"step {step}")
    self.rows.append((step, dict(values)))

  def close(self):
    self._fail("close")
    self.rows.append("closed")


def resumed(first_step=0, written=()):
  return writer_specs.Resumed(first_step, written, run_metrics.is_evaluation)


def open_all(spec, tmp_path, first_step=0):
  lines = []
  opened = writers.open_all(
    [spec], tmp_path, {}, resumed(first_step), lines.append
  )
  return opened, lines


LOST = (
  "warning: made_up: no network for {}: it gets no more rows from this "
  "process; metrics.jsonl has all"
)


def test_a_writer_gets_every_row(tmp_path):
  spec = Spec()
  (writer,), lines = open_all(spec, tmp_path)
  writer.write(1, {"loss": 2.0})
  writer.write(2, {"loss": 1.0})
  writer.close()
  assert spec.rows == [(1, {"loss": 2.0}), (2, {"loss": 1.0}), "closed"]
  assert lines == []


def test_one_that_fails_is_named_once_and_left_alone(tmp_path):
  spec = Spec({"step 2"})
  (writer,), lines = open_all(spec, tmp_path)
  for step in range(1, 5):
    writer.write(step, {})
  writer.close()
  assert spec.rows == [(1, {})]
  assert lines == [LOST.format("step 2")]


def test_one_that_fails_at_its_end_ends_no_run(tmp_path):
  (writer,), lines = open_all(Spec({"close"}), tmp_path)
  writer.close()
  assert lines == [LOST.format("close")]


def test_one_that_cannot_be_opened_ends_a_new_run_alone(tmp_path):
  spec = Spec({"open"})
  with pytest.raises(
    ValueError, match=r"^'made_up' fails: no network for open$"
  ):
    open_all(spec, tmp_path)
  # A run that goes on may have been started by a machine at night.
  opened, lines = open_all(spec, tmp_path, first_step=5)
  assert opened == []
  assert lines == [LOST.format("open")]


@pytest.mark.parametrize(
  ("spec", "text"),
  [
    (
      writer_specs.TensorBoard(),
      "'tensorboard' needs the package tensorboardX (import of tensorboardX "
      "halted; None in sys.modules): pip install -e '.[tensorboard]', or leave "
      "it out",
    ),
    (
      writer_specs.WeightsAndBiases(),
      "'wandb' needs the package wandb (import of wandb halted; None in "
      "sys.modules): pip install -e '.[wandb]', or leave it out",
    ),
  ],
)
def test_a_missing_package_is_refused(spec, text, monkeypatch):
  for name in ("tensorboardX", "wandb"):
    monkeypatch.setitem(sys.modules, name, None)
  with pytest.raises(ValueError) as caught:
    spec.check()
  assert str(caught.value) == text


def test_a_directory_of_the_package_s_name_is_not_the_package(
  tmp_path, monkeypatch
):
  # As runs of Weights & Biases leave it in the directory they start in.
  (tmp_path / "wandb").mkdir()
  monkeypatch.syspath_prepend(tmp_path)
  monkeypatch.delitem(sys.modules, "wandb", raising=False)
  monkeypatch.setattr(sys, "path", [str(tmp_path)])
  with pytest.raises(ValueError, match="needs the package wandb"):
    writer_specs.WeightsAndBiases().check()
  sys.modules.pop("wandb", None)


RECORD = {"config": {"model": {"size": "S"}}, "classes": ["a", "b"]}


@pytest.fixture
def board(tmp_path):
  """Opens the writer; and reads all scalars as {name: [(step, value)]}."""
  pytest.importorskip("tensorboardX")
  event_accumulator = pytest.importorskip(
    "tensorboard.backend.event_processing.event_accumulator"
  )

  class Board:
    directory = tmp_path / "tensorboard"

    def open(self, first_step=0):
      spec = writer_specs.TensorBoard()
      return spec.open(tmp_path, RECORD, resumed(first_step))

    def read(self):
      self.all = event_accumulator.EventAccumulator(
        str(self.directory), size_guidance={"scalars": 0, "tensors": 0}
      ).Reload()
      return {
        name: [(event.step, event.value) for event in self.all.Scalars(name)]
        for name in self.all.Tags()["scalars"]
      }

  return Board()


def test_tensorboard_reads_what_was_written(board):
  writer = board.open()
  writer.write(10, {"loss": 0.5, "validation/top1@8": 0.25})
  # At once: a killed run has lost nothing.
  assert board.read() == {
    "loss": [(10, 0.5)],
    "validation/top1@8": [(10, 0.25)],
  }
  writer.write(20, {"loss": 0.125})
  writer.close()
  assert board.read()["loss"] == [(10, 0.5), (20, 0.125)]
  (text,) = board.all.Tensors("run/text_summary")
  lines = text.tensor_proto.string_val[0].decode().splitlines()
  assert json.loads("\n".join(lines)) == RECORD


def test_tensorboard_forgets_the_steps_that_a_resumed_run_repeats(board):
  writer = board.open()
  for step in (10, 20, 30, 40):
    writer.write(step, {"loss": step})
  writer.close()
  # In the same second, so that only the files' numbers tell their order.
  writer = board.open(first_step=20)
  assert board.read()["loss"] == [(10, 10), (20, 20)]
  writer.write(30, {"loss": 31})
  writer.close()
  board.open(first_step=30).write(40, {"loss": 41})
  assert board.read()["loss"] == [(10, 10), (20, 20), (30, 31), (40, 41)]


def test_a_torn_event_file_costs_no_later_one(board):
  writer = board.open()
  for step in (10, 20, 30):
    writer.write(step, {"loss": step})
  writer.close()
  (path,) = board.directory.iterdir()
  path.write_bytes(path.read_bytes()[:-9])
  writer = board.open(first_step=20)
  writer.write(30, {"loss": 31})
  assert board.read()["loss"] == [(10, 10), (20, 20), (30, 31)]


def test_a_full_disk_ends_no_run(board, small_disk):
  lines, disk = [], small_disk(64)
  (writer,) = writers.open_all(
    [writer_specs.TensorBoard()], disk, RECORD, resumed(), lines.append
  )
  for step in range(3000):
    writer.write(step, {"loss": 1.0})
  assert len(lines) == 1
  assert lines[0].startswith("warning: tensorboard: ")
  assert "it gets no more rows from this process" in lines[0]
  writer.close()


def histories(workdir):
  """Rows of each of a run's files, which are logs in LevelDB's format."""
  from wandb.proto import wandb_internal_pb2

  paths = sorted((workdir / "wandb").glob("offline-run-*/*.wandb"))
  for path in paths:
    data, rows, run, parts = path.read_bytes(), [], None, b""
    at = 7  # after the file's header
    while at + 7 <= len(data):
      if 32768 - at % 32768 < 7:  # the end of a block
        at += 32768 - at % 32768
      _, length, kind = struct.unpack_from("<IHB", data, at)
      parts += data[at + 7 : at + 7 + length]
      at += 7 + length
      if kind in (1, 4):  # whole, or the last part
        record = wandb_internal_pb2.Record.FromString(parts)
        parts = b""
        if record.WhichOneof("record_type") == "run" and run is None:
          run = record.run
        if record.WhichOneof("record_type") == "history":
          items = record.history.item
          row = {
            x.key or "/".join(x.nested_key): json.loads(x.value_json)
            for x in items
          }
          rows.append({k: v for k, v in row.items() if not k.startswith("_")})
    yield run, rows


@pytest.mark.slow
def test_wandb_keeps_what_was_written_and_gets_no_row_twice(
  tmp_path, monkeypatch
):
  pytest.importorskip("wandb")
  monkeypatch.setenv("WANDB_MODE", "offline")
  spec = writer_specs.WeightsAndBiases(project="digits", tags=("flexi",))
  writer = spec.open(tmp_path, RECORD, resumed())
  for step in (10, 20, 30):
    writer.write(step, {"loss": 1 / step})
  writer.close()
  # Resumed after step 10: 20 and 30 come again, and the evaluation of step 20,
  # which was not done before.
  again = resumed(10, {(20, False), (30, False)})
  writer = spec.open(tmp_path, RECORD, again)
  writer.write(20, {"loss": 1 / 20})
  writer.write(20, {progress.SCORE: 0.5})
  writer.write(30, {"loss": 1 / 30})
  writer.write(40, {"loss": 1 / 40})
  writer.close()
  (run, before), (same, after) = histories(tmp_path)
  assert before == [{"step": s, "loss": 1 / s} for s in (10, 20, 30)]
  assert after == [
    {"step": 20, progress.SCORE: 0.5},
    {"step": 40, "loss": 1 / 40},
  ]
  assert run.run_id == same.run_id == (tmp_path / "wandb/run_id").read_text()
  assert (run.project, run.display_name) == ("digits", tmp_path.name)
  assert list(run.tags) == ["flexi"]
  config = {x.key: json.loads(x.value_json) for x in run.config.update}
  assert config["config"] == RECORD["config"]
