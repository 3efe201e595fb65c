"""`cli.sample --judge`: a classifier that compares samples with real images."""

import dataclasses
from typing import Any

import numpy as np

from flexivit_jax.checkpoints import load
from flexivit_jax.checkpoints.model import LoadedModel, StoredModel
from flexivit_jax.cli import data_arguments
from flexivit_jax.core.errors import ConfigError, config_errors_at
from flexivit_jax.core.sizes import parse_hw, size_name
from flexivit_jax.core.text import align
from flexivit_jax.data.loading import eval_loader
from flexivit_jax.data.loading import example as example_lib
from flexivit_jax.data.pixels import preprocessing, resize
from flexivit_jax.data.pixels import transforms as transforms_lib
from flexivit_jax.data.sources.arrays import Arrays
from flexivit_jax.evaluation import eval_transforms, generated
from flexivit_jax.models.backbone import check_patch_size

BATCH = 250


def add_arguments(add) -> None:
  add(
    "--judge",
    metavar="CLASSIFIER",
    help="a checkpoint that gives the same classes; real images are those of "
    "--data, or the run's test data",
  )
  add(
    "--judge_patch_size",
    help="at which it is used; default: its own, where it has one",
  )
  add(
    "--copies",
    action="store_true",
    help="compare with the run's training images too: are samples copies?",
  )


@dataclasses.dataclass(frozen=True)
class Judge:
  """A classifier with what it says of real images.

  Attributes:
    image_hw: that images are resized to, in pixels.
    real: images u8 `[n, h, w, c]` of the samples' size.
    training: the same, that the samples may be copies of; None: not asked.
    features: of the real images, `[n, d]`.
    accuracy: on the real images.
    data: what these are.
  """

  vit: LoadedModel
  patch_hw: tuple[int, int]
  image_hw: tuple[int, int]
  real: np.ndarray
  training: np.ndarray | None
  features: np.ndarray
  accuracy: float
  data: str

  def check(self, count: int) -> None:
    """Refuses so few samples that nothing can be said of them.

    Raises:
      ConfigError: naming how many there must be.
    """
    with config_errors_at("--count"):
      generated.check_counts(count, len(self.features))

  def judge(
    self, samples: np.ndarray, asked: np.ndarray | None
  ) -> dict[str, Any]:
    """As JSON, of u8 images and the classes that were asked for; None: none
    were."""
    answers, features = _answers(
      self.vit, samples, self.image_hw, self.patch_hw
    )
    found = generated.judge(asked, answers, features, self.features)
    copies = None
    if self.training is not None:
      near = generated.copies(samples, self.real, self.training)
      copies = dataclasses.asdict(near)
    return {
      "judge": self.vit.spec.path,
      "judge_patch_size": size_name(self.patch_hw),
      "judge_image_size": list(self.image_hw),
      "judge_accuracy": self.accuracy,
      "real_data": self.data,
      **dataclasses.asdict(found),
      "copies": copies,
    }

  def table(self, judged: dict[str, Any]) -> str:
    """Lines that a user reads."""
    rows = []
    if judged["asked_share"] is not None:
      by_class = judged["asked_share_by_class"].values()
      rows = [
        ("assigned to the asked class", f"{judged['asked_share']:.1%}"),
        ("the same of the worst class", f"{min(by_class):.1%}"),
      ]
    rows += [
      ("Frechet distance of features", f"{judged['frechet_distance']:.4g}"),
      (
        "the same of two halves of the real images",
        f"{judged['real_frechet_distance']:.4g}",
      ),
      ("precision (3 nearest neighbours)", f"{judged['precision']:.1%}"),
      ("recall", f"{judged['recall']:.1%}"),
    ]
    if copies := judged["copies"]:
      rows += [
        (
          "RMS difference from the nearest training image, of 255",
          f"{copies['nearest']:.3g}",
        ),
        ("the same of the real images", f"{copies['real_nearest']:.3g}"),
        (
          "nearer to one than 99 % of the real ones",
          f"{copies['nearer_share']:.1%}",
        ),
      ]
    few = min(judged["generated"], judged["real"])
    wanted = self.features.shape[1]
    chance = (
      f"\nA Frechet distance of {wanted} features from {few} images is mostly "
      "chance: it takes more of both."
    )
    return (
      f"{judged['generated']} samples and {judged['real']} real images "
      f"({self.data}), by the features of {self.vit.spec.path} at patch size "
      f"{judged['judge_patch_size']}, which is right on {self.accuracy:.1%} of "
      f"the real ones:\n{align(rows, left=1)}\nThese are no FID and no "
      "published precision: compare them with each other alone."
      f"{chance if few <= wanted else ''}"
    )


def open_judge(args, found: StoredModel, image_hw) -> Judge:
  """The classifier, after it has seen the real images.

  Args:
    found: that is judged.
    image_hw: of the samples; real images have it before they are resized.

  Raises:
    ConfigError: it cannot judge these.
  """
  run = found.spec.experiment
  if isinstance(run.train.source, Arrays):
    raise ConfigError(
      "--judge compares pictures, and the samples are other arrays: decode "
      "them, and judge what comes out"
    )
  with config_errors_at("--judge"):
    vit = load.load(args.judge)
    if vit.model.channels != found.model.channels:
      raise ValueError(
        f"{args.judge} sees {vit.model.channels} channels, and the samples "
        f"have {found.model.channels}"
      )
    known = vit.spec.classes
    if not vit.model.num_classes or known != found.spec.classes:
      raise ValueError(
        f"{args.judge} does not tell the {len(found.spec.classes)} classes of "
        f"{found.spec.path} apart: give a classifier of the same data"
      )
  with config_errors_at("--judge_patch_size"):
    patch_hw = vit.spec.patch_size
    if args.judge_patch_size is not None:
      patch_hw = parse_hw(args.judge_patch_size)
    if patch_hw is None:
      raise ConfigError(
        f"{args.judge} was trained at several patch sizes: give "
        "--judge_patch_size"
      )
    judge_hw = image_hw
    if vit.spec.experiment is not None:
      judge_hw = eval_transforms.trained_hw(vit.spec.experiment) or image_hw
    check_patch_size(vit.model, judge_hw, patch_hw)
  mode = data_arguments.choose_mode(args, run)
  with config_errors_at("--data" if args.data else "config.test"):
    real, labels, data = _real(args, run, mode, image_hw)
  training = _training(run, mode, image_hw) if args.copies else None
  answers, features = _answers(vit, real, judge_hw, patch_hw)
  accuracy = float((answers == labels).mean())
  return Judge(
    vit, patch_hw, judge_hw, real, training, features, accuracy, data
  )


def _real(args, run, mode, image_hw):
  """Images u8 `[n, h, w, c]` of the samples' size, labels, and their name."""
  if args.data is not None:
    spec, transforms = data_arguments.source(args, image_hw[0]), ()
  elif run.test is None:
    raise ConfigError("the run has no test data: give --data")
  else:
    spec, transforms = run.test.source, run.test.transforms
  found, labels = _images(spec, transforms, mode, image_hw)
  return found, labels, data_arguments.describe(spec, mode)


def _training(run, mode, image_hw):
  """The training images u8 `[n, h, w, c]`, cut as the test images are; mirrored
  too, where the training mirrors."""
  transforms = () if run.test is None else run.test.transforms
  found, _ = _images(run.train.source, transforms, mode, image_hw)
  if any(isinstance(x, transforms_lib.Flip) for x in run.train.transforms):
    found = np.concatenate([found, found[:, :, ::-1]])
  return found


def _images(spec, transforms, mode, image_hw):
  """All images of a source, of this size, and their labels."""
  eval_loader.refuse_random(transforms)
  example = example_lib.Example(
    preprocessing.open_source(spec, mode), transforms
  )
  pairs = [example(i, None) for i in range(len(example.source))]
  found = np.stack([_resized(image, image_hw) for image, _ in pairs])
  return found, np.array([y for _, y in pairs])


def _answers(vit, pixels, image_hw, patch_hw):
  """Classes `[n]` and features f32 `[n, d]` of u8 images."""
  pixels = np.stack([_resized(image, image_hw) for image in pixels])
  parts = [
    vit.outputs(pixels[i : i + BATCH], patch_hw)
    for i in range(0, len(pixels), BATCH)
  ]
  logits, features = (
    np.concatenate([np.asarray(part[name], np.float32) for part in parts])
    for name in ("logits", "pooled")
  )
  return logits.argmax(axis=-1), features


def _resized(image, hw):
  if image.shape[:2] == tuple(hw):
    return image
  return resize.resize(image, hw)
