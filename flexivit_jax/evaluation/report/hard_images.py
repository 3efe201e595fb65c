"""Images worth a look: the worst, and those that hang on the patch size."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from flexivit_jax.evaluation.settings import Point, Sweep
from flexivit_jax.tasks.predictions import Answers


@dataclasses.dataclass(frozen=True)
class HardImage:
  """One image, and what was said about it.

  Attributes:
    index: of the image in its source.
    score: what it was chosen by, see `worst` and `sensitive`.
    measure: what the score is, in a word.
    answers: (point, predicted class, right) at each point that is shown.
  """

  index: int
  label: int
  score: float
  measure: str
  answers: tuple[tuple[Point, int, bool], ...]


def worst(sweep: Sweep, point: Point, most: int) -> tuple[HardImage, ...]:
  """Images of the highest loss at one point, the highest first.

  Their score is the loss. A loss that is not a number is the highest.
  """
  answers = sweep.answers[sweep.points.index(point)]
  loss = np.nan_to_num(np.asarray(answers.loss, np.float64), nan=np.inf)
  order = np.argsort(-loss, kind="stable")[:most]
  return tuple(
    HardImage(
      index=int(answers.index[i]),
      label=int(answers.label[i]),
      score=float(loss[i]),
      measure="loss",
      answers=(_answer(point, answers, i),),
    )
    for i in order
  )


def sensitive(sweep: Sweep, most: int) -> tuple[HardImage, ...]:
  """Images whose answer hangs most on the patch size, the first most.

  Their score is the standard deviation over patch sizes of exp(-loss), with
  softmax cross-entropy the probability of the right class. Where there are
  several resolutions or budgets, it is the root of the mean variance within
  each, so that what the resolution does is left out. It lies between 0 and
  0.5. Images whose score is 0 are left out, so there are none where each
  resolution has one patch size.
  """
  groups: dict[str, list[int]] = {}
  for i, point in enumerate(sweep.points):
    groups.setdefault(point.setting.at, []).append(i)
  groups = {at: members for at, members in groups.items() if len(members) > 1}
  if not groups:
    return ()
  index, rows = _common(sweep.answers)
  right = np.stack([_right(a)[r] for a, r in zip(sweep.answers, rows)])
  variances = [right[members].var(axis=0) for members in groups.values()]
  score = np.sqrt(np.mean(variances, axis=0))
  order = np.argsort(-score, kind="stable")[:most]
  shown = _widest(groups.values(), right)
  return tuple(
    HardImage(
      index=int(index[i]),
      label=int(sweep.answers[0].label[rows[0][i]]),
      score=float(score[i]),
      measure="deviation",
      answers=tuple(
        _answer(sweep.points[k], sweep.answers[k], rows[k][i])
        for k in shown[:, i]
      ),
    )
    for i in order
    if score[i] > 0
  )


def _right(answers):
  """exp(-loss), 0 where the loss is not a number: f64 `[n]`."""
  loss = np.nan_to_num(np.asarray(answers.loss, np.float64), nan=np.inf)
  return np.exp(-loss)


def _common(answers: Sequence[Answers]):
  """Indices of the images that all points answered, and their places in
  each."""
  index = answers[0].index
  for each in answers[1:]:
    index = np.intersect1d(index, each.index)
  return index, [np.searchsorted(each.index, index) for each in answers]


def _widest(groups, right):
  """For each image the points where it does best and worst, of the group where
  they lie farthest apart: `[2, n]`."""
  best, least, gaps = [], [], []
  for members in groups:
    part, members = right[members], np.array(members)
    best.append(members[part.argmax(axis=0)])
    least.append(members[part.argmin(axis=0)])
    gaps.append(part.max(axis=0) - part.min(axis=0))
  widest = np.argmax(gaps, axis=0)
  every = np.arange(right.shape[1])
  return np.stack(
    [np.array(best)[widest, every], np.array(least)[widest, every]]
  )


def _answer(point, answers, i):
  return point, int(answers.predicted[i]), bool(answers.rank[i] == 0)
