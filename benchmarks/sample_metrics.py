"""Samples of a diffusion model, judged by a classifier of the same classes.

  python -m benchmarks.sample_metrics --checkpoint runs/dit \\
      --samples samples/samples.npz --judge runs/flexivit --patch_size 6

Real images are those of the run's test data. Prints JSON: docs/diffusion.md.
Published numbers are in features of one Inception network, of tens of thousands
of images: compare these with each other alone.
"""

import argparse
import json
import pathlib
from typing import Any

import numpy as np

from flexivit_jax.checkpoints import load
from flexivit_jax.core.sizes import parse_hw
from flexivit_jax.data.loading import example as example_lib
from flexivit_jax.data.pixels import resize
from flexivit_jax.data.pixels import transforms as transforms_lib
from flexivit_jax.evaluation import eval_transforms

NEIGHBOURS = 3  # arXiv:1904.06991
NEAREST_REAL = 0.01  # share of real images that are called near to training
CHUNK = 4096  # training images that are compared at once
BATCH = 250


def main(argv=None):
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--checkpoint", required=True)
  parser.add_argument("--samples", type=pathlib.Path, required=True)
  parser.add_argument("--judge", required=True)
  parser.add_argument("--patch_size", help="of the judge; default: its own")
  args = parser.parse_args(argv)
  found = judge(args.checkpoint, args.samples, args.judge, args.patch_size)
  print(json.dumps(found, indent=2))


def judge(checkpoint, samples, classifier, patch_size=None) -> dict[str, Any]:
  """Measures of a file of samples, as JSON.

  Args:
    checkpoint: run that they were drawn from.
    samples: `samples.npz` of flexivit sample.
    classifier: checkpoint of a run with the same classes.
    patch_size: of the classifier, "6" say; None: its only one.
  """
  spec = load.read(checkpoint).spec
  vit = load.load(classifier)
  if vit.spec.classes != spec.classes:
    raise ValueError(
      f"{classifier} has other classes than {checkpoint}. Give a classifier of "
      "the same data."
    )
  if patch_size is None and vit.spec.patch_size is None:
    raise ValueError(
      f"{classifier} has several patch sizes. Give --patch_size."
    )
  patch_hw = parse_hw(patch_size) if patch_size else vit.spec.patch_size
  with np.load(samples, allow_pickle=False) as file:
    shown, asked = file["images"], file["labels"] if "labels" in file else None
  run = spec.experiment
  own_hw, transforms = shown.shape[1:3], run.test.transforms
  real, labels = _images(run.open(run.test), transforms, own_hw)
  training, _ = _images(run.open(run.train), transforms, own_hw)
  if any(isinstance(x, transforms_lib.Flip) for x in run.train.transforms):
    training = np.concatenate([training, training[:, :, ::-1]])
  image_hw = eval_transforms.trained_hw(vit.spec.experiment) or own_hw
  answers, features = _answers(vit, shown, image_hw, patch_hw)
  right, real_features = _answers(vit, real, image_hw, patch_hw)
  return {
    "judge": str(classifier),
    "judge_accuracy": float((right == labels).mean()),
    **measures(asked, answers, features, real_features),
    "copies": copies(shown, real, training),
  }


def _images(source, transforms, hw):
  """All images of this size u8 `[n, h, w, c]`, and their labels."""
  example = example_lib.Example(source, transforms)
  pairs = [example(i, None) for i in range(len(source))]
  return _resized([x for x, _ in pairs], hw), np.array([y for _, y in pairs])


def _resized(pixels, hw):
  hw = tuple(hw)
  return np.stack(
    [x if x.shape[:2] == hw else resize.resize(x, hw) for x in pixels]
  )


def _answers(vit, pixels, image_hw, patch_hw):
  """Classes `[n]` and features f32 `[n, d]` of u8 images."""
  pixels = _resized(pixels, image_hw)
  parts = [
    vit.outputs(pixels[i : i + BATCH], patch_hw)
    for i in range(0, len(pixels), BATCH)
  ]
  logits, features = (
    np.concatenate([np.asarray(part[name], np.float32) for part in parts])
    for name in ("logits", "pooled")
  )
  return logits.argmax(axis=-1), features


def copies(generated, real, training) -> dict[str, float]:
  """Distances to the nearest training image, of generated and of real images.

  Root mean square differences in levels of 0 to 255; medians over the images.
  `nearer_share` is the share of generated images nearer to a training image
  than the nearest hundredth of the real ones: about a hundredth, if they are
  as new as these.

  Args:
    generated, real, training: u8 `[n, h, w, c]`, each another n.
  """
  own, others = (_nearest(x, training) for x in (generated, real))
  return {
    "nearest": float(np.median(own)),
    "real_nearest": float(np.median(others)),
    "nearer_share": float((own < np.quantile(others, NEAREST_REAL)).mean()),
    "training": len(training),
  }


def _nearest(images, training):
  """Root mean square difference from the nearest, `[n]`."""
  images, training = (x.reshape(len(x), -1) for x in (images, training))
  images = images.astype(np.float64)
  chunks = range(0, len(training), CHUNK)
  found = np.min(
    [
      _distances(images, training[i : i + CHUNK].astype(np.float64)).min(axis=1)
      for i in chunks
    ],
    axis=0,
  )
  return np.sqrt(found / images.shape[1])


def measures(asked, answers, features, real_features) -> dict[str, Any]:
  """Compare generated with real images.

  Args:
    asked, answers: classes `[n]` of the generated images; asked None: none
      were.
    features, real_features: `[n, d]` and `[m, d]`.
  """
  precision, recall = precision_recall(real_features, features)
  share, by_class = None, {}
  if asked is not None:
    right = answers == asked
    share = float(right.mean())
    by_class = {
      int(c): float(right[asked == c].mean()) for c in np.unique(asked)
    }
  halves = real_features[::2], real_features[1::2]
  return {
    "asked_share": share,
    "asked_share_by_class": by_class,
    "frechet_distance": frechet_distance(real_features, features),
    # What so few images cannot do better than.
    "real_frechet_distance": frechet_distance(*halves),
    "precision": precision,
    "recall": recall,
    "generated": len(features),
    "real": len(real_features),
  }


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
  """|mean a - mean b|^2 + tr(A + B - 2 (A B)^(1/2)) with the covariances A and
  B: squared, of the normal distributions that fit best (arXiv:1706.08500).

  Args:
    a, b: features `[n, d]` and `[m, d]`, of at least two images each.

  Raises:
    ValueError: there are too few.
  """
  if min(len(a), len(b)) < 2:
    raise ValueError(
      f"{len(a)} and {len(b)} images: a Frechet distance needs 2 of each"
    )
  a, b = (np.asarray(x, np.float64) for x in (a, b))
  means = np.square(a.mean(0) - b.mean(0)).sum()
  x, y = (_centred(x) for x in (a, b))
  # (A B)^(1/2) has the trace of the singular values of A^(1/2) B^(1/2), which
  # are those of x y^T where A = x^T x and B = y^T y.
  roots = np.linalg.svd(x @ y.T, compute_uv=False).sum()
  return float(means + np.square(x).sum() + np.square(y).sum() - 2 * roots)


def _centred(x):
  """x with x^T x the covariance, of no more rows than columns."""
  x = (x - x.mean(0)) / np.sqrt(len(x) - 1)
  return np.linalg.qr(x, mode="r") if len(x) > x.shape[1] else x


def precision_recall(
  real: np.ndarray, generated: np.ndarray, neighbours: int = NEIGHBOURS
) -> tuple[float, float]:
  """Shares of the generated images within the real ones' manifold, and of the
  real ones within the generated ones' (Kynkaanniemi et al., arXiv:1904.06991).

  A manifold is all that lies no farther from one of its images than that one's
  k-th nearest neighbour among them.

  Args:
    real, generated: features `[n, d]` and `[m, d]`.
    neighbours: k.

  Raises:
    ValueError: there are too few images to have so many neighbours.
  """
  if min(len(real), len(generated)) <= neighbours:
    raise ValueError(
      f"{len(generated)} generated and {len(real)} real images: precision and "
      f"recall need more than {neighbours} of each"
    )
  real, generated = (np.asarray(x, np.float64) for x in (real, generated))
  across = _distances(generated, real)
  within_real = across <= _radii(real, neighbours)[None]
  within_generated = across.T <= _radii(generated, neighbours)[None]
  return (
    float(within_real.any(axis=1).mean()),
    float(within_generated.any(axis=1).mean()),
  )


def _radii(x, neighbours):
  # The nearest of all is the image itself.
  return np.partition(_distances(x, x), neighbours, axis=1)[:, neighbours]


def _distances(a, b):
  """Squared, `[n, m]`, but for rounding."""
  left, right = (np.square(x).sum(-1) for x in (a, b))
  return np.maximum(left[:, None] + right[None] - 2 * a @ b.T, 0)


if __name__ == "__main__":
  main()
