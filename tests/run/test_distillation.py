"""Runs with a teacher: from prepare to a resumed run, and what is refused."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

import train
from flexivit_jax.checkpoints import run_directory, run_record, run_store
from flexivit_jax.config import build
from flexivit_jax.core.errors import ConfigError
from flexivit_jax.run import open as open_lib
from flexivit_jax.run import teacher as teacher_lib
from flexivit_jax.tasks.distillation import TeacherSpec
from tests import runs

DISTILL = "configs/flexivit_digits_distill.py"
SMALL = (
  *runs.COMMON,
  *runs.GRID,
  "task.teacher.patch_size=6",
  "task.teacher.image_size=48",
  "task.label_weight=0.3",
  "mix=({'name':'mixup','alpha':0.5},'cutmix')",
)
SHORT = ("total_steps=3", "eval_every=3", "save_every=1", "init_from=None")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
  """Not to be written to."""
  return runs.trained("labels", runs.shared_directory(tmp_path_factory))


@pytest.fixture(scope="module")
def taught(teacher):
  """Makes an experiment that learns from the shared run."""
  return lambda *overrides: build.load(
    f"{DISTILL}:{teacher}", (*SMALL, *overrides)
  )


def prepared(experiment):
  lines = []
  opened = open_lib.prepare(experiment, lines.append)
  opened.loader.close()
  return opened, "\n".join(lines)


def test_a_teacher_sees_the_same_crop_at_its_own_size(taught):
  crop = "train.transforms=({'name':'inception_crop','size':(24,24)},'flip')"
  opened, said = prepared(taught(crop))
  assert "teaches with patches of 6 px on images of 48 px" in said
  batch = next(opened.loader)
  assert batch.inputs.shape == (8, 24, 24, 3)
  assert batch.teacher_inputs.shape == (8, 48, 48, 3)
  # Twice as large, and shrunk again by means of four: the same picture but for
  # how each is resized, and far from that of any other row.
  shrunk = batch.teacher_inputs.reshape(8, 24, 2, 24, 2, 3).mean((2, 4))
  apart = np.abs(shrunk[:, None] - batch.inputs[None]).mean((2, 3, 4))
  assert (apart.argmin(axis=1) == np.arange(8)).all()
  assert np.diag(apart).max() < 6
  assert np.median(apart) > 20
  opened.loader.close()


def test_a_step_costs_its_teacher_s_forward_pass_too(taught):
  opened, _ = prepared(taught("init_from=None"))

  def forward(side, patch):
    # Two blocks of width 32 and MLP 64, 10 classes.
    l, d = (side // patch) ** 2, 32
    block = 4 * l * d * d + 2 * l * l * d + 2 * l * d * 64
    return l * patch * patch * 3 * d + 2 * block + d * 10

  # Patches of 6 px of 48 for the teacher, whatever the student has.
  for patch in (6, 12):
    expected = 8 * (3 * forward(24, patch) + forward(48, 6)) / 1e9
    assert opened.numbers.gflops((patch, patch)) == pytest.approx(expected)


@pytest.mark.parametrize(
  ("patch_size", "image_hw", "warning"),
  [
    (6, (24, 24), ()),
    ((4, 6), (24, 24), ("patches of 4x6 px are none of those that it was",)),
    (12, (48, 24), ("it was trained on images of 24 px, not 48x24",)),
  ],
)
def test_sizes_that_a_teacher_was_not_trained_at_are_told(
  patch_size, image_hw, warning, teacher
):
  spec = TeacherSpec(str(teacher), patch_size)
  found = teacher_lib.load(spec, tuple("0123456789"), 10, image_hw)
  told = [x for x in found.description if "warning" in x]
  assert len(told) == len(warning)
  assert all(text in line for text, line in zip(warning, told))


@pytest.mark.slow
def test_a_student_starts_as_its_teacher(taught):
  opened, _ = prepared(taught("task.teacher.image_size=None", "mix=()"))
  state = opened.init_state()
  batch = next(opened.loader)
  opened.loader.close()

  def measure(patch_hw):
    return opened.measure(
      state.params, batch, patch_hw=patch_hw, teacher=opened.teacher
    )

  same, other = measure((6, 6)), measure((12, 12))
  assert (float(same["distance"]), float(same["agreement"])) == (0, 1)
  assert float(other["distance"]) > 1e-6


@pytest.mark.parametrize(
  ("override", "text"),
  [
    ("task.teacher.patch_size=None", "give patch_size, one of 6, 12"),
    ("task.teacher.patch_size=7", "48x48 pixels is not a whole number of 7x7"),
    (
      "task.teacher.image_size=(48,36)",
      "48x36 pixels have another aspect ratio than 24x24",
    ),
    ("model.num_classes=12", "has 10 classes, and the student 12"),
    ("task.teacher.checkpoint=/nowhere.npz", "/nowhere.npz"),
    ("task.teacher.step=7", "no checkpoint of step 7; there are 3, 6"),
  ],
)
def test_a_teacher_that_cannot_teach_is_refused(taught, override, text):
  with pytest.raises(ConfigError) as caught:
    open_lib.prepare(taught("init_from=None", override), print)
  assert str(caught.value).startswith("config.task.teacher")
  assert text in str(caught.value)


def test_names_in_another_order_are_refused(teacher):
  classes = tuple("1023456789")
  with pytest.raises(ValueError, match=r"0, 1, 2.* not 1, 0, 2, 3"):
    teacher_lib.load(TeacherSpec(str(teacher), 6), classes, 10, (24, 24))


@pytest.mark.parametrize(
  ("override", "text"),
  [
    ("mix=('mixup',)", r"config: mix and packing .*mix=\(\)"),
    (
      "task={'name':'distill','teacher':{'checkpoint':'x'}}",
      "config: task distill and packing: .*train.transforms",
    ),
  ],
)
def test_packed_rows_have_neither(override, text):
  with pytest.raises(ConfigError, match=text):
    build.load("configs/navit_digits.py", (override,))


@pytest.mark.slow
def test_a_finished_run_goes_on_without_its_teacher(
  taught, trained, tmp_path, capsys
):
  teacher, workdir = trained("labels"), tmp_path / "run"
  experiment = taught(*SHORT, f"task.teacher.checkpoint={teacher}")
  assert train.train(experiment, workdir) == 0
  taught_by = run_record.read(workdir)["data"]["teacher"]
  teacher.rename(tmp_path / "elsewhere")
  assert train.train(experiment, workdir) == 0
  assert "is finished: it has all 3 steps" in capsys.readouterr().out
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


def test_another_teacher_under_the_same_name_is_refused(trained):
  workdir, teacher = trained("distilled"), trained("labels")
  rows = (workdir / "metrics.jsonl").read_text().splitlines()
  assert {"distance", "agreement", "teacher_accuracy"} <= {*json.loads(rows[0])}
  shutil.rmtree(workdir / "checkpoints" / "6")  # steps to go
  record = run_record.read(workdir)
  experiment = build.from_plain(record["config"])
  task = dataclasses.replace(
    experiment.task,
    teacher=dataclasses.replace(
      experiment.task.teacher, checkpoint=str(teacher), step=3
    ),
  )
  with pytest.raises(ConfigError, match=r"teacher"):
    train.train(dataclasses.replace(experiment, task=task), workdir)
  # The same name, and other weights.
  path = workdir / "config.json"
  said = json.loads(path.read_text())
  said["data"]["teacher"]["fingerprint"] = "0" * 64
  path.write_text(json.dumps(said))
  with pytest.raises(ConfigError, match=r"\(teacher.fingerprint: '000"):
    train.train(experiment, workdir)
