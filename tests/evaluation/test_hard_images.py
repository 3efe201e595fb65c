"""Which images are chosen, on losses written by hand."""

import dataclasses

import invented_sweeps
import numpy as np
import pytest

from flexivit_jax.evaluation.report import hard_images
from flexivit_jax.evaluation.settings import Setting

AT_240 = [Setting((p, p), (240, 240)) for p in (24, 12, 8)]


def sweep_of(where, probabilities, index=(10, 11, 12, 13)):
  """Of exp(-loss) at each point `[points, images]`; right above a half."""
  probabilities = np.array(probabilities)
  made = invented_sweeps.sweep(where, images=probabilities.shape[1])
  answers = []
  for row in probabilities:
    right = row > 0.5
    answers.append(
      dataclasses.replace(
        made.answers[0],
        index=np.array(index[: len(row)]),
        loss=-np.log(row).astype(np.float32),
        predicted=np.where(right, made.answers[0].label, 99),
        rank=np.where(right, 0, 3),
      )
    )
  return dataclasses.replace(made, answers=tuple(answers))


def test_the_worst_have_the_highest_loss_at_that_point():
  sweep = sweep_of(
    AT_240, [[0.9, 0.9, 0.9, 0.1], [0.2, 0.9, 0.6, 0.3], [0.9, 0.9, 0.1, 0.9]]
  )
  found = hard_images.worst(sweep, sweep.points[1], 3)
  assert [one.index for one in found] == [10, 13, 12]
  # In float32, the type of the losses.
  assert found[0].score == pytest.approx(-np.log(0.2), rel=1e-6)
  (answer,) = found[0].answers
  assert answer == (sweep.points[1], 99, False)
  assert found[2].answers[0][2]
  assert found[2].answers[0][1] == found[2].label
  assert len(hard_images.worst(sweep, sweep.points[1], 100)) == 4
  # A loss that is no number is the worst.
  sweep = sweep_of(AT_240[:1], [[0.9, np.nan, 0.1]])
  found = hard_images.worst(sweep, sweep.points[0], 2)
  assert (found[0].index, found[0].score) == (11, np.inf)


def test_sensitive_is_the_deviation_over_patch_sizes():
  sweep = sweep_of(
    AT_240, [[0.1, 0.5, 0.8, 0.3], [0.9, 0.5, 0.9, 0.3], [0.9, 0.5, 0.1, 0.4]]
  )
  found = hard_images.sensitive(sweep, 10)
  # Image 11 is the same everywhere, and left out.
  assert [one.index for one in found] == [10, 12, 13]
  scores = [one.score for one in found]
  expected = [np.std(x) for x in ([0.1, 0.9, 0.9], [0.8, 0.9, 0.1], [3, 3, 4])]
  expected[2] /= 10
  # exp(-loss) of float32 losses.
  np.testing.assert_allclose(scores, expected, rtol=1e-5)
  # The best patch size first, then the worst.
  for one, worst in zip(found[:2], ("24_at_240", "8_at_240"), strict=True):
    shown = [(p.setting.name, right) for p, _, right in one.answers]
    assert shown == [("12_at_240", True), (worst, False)]
  assert len(hard_images.sensitive(sweep, 1)) == 1


def test_what_the_resolution_does_is_not_sensitivity_to_patch_size():
  where = [Setting((p, p), (s, s)) for s in (160, 240) for p in (16, 8)]
  sweep = sweep_of(
    where,
    # The first hangs on the resolution alone, the second on the patch size.
    [[0.1, 0.4], [0.1, 0.5], [0.9, 0.4], [0.9, 0.8]],
  )
  (one,) = hard_images.sensitive(sweep, 10)
  assert one.index == 11
  # Deviations of 0.05 at 160 px and of 0.2 at 240 px.
  expected = np.sqrt((0.05**2 + 0.2**2) / 2)
  assert one.score == pytest.approx(expected, rel=1e-5)
  # Both answers that are shown have one resolution.
  sweep = sweep_of(where, [[0.3], [0.4], [0.1], [0.9]])
  (one,) = hard_images.sensitive(sweep, 10)
  names = [p.setting.name for p, _, _ in one.answers]
  assert names == ["8_at_240", "16_at_240"]


def test_images_that_one_point_lacks_are_left_out():
  sweep = sweep_of(AT_240[:2], [[0.1, 0.2, 0.3], [0.9, 0.3, 0.9]])
  shorter = {k: x[1:] for k, x in vars(sweep.answers[1]).items()}
  shorter = dataclasses.replace(sweep.answers[1], **shorter)
  sweep = dataclasses.replace(sweep, answers=(sweep.answers[0], shorter))
  found = hard_images.sensitive(sweep, 10)
  assert [one.index for one in found] == [12, 11]
  assert found[0].score == pytest.approx(0.3, rel=1e-5)
