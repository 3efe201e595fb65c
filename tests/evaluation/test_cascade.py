"""Cascades: where images stop, and what that costs."""

import math

import numpy as np
import pytest
from invented_sweeps import assert_same, ranked

from flexivit_jax.evaluation.cascade import cascade
from flexivit_jax.evaluation.cascade.cascade import STOP, Cascade

LARGE, MIDDLE, SMALL = (12, 12), (6, 8), (4, 4)


def answers(confidence, right, **fields):
  confidence = np.asarray(confidence, np.float32)
  right = np.asarray(right, bool)
  return ranked(~right, confidence=confidence, loss=confidence + 10, **fields)


ANSWERS = {
  LARGE: answers([0.9, 0.5, 0.2, 0.5, 0.8], [1, 0, 0, 1, 0]),
  MIDDLE: answers([0.9, 0.9, 0.3, 0.4, 0.1], [1, 1, 0, 0, 1]),
  SMALL: answers([0.6, 0.7, 0.8, 0.9, 1.0], [1, 0, 1, 1, 1]),
}
COSTS = {LARGE: 1.0, MIDDLE: 3.0, SMALL: 10.0}


@pytest.mark.parametrize(
  ("sizes", "thresholds", "message"),
  [
    ((), (), "no patch size: give at least one"),
    ((SMALL, LARGE), (0.5,), "sizes 4, 12: .*give sizes of decreasing area"),
    ((LARGE, (6, 8), (8, 6)), (0.5, 0.5), "12, 6x8, 8x6: .*decreasing area"),
    ((LARGE, SMALL), (), "0 thresholds for the patch sizes 12, 4: .*last, 1"),
    ((LARGE,), (0.5,), "1 thresholds for the patch sizes 12: .*last, 0"),
    *(
      ((LARGE, MIDDLE, SMALL), (0.5, x), f"threshold {x} .* 6x8: give 0 to 1")
      for x in (1.1, -0.1, -2, math.nan)
    ),
  ],
)
def test_what_is_no_cascade_is_refused(sizes, thresholds, message):
  with pytest.raises(ValueError, match=message):
    Cascade(sizes, thresholds)


def test_who_goes_on():
  """0.1 in float32 is a little more than 0.1, but not more than itself."""
  confidence = np.array([0, 0.1, 0.5, 1, 1 + 1e-6, math.nan], np.float32)

  def drawn(threshold):
    going = cascade.goes_on(confidence, threshold)
    return "".join(".#"[int(x)] for x in going)

  assert drawn(STOP) == "......"
  assert drawn(0.0) == "#....#"
  assert drawn(0.1) == "##...#"
  assert drawn(0.5) == "###..#"
  assert drawn(np.nextafter(np.float32(0.5), np.float32(0))) == "##...#"
  assert drawn(1.0) == "######"


def test_one_that_always_stops_is_the_first_size():
  outcome = cascade.predict(Cascade((LARGE, SMALL), (STOP,)), ANSWERS)
  assert_same(outcome.answers, ANSWERS[LARGE])
  assert outcome.reached == (5, 0)
  assert outcome.cost(COSTS) == 1


@pytest.mark.parametrize("last", [SMALL, MIDDLE])
def test_one_that_never_stops_is_the_last_size(last):
  outcome = cascade.predict(Cascade((LARGE, last), (1.0,)), ANSWERS)
  assert_same(outcome.answers, ANSWERS[last])
  assert outcome.reached == (5, 5)
  assert outcome.cost(COSTS) == 1 + COSTS[last]


def test_each_image_has_the_answer_of_the_size_where_it_stops():
  chosen = Cascade((LARGE, MIDDLE, SMALL), (0.5, 0.4))
  outcome = cascade.predict(chosen, ANSWERS)
  # Of 0.9, 0.5, 0.2, 0.5, 0.8 the three of at most 0.5 go on; of these the
  # two of 0.3 and 0.4, not that of 0.9. The last's 0.1 is never asked for.
  assert outcome.stages.tolist() == [0, 1, 2, 2, 0]
  confidence = np.array([0.9, 0.9, 0.8, 0.9, 0.8], np.float32)
  np.testing.assert_array_equal(outcome.answers.confidence, confidence)
  assert (outcome.answers.rank == 0).tolist() == [1, 1, 1, 1, 0]
  assert outcome.reached == (5, 3, 2)
  assert outcome.cost(COSTS) == (5 * 1 + 3 * 3 + 2 * 10) / 5


def test_answers_on_other_images_are_refused():
  two, five, none = answers([0.5] * 2, [1, 1]), ANSWERS[SMALL], answers([], [])
  turned = answers([0.5] * 2, [1, 1], index=[1, 0])
  for given, message in (
    ({}, "no answers at patch size 12, only at none"),
    ({LARGE: two, MIDDLE: two}, "no answers at patch size 4, only at 12, 6x8"),
    ({LARGE: two, SMALL: five}, "size 4 are on 5 images, those at 12 on 2"),
    ({LARGE: two, SMALL: turned}, "4 are on 2 images, those at 12 on 2 others"),
    ({LARGE: none, SMALL: none}, "no image to choose or to judge a cascade on"),
  ):
    with pytest.raises(ValueError, match=message):
      cascade.predict(Cascade((LARGE, SMALL), (0.5,)), given)


def test_the_difference_of_accuracies_is_paired():
  ours = answers([0.5] * 8, [1, 1, 1, 1, 1, 0, 0, 0])
  others = answers([0.5] * 8, [1, 1, 1, 0, 0, 0, 0, 1])
  # 0, 0, 0, 1, 1, 0, 0, -1: mean 1/8, squares around it sum to 3 - 1/8.
  mean, error = cascade.paired_difference(ours, others)
  assert mean == 1 / 8
  assert error == pytest.approx(math.sqrt((3 - 1 / 8) / 7 / 8), rel=1e-12)
  assert cascade.paired_difference(ours, ours) == (0, 0)
  later = answers([0.5] * 8, [1] * 8, index=range(1, 9))
  for other in (later, answers([0.5], [1])):
    text = f"on 8 and on {len(other)} images: give answers on the same images"
    with pytest.raises(ValueError, match=text):
      cascade.paired_difference(ours, other)
