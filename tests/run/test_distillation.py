"""Runs with a teacher: from prepare to a resumed run, and what is refused."""

import dataclasses
import json
import re
import shutil
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

import train
from flexivit_jax.checkpoints import load as load_lib
from flexivit_jax.checkpoints import run_directory, run_record, run_store
from flexivit_jax.config import build
from flexivit_jax.core.errors import ConfigError
from flexivit_jax.run import dry_run
from flexivit_jax.run import open as open_lib
from flexivit_jax.run import teacher as teacher_lib
from flexivit_jax.tasks.distillation import TeacherSpec

DISTILL = "configs/flexivit_digits_distill.py"
SMALL = (
  "model.size=mu",
  "patch_size.choices=(6,12)",
  "batch_size=16",
  "optimizer.schedule.warmup_steps=2",
  "task.teacher.patch_size=6",
  "task.teacher.image_size=48",
  "task.label_weight=0.3",
  "mix=({'name':'mixup','alpha':0.5},'cutmix')",
)
TOTAL = 40
LONG = (
  *(f"total_steps={TOTAL}", "eval_every=20", "save_every=4", "log_every=5"),
  "keep=30",
)


@pytest.fixture(scope="module")
def taught(small_run):
  """Makes an experiment that learns from the small run."""

  def experiment(*overrides):
    return build.load(f"{DISTILL}:{small_run[0]}", (*SMALL, *overrides))

  return experiment


def prepared(experiment):
  lines = []
  opened = open_lib.prepare(experiment, lines.append)
  opened.loader.close()
  return opened, "\n".join(lines)


def test_a_teacher_sees_the_same_crop_at_its_own_size(taught):
  crop = "train.transforms=({'name':'inception_crop','size':(24,24)},'flip')"
  opened, said = prepared(taught(crop))
  assert "taught by" in said
  assert "teaches with patches of 6 px on images of 48 px" in said
  batch = next(opened.loader)
  assert batch.inputs.shape == (16, 24, 24, 3)
  assert batch.teacher_inputs.shape == (16, 48, 48, 3)
  # Twice as large, and shrunk again by means of four: the same picture but for
  # how each is resized, and far from that of any other row.
  shrunk = batch.teacher_inputs.reshape(16, 24, 2, 24, 2, 3).mean((2, 4))
  apart = np.abs(shrunk[:, None] - batch.inputs[None]).mean((2, 3, 4))
  assert (apart.argmin(axis=1) == np.arange(16)).all()
  assert np.diag(apart).max() < 6
  assert np.median(apart) > 20
  opened.loader.close()


def test_a_step_costs_its_teacher_s_forward_pass_too(taught):
  opened, _ = prepared(taught("init_from=None"))

  def forward(side, patch):
    # "mu": one block of width 32 and MLP 128, 10 classes.
    l, d = (side // patch) ** 2, 32
    block = 4 * l * d * d + 2 * l * l * d + 2 * l * d * 128
    return l * patch * patch * 3 * d + block + d * 10

  for patch in (6, 12):
    # Patches of 6 px of 48 for the teacher, whatever the student has.
    expected = 16 * (3 * forward(24, patch) + forward(48, 6)) / 1e9
    assert opened.numbers.gflops((patch, patch)) == pytest.approx(expected)
  alone = dataclasses.replace(opened, teacher=None)
  assert alone.numbers.gflops((6, 6)) == pytest.approx(
    16 * 3 * forward(24, 6) / 1e9
  )


def warnings_of(opened):
  return [line for line in opened.description if "warning" in line]


def test_sizes_that_a_teacher_was_not_trained_at_are_told(small_run):
  def load(patch_size, image_hw):
    spec, classes = TeacherSpec(str(small_run[0]), patch_size), "0123456789"
    return warnings_of(teacher_lib.load(spec, tuple(classes), 10, image_hw))

  assert load(6, (24, 24)) == load(12, (24, 24)) == []
  assert load((4, 6), (24, 24)) == [
    "  warning: patches of 4x6 px are none of those that it was trained at, 6, "
    "12"
  ]
  assert load(12, (48, 24)) == [
    "  warning: it was trained on images of 24 px, not 48x24"
  ]


@pytest.mark.slow
def test_a_student_starts_as_its_teacher(taught, small_run):
  opened, _ = prepared(taught("task.teacher.image_size=None", "mix=()"))
  state = opened.init_state()
  batch = next(opened.loader)
  opened.loader.close()
  found = opened.measure(
    state.params, batch, patch_hw=(6, 6), teacher=opened.teacher
  )
  assert float(found["distance"]) == 0
  assert float(found["agreement"]) == 1
  other = opened.measure(
    state.params, batch, patch_hw=(12, 12), teacher=opened.teacher
  )
  assert float(other["distance"]) > 1e-4


@pytest.mark.parametrize(
  ("overrides", "text"),
  [
    (
      ("task.teacher.patch_size=None",),
      "config.task.teacher: {run} does not name one patch size: give "
      "patch_size, one of 6, 12, which it was trained at",
    ),
    (
      ("task.teacher.patch_size=7",),
      "config.task.teacher: an image of 48x48 pixels is not a whole number of "
      "7x7 patches: ",
    ),
    (
      ("task.teacher.image_size=(48,36)",),
      "config.task.teacher.image_size: 48x36 pixels have another aspect ratio "
      "than 24x24",
    ),
    (
      ("model.num_classes=12",),
      "config.task.teacher: {run} has 10 classes, and the student 12: a "
      "teacher needs the student's classes",
    ),
    (
      ("task.teacher.checkpoint=/nowhere.npz",),
      "config.task.teacher: ",
    ),
    (
      ("task.teacher.checkpoint=README.md",),
      "config.task.teacher: README.md is no checkpoint of a kind that is known "
      "here: give a run's directory, an .npz of big_vision, a .safetensors "
      "file or directory of timm or Hugging Face, or the name of a published "
      "model",
    ),
    (
      ("task.teacher.step=7",),
      "config.task.teacher: {run}: no checkpoint of step 7; there are 10, 20, ",
    ),
  ],
)
def test_a_teacher_that_cannot_teach_is_refused(
  taught, small_run, overrides, text
):
  with pytest.raises(ConfigError) as caught:
    open_lib.prepare(taught("init_from=None", *overrides), print)
  wanted = text.format(run=small_run[0])
  assert str(caught.value).startswith(wanted)


def test_patch_sizes_that_tile_are_offered_where_nothing_else_is_known(
  small_run, monkeypatch
):
  found = load_lib.load(small_run[0])
  spec = dataclasses.replace(found.spec, trained_sizes=())
  unknown = dataclasses.replace(found, spec=spec)
  monkeypatch.setattr(load_lib, "load", lambda path, step: unknown)
  with pytest.raises(ValueError) as caught:
    teacher_lib.load(TeacherSpec("x"), found.spec.classes, 10, (24, 12))
  assert str(caught.value) == (
    f"{small_run[0]} does not name one patch size: give patch_size, one of 1, "
    "2, 3, 4, 6, 12, which tile images of 24x12 px"
  )


def test_names_in_another_order_are_refused(small_run):
  classes = tuple("1023456789")
  with pytest.raises(ValueError) as caught:
    teacher_lib.load(TeacherSpec(str(small_run[0]), 6), classes, 10, (24, 24))
  assert str(caught.value) == (
    f"the classes of {small_run[0]} are not those of the data, or in another "
    "order: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, not 1, 0, 2, 3, 4, 5, 6, 7, 8, 9"
  )


@pytest.mark.parametrize(
  ("override", "text"),
  [
    (
      "mix=('mixup',)",
      "config: mix and packing: images are mixed before they are cut into "
      "patches, so give mix=()",
    ),
    (
      "task={'name':'distill','teacher':{'checkpoint':'x'}}",
      "config: task distill and packing: a teacher sees images of one size, so "
      "give images a size in train.transforms and leave packing out",
    ),
  ],
)
def test_packed_rows_have_neither(override, text):
  with pytest.raises(ConfigError) as caught:
    build.load("configs/navit_digits.py", (override,))
  assert str(caught.value) == text


def test_a_run_with_all_its_steps_needs_no_teacher(taught):
  gone = taught(
    "init_from=None", "total_steps=7", "task.teacher.checkpoint=/nowhere.npz"
  )
  asked = []

  def prepare(answer):
    return open_lib.prepare(
      gone, print, has_step=lambda step: asked.append(step) or answer
    )

  opened = prepare(True)
  opened.loader.close()
  assert opened.teacher is None
  assert "teacher" not in opened.record["data"]
  with pytest.raises(ConfigError, match=r"^config\.task\.teacher: "):
    prepare(False)
  assert asked == [7, 7]


@pytest.mark.slow
def test_a_finished_run_goes_on_without_its_teacher(
  taught, small_run, tmp_path, capsys
):
  teacher, workdir = tmp_path / "teacher", tmp_path / "run"
  shutil.copytree(small_run[0], teacher)
  experiment = taught(
    *("total_steps=3", "eval_every=3", "save_every=1", "log_every=1"),
    f"task.teacher.checkpoint={teacher}",
    "init_from=None",
  )
  assert train.train(experiment, workdir) == 0
  taught_by = run_record.read(workdir)["data"]["teacher"]
  teacher.rename(tmp_path / "elsewhere")
  assert train.train(experiment, workdir) == 0
  assert f"{workdir} is finished: it has all 3 steps" in capsys.readouterr().out
  assert run_record.read(workdir)["data"]["teacher"] == taught_by
  # An evaluation that is left needs the student alone.
  metrics = workdir / "metrics.jsonl"
  *before, last = metrics.read_text().splitlines(keepends=True)
  assert "validation/top1" in last
  metrics.write_text("".join(before))
  assert train.train(experiment, workdir) == 0
  assert "validation/top1" in metrics.read_text().splitlines()[-1]
  # A damaged end leaves steps to go.
  (workdir / "checkpoints" / "3" / run_store.PROGRESS).write_text("{}")
  with pytest.raises(ConfigError, match=r"^config\.task\.teacher: "):
    train.train(experiment, workdir)
  (tmp_path / "elsewhere").rename(teacher)
  assert train.train(experiment, workdir) == 0
  assert run_directory.is_whole(workdir, 3)


@pytest.mark.slow
def test_a_dry_run_of_it(taught, capsys):
  dry_run.run(taught())
  out = capsys.readouterr().out
  assert "teacher: fingerprint " in out
  assert "one step at 6: " in out
  assert "  distance " in out


@pytest.mark.slow
def test_another_teacher_under_the_same_name_is_refused(
  taught, small_run, tmp_path
):
  copy = tmp_path / "teacher"
  shutil.copytree(small_run[0], copy)
  short = ("total_steps=3", "eval_every=3", "save_every=1", "log_every=1")
  experiment = taught(*short, f"task.teacher.checkpoint={copy}")
  workdir = tmp_path / "run"
  assert train.train(experiment, workdir) == 0
  rows = (workdir / "metrics.jsonl").read_text().splitlines()
  assert {"distance", "agreement", "teacher_accuracy"} <= json.loads(
    rows[0]
  ).keys()
  first, *_, last = run_directory.steps(copy)
  assert first != last
  longer = dataclasses.replace(
    experiment.task.teacher,
    step=first,
  )
  task = dataclasses.replace(experiment.task, teacher=longer)
  with pytest.raises(ConfigError, match=r"data\.teacher\.fingerprint|teacher"):
    train.train(dataclasses.replace(experiment, task=task), workdir)
  # The same name, other weights, and a step to go.
  shutil.rmtree(workdir / "checkpoints" / "3")
  path = workdir / "config.json"
  said = json.loads(path.read_text())
  said["data"]["teacher"]["fingerprint"] = "0" * 64
  path.write_text(json.dumps(said))
  with pytest.raises(
    ConfigError,
    match=re.escape(
      f"{workdir} holds a run that started otherwise (teacher.fingerprint: '000"
    ),
  ):
    train.train(experiment, workdir)


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted(command, small_run, tmp_path):
  def start(workdir, **kwargs):
    more = ("workers=1", "ema=0.99", "accumulate=2")
    overrides = [f"--config.{x}" for x in (*SMALL, *LONG, *more)]
    arguments = (f"--config={DISTILL}:{small_run[0]}", *overrides)
    return command("train.py", *arguments, f"--workdir={workdir}", **kwargs)

  whole, cut = tmp_path / "whole", tmp_path / "cut"
  done = start(whole)
  assert done.returncode == 0, done.stderr
  process = start(cut, wait=False)
  deadline = time.monotonic() + 300
  while not (steps := run_directory.steps(cut)) or steps[-1] < 8:
    assert process.poll() is None, process.communicate()
    assert time.monotonic() < deadline
    time.sleep(0.01)
  process.kill()
  process.communicate(timeout=120)
  assert run_directory.steps(cut)[-1] < TOTAL
  done = start(cut)
  assert done.returncode == 0, done.stderr
  assert "resuming after step" in done.stdout
  assert arrays(cut) == arrays(whole)
  assert rows_of(cut) == rows_of(whole)


def arrays(workdir):
  """{name: bytes} of the last checkpoint."""
  with ocp.StandardCheckpointer() as checkpointer:
    found = checkpointer.restore(
      workdir / "checkpoints" / str(TOTAL) / "arrays"
    )
  return {
    jax.tree_util.keystr(path): np.asarray(x).tobytes()
    for path, x in jax.tree_util.tree_leaves_with_path(found)
  }


def rows_of(workdir):
  rows = (workdir / "metrics.jsonl").read_text().splitlines()
  return [
    {k: v for k, v in json.loads(row).items() if not k.startswith("speed/")}
    for row in rows
  ]
