"""The planner, as a user runs it."""

import json

import pytest

from flexivit_jax.cli import plan
from flexivit_jax.config import build
from flexivit_jax.core.errors import ConfigError
from flexivit_jax.models import cost
from flexivit_jax.run.plan import workload
from flexivit_jax.run.plan.layout import Layout

LONG = "--config=configs/long_digits.py"
SMALL = (LONG, "--config.model.num_classes=10")


@pytest.fixture
def run(capsys):
  """Runs the command in this process; returns the lines that it printed."""

  def call(*arguments):
    plan.main([str(a) for a in arguments])
    return capsys.readouterr().out.splitlines()

  return call


def test_a_row_for_each_mesh_and_each_way(run):
  lines = run(*SMALL, "--devices=4", "--memory=1GiB")
  assert lines[0].endswith("depth 3, MLP 256, 4 heads, 187,850 parameters")
  assert "32 rows of 576 tokens: images of 24x24 px in patches" in lines[1]
  head = lines.index(next(x for x in lines if x.startswith("mesh ")))
  rows = [line.split() for line in lines[head + 1 :] if line[1:2] == "x"]
  assert [row[:2] for row in rows] == [
    ["4x1", "local"],
    *(
      [mesh, name]
      for mesh in ("2x2", "1x4")
      for name in ("query_sharded", "ring", "ulysses")
    ),
  ]
  assert all(row[-1] == "both" for row in rows)
  assert lines[-4].startswith("take data=4,seq=1, local: 32 rows >= 4 devices")
  assert lines[-3] == (
    "--config.mesh.data=4 --config.mesh.seq=1 --config.model.distribution=local"
  )
  assert lines[-2].startswith("memory with kernel blockwise: parameters ")


def test_what_cannot_be_is_said_once_for_a_mesh(run, capsys):
  with pytest.raises(ConfigError) as e:
    run(*SMALL, "--mesh=data=1,seq=5", "--config.model.registers=4")
  lines = capsys.readouterr().out.splitlines()
  refused = [line for line in lines if line.startswith("not ")]
  why = (
    "data=1,seq=5: 4 class and register tokens in a row that is shared: "
    "give pool gap or map, and registers 0"
  )
  assert refused == [f"not {why}"]
  assert str(e.value) == f"nothing works: {why}"
  lines = run(*SMALL, "--mesh=seq=8")
  (line,) = (line for line in lines if line.startswith("not "))
  assert "data=1,seq=8 ulysses: 4 heads do not divide over the 8 dev" in line


def test_files_hold_the_numbers(run, tmp_path):
  written = tmp_path / "plan.json"
  run(
    *SMALL,
    "--devices=2",
    "--memory=16GB",
    "--config.model.remat=true",
    f"--json={written}",
    "--length=50176",
  )
  found = json.loads(written.read_text())
  assert (found["length"], found["memory"]) == (50_176, 16e9)
  local, *shared = found["plans"]
  assert local["distribution"] == "local"
  assert local["sent"] == local["sent_gradients"] > 0
  assert [x["distribution"] for x in shared][:2] == [
    "query_sharded",
    "query_sharded, again",
  ]
  parts = local["memory"]["blockwise"]["remat"]
  names = "parameters optimizer gradients kept gathered working"
  assert {*parts} == {*names.split()}
  assert found["choice"] == local


def test_data_stays_closed_where_the_config_says_all(run):
  lines = run(
    "--config=configs/pit_in1k.py:/nowhere",
    "--config.model.num_classes=1000",
    "--config.model.pool=gap",
    "--devices=8",
  )
  assert lines[1] == (
    "step       4096 rows of 784 tokens: images of 28x28 px in patches of 1 px"
  )
  text = r"(?s)no directory /nowhere/train: .*num_classes=1000 does without$"
  with pytest.raises(ConfigError, match=text):
    run("--config=configs/pit_in1k.py:/nowhere", "--devices=8")


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ([], "give --devices, 8 say, or --mesh, data=2,seq=4 say"),
    (["--devices=0"], "--devices 0: give 1 to 1048576"),
    (["--mesh=2x4"], "--mesh: '2x4' .*: give data=2,seq=4 say"),
    (["--mesh=data=2,seq=4", "--devices=4"], "8 devices, and --devices is 4"),
    (["--devices=2", "--memory=lots"], "--memory 'lots': give 80GiB say"),
    (["--devices=2", "--json=/nowhere/x.json"], "/nowhere/x.json .* no dir"),
    (["--devices=2", "--json=/"], "--json / is a directory: give a file"),
    (["--devices=2", "--flops=0"], "--flops 0: give a number above 0"),
    (["--devices=2", "--bandwidth=inf"], "--bandwidth inf: give a number"),
    (["--devices=2", "--length=0"], "--length 0: give at least 1"),
  ],
)
def test_refusals(run, arguments, message):
  with pytest.raises(ConfigError, match=message):
    run(LONG, *arguments)


def test_a_workload_has_the_numbers_of_its_experiment(small_experiment):
  planned = workload.read(small_experiment("model.scan=true"))
  assert planned.patch_hw == (6, 6)
  work = planned.workload(Layout(1, 1), "gpu")
  model = planned.experiment.model
  assert work.length == cost.row_length(model, planned.image_hw, (6, 6))
  counted = work.attention_multiply_adds + work.other_multiply_adds
  assert counted == pytest.approx(
    cost.multiply_adds(model, planned.image_hw, (6, 6))
  )
  # Adam's two moments, and a few counts.
  numbers = work.weights.numbers
  assert work.weights.parameters == 4 * numbers
  assert work.weights.optimizer == pytest.approx(8 * numbers, rel=1e-3)


def test_fully_sharded_parameters_lie_on_the_groups(small_experiment):
  experiment = small_experiment(
    "sharding=fsdp", "sharding.min_size=0", "ema=0.9"
  )
  planned = workload.read(experiment)
  one, eight = (planned.workload(Layout(n, 1), "gpu") for n in (1, 8))
  assert eight.weights.numbers == one.weights.numbers
  ratio = one.weights.parameters / eight.weights.parameters
  assert 6 < ratio <= 8
  # Two moments and the average.
  assert one.weights.optimizer == pytest.approx(
    3 * one.weights.parameters, rel=1e-3
  )


def test_packed_rows():
  experiment = build.load("configs/navit_digits.py")
  planned = workload.read(experiment)
  work = planned.workload(Layout(2, 1), "gpu")
  packing = experiment.packing
  assert (planned.patch_hw, planned.image_hw) == (None, None)
  assert work.length == cost.packed_row_length(
    planned.experiment.model, packing.row_length, packing.max_images
  )
  assert work.rows == experiment.batch_size
