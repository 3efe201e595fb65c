"""The report of drawn rows, with numbers by hand."""

import numpy as np

from flexivit_jax.core.tokens import Batch, Tokens
from flexivit_jax.tasks.pack_metrics import METRICS, pack_report


def drawn(rows, grids, slots):
  """A batch of rows written as segments, and the grid of each image."""
  segments = np.array(
    [[int(x) if x != "." else 0 for x in row] for row in rows], np.int32
  )
  grid_hw = np.ones((*segments.shape, 2), np.int32)
  weights = np.zeros((len(rows), slots), np.float32)
  for r, images in enumerate(grids):
    for slot, hw in enumerate(images):
      grid_hw[r, segments[r] == slot + 1] = hw
      weights[r, slot] = 1
  b, l = segments.shape
  tokens = Tokens(
    patches=np.zeros((b, l, 3), np.uint8),
    coords=np.zeros((b, l, 2), np.int32),
    grid_hw=grid_hw,
    segments=segments,
    patch_sizes=((1, 1),),
    num_images=slots,
  )
  nothing = np.zeros((b, slots), np.int32)
  return Batch(tokens, nothing, weights, nothing)


def test_a_drawn_batch():
  # Images of 2x3 whole, 2x4 of which 3 are kept, 1x1; 2x2 of which one is.
  batch = drawn(
    ["1111112223..", "1..........."], [((2, 3), (2, 4), (1, 1)), ((2, 2),)], 4
  )
  found = {name: float(mean) for name, mean in pack_report(batch).items()}
  assert tuple(found) == METRICS
  expected = {
    "pack/fill": 11 / 24,
    "pack/slots": 4 / 8,
    "pack/images_per_row": 4 / 2,
    "pack/images_per_step": 4.0,
    "pack/tokens_per_image": 11 / 4,
    "pack/dropped_tokens": (19 - 11) / 19,
  }
  # Sums of small whole numbers in float32: one rounding each.
  np.testing.assert_allclose(
    [found[name] for name in METRICS],
    [expected[name] for name in METRICS],
    rtol=1e-6,
  )


def test_reports_of_steps_add_up():
  one = drawn(["11112..."], [((2, 2), (1, 1))], 2)
  other = drawn(["1111111."], [((7, 1),)], 2)
  both = {
    name: float(mean + pack_report(other)[name])
    for name, mean in pack_report(one).items()
  }
  assert both["pack/fill"] == 12 / 16
  assert both["pack/images_per_row"] == both["pack/images_per_step"] == 1.5
  assert both["pack/tokens_per_image"] == 4
  assert both["pack/dropped_tokens"] == 0
