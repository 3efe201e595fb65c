"""Opens and checks all that a run needs, before anything expensive starts."""

import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

from flexivit_jax.checkpoints import init_from, load, provenance, run_directory
from flexivit_jax.config import build, overrides
from flexivit_jax.config.experiment import Experiment
from flexivit_jax.core.errors import ConfigError, config_errors_at
from flexivit_jax.core.patch_size import ScheduledPatchSize
from flexivit_jax.data.dataset import check_same_classes
from flexivit_jax.data.loading import eval_loader
from flexivit_jax.data.packing import survey
from flexivit_jax.devices import mesh as mesh_lib
from flexivit_jax.devices import placement
from flexivit_jax.devices.processes import ALONE, Processes, check_same
from flexivit_jax.evaluation.reading import Reading
from flexivit_jax.run import checks
from flexivit_jax.run import teacher as teacher_lib
from flexivit_jax.run.loaders import eval_reading, teacher_hw, train_loader
from flexivit_jax.run.profile import Window
from flexivit_jax.run.programs import Run
from flexivit_jax.tasks import distillation


def prepare(
  experiment: Experiment,
  report: Callable[[str], None],
  *,
  resuming: bool = False,
  has_step: Callable[[int], bool] = lambda step: False,
  peers: Processes = ALONE,
) -> Run:
  """Opens and checks everything, before anything expensive starts.

  Writes nothing.

  Args:
    report: called with lines on the checkpoint to start from.
    resuming: the run has checkpoints of its own, so it starts from none.
    has_step: whether the run has an undamaged checkpoint of a step; of the last
      one, it needs no teacher any more, and is prepared without.
    peers: the processes of the run.

  Raises:
    ConfigError: naming what cannot work, and what would.
  """
  with config_errors_at("config.mesh"):
    mesh = mesh_lib.make_mesh(experiment.mesh)
    shard = placement.process_rows(mesh)
  checks.check_devices(experiment, mesh)
  with config_errors_at("config.writers"):
    for writer in experiment.writers:
      writer.check()
  experiment, train = _open_train(experiment, shard, report)
  validation = _open_validation(experiment, train.source, mesh, shard, peers)
  _check_test(experiment, train.source)
  reading = validation and validation.reading
  checks.check_shared_rows(experiment, mesh, train.loader, reading)
  total_steps = experiment.num_steps(len(train.source), train.taken_per_step)
  teacher = None
  learns = isinstance(experiment.task, distillation.Distill)
  if learns and not has_step(total_steps):
    teacher = _open_teacher(experiment, train, report)
  initial, origin = {}, {}
  if experiment.init_from is not None and not resuming:
    with config_errors_at("config.init_from"):
      initial, lines = read_initial(experiment)
    report("\n".join(lines))
    origin = {"init_from": lines}
  if isinstance(experiment.patch_size, ScheduledPatchSize):
    with config_errors_at("config.patch_size"):
      experiment.patch_size.check_length(total_steps)
  with config_errors_at("config.optimizer"):
    tx = experiment.optimizer.build(total_steps)
  run = Run(
    experiment=experiment,
    total_steps=total_steps,
    mesh=mesh,
    loader=train.loader,
    validation=reading,
    images_per_step=train.images_per_step,
    tx=tx,
    record={
      "config": build.to_json(experiment),
      "data": _of_data(train, validation, teacher),
      "classes": list(train.source.classes),
      "provenance": provenance.describe(),
      **origin,
      **train.looked_at,
    },
    initial=initial,
    teacher=teacher and placement.replicate(teacher.teacher, mesh),
    peers=peers,
  )
  with config_errors_at("config.model"):
    run.parameter_shapes  # noqa: B018 (initialises without computing)
  with config_errors_at("config.optimizer"):
    run.state_shapes  # noqa: B018 (the same)
  return run


class _Train(NamedTuple):
  """Opened training data.

  Attributes:
    looked_at: what a scan of packed images has found, for the record.
    images_per_step, taken_per_step: means; taken ones may be left out.
  """

  source: Any
  loader: Any
  looked_at: dict[str, Any]
  images_per_step: float
  taken_per_step: float


def _open_train(experiment, shard, report) -> tuple[Experiment, _Train]:
  """The training data, and the experiment for its classes."""
  with config_errors_at("config.train"):
    source = experiment.open(experiment.train)
    experiment = experiment.for_classes(source.classes)
    checks.check_arrays(experiment, source)
    loader = train_loader(experiment, source, shard)
  rows = experiment.batch_size
  if experiment.packing is None:
    experiment.check_patch_sizes(loader.image_hw)
    return experiment, _Train(source, loader, {}, rows, rows)
  with config_errors_at("config.train"):
    seen = survey.scan(loader.cut_images, experiment.packing)
  report("\n".join(survey.describe(seen, rows)))
  return experiment, _Train(
    source,
    loader,
    {"scan": survey.to_json(seen)},
    rows * seen.now.images_per_row,
    rows * seen.now.taken_per_row,
  )


class _Validation(NamedTuple):
  source: Any
  reading: Reading


def _open_validation(experiment, train, mesh, shard, peers):
  if experiment.validation is None:
    return None
  with config_errors_at("config.validation"):
    source = experiment.open(experiment.validation)
    check_same_classes(train, source)
    reading = eval_reading(
      experiment.validation,
      source,
      experiment.patch_size.sizes,
      model=experiment.model,
      packing=experiment.packing,
      batch_size=mesh_lib.round_up(experiment.eval_batch_size, mesh),
      on_bad_image=experiment.on_bad_image,
      shard=shard,
      peers=peers,
    )
  for setting in reading.settings:
    if setting.image_hw is not None:
      checks.check_tiling(experiment, setting.image_hw)
  return _Validation(source, reading)


def _check_test(experiment, train):
  if experiment.test is None:
    return
  with config_errors_at("config.test"):
    check_same_classes(train, experiment.open(experiment.test))
    if experiment.test.resolution is not None:
      eval_loader.refuse_random(
        (*experiment.test.transforms, experiment.test.resolution)
      )


def _open_teacher(experiment, train, report) -> teacher_lib.Opened:
  with config_errors_at("config.task.teacher"):
    opened = teacher_lib.load(
      experiment.task.teacher,
      train.source.classes,
      experiment.model.num_classes,
      teacher_hw(experiment) or train.loader.image_hw,
    )
  report("\n".join(("taught by", *opened.description)))
  return opened


def _of_data(train, validation, teacher) -> dict[str, Any]:
  """The record of a run's data: what tells it from other data."""
  sources = {"train": train.source}
  if validation is not None:
    sources["validation"] = validation.source
  found = {
    name: {"fingerprint": source.fingerprint, "images": len(source)}
    for name, source in sources.items()
  }
  if teacher is not None:
    found["teacher"] = {"fingerprint": teacher.digest}
  return found


def open_in(
  experiment: Experiment,
  workdir: pathlib.Path,
  report: Callable[[str], None],
  window: Window | None = None,
  peers: Processes = ALONE,
) -> Run:
  """As `prepare`, for a run in a directory; makes the directory.

  Args:
    window: the steps to trace.

  Raises:
    ConfigError: naming what cannot work, and what would.
  """
  if workdir.exists() and not workdir.is_dir():
    raise ConfigError(f"--workdir {workdir} is a file: give a directory")

  def agreed(answer):
    """The first process's answer: it alone writes there."""
    return peers.gather(answer() if peers.index == 0 else None)[0]

  run = prepare(
    experiment,
    report,
    resuming=agreed(lambda: bool(run_directory.steps(workdir))),
    has_step=lambda s: agreed(lambda: run_directory.is_whole(workdir, s)),
    peers=peers,
  )
  check_same(peers, overrides.flatten({"data": run.record["data"]}))
  if window is not None:
    with config_errors_at("--profile"):
      window.check(run.total_steps)
  workdir.mkdir(parents=True, exist_ok=True)
  return run


def read_initial(experiment: Experiment) -> tuple[dict, list[str]]:
  """What a run starts from: {name: array}, and lines that say what it is.

  Raises:
    ValueError: it cannot be loaded, or does not fit the model.
  """
  init = experiment.init_from
  found = load.read(init.checkpoint, step=init.step)
  arrays, changes = init_from.fit(
    found.model,
    found.arrays,
    experiment.model,
    init.dont_load,
    found.spec.path,
  )
  lines = [f"starting from {found}", *(f"  {line}" for line in changes)]
  return arrays, "\n".join(lines).splitlines()
