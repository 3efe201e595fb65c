"""Targets of a drawn row, with numpy and loops."""

import dataclasses

import jax
import numpy as np
import pytest

from flexivit_jax.core.tokens import Tokens, patchify_numpy
from flexivit_jax.tasks import mae_target

SIZES = ((1, 2), (2, 2))
SEGMENTS = np.array([[1, 1, 2, 3, 3, 3, 0], [1, 2, 2, 2, 0, 0, 0]], np.int32)
SIZE = np.array([[1, 1, 0, 1, 1, 1, 0], [1, 0, 0, 0, 1, 1, 1]], np.int32)


def row():
  rng = np.random.default_rng(0)
  return Tokens(
    patches=rng.integers(0, 256, (2, 7, 12), np.uint8),
    coords=np.zeros((2, 7, 2), np.int32),
    grid_hw=np.ones((2, 7, 2), np.int32),
    segments=SEGMENTS,
    size_index=SIZE,
    patch_sizes=SIZES,
    num_images=4,
  )


def own(tokens, r, i):
  """The numbers of a patch, `[n]`, and where they are, in float64."""
  h, w = SIZES[SIZE[r, i]]
  place = np.zeros((2, 2, 3), bool)
  place[:h, :w] = True
  place = place.ravel()
  return tokens.patches[r, i, place] / 127.5 - 1, place


@pytest.mark.parametrize("kind", mae_target.KINDS)
def test_a_drawn_row(kind):
  tokens = row()
  found = jax.jit(lambda t: dataclasses.astuple(mae_target.of(t, kind)))(tokens)
  values, mean, std, centre, is_own = map(np.asarray, found)
  mean, std = (np.broadcast_to(x, (2, 7, 1)) for x in (mean, std))
  # float32 of numbers of about 1, over deviations of 0.3 and more.
  near = {"rtol": 0, "atol": 1e-5}
  for r, i in zip(*np.nonzero(SEGMENTS), strict=True):
    x, place = own(tokens, r, i)
    np.testing.assert_array_equal(
      np.broadcast_to(is_own, values.shape)[r, i], place
    )
    assert (values[r, i, ~place] == 0).all()
    image = np.concatenate(
      [
        own(tokens, r, j)[0]
        for j in range(7)
        if SEGMENTS[r, j] == SEGMENTS[r, i]
      ]
    )
    over = x if kind == "patch" else image
    wanted, of_mean = x, over.mean()
    if kind != "pixels":
      wanted = (x - over.mean()) / np.sqrt(over.var() + 1e-6)
      of_mean = 0
    np.testing.assert_allclose(values[r, i, place], wanted, **near)
    np.testing.assert_allclose(centre[r, i, 0], of_mean, **near)
    back = values[r, i, place] * std[r, i, 0] + mean[r, i, 0]
    np.testing.assert_allclose(back, x, **near)


def test_junk_beside_a_patch_and_in_padding_changes_nothing():
  tokens = row()
  other = tokens.patches.copy()
  other[0, 2, 6:] += 77  # beside a patch of 1x2
  other[:, 6] += 77  # padding
  changed = dataclasses.replace(tokens, patches=other)
  values = jax.jit(lambda t, k: mae_target.of(t, k).values, static_argnums=1)
  for kind in mae_target.KINDS:
    before, after = (values(t, kind) for t in (tokens, changed))
    np.testing.assert_array_equal(before, after)


def test_a_flat_patch_is_zero_whatever_its_colour():
  images = np.full((1, 4, 4, 3), 201, np.uint8)
  target = mae_target.of(patchify_numpy(images, (2, 2)), "patch")
  # What rounding leaves of 0, over sqrt(EPS).
  np.testing.assert_allclose(target.values, 0, rtol=0, atol=1e-3)


def test_sums_of_images():
  tokens = row()
  values = np.arange(14, dtype=np.float32).reshape(2, 7)
  found = mae_target.by_image(values, tokens)
  assert found.tolist() == [[1, 2, 12, 0], [7, 27, 0, 0]]
  found = mae_target.by_image(values, tokens, only=values % 2 == 0)
  assert found.tolist() == [[0, 2, 4, 0], [0, 18, 0, 0]]
  grid = patchify_numpy(np.zeros((2, 1, 7, 1), np.uint8), (1, 1))
  assert mae_target.by_image(values, grid).tolist() == [[21], [70]]
