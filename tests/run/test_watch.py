"""What a run says of itself while it is under way."""

import collections
import contextlib
import gzip
import json
import pathlib
import re
import shutil
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import train
from flexivit_jax.checkpoints.run_metrics import read_rows
from flexivit_jax.config import build, writer_specs
from flexivit_jax.core.errors import ConfigError
from flexivit_jax.run import open as open_lib
from flexivit_jax.run import speed, watch
from flexivit_jax.run.profile import Window
from flexivit_jax.tasks.classification import Supervised
from flexivit_jax.tasks.distillation import Distill

ROOT = pathlib.Path(__file__).parents[2]
# A resolution makes images of any size, which share rows.
PACKED = (
  "train.resolution={'name':'sampled','low':10,'high':24}",
  "validation.resolution={'name':'pix2struct','max_patches':36}",
  "packing={'row_length': 48, 'max_images': 6, 'drop': {'name': 'beta', "
  "'mean': 0.3}}",
  "batch_size=8",
  "eval_batch_size=8",
  "test=None",
)
SHORT = ("total_steps=6", "eval_every=6", "log_every=2", "save_every=6")


def logs(workdir):
  return [r for r in read_rows(workdir / "metrics.jsonl") if "loss" in r]


def timed(workdir):
  """Those with speeds: a machine that is busy may miss when a step ended."""
  rows = [row for row in logs(workdir) if "speed/mfu" in row]
  assert rows
  return rows


@pytest.fixture(scope="module")
def packed_run(small_experiment, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("packed")
  assert train.train(small_experiment(*PACKED, *SHORT), workdir) == 0
  return workdir


@pytest.fixture(scope="module")
def fixed_run(small_experiment, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("fixed")
  experiment = small_experiment("patch_size={'name':'fixed','size':6}", *SHORT)
  assert train.train(experiment, workdir) == 0
  return workdir


def documented():
  """The names in the tables, as patterns."""
  text = (ROOT / "docs" / "watching.md").read_text()
  section = text.split("## What the rows hold")[1].split("\n## ")[0]
  cells = [line.split("|")[1] for line in section.splitlines() if "|" in line]
  names = [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]
  return {
    name: re.escape(name)
    .replace("SIZE", r"\d+(x\d+)?(:\d+)?")
    .replace("GROUP", r"\w+")
    for name in names
  }


# They need bad images, or rows that overflow.
RARE = {"bad_images", "validation/bad_images", "pack/overflowed_images"}


def test_every_name_is_documented(small_run, fixed_run, packed_run):
  patterns, seen = documented(), set()
  for workdir in (small_run[0], fixed_run, packed_run):
    for row in read_rows(workdir / "metrics.jsonl"):
      for name in row.keys() - {"step"}:
        found = {n for n, p in patterns.items() if re.fullmatch(p, name)}
        assert len(found) == 1, (name, found)
        seen |= found
  # tests/run/test_distillation.py sees that these are written, and
  # tests/run/test_masked_autoencoding.py that the score of other tasks is.
  distilled = {*Distill.metrics} - {*Supervised.metrics}
  others = {"validation/loss"}
  assert patterns.keys() - seen == RARE | distilled | others


def test_the_terminal_s_line_is_short(small_run):
  line = next(x for x in small_run[1].stdout.splitlines() if "  loss " in x)
  names = [part.split(" ")[0] for part in line.split("  ")[1:-1]]
  assert names == [
    *("loss", "accuracy", "gradient_norm", "learning_rate"),
    *("speed/images_per_s", "speed/mfu", "speed/data_wait"),
  ]


@pytest.mark.slow
def test_the_loss_by_size_is_the_loss_of_its_steps(small_experiment, tmp_path):
  experiment = small_experiment(
    *("total_steps=16", "validation=None", "save_every=16")
  )
  by_step, by_two = tmp_path / "one", tmp_path / "two"
  for workdir, log_every in ((by_step, 1), (by_two, 2)):
    changed = small_experiment(
      *("total_steps=16", "validation=None", "save_every=16"),
      f"log_every={log_every}",
    )
    assert train.train(changed, workdir) == 0
  single = [row["loss"] for row in logs(by_step)]
  sizes = [experiment.program(i)[0] for i in range(16)]
  rows = logs(by_two)
  drawn = [set(sizes[row["step"] - 2 : row["step"]]) for row in rows]
  assert {len(sizes) for sizes in drawn} == {1, 2}  # or it would show less
  for row, present in zip(rows, drawn, strict=True):
    assert {n for n in row if "loss@" in n} == {f"loss@{s}" for s in present}
    for size in present:
      steps = range(row["step"] - 2, row["step"])
      losses = [single[i] for i in steps if sizes[i] == size]
      # Sums of 16 images in float32, in another order.
      assert row[f"loss@{size}"] == pytest.approx(np.mean(losses), rel=1e-6)


def test_norms_are_of_the_parameters_and_of_what_changes_them(small_run):
  for row in logs(small_run[0]):
    for kind in ("gradient_norm", "update_norm", "parameter_norm"):
      groups = [x for n, x in row.items() if n.startswith(f"{kind}/")]
      assert len(groups) == 4  # embedding, positions, blocks, head
      assert max(groups) < row[kind] < sum(groups)
    assert row["update_norm"] < row["parameter_norm"]


def test_utilisation_is_of_the_measured_rate(fixed_run):
  saved = json.loads((fixed_run / "config.json").read_text())
  ((machine, rate),) = saved["flops_per_s"].items()
  assert machine == "8 cpu, float32"
  # "mu" at 16 patches of 6 px: 1 block of width 32 and MLP 128, 10 classes.
  l, d, m = 16, 32, 128
  block = 4 * l * d * d + 2 * l * l * d + 2 * l * d * m
  forward = l * 6 * 6 * 3 * d + block + d * 10
  for row in timed(fixed_run):
    flops = 6 * forward * row["speed/images_per_s"]
    assert row["speed/tflops_per_s"] * 1e12 == pytest.approx(flops)
    assert row["speed/mfu"] == pytest.approx(flops / rate)


def test_flops_are_those_of_the_sizes_that_were_drawn(
  small_experiment, small_run
):
  experiment = small_experiment()
  run = open_lib.prepare(experiment, lambda line: None)
  for row in timed(small_run[0]):
    steps = range(row["step"] - 5, row["step"])
    gflops = (
      sum(run.numbers.gflops(experiment.program(i)) for i in steps) / 5 / 16
    )
    found = row["speed/tflops_per_s"] * 1e3 / row["speed/images_per_s"] / 2
    assert found == pytest.approx(gflops)
  assert run.numbers.gflops((6, 6)) > 2 * run.numbers.gflops((12, 12))


def test_flops_of_packed_rows_are_those_of_their_images(
  small_experiment, packed_run
):
  run = open_lib.prepare(small_experiment(*PACKED, *SHORT), lambda line: None)
  batches = [next(run.loader) for _ in range(6)]
  for row, pair in zip(logs(packed_run), zip(batches[::2], batches[1::2])):
    needed = []
    for batch in pair:
      for segments in batch.inputs.segments:
        counts = np.bincount(segments)[1:]
        needed += [_one_image(run.experiment.model, n) for n in counts if n]
    # Sums of a few hundred images in float32.
    assert row["pack/gflops_per_image"] == pytest.approx(
      np.mean(needed) / 1e9, rel=1e-5
    )
    if "speed/mfu" in row:
      flops = 6e9 * row["pack/gflops_per_image"] * row["speed/images_per_s"]
      assert row["speed/tflops_per_s"] * 1e12 == pytest.approx(flops)


def test_the_loss_by_size_of_packed_rows_is_that_of_their_images(
  small_experiment, packed_run
):
  run = open_lib.prepare(small_experiment(*PACKED, *SHORT), lambda line: None)
  for row in logs(packed_run):
    counts = np.zeros(2)
    for _ in range(2):
      tokens = next(run.loader).inputs
      for segments, sizes in zip(tokens.segments, tokens.size_index):
        first = np.unique(segments, return_index=True)[1]
        first = first[segments[first] > 0]
        counts += np.bincount(sizes[first], minlength=2)
    assert min(counts) > 5
    losses = np.array([row["loss@6"], row["loss@12"]])
    # Sums of a hundred images in float32, in another order.
    assert (counts * losses).sum() / counts.sum() == pytest.approx(
      row["loss"], rel=1e-6
    )
  # Fresh heads have the same loss at both sizes, trained ones not.
  assert abs(losses[0] - losses[1]) > 1e-3
  run.loader.close()


def _one_image(model, n):
  """Patches of 6 px resized to the kernel of 32 px, width 32, one block."""
  assert (model.size.width, model.size.depth, model.size.mlp_dim) == (
    32,
    1,
    128,
  )
  d = 32
  embedding = n * 3 * (32 * 32 * d + 32 * 12 * 12 + 32 * 12 * 32)
  block = 4 * n * d * d + 2 * n * n * d + 2 * n * d * 128
  return embedding + block + d * 10


def test_shares_are_of_one_whole(small_run, packed_run):
  names = [
    f"speed/{x}" for x in (speed.DATA_WAIT, speed.EVALUATION, speed.CHECKPOINT)
  ]
  for workdir in (small_run[0], packed_run):
    for row in timed(workdir):
      assert all(row[name] >= 0 for name in names)
      assert sum(row[name] for name in names) < 1
  after_evaluation = logs(small_run[0])[2]
  assert after_evaluation["speed/evaluation"] > 0
  assert after_evaluation["speed/checkpoint"] > 0


def test_the_loop_reads_nothing_of_the_step_under_way(
  small_experiment, tmp_path, monkeypatch
):
  """A number is read after the next step was started, and at the end."""
  steps, reads, waits = [0], collections.Counter(), collections.Counter()
  array = type(jnp.zeros(()))
  value, wait = array._value, jax.block_until_ready
  step = watch.Watch.step

  @contextlib.contextmanager
  def counting(self, i, size):
    with step(self, i, size):
      yield
    steps[0] += 1  # dispatched

  def by_the_loop():
    return threading.current_thread() is threading.main_thread()

  def read(self):
    reads[steps[0]] += by_the_loop()
    return value.fget(self)

  def block(x):
    waits[steps[0]] += by_the_loop()
    return wait(x)

  monkeypatch.setattr(watch.Watch, "step", counting)
  monkeypatch.setattr(array, "_value", property(read))
  monkeypatch.setattr(jax, "block_until_ready", block)
  experiment = small_experiment(
    *("total_steps=20", "log_every=5", "validation=None", "save_every=20")
  )
  assert train.train(experiment, tmp_path) == 0
  del reads[0], waits[0]  # before the first step
  assert {step for step, n in reads.items() if n} == {6, 11, 16, 20}
  # On the step before the one before, so that few batches wait.
  assert +waits == dict.fromkeys(range(3, 21), 1)


@pytest.mark.slow
def test_a_resumed_run_is_held_against_the_same_rate(
  small_run, command, small_run_config, tmp_path
):
  workdir = tmp_path / "copy"
  shutil.copytree(small_run[0], workdir)
  assert re.search(
    r"^matrix products: [\d.e+]+ GFLOP/s on \d+ cpu, float32$",
    small_run[1].stdout,
    re.MULTILINE,
  )
  saved = json.loads((workdir / "config.json").read_text())
  saved["flops_per_s"] = dict.fromkeys(saved["flops_per_s"], 1000000000.0)
  saved["flops_per_s"]["4 NVIDIA H200, bfloat16"] = 3e15
  (workdir / "config.json").write_text(json.dumps(saved))
  for step in (20, 30):
    shutil.rmtree(workdir / "checkpoints" / str(step), ignore_errors=True)
  done = command("train.py", *small_run_config, f"--workdir={workdir}")
  assert done.returncode == 0, done.stderr
  assert "matrix products" not in done.stdout
  row = timed(workdir)[-1]
  assert row["speed/mfu"] == pytest.approx(row["speed/tflops_per_s"] * 1e3)
  again = json.loads((workdir / "config.json").read_text())
  assert again["flops_per_s"] == saved["flops_per_s"]


class Lost(writer_specs.WriterSpec):
  """A writer whose network goes."""

  name = "lost"

  def open(self, workdir, record, resumed):
    assert record["config"]["total_steps"] == 6
    return self

  def write(self, step, values):
    raise ConnectionError("no network")

  def close(self):
    raise AssertionError("it was left alone")


def test_a_writer_that_fails_ends_no_run(
  small_experiment, tmp_path, capsys, fixed_run
):
  experiment = small_experiment("patch_size={'name':'fixed','size':6}", *SHORT)
  object.__setattr__(experiment, "writers", (Lost(),))
  # It is no choice of a config.
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(build, "to_json", lambda e: {"total_steps": e.total_steps})
    assert train.train(experiment, tmp_path) == 0
  assert capsys.readouterr().out.count("warning: lost: no network: ") == 1
  rows, expected = (
    [
      {k: v for k, v in row.items() if not k.startswith("speed/")}
      for row in read_rows(path / "metrics.jsonl")
    ]
    for path in (tmp_path, fixed_run)
  )
  assert rows == expected


def test_writers_are_refused_before_anything_is_written(
  small_experiment, tmp_path, monkeypatch
):
  monkeypatch.setitem(__import__("sys").modules, "tensorboardX", None)
  experiment = small_experiment("writers=('tensorboard',)")
  with pytest.raises(
    ConfigError, match=r"^config\.writers: 'tensorboard' needs the package "
  ):
    train.train(experiment, tmp_path / "run")
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
  ("value", "text"),
  [
    ("wandb", "config.writers is 'wandb': expected a tuple; give ('wandb',)"),
    (
      "('tensorbord',)",
      "config.writers[0] has no 'tensorbord' (did you mean 'tensorboard'?); "
      "valid: 'tensorboard', 'wandb'",
    ),
  ],
)
def test_what_is_no_writer_is_refused(value, text, small_experiment):
  with pytest.raises(ConfigError) as caught:
    small_experiment(f"writers={value}")
  assert str(caught.value) == text


@pytest.mark.slow
def test_tensorboard_has_the_rows_of_a_killed_and_resumed_run(
  command, small_config, tmp_path
):
  pytest.importorskip("tensorboardX")
  accumulator = pytest.importorskip(
    "tensorboard.backend.event_processing.event_accumulator"
  )
  arguments = (
    *small_config("total_steps=60", "log_every=3", "save_every=10"),
    "--config.eval_every=20",
    "--config.writers=('tensorboard',)",
    f"--workdir={tmp_path}",
  )
  process = command("train.py", *arguments, wait=False)
  for line in process.stdout:
    if line.startswith("step 27/"):
      break
  process.kill()
  process.communicate()
  before = read_rows(tmp_path / "metrics.jsonl")
  done = command("train.py", *arguments)
  assert done.returncode == 0, done.stderr
  resumed = int(re.search(r"resuming after step (\d+)", done.stdout)[1])
  assert resumed < before[-1]["step"]  # rows came twice
  events = accumulator.EventAccumulator(
    str(tmp_path / "tensorboard"), size_guidance={"scalars": 0}
  ).Reload()
  expected = collections.defaultdict(list)
  for row in read_rows(tmp_path / "metrics.jsonl"):
    step = row.pop("step")
    for name, value in row.items():
      expected[name].append((step, np.float32(value)))
  assert set(events.Tags()["scalars"]) == expected.keys()
  for name, points in expected.items():
    found = [(event.step, event.value) for event in events.Scalars(name)]
    assert found == points, name


@pytest.mark.slow
def test_a_window_of_steps_is_traced(small_experiment, tmp_path, capsys):
  experiment = small_experiment(
    *SHORT, "patch_size={'name':'fixed','size':12}", "validation=None"
  )
  assert train.train(experiment, tmp_path, Window(2, 5)) == 0
  (path,) = (tmp_path / "profile").rglob("*.trace.json.gz")
  line = (
    f"traced the steps 2:5; open {path} in https://ui.perfetto.dev, or: pip "
    f"install xprof && xprof --logdir {tmp_path / 'profile'}"
  )
  assert line in capsys.readouterr().out.splitlines()
  events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
  steps = [e["args"]["step_num"] for e in events if e.get("name") == "train"]
  assert sorted(map(int, steps)) == [2, 3, 4]
  assert "data_wait" in {e.get("name") for e in events}
  # The run is finished: the same command has nothing left to do.
  assert train.train(experiment, tmp_path, Window(2, 5)) == 0


@pytest.mark.parametrize(
  ("window", "text"),
  [
    (
      "2:x",
      "--profile: '2:x' is no range of steps: give START:STOP, 100:110 say",
    ),
    (
      "2991:3001",
      "--profile: 2991:3001 is outside the run, which has 3000 steps: give "
      "START:STOP with STOP at most 3000",
    ),
  ],
)
def test_windows_outside_the_run_are_refused(
  window, text, small_config, tmp_path
):
  with pytest.raises(ConfigError) as caught:
    train.main(
      [
        *small_config(),
        f"--workdir={tmp_path / 'run'}",
        f"--profile={window}",
      ]
    )
  assert str(caught.value) == text
  assert not (tmp_path / "run").exists()
