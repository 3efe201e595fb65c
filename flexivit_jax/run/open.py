"""Opens and checks all that a run needs, before anything expensive starts."""

import functools
import pathlib
from collections.abc import Callable

import numpy as np

from flexivit_jax.checkpoints import init_from, load, provenance, run_directory
from flexivit_jax.config import build, overrides
from flexivit_jax.config.experiment import Experiment
from flexivit_jax.core.errors import ConfigError, config_errors_at
from flexivit_jax.core.patch_size import ScheduledPatchSize
from flexivit_jax.data.dataset import check_same_classes
from flexivit_jax.data.loading import eval_loader
from flexivit_jax.data.packing import survey
from flexivit_jax.data.pixels import decode
from flexivit_jax.data.sources.source import dtype_of
from flexivit_jax.devices import mesh as mesh_lib
from flexivit_jax.devices import placement
from flexivit_jax.devices.processes import ALONE, Processes, check_same
from flexivit_jax.models import cost, shared_rows
from flexivit_jax.nn.stems import stem
from flexivit_jax.run import teacher as teacher_lib
from flexivit_jax.run.loaders import eval_reading, teacher_hw, train_loader
from flexivit_jax.run.profile import Window
from flexivit_jax.run.programs import Run
from flexivit_jax.tasks import distillation
from flexivit_jax.tasks.diffusion import Diffusion


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
  with config_errors_at("config.model"):
    shared_rows.check_model(experiment.model, parts=mesh.shape["seq"])
  if experiment.packing is not None:  # before its images are looked at
    with config_errors_at("config.model"):
      stem.check_packing(experiment.model.stem)
    length = experiment.packing.row_length
    _check_length(experiment, mesh, "config.packing.row_length", length)
  with config_errors_at("config.writers"):
    for writer in experiment.writers:
      writer.check()
  with config_errors_at("config.batch_size"):
    mesh_lib.check_batch_size(experiment.batch_size, mesh)
  with config_errors_at("config.accumulate"):
    mesh_lib.check_accumulation(
      experiment.accumulate, experiment.batch_size, mesh
    )
  with config_errors_at("config.train"):
    source = experiment.open(experiment.train)
    experiment = experiment.for_classes(source.classes)
    _check_arrays(experiment, source)
    loader = train_loader(experiment, source, shard)
  looked_at, images_per_step = {}, experiment.batch_size
  taken_per_step = images_per_step
  if experiment.packing is None:
    experiment.check_patch_sizes(loader.image_hw)
  else:
    with config_errors_at("config.train"):
      seen = survey.scan(loader.cut_images, experiment.packing)
    report("\n".join(survey.describe(seen, experiment.batch_size)))
    looked_at = {"scan": survey.to_json(seen)}
    images_per_step *= seen.now.images_per_row
    taken_per_step *= seen.now.taken_per_row
  opened, validation = {"train": source}, None
  if experiment.validation is not None:
    with config_errors_at("config.validation"):
      opened["validation"] = experiment.open(experiment.validation)
      check_same_classes(source, opened["validation"])
      validation = eval_reading(
        experiment.validation,
        opened["validation"],
        experiment.patch_size.sizes,
        model=experiment.model,
        packing=experiment.packing,
        batch_size=mesh_lib.round_up(experiment.eval_batch_size, mesh),
        on_bad_image=experiment.on_bad_image,
        shard=shard,
        peers=peers,
      )
    for setting in validation.settings:
      if setting.image_hw is not None:
        _check_tiling(experiment, setting.image_hw)
  if experiment.test is not None:
    with config_errors_at("config.test"):
      check_same_classes(source, experiment.open(experiment.test))
      if experiment.test.resolution is not None:
        eval_loader.refuse_random(
          (*experiment.test.transforms, experiment.test.resolution)
        )
  _check_shared_rows(experiment, mesh, loader, validation)
  total_steps = experiment.num_steps(len(source), taken_per_step)
  teacher, taught_by = None, {}
  learns = isinstance(experiment.task, distillation.Distill)
  if learns and not has_step(total_steps):
    with config_errors_at("config.task.teacher"):
      opened_teacher = teacher_lib.load(
        experiment.task.teacher,
        source.classes,
        experiment.model.num_classes,
        teacher_hw(experiment) or loader.image_hw,
      )
    report("\n".join(("taught by", *opened_teacher.description)))
    teacher = placement.replicate(opened_teacher.teacher, mesh)
    taught_by = {"teacher": {"fingerprint": opened_teacher.digest}}
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
    loader=loader,
    validation=validation,
    images_per_step=images_per_step,
    tx=tx,
    record={
      "config": build.to_json(experiment),
      "data": {
        name: {"fingerprint": source.fingerprint, "images": len(source)}
        for name, source in opened.items()
      }
      | taught_by,
      "classes": list(source.classes),
      "provenance": provenance.describe(),
      **origin,
      **looked_at,
    },
    initial=initial,
    teacher=teacher,
    peers=peers,
  )
  with config_errors_at("config.model"):
    run.parameter_shapes  # noqa: B018 (initialises without computing)
  with config_errors_at("config.optimizer"):
    run.state_shapes  # noqa: B018 (the same)
  return run


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


def _check_length(experiment: Experiment, mesh, place, length):
  with config_errors_at(place):
    shared_rows.check_length(
      experiment.model, length=length, parts=mesh.shape["seq"]
    )


def _check_arrays(experiment: Experiment, source) -> None:
  """Refuses another number of channels; and what takes pictures alone, of data
  that are other arrays."""
  pictures = dtype_of(source) == np.uint8
  channels = decode.CHANNELS if pictures else source.image(0).shape[-1]
  if channels != experiment.model.channels:
    what = "pictures" if pictures else "arrays"
    raise ConfigError(
      f"config.model.channels is {experiment.model.channels}, and the {what} "
      f"of config.train have {channels}: give config.model.channels={channels}"
    )
  if pictures:
    return
  for name in ("validation", "test"):
    data = getattr(experiment, name)
    scale = getattr(data and data.source, "scale", None)
    wanted = experiment.train.source.scale
    if scale not in (None, wanted):
      raise ConfigError(
        f"config.{name}.source.scale is {scale:g}, and that of config.train "
        f"{wanted:g}: give both the same"
      )
  for name in ("packing", "mix"):
    if getattr(experiment, name):
      raise ConfigError(
        f"config.{name} is for pictures, and config.train has arrays of "
        "floats: leave it out"
      )
  task = experiment.task
  if isinstance(task, Diffusion) and task.sampler.clip:
    low, high = float(source.pixels.min()), float(source.pixels.max())
    if not -1 <= low <= high <= 1:
      raise ConfigError(
        f"config.task.sampler.clip keeps samples in [-1, 1], and the arrays of "
        f"config.train lie in [{low:.3g}, {high:.3g}]: give "
        "config.task.sampler.clip=False, or a source.scale to each data"
      )


def _check_shared_rows(experiment: Experiment, mesh, loader, validation):
  """Refuses rows of patches that the devices could not share."""
  check = functools.partial(_check_length, experiment, mesh)
  if experiment.packing is None:
    for size in experiment.patch_size.sizes:
      place = "config.patch_size {}x{}".format(*size)
      check(place, cost.tokens(loader.image_hw, size))
  if validation is None:
    return
  for view, settings in enumerate(validation.views):
    for setting in settings:
      if validation.is_packed(view):
        length = validation.loader.example(view).inputs.patches.shape[1]
      else:
        length = cost.tokens(setting.image_hw, setting.patch_hw)
      check("config.validation", length)


def _check_tiling(experiment: Experiment, image_hw) -> None:
  if experiment.packing is None:
    experiment.check_patch_sizes(image_hw)
    return
  try:
    experiment.check_patch_sizes(image_hw)
  except ConfigError as e:
    text = str(e).removeprefix("config.patch_size: ")
    raise ConfigError(
      "config.validation has no resolution, so its images are cut as they are, "
      f"and {text}; or give it a resolution, as config.train has"
    ) from e


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
