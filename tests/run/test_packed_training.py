"""Training on packed rows: real runs of images of any size."""

import contextlib
import io
import json
import re
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

import train
from flexivit_jax.checkpoints import run_directory
from flexivit_jax.checkpoints.run_metrics import read_rows
from flexivit_jax.core.errors import ConfigError
from flexivit_jax.core.metric import Metric
from flexivit_jax.data.packing.cutter import TooLongError
from flexivit_jax.data.packing.loader import PackLoader
from flexivit_jax.nn import pooling
from flexivit_jax.run import dry_run, watch
from flexivit_jax.run import open as open_lib
from flexivit_jax.tasks import pack_metrics
from flexivit_jax.training import state as state_lib
from flexivit_jax.training import step as step_lib

MODEL = {"name": "custom", "width": 16, "depth": 1, "mlp_dim": 32}
# Ten rows stay open and eight make a batch: most states are in mid-pack.
ROWS = 8
PACKING = {
  "row_length": 48,
  "max_images": 6,
  "open_rows": 10,
  "drop": {"name": "beta", "mean": 0.3},
}
PACKED = (
  f"model.size={MODEL | {'num_heads': 2}}",
  "patch_size.choices=(4,6)",
  f"batch_size={ROWS}",
  "eval_batch_size=8",
  "train.resolution={'name':'sampled','low':10,'high':24}",
  "validation.resolution={'name':'pix2struct','max_patches':36}",
  "validation.source.split=train[:40]",
  f"packing={PACKING}",
  "test=None",
)
SHORT = ("total_steps=10", "eval_every=5", "save_every=4", "log_every=1")


@pytest.fixture(scope="module")
def packed(small_experiment):
  """Makes an experiment on packed rows."""
  return lambda *overrides: small_experiment(*PACKED, *overrides)


@pytest.fixture(scope="module")
def finished(packed, tmp_path_factory):
  """A finished run: directory, what it printed, traces of its step."""
  workdir, out, traces = tmp_path_factory.mktemp("packed"), io.StringIO(), []
  real = pack_metrics.pack_report

  def report(batch):
    traces.append(batch)
    return real(batch)

  with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
    patch.setattr(pack_metrics, "pack_report", report)
    assert train.train(packed(*SHORT), workdir) == 0
  return workdir, out.getvalue(), traces


def without_speeds(workdir):
  rows = read_rows(workdir / "metrics.jsonl")
  return [
    {k: v for k, v in row.items() if not k.startswith("speed/")} for row in rows
  ]


def scanned(workdir):
  saved = json.loads((workdir / "config.json").read_text())
  return saved["scan"]["rows"]


def test_a_run_writes_what_is_documented(finished):
  workdir, out, _ = finished
  rows = without_speeds(workdir)
  logs = [row for row in rows if "loss" in row]
  assert [row["step"] for row in logs] == list(range(1, 11))
  for row in logs:
    assert set(pack_metrics.METRICS) <= row.keys()
    assert 0.5 < row["pack/fill"] <= 1
    assert 0 < row["pack/dropped_tokens"] < 0.9
    assert row["pack/images_per_step"] == ROWS * row["pack/images_per_row"]
    assert row["pack/images_per_row"] / 6 == pytest.approx(row["pack/slots"])
    assert "pack/overflowed_images" not in row
  # Fresh heads start at log 10.
  assert logs[0]["loss"] == pytest.approx(np.log(10), abs=0.2)
  assert out.startswith("scan of 256 images, before the first step\n")
  rows = scanned(workdir)
  assert (rows["row_length"], rows["max_images"]) == (48, 6)
  assert 0.7 < rows["fill"] <= 1


def test_points_of_an_evaluation_have_patch_size_and_budget(finished):
  workdir, out, _ = finished
  rows = [row for row in without_speeds(workdir) if "validation/top1" in row]
  assert [row["step"] for row in rows] == [5, 10]
  for row in rows:
    assert {key for key in row if "@" in key} == {
      f"validation/{name}@{size}:36"
      for name in ("top1", "loss")
      for size in (4, 6)
    }
    scores = [row[f"validation/top1@{size}:36"] for size in (4, 6)]
    assert row["validation/top1"] == pytest.approx(np.mean(scores))
    for score in scores:  # of 40 images
      assert score * 40 == pytest.approx(round(score * 40), abs=1e-4)
  assert "validation/top1@4:36" in out


def test_mixed_patch_sizes_are_one_program(finished):
  _, out, traces = finished
  assert len(traces) == 1
  assert traces[0].inputs.patch_sizes == ((4, 4), (6, 6))
  assert out.count("compiled train step") == 1
  assert "compiled train step: packed rows" in out
  assert out.count("compiled evaluation") == 2


def test_a_finished_run_resumes_to_nothing(finished, packed, capsys):
  workdir, _, traces = finished
  before = (workdir / "metrics.jsonl").read_text()
  assert train.train(packed(*SHORT), workdir) == 0
  assert "is finished: it has all 10 steps" in capsys.readouterr().out
  assert (workdir / "metrics.jsonl").read_text() == before
  assert len(traces) == 1


@pytest.mark.parametrize("images", [None, 5.0])
def test_a_step_divides_by_its_images_or_by_those_expected(images):
  values = jnp.array([1.0, 2.0, 4.0, 100.0])
  weights = jnp.array([1.0, 1.0, 1.0, 0.0])

  def measure(params, batch, *, dropout_key):
    del dropout_key
    return {"loss": Metric.of(params["w"] * batch, weights)}

  tx = optax.sgd(1.0)
  state = state_lib.init_state({"w": jnp.float32(3)}, tx, 0)
  new, metrics = step_lib.train_step(
    state,
    step_lib.zero_metrics(("loss",)),
    values,
    measure=measure,
    tx=tx,
    images=images,
  )
  # d/dw of (1 + 2 + 4) w over three images, or over the five expected.
  gradient = 7 / (images or 3)
  assert float(new.params["w"]) == pytest.approx(3 - gradient)
  assert float(metrics["gradient_norm"]) == pytest.approx(gradient)
  # What is logged is the mean over the step's images in any case.
  assert float(metrics["loss"]) == pytest.approx(7)


def test_a_summed_loss_weighs_images_alike(finished, packed, tmp_path):
  experiment = packed(
    *("total_steps=3", "log_every=1", "packing.loss=sum", "validation=None")
  )
  assert train.train(experiment, tmp_path) == 0
  by_sum, by_mean = (without_speeds(x)[0] for x in (tmp_path, finished[0]))
  assert by_sum["loss"] == by_mean["loss"]
  images = by_sum["pack/images_per_step"]
  expected = ROWS * scanned(tmp_path)["images_per_row"]
  assert abs(images / expected - 1) > 0.01  # or it would show nothing
  # One product more in float32.
  assert by_sum["gradient_norm"] == pytest.approx(
    by_mean["gradient_norm"] * images / expected, rel=1e-5
  )


@pytest.mark.parametrize("pool", [pooling.Gap(), pooling.Map()])
def test_an_empty_row_has_no_loss_and_finite_gradients(pool, packed):
  run = open_lib.prepare(packed("validation=None"), print)
  model = run.experiment.model.clone(pool=pool)
  task = run.experiment.task
  some, empty = next(run.loader), run.loader.example()
  params = task.init(model, jax.random.key(0), some.inputs, None)
  # A fresh head's zeros would hide all else.
  head = np.random.default_rng(0).normal(size=(16, 10)) * 0.3
  params["head"]["kernel"] = jnp.asarray(head, jnp.float32)

  @jax.jit
  @jax.grad
  def gradient(params, batch):
    return task.measure(model, params, batch, patch_hw=None)["loss"].total

  @jax.jit
  def loss(params, batch):
    return task.measure(model, params, batch, patch_hw=None)["loss"]

  measured = loss(params, empty)
  assert (float(measured.total), float(measured.count)) == (0, 0)
  assert float(measured.compute()) == 0
  for leaf in jax.tree.leaves(gradient(params, empty)):
    np.testing.assert_array_equal(leaf, 0)
  # In the place of a row without an image, one of eight.
  fewer = jax.tree.map(lambda x, y: np.concatenate([x[:7], y[:1]]), some, empty)
  rows = [
    jax.tree.map(lambda x, i=i: np.repeat(x[i : i + 1], ROWS, axis=0), some)
    for i in range(7)
  ]
  one_by_one = [gradient(params, row) for row in rows]
  expected = jax.tree.map(lambda *x: sum(x) / ROWS, *one_by_one)
  scale = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(expected))
  assert scale > 1
  for a, b in zip(
    jax.tree.leaves(gradient(params, fewer)), jax.tree.leaves(expected)
  ):
    # Sums of some hundred tokens in another order, in float32.
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * scale)


def test_epochs_are_counted_in_the_images_that_rows_hold(packed):
  experiment = packed("total_steps=None", "total_epochs=3", "validation=None")
  printed = []
  run = open_lib.prepare(experiment, printed.append)
  per_row = run.record["scan"]["rows"]["images_per_row"]
  assert run.images_per_step == ROWS * per_row
  assert run.total_steps == round(3 * 1097 / (ROWS * per_row))
  # What such a run then sees: three epochs, up to the scan's few percent.
  images = sum(next(run.loader).weights.sum() for _ in range(run.total_steps))
  assert images == pytest.approx(3 * 1097, rel=0.05)
  assert "in a step" in printed[0]


NEEDS_PACKING = (
  "config: {}.resolution needs config.packing, the rows that images of any "
  "size share: packing=dict(row_length=256, max_images=16)"
)


@pytest.mark.parametrize(
  ("overrides", "text"),
  [
    (("packing=None",), NEEDS_PACKING.format("train")),
    (
      ("packing=None", "train.resolution=None"),
      NEEDS_PACKING.format("validation"),
    ),
    (
      ("train.resolution=None",),
      "config: packing needs train.resolution, the size of each image: "
      'resolution=dict(name="native")',
    ),
    (
      (
        *("packing=None", "train.resolution=None", "validation=None"),
        "patch_size={'name':'budget','choices':(4,6),'max_tokens':9}",
      ),
      "config: a token budget chooses a patch size for each image, so images "
      "must be packed: give config.packing, or another config.patch_size",
    ),
    (
      (
        "patch_size={'name':'scheduled','choices':(6,4),'steps':(0,9),"
        "'probabilities':((1.0,0.0),(0.0,1.0))}",
      ),
      "config: scheduled patch sizes go by the step, which packed images do "
      'not know: give config.patch_size name="sampled" or name="budget"',
    ),
    (
      ("packing.max_images=49",),
      "config.packing: max_images is 49, but a row of 48 patches holds no more "
      "images than patches: give at most 48",
    ),
  ],
)
def test_configs_that_contradict_themselves_are_refused(
  overrides, text, packed
):
  with pytest.raises(ConfigError) as caught:
    packed(*overrides)
  assert str(caught.value) == text


def test_data_that_do_not_fit_are_refused(packed):
  sampled = "{'name':'sampled','low':8,'high':24}"
  for name in ("validation", "test"):
    data = packed(f"{name}={{'source':'digits','resolution':{sampled}}}")
    with pytest.raises(
      ConfigError, match=rf"^config\.{name}: Sampled is random"
    ):
      open_lib.prepare(data, print)
  long = packed(
    *("packing.too_long=error", "packing.row_length=30", "packing.drop=none")
  )
  # The scan sees it, before the first step.
  with pytest.raises(
    TooLongError, match=r"^image \d+ of 24x24 pixels has 6x6 "
  ):
    open_lib.prepare(long, print)


def test_validation_images_of_one_size_must_tile(packed):
  with pytest.raises(ConfigError) as caught:
    open_lib.prepare(
      packed(
        "validation={'source':'digits'}", "patch_size={'name':'fixed','size':5}"
      ),
      print,
    )
  assert str(caught.value) == (
    "config.validation has no resolution, so its images are cut as they are, "
    "and an image of 24x24 pixels is not a whole number of 5x5 patches: resize "
    "it to 25x25, or take a patch size whose sides divide 24 and 24; sides "
    "that divide both: 1, 2, 3, 4, 6, 8, 12, 24; or give it a resolution, as "
    "config.train has"
  )


def test_an_epoch_counts_what_overflow_leaves_out(packed):
  """Those images were taken, and will not come again in it."""
  full = packed("total_steps=None", "total_epochs=2", "packing.drop=none")
  drop = ("packing.overflow=drop", "packing.max_images=1")
  left_out = packed(
    "total_steps=None", "total_epochs=2", "packing.drop=none", *drop
  )
  a, b = (open_lib.prepare(e, lambda line: None) for e in (full, left_out))
  assert b.images_per_step < a.images_per_step
  # The rows are filled alike, but for rounding and E_max.
  assert b.total_steps == pytest.approx(a.total_steps, rel=0.05)


def test_a_budget_chooses_the_size_of_each_image(packed):
  run = open_lib.prepare(
    packed(
      "validation=None",
      "patch_size={'name':'budget','choices':(4,6),'max_tokens':16}",
      "train.resolution={'name':'sampled','low':8,'high':24}",
      "packing.drop=none",
    ),
    print,
  )
  seen = set()
  for _ in range(5):
    tokens = next(run.loader).inputs
    real = tokens.segments > 0
    counts = tokens.grid_hw[real].prod(axis=-1)
    seen |= set(zip(tokens.size_index[real].tolist(), counts.tolist()))
  # Up to 4x4 patches of 4 pixels, else of 6.
  assert {size for size, _ in seen} == {0, 1}
  assert max(count for size, count in seen if size == 0) == 16


def test_a_dry_run_tries_packed_rows(packed, capsys):
  dry_run.run(packed("total_steps=10"))
  out = capsys.readouterr().out
  assert re.search(
    r"[\d,]+ parameters, 10 steps of 8 rows of 48 patches and about \d\d "
    "images on 8 cpu devices",
    out,
  )
  (row,) = [line for line in out.splitlines() if line.split()[:1] == ["4,6"]]
  assert row.split()[1] == "48"
  assert "one step at packed rows: " in out
  assert "one evaluation batch at 4:36: " in out
  assert "one evaluation batch at 6:36: " in out


def test_numbers_that_are_not_finite_name_their_images(packed, tmp_path):
  experiment = packed(
    *("total_steps=20", "log_every=4", "save_every=1", "validation=None"),
    *("optimizer.learning_rate=1e12", "optimizer.weight_decay=0.0"),
    *("optimizer.clip_norm=None", "optimizer.schedule=constant"),
  )
  with pytest.raises(watch.NonFiniteError) as caught:
    train.train(experiment, tmp_path)
  assert ", patch size packed, learning rate 1e+12\n" in str(caught.value)
  saved = json.loads((tmp_path / "nonfinite.json").read_text())
  assert saved["patch_size"] == "packed"
  loader = open_lib.prepare(experiment, print).loader
  for _ in range(saved["step"]):
    batch = next(loader)
  index = batch.index[batch.index >= 0]
  assert saved["images"] == [f"image {i}" for i in index]


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_signal_while_a_batch_is_packed_loses_no_image(
  moment, finished, packed, tmp_path, monkeypatch
):
  real, calls = PackLoader._next_image, []

  def next_image(self):
    calls.append(self)
    if len(calls) == 150 and moment == "before":
      signal.raise_signal(signal.SIGTERM)
    image = real(self)
    if len(calls) == 150:
      signal.raise_signal(signal.SIGTERM)
    return image

  monkeypatch.setattr(PackLoader, "_next_image", next_image)
  assert train.train(packed(*SHORT), tmp_path) == 143
  (*_, saved) = run_directory.steps(tmp_path)
  assert 2 < saved < 9
  assert in_mid_pack(tmp_path, saved)
  assert train.train(packed(*SHORT), tmp_path) == 0
  assert without_speeds(tmp_path) == without_speeds(finished[0])


def in_mid_pack(workdir, step):
  path = workdir / "checkpoints" / str(step) / "progress.json"
  return json.loads(path.read_text())["loader"]["packer"]["next_row"] > 0


TOTAL = 60
LONG = (
  f"total_steps={TOTAL}",
  "eval_every=30",
  "save_every=7",
  "log_every=3",
  "packing.loss=sum",
  "packing.overflow=drop",
  "packing.max_images=4",
  "keep=30",
)


@pytest.fixture(scope="module")
def long_run(command, small_config):
  """Starts the long run in a directory, as a process."""

  def start(workdir, *overrides, **kwargs):
    arguments = small_config(*PACKED, *LONG, *overrides)
    return command("train.py", *arguments, f"--workdir={workdir}", **kwargs)

  return start


def final(workdir):
  """Every number of the last checkpoint, and the rows without speeds."""
  with ocp.StandardCheckpointer() as checkpointer:
    arrays = checkpointer.restore(
      workdir / "checkpoints" / str(TOTAL) / "arrays"
    )
  flat = {
    jax.tree_util.keystr(path): np.asarray(x)
    for path, x in jax.tree_util.tree_leaves_with_path(arrays)
  }
  return flat, without_speeds(workdir)


@pytest.fixture(scope="module")
def uninterrupted(long_run, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("runs") / "packed"
  done = long_run(workdir)
  assert done.returncode == 0, done.stderr
  flat, rows = final(workdir)
  assert rows[-2]["pack/overflowed_images"] > 10
  assert any("opt_state" in name and x.any() for name, x in flat.items())
  return flat, rows


@pytest.mark.parametrize(
  "workers", [pytest.param(n, marks=pytest.mark.slow) for n in (2, 0)]
)
def test_killed_in_mid_pack_and_resumed_equals_uninterrupted(
  workers, uninterrupted, long_run, tmp_path
):
  process = long_run(tmp_path, f"workers={workers}", wait=False)
  deadline = time.monotonic() + 300
  while not (steps := run_directory.steps(tmp_path)) or not in_mid_pack(
    tmp_path, steps[-1]
  ):
    assert process.poll() is None, process.communicate()
    assert time.monotonic() < deadline
    time.sleep(0.002)
  process.kill()
  process.communicate(timeout=120)  # workers hold the pipes until they end
  steps = run_directory.steps(tmp_path)
  assert steps[-1] < TOTAL
  done = long_run(tmp_path, f"workers={2 - workers}")
  assert done.returncode == 0, done.stderr
  assert done.stderr == ""
  assert f"resuming after step {steps[-1]} of {TOTAL}" in done.stdout
  flat, rows = final(tmp_path)
  assert rows == uninterrupted[1]
  assert flat.keys() == uninterrupted[0].keys()
  for name, x in flat.items():
    np.testing.assert_array_equal(x, uninterrupted[0][name], err_msg=name)
