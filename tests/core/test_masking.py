"""Which patches are hidden, drawn by hand and compared with plain loops."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flexivit_jax.core import masking
from flexivit_jax.core.tokens import Tokens, patchify_numpy

hide = jax.jit(masking.hide, static_argnums=2)


def row(drawn, slots):
  """One row of tokens written as segments, `.` for padding; every token's
  patch holds its place, and so do its coordinates."""
  segments = np.array([[int(x) if x != "." else 0 for x in drawn]], np.int32)
  l = segments.shape[1]
  places = np.arange(1, l + 1, dtype=np.int32)
  return Tokens(
    patches=np.tile(places[None, :, None], (1, 1, 2)).astype(np.uint8),
    coords=np.stack([places, -places], axis=-1)[None],
    grid_hw=np.full((1, l, 2), 7, np.int32),
    segments=segments,
    size_index=places[None],
    patch_sizes=((1, 1), (1, 2)),
    num_images=slots,
  )


def drawn(masked, tokens):
  """`v` visible, `-` hidden, `.` padding."""
  signs = np.where(masked.seen, "v", np.where(masked.hidden, "-", "."))
  assert not (np.asarray(masked.seen) & np.asarray(masked.hidden)).any()
  assert ((signs != ".") == (tokens.segments > 0)).all()
  return "".join(signs[0])


def by_hand(segments, numbers, ratio):
  """The same set, image by image."""
  seen = np.zeros(segments.shape, bool)
  for r, line in enumerate(segments):
    for image in set(line.tolist()) - {0}:
      own = np.flatnonzero(line == image)
      ranked = own[np.argsort(numbers[r, own], kind="stable")]
      seen[r, ranked[: masking.num_visible(len(own), ratio)]] = True
  return seen


def test_a_drawn_row():
  tokens = row("1111222222223..", slots=4)
  numbers = jnp.array([[4, 1, 2, 3, 8, 7, 6, 5, 4, 3, 2, 1, 9, 0, 0.0]])
  masked = hide(tokens, numbers, 0.75)
  assert drawn(masked, tokens) == "-v--------vvv.."
  visible = masked.visible
  # 15 places less three quarters, and one more for each of 4 slots.
  assert visible.segments.tolist() == [[1, 2, 2, 3, 0, 0, 0]]
  assert visible.patches[0, :, 0].tolist() == [2, 11, 12, 13, 0, 0, 0]
  assert visible.coords[0, :, 0].tolist() == [2, 11, 12, 13, 0, 0, 0]
  assert visible.grid_hw[0, :, 0].tolist() == [7, 7, 7, 7, 1, 1, 1]
  assert visible.size_index[0, :4].tolist() == [2, 11, 12, 13]
  assert visible.whole_grid is None
  assert visible.num_images == 4
  assert masked.places[0, jnp.array([1, 10, 11, 12])].tolist() == [0, 1, 2, 3]


def test_a_grid_has_no_padding():
  images = np.arange(2 * 6 * 8, dtype=np.uint8).reshape(2, 6, 8, 1)
  tokens = patchify_numpy(images, (2, 2))
  numbers = np.random.default_rng(0).uniform(size=(2, 12)).astype(np.float32)
  masked = hide(tokens, numbers, 0.75)
  assert masked.visible.segments is None
  assert masked.visible.whole_grid is None
  assert masked.visible.patches.shape == (2, 3, 4)
  for i in range(2):
    kept = np.sort(np.argsort(numbers[i])[:3])
    np.testing.assert_array_equal(np.flatnonzero(masked.seen[i]), kept)
    np.testing.assert_array_equal(
      masked.visible.patches[i], tokens.patches[i, kept]
    )
    np.testing.assert_array_equal(
      masked.visible.coords[i], tokens.coords[0, kept]
    )
  np.testing.assert_array_equal(masked.hidden, ~masked.seen)


@pytest.mark.parametrize("ratio", [0.75, 0.5, 0.1])
def test_random_rows_are_as_image_by_image(ratio):
  rng = np.random.default_rng(1)
  b, l, e = 40, 24, 5
  segments = np.sort(rng.integers(0, e + 1, (b, l)), axis=1)
  segments = np.where(segments == 0, 9, segments)
  segments = np.sort(segments, axis=1)
  segments[segments == 9] = 0
  # Coarse, so that some are equal.
  numbers = rng.integers(0, 9, (b, l)).astype(np.float32)
  tokens = Tokens(
    patches=rng.integers(1, 256, (b, l, 3), np.uint8),
    coords=rng.integers(0, 9, (b, l, 2), np.int32),
    grid_hw=np.full((b, l, 2), 9, np.int32),
    segments=segments.astype(np.int32),
    patch_sizes=((1, 1),),
    num_images=e,
  )
  masked = hide(tokens, numbers, ratio)
  seen = by_hand(segments, numbers, ratio)
  np.testing.assert_array_equal(masked.seen, seen)
  np.testing.assert_array_equal(masked.hidden, ~seen & (segments > 0))
  # Back at its place is what was there.
  visible = masked.visible
  assert visible.patches.shape[1] == masking.row_length(l, e, ratio)
  for name in ("patches", "coords", "segments"):
    back = np.take_along_axis(
      np.asarray(getattr(visible, name)).reshape(
        b, visible.patches.shape[1], -1
      ),
      np.asarray(masked.places)[..., None],
      axis=1,
    )
    whole = np.asarray(getattr(tokens, name)).reshape(b, l, -1)
    np.testing.assert_array_equal(back[seen], whole[seen], err_msg=name)
  # And nothing else: what pads is legal, and holds no hidden pixel.
  padding = np.asarray(visible.segments) == 0
  np.testing.assert_array_equal((~padding).sum(axis=1), seen.sum(axis=1))
  assert (np.asarray(visible.patches)[padding] == 0).all()
  assert (np.asarray(visible.grid_hw)[padding] == 1).all()


@pytest.mark.parametrize(
  ("patches", "ratio", "visible"),
  [
    *((1, 0.75, 1), (3, 0.75, 1), (4, 0.75, 1), (7, 0.75, 1), (8, 0.75, 2)),
    *((36, 0.75, 9), (10, 0.9, 1), (100, 0.9, 10), (784, 0.75, 196)),
    *((5, 0.4, 3), (2, 0.5, 1), (1024, 0.75, 256)),
  ],
)
def test_how_many_stay(patches, ratio, visible):
  assert masking.num_visible(patches, ratio) == visible
  found = masking.num_visible(np.array([patches]), ratio)
  assert found.tolist() == [visible]
  found = masking.num_visible(jnp.array([patches], jnp.float32), ratio)
  assert found.tolist() == [visible]


def test_no_row_is_longer_than_its_bound():
  for length, slots in itertools.product(range(1, 13), range(1, 5)):
    if slots > length:
      continue
    longest = 0
    for sizes in itertools.product(range(length + 1), repeat=slots):
      if 0 < sum(sizes) <= length:
        seen = sum(masking.num_visible(n, 0.7) for n in sizes if n)
        longest = max(longest, seen)
    assert longest <= masking.row_length(length, slots, 0.7)
    assert slots > 1 or longest == masking.row_length(length, 1, 0.7)
