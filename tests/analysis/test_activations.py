"""Attention weights from queries and keys, and the layers of one pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from flexivit_jax.analysis import activations

ALL = activations.Activations._fields
CASES = {
  "average, on a grid": ({}, "grid"),
  "class token and registers, on a grid": (
    {"pool": "tok", "registers": 2},
    "grid",
  ),
  "rotary, normalised and scaled, behind a register": (
    {
      "position": "rotary",
      "registers": 1,
      "qk_norm": True,
      "attention_scale": 1.0,
    },
    "packed",
  ),
  "scanned relative, behind a class token": (
    {"position": "relative", "pool": "tok", "scan": True},
    "packed",
  ),
  "map, rematerialised": ({"pool": "map", "remat": True}, "packed"),
}
FAST = (
  "class token and registers, on a grid",
  "scanned relative, behind a class token",
)
ROWS = {
  "grid": tiny.grid,
  "packed": lambda: tiny.packed(shuffle=True, rows=2),
}


def captured(model, params, tokens):
  """What every module of the model returned: by block, and of the probe."""
  _, state = model.clone(remat=False).apply(
    {"params": params}, tokens, capture_intermediates=True
  )
  found, encoder = state["intermediates"], params["Transformer"]
  name = "MultiHeadDotProductAttention_0"
  depth = range(model.size.depth)
  blocks = []
  for i in depth:
    if model.scan:
      block = jax.tree.map(
        lambda x, i=i: x[i],
        (found["Transformer"]["encoderblock"], encoder["encoderblock"]),
      )
    else:
      block = tuple(
        x[f"encoderblock_{i}"] for x in (found["Transformer"], encoder)
      )
    blocks.append((block[0][name], block[1][name], block[0]["__call__"][0]))
  head = found.get("MAPHead_0"), params.get("MAPHead_0")
  return blocks, None if head[0] is None else [x[name] for x in head]


def attended(weights, values, out):
  """Weights times values, through the projection of the output."""
  mixed = jnp.einsum("bhqk,bkhe->bqhe", weights, values)
  bias = out["bias"].reshape(1, 1, -1)
  return jnp.einsum("bqhe,hed->bqd", mixed, out["kernel"]) + bias


@pytest.mark.slow
@pytest.mark.parametrize(
  "case",
  [
    # Each is a program of its own.
    pytest.param(case, marks=[pytest.mark.slow] * (case not in FAST))
    for case in CASES
  ],
)
def test_weights_and_layers_are_those_of_the_model_itself(float64, case):
  changes, rows = CASES[case]
  model = tiny.model(**changes, dtype="float64")
  params, tokens = tiny.params(model), ROWS[rows]()
  blocks, head = captured(model, params, tokens)
  found = activations.activations(model, params, tokens, ALL)
  # The same sums in another order, in float64.
  near = {"rtol": 0, "atol": 1e-12}
  extra = tokens.num_images * (model.pool.class_token + model.registers)
  for i, (inside, own, returned) in enumerate(blocks):
    weights = activations.block_weights(found, i)
    values = inside["value"]["__call__"][0]
    got = attended(weights, values, own["out"])
    np.testing.assert_allclose(got, inside["__call__"][0], **near)
    np.testing.assert_allclose(weights.sum(-1), 1, **near)
    # Weights that were all alike would not need the queries.
    assert np.asarray(weights).std() > 1e-3
    np.testing.assert_allclose(found.front[i], returned[:, :extra], **near)
    after = found.patches[i + 1]
    np.testing.assert_allclose(after, returned[:, extra:], **near)
  assert len(found.attentions) == len(found.front) == model.size.depth
  assert len(found.patches) == model.size.depth + 1
  np.testing.assert_array_equal(found.patches[0], found.outputs.embedded)
  if head is not None:
    inside, own = head
    probe = activations.probe_weights(found, tokens)
    got = attended(probe, inside["value"]["__call__"][0], own["out"])
    np.testing.assert_allclose(got, inside["__call__"][0], **near)


def test_segments_of_all_tokens_name_those_in_front_by_slot():
  model = tiny.model(pool="tok", registers=1)
  tokens = tiny.packed()
  segments = activations.all_segments(model, tokens)
  assert activations.extra_tokens(model, tokens) == 8
  assert np.asarray(segments)[0].tolist() == (
    [1, 1, 2, 2, 3, 3, 4, 4] + [1] * 6 + [3] * 8 + [4] * 2 + [0] * 3
  )
  assert activations.all_segments(model, tiny.grid()) is None


def test_no_weight_goes_to_another_image_and_an_empty_slot_reads_nothing():
  model = tiny.model(pool="map")
  tokens = tiny.packed(shuffle=True)
  found = activations.activations(model, tiny.params(model), tokens, ALL)
  segments = np.asarray(tokens.segments)[0]
  other = segments[:, None] != segments[None]
  weights = np.asarray(activations.block_weights(found, -1))[0]
  assert (weights[:, other] == 0).all()
  assert (weights[:, ~other] > 0).all()
  probe = np.asarray(activations.probe_weights(found, tokens))[0]
  for slot in range(4):
    own = segments == slot + 1
    assert (probe[:, slot, ~own] == 0).all()
    assert (probe[:, slot, own] > 0).all()
  # Softmax of float32.
  np.testing.assert_allclose(
    probe.sum(-1), [[1, 0, 1, 1]] * 2, rtol=0, atol=1e-6
  )


@pytest.mark.parametrize("block", [2, -3])
def test_a_block_that_is_not_there_is_refused(block):
  text = f"block {block}: the model has 2, give 0 to 1, or -1 for the last"
  with pytest.raises(ValueError, match=text):
    activations.check_block(tiny.model(), block)
