import numpy as np
import pytest

from flexivit_jax.checkpoints.formats.metadata import Facts


def _facts(**sources):
  return Facts("runs/x", *sources.items())


@pytest.mark.parametrize(
  ("given", "config", "added", "expected"),
  [
    (1, 2, 3, (1, "given")),
    (None, 2, 3, (2, "config")),
    (None, None, 3, (3, "added")),
    (0, 2, 3, (0, "given")),
  ],
)
def test_the_first_source_that_knows_wins(given, config, added, expected):
  # None is what a config.json leaves out, 0 is a value.
  facts = _facts(given={"num_heads": given}, config={"num_heads": config})
  facts.add("added", {"num_heads": added})
  value, origin = expected
  assert facts.get("num_heads", 7) == value
  assert facts.origins == {"num_heads": origin}


def test_a_default_has_no_origin_and_nothing_is_remembered_unasked():
  facts = _facts(given={"eps": 1e-5})
  assert facts.get("pool", "gap") == "gap"
  assert facts.get("posemb", None) is None
  assert facts.origins == {}
  facts.agree("eps", 1e-5, "the arrays show it")
  assert facts.origins == {}


def test_what_nobody_says_is_asked_for():
  with pytest.raises(ValueError) as caught:
    _facts(given={}, config={"gelu": None}).get("gelu")
  assert str(caught.value) == (
    "runs/x does not say gelu ('tanh' or 'exact'), and neither does a "
    "config.json beside it: give gelu= to load, --gelu to a command"
  )


def test_what_is_said_otherwise_than_the_arrays_show_is_refused():
  facts = _facts(given={}, config={"pool": "gap"})
  facts.agree("pool", "gap", "it has no class token")
  facts.agree("eps", None, "there is no norm")
  with pytest.raises(ValueError) as caught:
    facts.agree("pool", "map", "it has a pooling head")
  assert str(caught.value) == (
    "runs/x: pool is 'gap' (config), but it has a pooling head"
  )


# Kinds of values as files and callers write them, and as they are used.
WRITTEN = [
  ("num_heads", np.int64(3), 3),
  ("eps", 1e-6, 1e-6),
  ("posemb", [7, 8], (7, 8)),
  ("image_mean", 0.5, (0.5,)),
  ("image_std", np.array([0.25, 0.5]), (0.25, 0.5)),
  ("kernel_antialias", np.True_, True),
  ("patch_size", [16, 8], (16, 8)),
  ("trained_sizes", [[16, 8], 4], ((16, 8), (4, 4))),
  ("classes", ["cat", 7], ("cat", "7")),
]


@pytest.mark.parametrize(("name", "written", "value"), WRITTEN)
def test_a_value_has_one_type_however_it_is_written(name, written, value):
  got = _facts(file={name: written}).get(name)
  assert got == value
  assert type(got) is type(value)
  if isinstance(value, tuple):
    assert list(map(type, got)) == list(map(type, value))


@pytest.mark.parametrize(
  ("name", "value", "text"),
  [
    ("num_heads", "3", "'3' (note): a whole number is expected"),
    ("gelu", ["tanh"], "['tanh'] (note): a text is expected"),
    ("eps", "1e-6", "'1e-6' (note): a number is expected"),
    ("posemb", (7,), "(7,) (note): (rows, cols) is expected"),
    ("posemb", (7.0, 7), "(7.0, 7) (note): (rows, cols) is expected"),
    (
      "image_mean",
      "grey",
      "'grey' (note): a number, or one for each channel, is expected",
    ),
    (
      "patch_size",
      [16, 0],
      "[16, 0] (note): pixels, or (height, width), is expected",
    ),
    (
      "trained_sizes",
      [[16, -8]],
      "[[16, -8]] (note): a list of patch sizes is expected",
    ),
    ("classes", "cats", "'cats' (note): a list of names is expected"),
  ],
)
def test_values_of_another_kind_are_refused(name, value, text):
  facts = _facts(note={name: value})
  with pytest.raises(ValueError) as caught:
    facts.get(name, None)
  assert str(caught.value) == f"runs/x: {name} is {text}"
  assert facts.origins == {}
