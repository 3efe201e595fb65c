"""Ridge regression on drawn features, against the problem solved as it is."""

import numpy as np
import pytest

from flexivit_jax.evaluation.linear_probe import ridge

CLASSES = tuple("abc")


def made_up(rng, images, columns, classes=3, spread=1.0):
  """Features around a centre of each class, of scales from 0.01 to 100."""
  labels = np.arange(images) % classes
  centres = rng.normal(size=(classes, columns))
  noise = spread * rng.normal(size=(images, columns))
  scales = 10 ** rng.uniform(-2, 2, size=columns)
  shifted = (centres[labels] + noise) * scales + rng.normal(size=columns)
  order = rng.permutation(images)
  return shifted[order], labels[order]


def scores_by_lstsq(x, labels, classes, penalty, other):
  """The protocol as it is written down, solved as one augmented system."""
  mean, std = x.mean(axis=0), x.std(axis=0) + 1e-5

  def columns(x):
    return np.concatenate([(x - mean) / std, np.full((len(x), 1), 100)], 1)

  targets = np.where(labels[:, None] == np.arange(classes), 1.0, -1.0)
  d = x.shape[1] + 1
  system = np.concatenate([columns(x), penalty**0.5 * np.eye(d)])
  right = np.concatenate([targets, np.zeros((d, classes))])
  weights, *_ = np.linalg.lstsq(system, right)
  return columns(other) @ weights


@pytest.mark.parametrize("penalty", [1.0, 1024.0, 1e6])
# Primal, square, dual and one shot.
@pytest.mark.parametrize("images", [60, 21, 12, 3])
def test_closed_form_is_the_solution(images, penalty):
  rng = np.random.default_rng(images)
  x, labels = made_up(rng, images, 20)
  other, _ = made_up(rng, 50, 20)
  fit = ridge.ridge(x, labels, CLASSES)
  assert fit.eigenvalues.shape == (min(images, 21),)  # the smaller problem
  linear = fit.at(penalty)
  # Rounding of the Gram matrix counts by its largest eigenvalue (1e4 a row)
  # over the penalty: at penalty 1 the worst of 25 was 1.3e-11 of the largest
  # score, at the others 1.2e-13. A penalty of 1 % more errs by 2.7e-4.
  expected = scores_by_lstsq(x, labels, 3, penalty, other)
  found = other @ linear.kernel + linear.bias
  atol = 1e-10 * np.abs(expected).max()
  np.testing.assert_allclose(found, expected, rtol=0, atol=atol)
  wrong = scores_by_lstsq(x, labels, 3, 1.01 * penalty, other)
  assert np.abs(wrong - expected).max() > 1e5 * atol


def test_rounding_is_no_signal_at_the_least_penalty():
  """Where a feature was constant, and where others repeat each other."""
  rng = np.random.default_rng(0)
  x, labels = made_up(rng, 90, 5)
  x = np.concatenate([x, x, np.full((90, 1), 0.1)], axis=1)
  fit = ridge.ridge(x, labels, CLASSES)
  plain = ridge.ridge(x[:, :5], labels, CLASSES)
  assert (fit.eigenvalues >= 0).all()
  # Twice the same column is one column at half the penalty.
  linear = fit.at(2 * ridge.LEAST_PENALTY)
  half = plain.at(ridge.LEAST_PENALTY)
  found = x @ linear.kernel + linear.bias
  expected = x[:, :5] @ half.kernel + half.bias
  # Scores are of order 1. The worst of ten seeds was 4.1e-12; at the same
  # penalty for both they differ by 1.5e-8.
  np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)


def test_a_draw_is_balanced_and_takes_nothing_twice():
  labels = np.random.default_rng(0).integers(0, 3, 200)
  draw = ridge.draw(labels, CLASSES, 25, seed=3)
  assert draw.shape == (3, 25)
  for label, own in enumerate(draw):
    assert (labels[own] == label).all()
    assert len(np.unique(own)) == 25
  # The same again, another with another seed; fewer are the first of more.
  np.testing.assert_array_equal(draw, ridge.draw(labels, CLASSES, 25, 3))
  np.testing.assert_array_equal(draw[:, :4], ridge.draw(labels, CLASSES, 4, 3))
  other = ridge.draw(labels, CLASSES, 25, seed=4)
  assert not set(map(tuple, draw)) & set(map(tuple, other))
  # All that there are, at the most.
  least = np.bincount(labels).min()
  assert ridge.draw(labels, CLASSES, least, 0).shape == (3, least)


def test_what_cannot_be_fitted_is_refused():
  x, labels = made_up(np.random.default_rng(0), 9, 2)
  bad = x.copy()
  bad[3, 1], bad[4, 0] = np.nan, np.inf
  for call, text in (
    (
      lambda: ridge.draw(np.array([0, 0, 1, 1, 1, 2, 2]), CLASSES, 3, seed=0),
      "3 shots, but class 'a' has 2 training images, .*: give at most 2, or",
    ),
    (
      lambda: ridge.draw(np.array([0, 0, 1]), CLASSES, 1, seed=0),
      "1 shot, but class 'c' has 0 training images: give data with more",
    ),
    (
      lambda: ridge.ridge(bad, labels, CLASSES),
      "features of 2 of 9 images are not finite",
    ),
    (
      lambda: ridge.ridge(x[:2], np.array([1, 1]), CLASSES),
      "no training image of a, c",
    ),
    *(
      (
        lambda p=penalty: ridge.ridge(x, labels, CLASSES).at(p),
        f"penalty {penalty:g}: give a finite number of at least 1e-06",
      )
      for penalty in (0.0, np.nan, np.inf)
    ),
  ):
    with pytest.raises(ValueError, match=text):
      call()


def test_the_penalty_is_chosen_on_validation_images_alone():
  """Also where the test would have preferred another."""
  rng = np.random.default_rng(0)
  x, labels = made_up(rng, 60, 40, spread=2)
  draws = [ridge.Images(x[own::2], labels[own::2]) for own in (0, 1)]
  fits = [ridge.ridge(d.features, d.labels, CLASSES) for d in draws]
  penalties = [1.0, 1e8]
  far = 3 * made_up(rng, 4000, 40)[0]
  weak, strong = (fits[0].at(p) for p in penalties)

  def answers(linear):
    return (far @ linear.kernel + linear.bias).argmax(axis=1)

  differ = answers(weak) != answers(strong)
  assert differ.sum() > 100
  likes_weak = ridge.Images(far[differ], answers(weak)[differ])
  likes_strong = ridge.Images(far[differ], answers(strong)[differ])
  for test in (likes_weak, likes_strong):
    for validation, best in ((likes_weak, 1.0), (likes_strong, 1e8)):
      options = dict(penalties=penalties, validation=validation)
      found = ridge.measure(draws[:1], test, CLASSES, shots=10, **options)
      assert found.penalty == best
      assert found.top1 == (float(test is validation),)
  # Of equal ones the largest, in whatever order they come.
  same = ridge.Images(x, np.full(60, 7))  # a class that nobody answers
  for order in (penalties, penalties[::-1]):
    found = ridge.measure(
      draws, test, CLASSES, shots=10, penalties=order, validation=same
    )
    assert found.penalty == 1e8
    assert len(found.top1) == 2
  with pytest.raises(ValueError, match="2 penalties and no validation images"):
    ridge.measure(draws, test, CLASSES, shots=10, penalties=penalties)


def test_mean_and_standard_error():
  found = ridge.Accuracy(5, 1024.0, (0.5, 0.6, 0.7))
  assert found.mean == pytest.approx(0.6)
  # Deviation 0.1 with 2 degrees of freedom, over the root of 3 draws.
  assert found.standard_error == pytest.approx(0.1 / 3**0.5)
  assert ridge.Accuracy(5, 1024.0, (0.5,)).standard_error is None
