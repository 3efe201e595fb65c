"""Attention's share of a block's cost, against the count of nn/cost.py."""

import numpy as np
import pytest
import tiny

from flexivit_jax.analysis.attention_share import attention_share
from flexivit_jax.models import cost, sizes
from flexivit_jax.nn import encoder


def test_it_is_a_tenth_at_512_tokens_and_width_768():
  assert attention_share(512, sizes.SIZES["B"]) == 512 / (512 + 6 * 768) == 0.1


@pytest.mark.parametrize("name", ["Ti", "B", "G"])
@pytest.mark.parametrize("length", [1, 196, 10_000])
def test_mlps_of_ratio_4_give_l_over_l_plus_6_d(name, length):
  size = sizes.SIZES[name]
  if size.mlp_dim != 4 * size.width:
    size = encoder.Size(size.width, 1, 4 * size.width, size.num_heads)
  expected = length / (length + 6 * size.width)
  assert attention_share(length, size) == pytest.approx(expected, rel=1e-12)


def test_it_is_a_half_where_rows_are_six_widths_long():
  got = attention_share(np.array([192, 6 * 192, 36 * 192]), sizes.SIZES["Ti"])
  np.testing.assert_allclose(got, [1 / 7, 1 / 2, 6 / 7], rtol=1e-12)


@pytest.mark.parametrize("gated", [False, True])
def test_it_agrees_with_the_count_of_the_model(gated):
  # A block's cost, as what one more block adds; the part that grows with the
  # square of the length, by a second difference.
  size = encoder.Size(16, 1, 40, 2)
  shallow = tiny.model(size=size, gated_mlp=gated, registers=1)
  deep = shallow.clone(size=encoder.Size(16, 2, 40, 2))

  def block(patches):
    a, b = (
      cost.packed_multiply_adds(m, patches, 1, [(4, 4)])
      for m in (shallow, deep)
    )
    return b - a

  patches = 30
  curvature = block(patches + 1) - 2 * block(patches) + block(patches - 1)
  length = patches + 1  # with the register
  core = curvature / 2 * length**2
  got = attention_share(length, size, gated_mlp=gated)
  assert got == pytest.approx(core / block(patches), rel=1e-12)


@pytest.mark.parametrize("length", [0, np.array([7, -2])])
def test_rows_without_tokens_are_refused(length):
  with pytest.raises(ValueError) as error:
    attention_share(length, sizes.SIZES["B"])
  least = np.min(length)
  assert str(error.value) == f"{least} tokens: give at least 1"
