import numpy as np
import pytest

from flexivit_jax.checkpoints import parity
from flexivit_jax.core.errors import Fault


def test_photographs_have_as_many_channels_as_the_model():
  two, four, five = (parity.photographs((8, 12), c) for c in (2, 4, 5))
  three = parity.photographs((8, 12), 3)
  assert three.shape == (2, 8, 12, 3)
  assert three.dtype == np.uint8
  np.testing.assert_array_equal(two, three[..., :2])
  np.testing.assert_array_equal(four, three[..., [0, 1, 2, 0]])
  np.testing.assert_array_equal(five, three[..., [0, 1, 2, 0, 1]])
  assert not np.array_equal(three[0], three[1])


@pytest.mark.parametrize("precise", [True, False])
def test_more_than_rounding_is_a_fault(precise, capsys):
  before = {"features": np.array([[1.0, -2.0]], np.float32)}
  bar = 2e-4 if precise else 6e-2
  sizes = dict(image_hw=(8, 12), patch_hw=(4, 6), precise=precise)
  within, beyond = (
    {"features": before["features"] + np.float32(f * bar)} for f in (0.9, 1.1)
  )
  parity.compare(before, within, **sizes)
  assert capsys.readouterr().out == (
    "check: two photographs at 8x12 pixels, patches of 4x6: features differ by "
    f"at most {0.9 * bar:.2g}, of 2\n"
  )
  lost = {"features": np.full((1, 2), np.nan)}
  for old, new, text in (
    (
      before,
      beyond,
      "that is more than rounding: OUT does not compute what IN does",
    ),
    (before, lost, "OUT gives features that are not finite numbers"),
    (lost, lost, "OUT gives features that are not finite numbers"),
  ):
    with pytest.raises(Fault) as caught:
      parity.compare(old, new, **sizes)
    assert str(caught.value) == text
