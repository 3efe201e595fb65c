"""Measures of generated images against closed forms."""

import numpy as np
import pytest

from benchmarks import sample_metrics


def _with_moments(rng, n, mean, covariance):
  """Features of exactly these moments."""
  x = rng.normal(size=(n, len(mean)))
  x -= x.mean(0)
  own = np.linalg.cholesky(np.cov(x.T))
  wanted = np.linalg.cholesky(covariance)
  return x @ np.linalg.inv(own).T @ wanted.T + mean


def _covariance(rng, d):
  root = rng.normal(size=(d, d))
  return root @ root.T + 0.1 * np.eye(d)


def test_frechet_distance_is_that_of_the_moments():
  rng = np.random.default_rng(0)
  means = rng.normal(size=(2, 5))
  covariances = [_covariance(rng, 5) for _ in range(2)]
  a, b = (
    _with_moments(rng, n, *moments)
    for n, moments in zip((50, 80), zip(means, covariances))
  )
  # The roots of the eigenvalues of A B, which no code here computes.
  values = np.linalg.eigvals(covariances[0] @ covariances[1]).real
  want = np.square(means[0] - means[1]).sum() + np.trace(sum(covariances))
  want -= 2 * np.sqrt(values).sum()
  found = sample_metrics.frechet_distance(a, b)
  # Float64; moments are made to 1e-12.
  np.testing.assert_allclose(found, want, rtol=1e-9)
  np.testing.assert_allclose(
    sample_metrics.frechet_distance(b, a), want, rtol=1e-9
  )


LINE = np.arange(5.0)[:, None]  # each has its nearest neighbour at 1


def test_precision_and_recall_on_a_line():
  # Within 1 of the line: -1 and 4.5; without: 5.5 and 100.
  made = np.array([[-1.0], [4.5], [5.5], [100.0]])
  precision, recall = sample_metrics.precision_recall(LINE, made, neighbours=1)
  assert precision == 2 / 4
  # -1 reaches 5.5 far, 4.5 and 5.5 reach 1 and 100 reaches 94.5.
  assert recall == 5 / 5
  precision, recall = sample_metrics.precision_recall(
    LINE, np.array([[4.0], [4.1], [4.2]]), neighbours=1
  )
  assert (precision, recall) == (1.0, 1 / 5)


def test_all_measures_of_one_comparison():
  x = np.random.default_rng(3).normal(size=(40, 3))
  asked, answers = np.array([0, 0, 2, 2, 2]), np.array([0, 1, 2, 2, 2])
  found = sample_metrics.measures(asked, answers, x[:5], x)
  halves = sample_metrics.frechet_distance(x[::2], x[1::2])
  precision, recall = sample_metrics.precision_recall(x, x[:5])
  assert found == {
    "asked_share": 4 / 5,
    "asked_share_by_class": {0: 0.5, 2: 1.0},
    "frechet_distance": sample_metrics.frechet_distance(x, x[:5]),
    "real_frechet_distance": halves,
    "precision": precision,
    "recall": recall,
    "generated": 5,
    "real": 40,
  }
  nothing = sample_metrics.measures(None, answers, x[:5], x)
  assert nothing == found | {"asked_share": None, "asked_share_by_class": {}}


def test_too_few_images():
  with pytest.raises(ValueError, match="5 and 1 images"):
    sample_metrics.frechet_distance(LINE, LINE[:1])
  text = "3 generated and 5 real images: .* need more than 3 of each"
  with pytest.raises(ValueError, match=text):
    sample_metrics.precision_recall(LINE, LINE[:3])


def _pictures(rng, n):
  return rng.integers(0, 256, (n, 4, 4, 3), np.uint8)


def test_copies_are_found(monkeypatch):
  rng = np.random.default_rng(2)
  training, real, fresh = (_pictures(rng, n) for n in (300, 400, 500))
  found = sample_metrics.copies(training[:50], real, training)
  assert (found["nearest"], found["nearer_share"]) == (0, 1)
  found = sample_metrics.copies(fresh, real, training)
  # Images of the same kind are as near as the real ones: a hundredth of 500,
  # within four deviations of the binomial of both.
  deviation = np.sqrt(0.01 * (1 / 500 + 1 / 400))
  assert abs(found["nearer_share"] - 0.01) < 4 * deviation
  # The difference that is least, by hand.
  differences = fresh[:, None].astype(float) - training[None]
  root = np.sqrt(np.square(differences).mean((2, 3, 4))).min(1)
  np.testing.assert_allclose(found["nearest"], np.median(root), rtol=1e-12)
  # Whatever number is compared at once.
  monkeypatch.setattr(sample_metrics, "CHUNK", 7)
  assert sample_metrics.copies(fresh, real, training) == found
