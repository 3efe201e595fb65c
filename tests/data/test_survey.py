"""What a scan foretells is what the loader then makes."""

import dataclasses
import json
import math

import numpy as np
import pytest
from fakes import Fake

from flexivit_jax.core import resolution, token_drop
from flexivit_jax.core.patch_size import FixedPatchSize, SampledPatchSize
from flexivit_jax.data.loading import bad_images
from flexivit_jax.data.packing import survey
from flexivit_jax.data.packing.cut_images import GROUP
from flexivit_jax.data.packing.cutter import Cutter, TooLongError
from flexivit_jax.data.packing.loader import PackLoader
from flexivit_jax.data.packing.rows import Packing
from flexivit_jax.data.pixels.decode import BadImageError
from flexivit_jax.data.pixels.transforms import Flip, InceptionCrop


@dataclasses.dataclass(frozen=True)
class Photographs(Fake):
  """Images of many sizes, none of which need be decoded."""

  n: int = 400
  decodable: bool = True

  def size(self, index):
    if index in self.bad:
      raise BadImageError(f"{self.name(index)}: torn")
    rng = np.random.default_rng(index)
    aspect, side = math.exp(rng.normal(0, 0.4)), rng.uniform(20, 80)
    h, w = side / aspect**0.5, side * aspect**0.5
    return max(1, round(h)), max(1, round(w))

  def image(self, index):
    assert self.decodable
    return np.zeros((*self.size(index), 3), np.uint8)


PACKING = Packing(64, max_images=5, open_rows=8)


def make(
  source=None, *, transforms=(), drop=None, packing=PACKING, long=True, **kw
):
  cutter = Cutter(
    resolution.Sampled(8, 40),
    SampledPatchSize((4, 8)),
    drop or token_drop.NoDrop(),
    packing.row_length,
    long,
  )
  return PackLoader(
    source or Photographs(),
    transforms,
    cutter,
    packing,
    batch_size=4,
    seed=3,
    **kw,
  )


def lengths(loader, n):
  """Patches of each of the first n images of training."""
  groups = (loader.cut_images[i] for i in range(-(-n // GROUP)))
  return np.concatenate([group["lengths"] for group in groups])[:n]


CROP = (InceptionCrop((24, 40)), Flip())


@pytest.mark.parametrize("drop", [None, token_drop.Beta(0.5)])
@pytest.mark.parametrize("transforms", [(), CROP])
def test_a_scan_plans_what_training_cuts(drop, transforms):
  loader = make(drop=drop, transforms=transforms)
  found = survey.scan(loader.cut_images, PACKING)
  count = survey.DECODED_IMAGES if transforms else 400
  assert len(found.tokens) == min(400, count)
  np.testing.assert_array_equal(found.tokens, lengths(loader, count))


@pytest.mark.parametrize(
  ("drop", "overflow", "max_images"),
  [
    (None, "next", 3),
    (token_drop.Beta(0.5), "drop", 4),
  ],
)
def test_rows_become_as_full_as_foretold(drop, overflow, max_images):
  packing = dataclasses.replace(
    PACKING, overflow=overflow, max_images=max_images
  )
  loader = make(Photographs(1500), drop=drop, packing=packing)
  foretold = survey.scan(loader.cut_images, packing).now
  fill, images, full = [], [], []
  for _ in range(100):
    batch = next(loader)
    fill.append((batch.inputs.segments > 0).mean())
    images.append(batch.weights.sum(axis=1).mean())
    full.append(batch.weights.all(axis=1).mean())
  # 400 rows, of the same images and more: other draws of some hundred.
  assert foretold.fill == pytest.approx(np.mean(fill), rel=0.03)
  assert foretold.images_per_row == pytest.approx(np.mean(images), rel=0.03)
  assert foretold.full_rows == pytest.approx(np.mean(full), abs=0.08)


def unpacked(tokens, row_length, max_images, open_rows=4):
  """A scan of images of so many 1x1 patches, in so many rows."""

  @dataclasses.dataclass(frozen=True)
  class Lines(Photographs):
    def size(self, index):
      return 1, tokens[index]

  packing = Packing(row_length, max_images, open_rows)
  cutter = Cutter(
    resolution.Native(), FixedPatchSize(1), token_drop.NoDrop(), row_length
  )
  loader = PackLoader(
    Lines(len(tokens)), (), cutter, packing, batch_size=2, seed=0
  )
  return survey.scan(loader.cut_images, packing)


def test_rows_that_suit_get_no_advice():
  found = unpacked([32] * 20, 128, 4)
  assert found.now == survey.Fill(128, 4, 1.0, 4.0, 4.0, 1.0)
  assert found.better is None
  lines = list(survey.describe(found, 2))
  assert len(lines) == 1 + 9 + 2
  assert not any("would" in line or "slots" in line for line in lines)


def test_rows_that_images_do_not_fill_get_others():
  # Two images of 100 in rows of 256; five of them fill 512 by 98 %.
  found = unpacked([100] * 20, 256, 8)
  assert found.now == survey.Fill(256, 8, 200 / 256, 2.0, 2.0, 0.0)
  assert found.better == survey.Fill(512, 8, 500 / 512, 5.0, 5.0, 0.0)
  text = "\n".join(survey.describe(found, 2))
  assert (
    "  packing.row_length=512 with packing.max_images=8 would be 97.7 % filled"
  ) in text
  assert "more slots" not in text


def test_too_few_slots_are_told():
  found = unpacked([10] * 40, 128, 3)
  assert found.now == survey.Fill(128, 3, 30 / 128, 3.0, 3.0, 1.0)
  lines = list(survey.describe(found, 2))
  assert any("100 % of the rows have max_images=3: more" in x for x in lines)
  assert found.better == survey.Fill(256, 39, 250 / 256, 25.0, 25.0, 0.0)
  found = unpacked([10, 16, 17, 40], 16, 4)
  assert (found.scaled_down, found.tokens.max()) == (2, 16)


def test_advice_keeps_to_what_a_row_may_have():
  # One long image among tiny ones asks for more slots than there may be.
  found = unpacked([1] * 2000 + [4000], 4096, 64)
  for fill in (found.now, found.better):
    assert fill is None or fill.max_images <= 4096


def test_the_lines_of_a_drawn_scan():
  found = survey.Scan(
    aspects=np.array([0, 1, 0, 0, 10, 5, 4, 0, 0]),
    tokens=np.array([10] * 2 + [20] * 16 + [30] * 2),
    scaled_down=5,
    now=survey.Fill(64, 4, 0.9, 3.25, 3.25, 0.25),
    better=survey.Fill(128, 9, 0.985, 6.3, 6.3, 0.0),
  )
  lines = list(survey.describe(found, 16))
  for i, text in {
    0: "scan of 20 images, before the first step",
    2: "  width:height 1:3 - 1:2      1 ##",
    5: "  width:height 0.9 - 1.1     10 ####################",
    10: "  tokens per image: 10 to 30, mean 20.0; 10 % below 19, half below 2",
    11: "  25 % of them had more patches than a row takes (64)",
    12: "  rows of 64 patches with at most 4 images: 90.0 % filled, 3.25 im",
    13: "  25 % of the rows have max_images=4: more slots would fill them",
    14: "  packing.row_length=128 with packing.max_images=9 would be 98.5 %",
  }.items():
    assert lines[i].startswith(text)
  saved = json.loads(json.dumps(survey.to_json(found)))
  assert saved["aspects"] == found.aspects.tolist()
  assert [saved[f"tokens_{x}"] for x in ("min", "mean", "max")] == [10, 20, 30]
  assert saved["rows"] == dataclasses.asdict(found.now)
  assert saved["better"] == dataclasses.asdict(found.better)


def test_aspects_are_widths_by_heights():
  @dataclasses.dataclass(frozen=True)
  class Shapes(Photographs):
    def size(self, index):
      return ((10, 1), (10, 4), (10, 8), (10, 10), (10, 14), (3, 10))[index]

  found = survey.scan(make(Shapes(6)).cut_images, PACKING)
  assert found.aspects.tolist() == [1, 1, 0, 1, 1, 1, 0, 0, 1]


@pytest.mark.parametrize("transforms", [(), CROP])
def test_bad_images_are_left_out_or_end_the_scan(transforms):
  source = Photographs(40, bad=(3, 8))
  skip = bad_images.Skip(0.5)
  loader = make(source, transforms=transforms, on_bad_image=skip)
  found = survey.scan(loader.cut_images, PACKING)
  assert len(found.tokens) == 38
  assert loader.bad == {}  # they are counted where training meets them
  loader = make(source, transforms=transforms)
  with pytest.raises(BadImageError, match=r"^dir/[38]\.png: torn$"):
    survey.scan(loader.cut_images, PACKING)
  nothing = Photographs(3, bad=(0, 1, 2))
  with pytest.raises(ValueError, match="none of the first images can be dec"):
    survey.scan(make(nothing, on_bad_image=skip).cut_images, PACKING)


def test_a_long_image_can_end_the_scan():
  packing = dataclasses.replace(PACKING, row_length=16)
  loader = make(packing=packing, long=False)
  with pytest.raises(
    TooLongError, match=r"^dir/\d+\.png of \d+x\d+ pixels has"
  ):
    survey.scan(loader.cut_images, packing)


def test_another_process_sees_the_same_and_no_image_is_decoded():
  source = Photographs(3000, decodable=False)
  one, other = (
    survey.scan(make(source, shard=(i, 2)).cut_images, PACKING) for i in (0, 1)
  )
  assert survey.to_json(one) == survey.to_json(other)
  assert len(one.tokens) == survey.IMAGES == 2048
