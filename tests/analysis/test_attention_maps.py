"""Attention of one token over its image."""

import dataclasses

import numpy as np
import pytest
import tiny

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
  [("gap", "class", "a patch"), ("tok", "probe", "'class', or a patch")],
)
def test_a_token_that_the_model_lacks_is_refused(pool, query, has):
  text = f"query {query!r}: the model has no such token, give {has}"
  with pytest.raises(ValueError, match=text):
    check_query(tiny.model(pool=pool), query)


def test_a_patch_that_is_not_there_is_refused():
  model, tokens, packed = tiny.model(), tiny.grid(), tiny.packed()
  fields = ("patches", "coords", "grid_hw")
  kept = dataclasses.replace(
    tokens, **{name: getattr(tokens, name)[:, 1:] for name in fields}
  )

  def maps(tokens, query):
    found = activations(model, tiny.params(model), tokens, NAMES)
    return attention_maps(model, found, tokens, query=query)

  with pytest.raises(ValueError, match="patch 0,0 of image 0 was left out"):
    maps(kept, Patch(0, 0))
  with pytest.raises(ValueError, match="has 1x2 patches, give rows 0"):
    maps(packed, Patch(1, 1))
  (first, _) = maps(kept, Patch(0, 1))
  assert np.isnan(first[0, 0]).all()
  assert np.isfinite(first).sum() == 5 * 2
