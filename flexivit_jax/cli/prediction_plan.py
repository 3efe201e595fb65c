"""What a prediction is to do: arguments chosen, checked and opened."""

import dataclasses
import pathlib
from collections.abc import Sequence

from flexivit_jax.checkpoints.model import LoadedModel
from flexivit_jax.cli import arguments, checkpoint_arguments, data_arguments
from flexivit_jax.config import build
from flexivit_jax.core.errors import ConfigError, config_errors_at
from flexivit_jax.core.resolution import NaFlex
from flexivit_jax.core.sizes import parse_hw
from flexivit_jax.core.text import listed
from flexivit_jax.data.dataset import Dataset
from flexivit_jax.data.loading import bad_images
from flexivit_jax.data.loading.eval_loader import EvalLoader
from flexivit_jax.data.packing import rows as rows_lib
from flexivit_jax.data.packing.eval_loader import PackEvalLoader
from flexivit_jax.data.pixels import preprocessing, transforms
from flexivit_jax.data.sources import named_images
from flexivit_jax.data.sources.source import Source
from flexivit_jax.devices import mesh
from flexivit_jax.evaluation import eval_transforms, predict, prediction_files
from flexivit_jax.models.backbone import check_patch_size
from flexivit_jax.nn.encoder import MAX_SIDE
from flexivit_jax.run.loaders import eval_reading


@dataclasses.dataclass(frozen=True)
class LeaveOut:
  """Bad images are left out, however many: they are the user's to count."""

  skip = True

  def check(self, bad, total):
    del bad, total


@dataclasses.dataclass(frozen=True)
class Plan:
  """What is to be done, checked.

  Attributes:
    images: how they are prepared.
    source: of the images.
    loader: of their batches.
    batch_size: images or rows at once.
    wanted: of each image.
    loss: why those probabilities.
    names: of the classes; "3" where class 3 has none.
    turned: whether EXIF orientations are heeded.
  """

  vit: LoadedModel
  patch_hw: tuple[int, int]
  images: eval_transforms.Preprocessing
  source: Source
  loader: EvalLoader | PackEvalLoader
  batch_size: int
  wanted: predict.Wanted
  loss: str
  names: Sequence[str]
  turned: bool

  def __str__(self):
    (h, w), total = self.patch_hw, len(self.source)
    how = ", ".join(map(repr, self.images.steps))
    if self.source.mode != preprocessing.ANTIALIAS:
      how += f" by {self.source.mode!r}"
    lines = [
      f"{counted(total)}: {how} ({self.images.origin}), patches of {h}x{w}"
    ]
    if self.wanted.probabilities is not None:
      lines.append(f"probabilities: {self.wanted.probabilities} ({self.loss})")
    return "\n".join(lines)

  def facts(self) -> dict:
    """The same as JSON."""
    return {
      "checkpoint": self.vit.spec.path,
      "step": self.vit.spec.step,
      "patch_size": list(self.patch_hw),
      "images": [repr(x) for x in self.images.steps],
      "preprocessing": build.name_of(self.source.mode),
      "exif_transpose": self.turned,
      "probabilities": self.wanted.probabilities,
    }


def choose_output(args) -> pathlib.Path | None:
  if args.output is None:
    if args.features or args.tokens:
      raise ConfigError(
        "--features and --tokens need --output, a directory for features.npz"
      )
    return None
  if args.tokens and not args.features:
    raise ConfigError("--tokens adds to features.npz: give --features as well")
  return arguments.output_directory(args)


def make_plan(args) -> Plan:
  for name in ("top_k", "batch_size"):
    if getattr(args, name) < 1:
      raise ConfigError(f"--{name} {getattr(args, name)}: give at least 1")
  with config_errors_at("IMAGE"):
    found = named_images.find(args.images)
  if found.others:
    kinds = listed(f"{n} {kind}" for kind, n in found.others.items())
    print(f"note: other files are left out: {shown(kinds)}")
  vit = checkpoint_arguments.load_vit(args)
  wanted, loss = choose_wanted(args, vit)
  patch_hw = choose_patch_size(args, vit)
  images = choose_preprocessing(args, vit)
  turned = args.exif_transpose or eval_transforms.turns_images(
    vit.spec.experiment
  )
  if images.resolution is not None:
    with config_errors_at("--patch_size"):
      images.resolution((64, 64), patch_hw, None)  # of any image: Square says
  names = choose_names(args, vit)
  spec = named_images.NamedImages(found.paths, turned)
  rows, packing = choose_rows(args, vit, images, len(found.paths))
  mode = data_arguments.choose_mode(
    args, vit.spec.experiment, packed=images.resolution is not None
  )
  with config_errors_at("--preprocessing"):
    source = preprocessing.open_source(spec, mode)
  policy = LeaveOut() if args.on_bad_image == "skip" else bad_images.ERROR
  with config_errors_at("IMAGE"):
    shown_once = eval_reading(
      Dataset(spec, images.transforms, images.resolution),
      source,
      [patch_hw],
      model=vit.model,
      packing=packing,
      batch_size=rows,
      on_bad_image=policy,
    )
  (setting,) = shown_once.settings
  if setting.image_hw is not None:
    with (
      config_errors_at("--patch_size"),
      data_arguments.offering("--resolution"),
    ):
      check_patch_size(vit.model, setting.image_hw, patch_hw)
  loader = shown_once.loader
  return Plan(
    *(vit, patch_hw, images, source, loader, rows, wanted, loss, names, turned)
  )


def choose_wanted(args, vit) -> tuple[predict.Wanted, str]:
  """What to compute, and why those probabilities."""
  kind, why = args.probabilities, "as asked for"
  if not vit.model.num_classes:
    if kind is not None or not args.features:
      raise ConfigError(
        f"--checkpoint: {vit.spec.path} has no head, so there are no "
        "probabilities: give --output DIR --features"
      )
  elif kind is None:
    kind, why = predict.probabilities_of(vit), "as the run's loss"
    if kind is None:
      kind = "softmax"
      why = "assumed, as it does not say; --probabilities changes it"
  wanted = predict.Wanted(kind, args.top_k, args.features, args.tokens)
  return wanted, why


def choose_patch_size(args, vit) -> tuple[int, int]:
  spec = vit.spec
  if args.patch_size is None:
    if spec.patch_size is not None:
      return spec.patch_size
    sizes = ", ".join(f"{h}x{w}" for h, w in spec.trained_sizes)
    hint = f"it was trained at {sizes}" if sizes else "16, say"
    raise ConfigError(
      f"--patch_size: {spec.path} does not say at which one to use it: give "
      f"one ({hint})"
    )
  with config_errors_at("--patch_size"):
    patch_hw = parse_hw(args.patch_size)
    if max(patch_hw) > MAX_SIDE:
      raise ValueError(
        f"{args.patch_size}: give patches of at most {MAX_SIDE} pixels"
      )
  return patch_hw


def choose_preprocessing(args, vit) -> eval_transforms.Preprocessing:
  data_arguments.check_one_way(args, "budget", "resolution")
  if args.budget is not None:
    with config_errors_at("--budget"):
      resolution = NaFlex(args.budget)
    return eval_transforms.Preprocessing((), resolution, "--budget")
  if args.resolution:
    with config_errors_at("--resolution"):
      resize = transforms.Resize(parse_hw(args.resolution))
    return eval_transforms.Preprocessing((resize,), None, "--resolution")
  usual = eval_transforms.usual(vit, args.checkpoint)
  if usual is None:
    raise ConfigError(
      f"--resolution: {vit.spec.path} does not say at which size of images to "
      "use it: give one, 240 say, or --budget"
    )
  return usual


def choose_names(args, vit) -> list[str]:
  """A name for each class: its number where nobody says."""
  count = vit.model.num_classes or 0
  names = list(vit.spec.classes)
  if args.class_names is not None:
    with config_errors_at("--class_names"):
      names = prediction_files.read_names(args.class_names)
      if len(names) != count:
        raise ValueError(
          f"{args.class_names} has {len(names)} names, and the head of "
          f"{vit.spec.path} {count or 'no'} classes"
        )
  return names + [str(i) for i in range(len(names), count)]


def choose_rows(
  args, vit, images, count: int
) -> tuple[int, rows_lib.Packing | None]:
  """Images or rows at once, no more than there will be, and the rows."""
  packing = None
  if args.budget is not None:
    packing = rows_lib.rows_for(args.budget)
    count = -(-count // (packing.row_length // args.budget))
  elif images.resolution is not None:
    packing = vit.spec.experiment.packing
  rows = min(args.batch_size, count)
  return mesh.round_up(rows, mesh.make_mesh()), packing


def counted(images: int) -> str:
  return f"{images} image{'' if images == 1 else 's'}"


def shown(text: str) -> str:
  """Text that a terminal can print: a path may hold any bytes."""
  return "".join(
    c if c.isprintable() else c.encode("unicode_escape").decode() for c in text
  )
