"""Transforms against torch's formulas, written as loops and products."""

import numpy as np
import pytest

from flexivit_jax.checkpoints.formats import renaming

HEADS, WIDTH, TOKENS = 3, 12, 5
RNG = np.random.default_rng(0)

# Sums of at most 30 products of normal numbers, in float64, in another order.


def _normal(*shape):
  return RNG.normal(size=shape)


QKV = ("q", "k", "v")

# Rules for the foreign module "x", and the shapes of its arrays.
TABLES = {
  "same": ([renaming.same("x", "a")], {"x": (2, 3)}),
  "convolution": ([renaming.convolution("x", "a")], {"x": (4, 3, 2, 5)}),
  "norm": (renaming.norm("x", "a"), {"x.weight": (4,), "x.bias": (4,)}),
  "linear": (renaming.linear("x", "a"), {"x.weight": (4, 3), "x.bias": (4,)}),
  "one projection": (
    renaming.projections("x", ("q",), HEADS),
    {"x.weight": (WIDTH, WIDTH), "x.bias": (WIDTH,)},
  ),
  "two projections": (
    renaming.projections("x", ("k", "v"), HEADS),
    {"x.weight": (2 * WIDTH, WIDTH), "x.bias": (2 * WIDTH,)},
  ),
  "three projections": (
    renaming.projections("x", QKV, HEADS),
    {"x.weight": (3 * WIDTH, WIDTH), "x.bias": (3 * WIDTH,)},
  ),
  "out projection": (
    renaming.out_projection("x", "a", HEADS),
    {"x.weight": (WIDTH, WIDTH), "x.bias": (WIDTH,)},
  ),
  "rows": ([renaming.rows("x", {"a": 1, "b": 4, "c": 2})], {"x": (1, 7, 6)}),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("case", TABLES)
def test_there_and_back_is_exact(case, dtype):
  rules, shapes = TABLES[case]
  theirs = {k: _normal(*shape).astype(dtype) for k, shape in shapes.items()}
  ours = renaming.to_ours(theirs, rules, "file")
  assert set(ours) == {name for rule in rules for name in rule.ours}
  back = renaming.from_ours(ours, rules, "it")
  assert back.keys() == theirs.keys()
  for name, x in theirs.items():
    np.testing.assert_array_equal(back[name], x)
    assert back[name].dtype == dtype


@pytest.mark.parametrize("case", TABLES)
def test_nothing_is_copied_on_the_way_in(case):
  rules, shapes = TABLES[case]
  for rule in rules:
    array = _normal(*shapes[rule.theirs])
    assert all(np.shares_memory(x, array) for x in rule.split(array))


def test_an_array_that_is_not_there_is_left_to_others():
  rules = [*renaming.linear("x", "a"), renaming.same("y", "b")]
  theirs = {"x.weight": _normal(2, 3)}
  assert list(renaming.to_ours(theirs, rules, "file")) == ["a/kernel"]
  ours = {"a/bias": _normal(2)}
  assert list(renaming.from_ours(ours, rules, "it")) == ["x.bias"]


def test_leftovers_are_refused_in_both_directions():
  rules = renaming.projections("x", QKV, HEADS)
  with pytest.raises(ValueError) as caught:
    renaming.to_ours({"z": _normal(2), "y": _normal(2)}, rules, "dir/file")
  assert str(caught.value) == (
    "dir/file holds arrays that no ViT here has: y, z"
  )
  # Two of three that have one place together have none.
  ours = {"q/bias": _normal(3, 2), "v/bias": _normal(3, 2)}
  with pytest.raises(ValueError) as caught:
    renaming.from_ours(ours, rules, "It")
  assert str(caught.value) == "It has no place for q/bias, v/bias"


KERNELS, BIASES = "q/kernel, k/kernel, v/kernel", "q/bias, k/bias, v/bias"


@pytest.mark.parametrize(
  ("case", "name", "shape", "text"),
  [
    ("convolution", "x", (4, 3), "a: [out, in, h, w]"),
    ("linear", "x.weight", (4,), "a/kernel: [out, in]"),
    (
      "one projection",
      "x.weight",
      (10, 12),
      "q/kernel: [d, in], d a multiple of 3 heads,",
    ),
    (
      "three projections",
      "x.weight",
      (33, 12),
      f"{KERNELS}: [3 * d, in], d a multiple of 3 heads,",
    ),
    (
      "three projections",
      "x.bias",
      (35,),
      f"{BIASES}: [3 * d], d a multiple of 3 heads,",
    ),
    (
      "out projection",
      "x.weight",
      (12, 10),
      "a/kernel: [out, d], d a multiple of 3 heads,",
    ),
    ("rows", "x", (7, 6), "a, b, c: [1, 7, d]"),
  ],
)
def test_shapes_that_a_rule_does_not_take_are_refused(case, name, shape, text):
  with pytest.raises(ValueError) as caught:
    renaming.to_ours({name: np.zeros(shape)}, TABLES[case][0], "dir/file")
  assert str(caught.value) == (
    f"dir/file: {name} has shape {shape}, which makes no {text} is expected"
  )


@pytest.mark.parametrize("case", TABLES)
def test_an_array_of_any_shape_is_taken_or_refused_by_name(case):
  as_expected = 0
  for rule in TABLES[case][0]:
    for shape in [(n,) * rank for n in range(3) for rank in range(6)]:
      array = np.zeros(shape)
      try:
        ours = renaming.to_ours({rule.theirs: array}, [rule], "file")
      except ValueError as e:
        as_expected += str(e).startswith(
          f"file: {rule.theirs} has shape {shape}"
        )
      else:
        as_expected += set(ours) == set(rule.ours)
  assert as_expected == 18 * len(TABLES[case][0])
