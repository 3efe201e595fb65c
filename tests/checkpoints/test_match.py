import numpy as np
import pytest

from flexivit_jax.checkpoints.match import check_shapes


def _tree(**shapes):
  return {name: np.zeros(shape) for name, shape in shapes.items()}


def test_equal_names_and_shapes_pass():
  check_shapes(_tree(a=(2,), b=()), _tree(b=(), a=(2,)), "file")


@pytest.mark.parametrize(
  ("found", "message"),
  [
    (_tree(a=(2,)), r"file does not match the model: missing: b$"),
    (_tree(a=(2,), b=(), c=()), r"unexpected: c$"),
    (_tree(a=(3,), b=()), r"a: file \(3,\), model \(2,\)$"),
    (
      _tree(**{f"x{i}": () for i in range(6)}),
      r"missing: a; missing: b; unexpected: x0; .*; and 3 more$",
    ),
  ],
)
def test_every_leftover_is_refused(found, message):
  with pytest.raises(ValueError, match=message):
    check_shapes(found, _tree(a=(2,), b=()), "file")
