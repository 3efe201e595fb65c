import numpy as np
import pytest

from flexivit_jax.evaluation import contact_sheet


def test_images_lie_in_rows_and_columns_on_white():
  images = np.arange(2 * 3 * 64 * 70 * 3, dtype=np.uint32) % 251
  images = images.astype(np.uint8).reshape(2, 3, 64, 70, 3)
  sheet = np.asarray(contact_sheet.contact_sheet(images))
  assert sheet.shape == (4 + 2 * 68, 4 + 3 * 74, 3)
  np.testing.assert_array_equal(sheet[72:136, 78:148], images[1, 1])
  assert (sheet[:4] == 255).all()
  assert (sheet[:, 74:78] == 255).all()


def test_small_grey_images_are_enlarged_by_a_whole_number():
  image = np.arange(8 * 10, dtype=np.uint8).reshape(1, 1, 8, 10, 1)
  sheet = np.asarray(contact_sheet.contact_sheet(image))
  assert sheet.shape == (64 + 8, 80 + 8, 3)
  for channel in range(3):
    one = sheet[4:-4:8, 4:-4:8, channel]
    np.testing.assert_array_equal(one, image[0, 0, :, :, 0])


def test_other_channels_are_refused():
  with pytest.raises(
    ValueError, match=r"^images of 4 channels: only 1 or 3 can be drawn$"
  ):
    contact_sheet.contact_sheet(np.zeros((1, 1, 8, 8, 4), np.uint8))
