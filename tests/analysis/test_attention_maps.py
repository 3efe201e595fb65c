"""Attention of one token over its image."""

import dataclasses

import numpy as np
import pytest
import tiny
from readable import texts_inside

from flexivit_jax.analysis import attention_maps as attention_maps_lib
from flexivit_jax.analysis import images
from flexivit_jax.analysis.activations import activations, block_weights
from flexivit_jax.analysis.attention_maps import (
  Patch,
  attention_maps,
  check_query,
)

NAMES = ("attentions", "probe", "segments")


QUERIES = {"tok": "class", "map": "probe", "gap": Patch(0, 1)}


@pytest.mark.parametrize(
  "pool",
  # Three programs each.
  ["tok", "map", pytest.param("gap", marks=pytest.mark.slow)],
)
def test_packed_images_have_the_maps_that_they_have_alone(pool):
  model = tiny.model("relative", pool, registers=1)
  params, tokens = tiny.params(model), tiny.packed(shuffle=True, rows=2)
  found = activations(model, params, tokens, NAMES)
  maps = attention_maps(model, found, tokens, query=QUERIES[pool], block=0)
  assert len(maps) == 6
  for at in (0, 1, 4, 5):
    got, (row, slot) = maps[at], divmod(at, 3)
    alone = tiny.alone(tiny.images()[(slot - row) % 3])
    (expected,) = attention_maps(
      model,
      activations(model, params, alone, NAMES),
      alone,
      query=QUERIES[pool],
      block=0,
    )
    assert got.shape == (*np.asarray(alone.grid_hw)[0, 0], 2)
    # The same sums in another order, of float32.
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)
    assert got.std() > 1e-3


def test_a_map_is_the_query_s_row():
  model, tokens = tiny.model(pool="tok", registers=2), tiny.grid()
  found = activations(model, tiny.params(model), tokens, NAMES)
  for block in (0, -1):
    weights = np.asarray(block_weights(found, block))
    for query, at in (("class", 0), (Patch(1, 2), 3 + 5)):
      maps = attention_maps(model, found, tokens, query=query, block=block)
      for got, own in zip(maps, weights, strict=True):
        np.testing.assert_array_equal(got.reshape(6, 2).T, own[:, at, 3:])


@pytest.mark.parametrize(
  ("pool", "query", "has"),
  [
    ("gap", "class", "a patch"),
    ("gap", "probe", "a patch"),
    ("tok", "probe", "'class', or a patch"),
    ("map", "class", "'probe', or a patch"),
  ],
)
def test_a_token_that_the_model_lacks_is_refused(pool, query, has):
  model, tokens = tiny.model(pool=pool), tiny.grid()
  found = activations(model, tiny.params(model), tokens, NAMES)
  for refused in (
    lambda: check_query(model, query),
    lambda: attention_maps(model, found, tokens, query=query),
  ):
    with pytest.raises(ValueError) as error:
      refused()
    assert str(error.value) == (
      f"query {query!r}: the model has no such token, give {has}"
    )


def test_a_patch_that_an_image_lacks_is_refused():
  model, tokens = tiny.model(), tiny.packed()
  found = activations(model, tiny.params(model), tokens, NAMES)
  with pytest.raises(ValueError) as error:
    attention_maps(model, found, tokens, query=Patch(1, 1))
  assert str(error.value) == (
    "patch 1,1: image 2 has 1x2 patches, give rows 0 to 0 and columns 0 to 1"
  )


def test_a_patch_that_was_dropped_is_refused():
  model = tiny.model()
  tokens = tiny.grid()
  kept = dataclasses.replace(
    tokens,
    **{
      name: getattr(tokens, name)[:, 1:]
      for name in ("patches", "coords", "grid_hw")
    },
  )
  found = activations(model, tiny.params(model), kept, NAMES)
  with pytest.raises(ValueError) as error:
    attention_maps(model, found, kept, query=Patch(0, 0))
  assert str(error.value) == "patch 0,0 of image 0 was left out"
  (first, _) = attention_maps(model, found, kept, query=Patch(0, 1))
  assert np.isnan(first[0, 0]).all()
  assert np.isfinite(first).sum() == 5 * 2
  assert len(images.places(kept)) == 2


@pytest.mark.parametrize("heads", [2, 12])
def test_maps_have_a_column_for_each_head_and_the_query_outlined(heads):
  pixels = [np.zeros((8, 12, 3), np.uint8)] * 2
  maps = [np.random.default_rng(0).uniform(size=(2, 3, heads)) for _ in pixels]
  figure = attention_maps_lib.draw(pixels, maps, "Title", (1, 2))
  words = texts_inside(figure)
  assert {"Title", "image", *(f"head {i}" for i in range(heads))} <= words
  axes = figure.axes[: 2 * (heads + 1)]
  first = axes[1].images[-1].get_array()
  np.testing.assert_allclose(first, maps[0][..., 0] / maps[0][..., 0].max())
  for each in axes:
    (box,) = each.patches
    assert (*box.get_xy(), box.get_width(), box.get_height()) == (
      *(7.5, 3.5),
      *(4, 4),
    )
  figure = attention_maps_lib.draw(pixels, maps, "Title")
  assert not figure.axes[0].patches
