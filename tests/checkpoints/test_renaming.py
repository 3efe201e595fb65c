"""Transforms against torch's formulas, written as loops and products."""

import numpy as np
import pytest

from flexivit_jax.checkpoints.formats import renaming

HEADS, WIDTH, TOKENS = 3, 12, 5
RNG = np.random.default_rng(0)

# Sums of at most 30 products of normal numbers, in float64, in another order.
EXACT = 1e-13


def _normal(*shape):
  return RNG.normal(size=shape)


def _split(rules, **arrays):
  """`arrays` of a program, under our names; "_" stands for "."."""
  return renaming.to_ours(
    {name.replace("_", "."): x for name, x in arrays.items()}, rules, "file"
  )


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
def test_back_and_there_is_exact(case):
  # That no two numbers of ours are one of theirs.
  rules, shapes = TABLES[case]
  blank = {name: np.zeros(shape) for name, shape in shapes.items()}
  ours = {
    name: _normal(*x.shape)
    for name, x in renaming.to_ours(blank, rules, "file").items()
  }
  theirs = renaming.from_ours(ours, rules, "it")
  assert {name: x.shape for name, x in theirs.items()} == shapes
  again = renaming.to_ours(theirs, rules, "file")
  for name, x in ours.items():
    np.testing.assert_array_equal(again[name], x)


@pytest.mark.parametrize("case", TABLES)
def test_nothing_is_copied_on_the_way_in(case):
  rules, shapes = TABLES[case]
  for rule in rules:
    array = _normal(*shapes[rule.theirs])
    assert all(np.shares_memory(x, array) for x in rule.split(array))


def test_a_convolution_is_ours_over_the_pixels_of_a_patch():
  weight, image = _normal(4, 3, 2, 5), _normal(3, 2, 5)  # torch: channels first
  expected = np.zeros(4)
  for o in range(4):
    for c in range(3):
      for y in range(2):
        for x in range(5):
          expected[o] += weight[o, c, y, x] * image[c, y, x]
  ours = _split([renaming.convolution("w", "k")], w=weight)["k"]
  assert ours.shape == (2, 5, 3, 4)
  # As our patch embedding has it: pixels by row, column and channel, flat.
  patch = image.transpose(1, 2, 0).reshape(-1)
  got = patch @ ours.reshape(-1, 4)
  np.testing.assert_allclose(got, expected, rtol=0, atol=EXACT)


def test_a_linear_map_is_x_times_the_transposed_weight():
  x, weight, bias = _normal(TOKENS, 4), _normal(6, 4), _normal(6)
  ours = _split(renaming.linear("m", "a"), m_weight=weight, m_bias=bias)
  got = x @ ours["a/kernel"] + ours["a/bias"]
  expected = x @ weight.T + bias
  np.testing.assert_allclose(got, expected, rtol=0, atol=EXACT)


def _project(x, ours, name):
  """As our attention has it: `[l, heads, d / heads]`."""
  kernel, bias = ours[f"{name}/kernel"], ours[f"{name}/bias"]
  return np.einsum("ld,dhk->lhk", x, kernel) + bias


@pytest.mark.parametrize("names", [("q",), ("k", "v"), QKV])
def test_a_fused_linear_map_holds_its_projections_one_after_the_other(names):
  n = len(names)
  weight, bias = _normal(n * WIDTH, WIDTH), _normal(n * WIDTH)
  x = _normal(TOKENS, WIDTH)
  rules = renaming.projections("m", names, HEADS)
  ours = _split(rules, m_weight=weight, m_bias=bias)
  # timm: linear(x).reshape(l, n, heads, d / heads).
  expected = (x @ weight.T + bias).reshape(TOKENS, n, HEADS, WIDTH // HEADS)
  for i, name in enumerate(names):
    got = _project(x, ours, name)
    np.testing.assert_allclose(got, expected[:, i], rtol=0, atol=EXACT)


def test_a_projection_need_not_be_square():
  weight, x = _normal(WIDTH, 7), _normal(TOKENS, 7)
  ours = _split(renaming.projections("m", ("q",), HEADS), m_weight=weight)
  got = np.einsum("ld,dhk->lhk", x, ours["q/kernel"])
  expected = (x @ weight.T).reshape(TOKENS, HEADS, -1)
  np.testing.assert_allclose(got, expected, rtol=0, atol=EXACT)


def test_the_projection_of_all_heads_is_that_of_each_summed():
  weight, x = _normal(7, WIDTH), _normal(TOKENS, HEADS, WIDTH // HEADS)
  ours = _split(renaming.out_projection("m", "a", HEADS), m_weight=weight)
  kernel = ours["a/kernel"]
  assert kernel.shape == (HEADS, WIDTH // HEADS, 7)
  got = sum(x[:, head] @ kernel[head] for head in range(HEADS))
  expected = x.reshape(TOKENS, WIDTH) @ weight.T
  np.testing.assert_allclose(got, expected, rtol=0, atol=EXACT)


def test_rows_come_in_the_order_of_their_counts():
  table = np.arange(10).reshape(1, 5, 2)
  ours = _split([renaming.rows("t", {"cls": 1, "grid": 3, "end": 1})], t=table)
  np.testing.assert_array_equal(ours["cls"], [[[0, 1]]])
  np.testing.assert_array_equal(ours["grid"], [[[2, 3], [4, 5], [6, 7]]])
  np.testing.assert_array_equal(ours["end"], [[[8, 9]]])


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
    ("linear", "x.weight", (4, 3, 1, 1), "a/kernel: [out, in]"),
    (
      "one projection",
      "x.weight",
      (10, 12),
      "q/kernel: [d, in], d a multiple of 3 heads,",
    ),
    (
      "three projections",
      "x.weight",
      (),
      f"{KERNELS}: [3 * d, in], d a multiple of 3 heads,",
    ),
    (
      "three projections",
      "x.weight",
      (36,),
      f"{KERNELS}: [3 * d, in], d a multiple of 3 heads,",
    ),
    (
      "three projections",
      "x.weight",
      (36, 12, 1),
      f"{KERNELS}: [3 * d, in], d a multiple of 3 heads,",
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
      (36, 1),
      f"{BIASES}: [3 * d], d a multiple of 3 heads,",
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
    (
      "out projection",
      "x.weight",
      (12,),
      "a/kernel: [out, d], d a multiple of 3 heads,",
    ),
    ("rows", "x", (7, 6), "a, b, c: [1, 7, d]"),
    ("rows", "x", (1, 8, 6), "a, b, c: [1, 7, d]"),
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
