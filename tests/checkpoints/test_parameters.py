"""The tree of a model's parameters."""

import functools

import made_up
import numpy as np
import pytest

from flexivit_jax.checkpoints.formats import parameters
from flexivit_jax.nn import encoder
from flexivit_jax.nn.positions import waves

BLOCKS = parameters.BLOCKS


_shapes = functools.cache(parameters.shapes)


def _arrays(model):
  return {k: np.zeros(x.shape, x.dtype) for k, x in _shapes(model).items()}


def test_a_model_that_cannot_be_made_is_refused_with_the_path():
  model = made_up.tiny(
    size=encoder.Size(6, 2, 12, 2), position=waves.SinCos2D()
  )
  with pytest.raises(ValueError) as caught:
    parameters.check(model, {}, "dir/file")
  assert str(caught.value) == (
    "dir/file: sincos2d positions need a width that is a multiple of 4 and at "
    "least 8, not 6"
  )


@pytest.mark.parametrize("dtype", ["int32", "uint8", "bool", "complex64"])
def test_check_refuses_what_is_no_float(dtype):
  arrays = _arrays(made_up.tiny())
  arrays["head/bias"] = arrays["head/bias"].astype(dtype)
  with pytest.raises(ValueError) as caught:
    parameters.check(made_up.tiny(), arrays, "dir/file")
  assert str(caught.value) == (
    f"dir/file: head/bias is {dtype}, not floating point"
  )


@pytest.mark.parametrize(
  ("name", "shape", "row"),
  [
    ("head/bias", None, "missing  head/bias  -           (5,)"),
    ("extra", (3,), "unexpected  extra  (3,)        -"),
    ("head/kernel", (8, 6), "wrong shape  head/kernel  (8, 6)      (8, 5)"),
    ("cls", (), "unexpected  cls   ()          -"),
  ],
)
def test_check_draws_a_table_of_what_differs(name, shape, row):
  arrays = _arrays(made_up.tiny())
  arrays.pop(name, None)
  if shape is not None:
    arrays[name] = np.zeros(shape, np.float32)
  with pytest.raises(ValueError) as caught:
    parameters.check(made_up.tiny(), arrays, "dir/file")
  lines = str(caught.value).splitlines()
  assert lines[0] == "dir/file does not match the model:"
  assert lines[2] == f"  {row}"


def _stacked(depth=3):
  model = made_up.tiny(size=encoder.Size(8, depth, 12, 2), scan=True)
  rng = np.random.default_rng(0)
  return {k: rng.normal(size=x.shape) for k, x in _shapes(model).items()}


def test_stack_and_unstack_undo_each_other():
  stacked = _stacked()
  flat = parameters.unstack(stacked, 3)
  assert (
    flat.keys() == _shapes(made_up.tiny(size=encoder.Size(8, 3, 12, 2))).keys()
  )
  for i in range(3):
    np.testing.assert_array_equal(
      flat[f"{BLOCKS}_{i}/LayerNorm_0/scale"],
      stacked[f"{BLOCKS}/LayerNorm_0/scale"][i],
    )
  again = parameters.stack(flat, 3)
  assert again.keys() == stacked.keys()
  for name, x in stacked.items():
    np.testing.assert_array_equal(again[name], x)
    assert again[name].dtype == x.dtype


def test_unstacking_copies_nothing():
  stacked = _stacked()
  flat = parameters.unstack(stacked, 3)
  for name, x in stacked.items():
    own = flat[name.replace(f"{BLOCKS}/", f"{BLOCKS}_2/")]
    assert np.shares_memory(own, x)
