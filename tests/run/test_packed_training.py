"""Training on packed rows: real runs of images of any size."""

import contextlib
import io
import json
import re
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import train
from flexivit_jax.checkpoints import run_directory
from flexivit_jax.core.errors import ConfigError
from flexivit_jax.data.packing.cutter import TooLongError
from flexivit_jax.data.packing.loader import PackLoader
from flexivit_jax.nn import pooling
from flexivit_jax.run import dry_run
from flexivit_jax.run import open as open_lib
from flexivit_jax.tasks import pack_metrics
from tests.run.whole_runs import in_mid_pack, rows

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
SAMPLED = {"name": "sampled", "low": 8, "high": 24}
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


def scanned(workdir):
  saved = json.loads((workdir / "config.json").read_text())
  return saved["scan"]["rows"]


def test_a_run_writes_what_is_documented(finished):
  workdir, out, _ = finished
  logs = [row for row in rows(workdir) if "loss" in row]
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
  scan = scanned(workdir)
  assert (scan["row_length"], scan["max_images"]) == (48, 6)
  assert 0.7 < scan["fill"] <= 1


def test_points_of_an_evaluation_have_patch_size_and_budget(finished):
  found = [row for row in rows(finished[0]) if "validation/top1" in row]
  assert [row["step"] for row in found] == [5, 10]
  for row in found:
    assert {key for key in row if "@" in key} == {
      f"validation/{name}@{size}:36"
      for name in ("top1", "loss")
      for size in (4, 6)
    }
    scores = [row[f"validation/top1@{size}:36"] for size in (4, 6)]
    assert row["validation/top1"] == pytest.approx(np.mean(scores))
    for score in scores:  # of 40 images
      assert score * 40 == pytest.approx(round(score * 40), abs=1e-4)


def test_mixed_patch_sizes_are_one_program(finished):
  _, out, traces = finished
  assert len(traces) == 1
  assert traces[0].inputs.patch_sizes == ((4, 4), (6, 6))
  assert out.count("compiled train step") == 1
  assert out.count("compiled evaluation") == 2


@pytest.mark.slow
def test_a_summed_loss_weighs_images_alike(finished, packed, tmp_path):
  experiment = packed(
    *("total_steps=3", "log_every=1", "packing.loss=sum", "validation=None")
  )
  assert train.train(experiment, tmp_path) == 0
  by_sum, by_mean = (rows(x)[0] for x in (tmp_path, finished[0]))
  assert by_sum["loss"] == by_mean["loss"]
  images = by_sum["pack/images_per_step"]
  expected = ROWS * scanned(tmp_path)["images_per_row"]
  assert abs(images / expected - 1) > 0.01  # or it would show nothing
  # One product more in float32.
  assert by_sum["gradient_norm"] == pytest.approx(
    by_mean["gradient_norm"] * images / expected, rel=1e-5
  )


@pytest.mark.parametrize(
  "pool", [pooling.Gap(), pytest.param(pooling.Map(), marks=pytest.mark.slow)]
)
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
  one_by_one = [
    gradient(params, jax.tree.map(lambda x, i=i: x[[i] * ROWS], some))
    for i in range(7)
  ]
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


@pytest.mark.parametrize(
  ("overrides", "text"),
  [
    (("packing=None",), "config: train.resolution needs config.packing"),
    (
      ("packing=None", "train.resolution=None"),
      "config: validation.resolution needs config.packing",
    ),
    (
      ("train.resolution=None",),
      "config: packing needs train.resolution. .*=native",
    ),
    (
      (
        *("packing=None", "train.resolution=None", "validation=None"),
        "patch_size={'name':'budget','choices':(4,6),'max_tokens':9}",
      ),
      "config: a token budget .*give config.packing",
    ),
    (
      (
        "patch_size={'name':'scheduled','choices':(6,4),'steps':(0,9),"
        "'probabilities':((1.0,0.0),(0.0,1.0))}",
      ),
      'config: scheduled patch sizes .*give config.patch_size name="sampled"',
    ),
    (
      ("packing.max_images=49",),
      "config.packing: max_images is 49, .*48 patches.*give at most 48",
    ),
    (
      (f"validation={{'source':'digits','resolution':{SAMPLED}}}",),
      "config.validation: Sampled is random",
    ),
    (
      (f"test={{'source':'digits','resolution':{SAMPLED}}}",),
      "config.test: Sampled is random",
    ),
    (
      ("packing.too_long=error", "packing.row_length=30", "packing.drop=none"),
      # The scan sees it, before the first step.
      r"^image \d+ of 24x24 pixels has 6x6 ",
    ),
    (
      (
        "validation={'source':'digits'}",
        "patch_size={'name':'fixed','size':5}",
      ),
      "config.validation has no resolution, .*24x24 .*5x5 .*or give it a reso",
    ),
  ],
)
def test_what_cannot_work_is_refused(overrides, text, packed):
  with pytest.raises((ConfigError, TooLongError), match=text):
    open_lib.prepare(packed(*overrides), print)


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
  assert rows(tmp_path) == rows(finished[0])
