"""Norms by top-level name against numpy's."""

import jax.numpy as jnp
import numpy as np

from flexivit_jax.training import norms


def _tree(seed):
  rng = np.random.default_rng(seed)
  return {
    "head": {"kernel": rng.normal(size=(3, 2)), "bias": rng.normal(size=2)},
    "cls": rng.normal(size=(1, 1, 4)),
  }


def _norm(tree):
  leaves = [
    np.ravel(x)
    for part in tree.values()
    for x in (part.values() if isinstance(part, dict) else (part,))
  ]
  return np.linalg.norm(np.concatenate(leaves))


def test_each_name_has_the_norm_of_its_part():
  gradients, updates, params = (_tree(seed) for seed in range(3))
  names = norms.names(params)
  measured = norms.measure(gradients, updates, params)
  assert measured.total.shape == (len(names),)
  assert measured.total.dtype == jnp.float32
  found = dict(zip(names, np.asarray(measured.total), strict=True))
  expected = {"update_norm": _norm(updates), "parameter_norm": _norm(params)}
  for kind, tree in zip(
    ("gradient_norm", "update_norm", "parameter_norm"),
    (gradients, updates, params),
  ):
    for part in ("head", "cls"):
      expected[f"{kind}/{part}"] = _norm({part: tree[part]})
  assert found.keys() == expected.keys()
  for name, value in expected.items():
    # Sums of at most 12 squares in float32.
    np.testing.assert_allclose(found[name], value, rtol=1e-6, err_msg=name)
  # No two are alike, so a mix-up would show.
  assert len({round(float(x), 4) for x in expected.values()}) == len(expected)
