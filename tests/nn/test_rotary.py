"""Positions inside attention: turned queries and keys, and biased logits."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flexivit_jax.nn import attention as attention_lib
from flexivit_jax.nn.positions import relative
from flexivit_jax.nn.positions import rotary as rotary_lib
from flexivit_jax.nn.positions.relation import RelativeIndex


def _coords(*pairs):
  return jnp.asarray([pairs], jnp.int32)


def _turned(x, coords, *, temperature=100.0, prefix=0):
  rotary = rotary_lib.Rotary(temperature)
  rotation = rotary.relation(coords, prefix=prefix, head_width=x.shape[-1])
  return np.asarray(rotation(jnp.asarray(x, jnp.float32)))


def _reference(x, place, temperature):
  """One head's vector turned, as complex numbers in float64."""
  half = len(x) // 2
  parts = []
  for coord, part in zip(place, (x[:half], x[half:])):
    n = half // 2
    angles = [coord * temperature ** (-i / n) for i in range(n)]
    pairs = (part[:n] + 1j * part[n:]) * np.exp(1j * np.array(angles))
    parts += [pairs.real, pairs.imag]
  return np.concatenate(parts)


def test_rotary_turns_pairs_as_complex_numbers_do():
  x = np.random.default_rng(0).normal(size=(1, 4, 3, 12))
  places = ((0, 0), (1, 5), (7, 2), (30, 40))
  got = _turned(x, _coords(*places), temperature=50.0)
  expected = [
    [_reference(head, place, 50.0) for head in token]
    for token, place in zip(x[0], places)
  ]
  # Angles up to 40 in float32: 40 * 2^-24 times a few.
  np.testing.assert_allclose(got[0], expected, rtol=0, atol=2e-5)
  np.testing.assert_array_equal(got[0, 0], x[0, 0].astype(np.float32))
  other = _turned(x, _coords(*places), temperature=60.0)
  assert np.abs(other - got).max() > 0.1


def test_rotary_logits_depend_on_differences_alone():
  rng = np.random.default_rng(0)
  q, k = rng.normal(size=(2, 1, 1, 2, 16))

  def logits(at_q, at_k):
    turned = (_turned(x, _coords(at)) for x, at in ((q, at_q), (k, at_k)))
    return np.einsum("blhe,blhe->h", *turned)

  here = logits((2, 3), (0, 5))
  # Angles up to 21 in float32, 16 products of order 1.
  np.testing.assert_allclose(here, logits((12, 19), (10, 21)), atol=3e-5)
  # Of rows, of columns, and with their sign.
  for at_q, at_k in (((3, 3), (0, 5)), ((2, 4), (0, 5)), ((0, 5), (2, 3))):
    assert np.abs(here - logits(at_q, at_k)).max() > 0.1


def test_rotary_leaves_the_tokens_in_front_as_they_are():
  x = np.random.default_rng(0).normal(size=(1, 5, 2, 8)).astype(np.float32)
  coords = _coords((1, 1), (2, 0), (0, 3))
  got = _turned(x, coords, prefix=2)
  np.testing.assert_array_equal(got[:, :2], x[:, :2])
  np.testing.assert_array_equal(got[:, 2:], _turned(x[:, 2:], coords))
  assert (got[:, 2:] != x[:, 2:]).any(axis=-1).all()


# Differences of row and column, query minus key, at each entry of a table
# for 2 x 2 patches.
TABLE = np.array([["nw", "n", "ne"], ["w", "o", "e"], ["sw", "s", "se"]])


def _drawn(coords, *, size=(2, 2), prefix=0):
  """What each pair reads of TABLE, query by key."""
  index = relative.Relative(size).relation(coords, prefix=prefix, head_width=8)
  assert index.table_hw == TABLE.shape
  names = [*TABLE.ravel(), "."]
  return [" ".join(names[i] for i in row) for row in index.index[0]]


def test_relative_reads_by_the_difference_of_query_and_key():
  # A query below its key is south of it.
  assert _drawn(_coords((0, 0), (0, 1), (1, 0), (1, 1))) == [
    "o w n nw",
    "e o ne n",
    "s sw o w",
    "se s e o",
  ]


def test_pairs_with_a_token_in_front_read_nothing():
  assert _drawn(_coords((0, 0), (0, 1)), prefix=2) == [
    ". . . .",
    ". . . .",
    ". . o w",
    ". . e o",
  ]


def test_differences_beyond_the_table_are_the_outermost():
  assert relative.Relative((2, 2)).largest_grid == (2, 2)
  assert _drawn(_coords((0, 0), (5, 0), (5, 9))) == [
    "o n nw",
    "s o w",
    "se e o",
  ]


def test_the_bias_is_the_querys_product_with_the_key_of_the_difference():
  # Two rows of images that share an index, two heads of four channels.
  index = RelativeIndex(jnp.array([[[0, 3], [4, 9]]]), (3, 3))
  rng = np.random.default_rng(0)
  q, table = rng.normal(size=(2, 2, 2, 4)), rng.normal(size=(3, 3, 2, 4))
  bias = index.bias(jnp.asarray(q), jnp.asarray(table))
  expected = np.zeros((2, 2, 2, 2))
  places = {(0, 0): (0, 0), (0, 1): (1, 0), (1, 0): (1, 1)}
  for (i, j), place in places.items():
    expected[:, :, i, j] = (q[:, i] * table[place]).sum(-1) / 2
  # float32 products of order 1.
  np.testing.assert_allclose(bias, expected, rtol=0, atol=1e-6)


def _attention(relation, x, **params):
  attention = attention_lib.Attention(2, jnp.dtype("float32"), 1e-6)
  fresh = attention.init(jax.random.key(0), x, x, relation=relation)["params"]
  return attention.apply({"params": fresh | params}, x, x, relation=relation)


def test_attention_adds_the_bias_to_its_logits():
  # Keys told apart by their places alone: each query takes its west.
  x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 3, 8)), jnp.float32)
  coords = _coords((0, 0), (0, 1), (0, 2))
  index = relative.Relative((1, 3)).relation(coords, prefix=0, head_width=4)
  # Queries are (1, 1, 1, 1), keys of the content 0.
  zeros = {
    name: {"kernel": jnp.zeros((8, 2, 4)), "bias": jnp.full((2, 4), b)}
    for name, b in (("query", 1.0), ("key", 0.0))
  }
  # Differences -2..2 of columns; +1 has its key to the west.
  west = jnp.zeros((1, 5, 2, 4)).at[0, 3].set(25.0)
  shifted, even = (
    _attention(index, x, relative_key=k, **zeros) for k in (west, 0 * west)
  )
  own = _attention(None, x[:, :2], **zeros)  # the average of two
  np.testing.assert_allclose(even[0, 0], even[0, 2], rtol=0, atol=1e-6)
  alone = [_attention(None, x[:, i : i + 1])[0, 0] for i in (0, 1)]
  np.testing.assert_allclose(shifted[0, 1:], alone, rtol=0, atol=1e-5)
  assert np.abs(shifted - even)[0, 1:].max() > 0.1
  assert np.abs(own[0, 0] - even[0, 0]).max() > 1e-3


@pytest.mark.parametrize(
  ("make", "text"),
  [
    (
      lambda: rotary_lib.Rotary().relation(
        _coords((0, 0)), prefix=0, head_width=6
      ),
      "a multiple of 4, not 6: take another width or num_heads",
    ),
    (lambda: rotary_lib.Rotary(0.5), "temperature is 0.5: give at least 1"),
    (lambda: relative.Relative((0, 3)), "size is (0, 3) rows and cols: give 1"),
  ],
)
def test_refusals(make, text):
  with pytest.raises(ValueError, match=re.escape(text)):
    make()
