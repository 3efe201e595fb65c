"""big_vision's files, today's and older ones, against its own logits."""

import functools

import golden
import jax
import made_up
import ml_dtypes
import numpy as np
import pytest

from flexivit_jax.checkpoints import load, npz, origin, save
from flexivit_jax.checkpoints import model as model_lib
from flexivit_jax.checkpoints.formats import big_vision, infer, parameters
from flexivit_jax.checkpoints.formats.metadata import Facts
from flexivit_jax.nn import pooling
from flexivit_jax.nn.positions import learned_grid, row_column, waves
from flexivit_jax.nn.positions import position as position_lib

BLOCK, ATTENTION = (
  "Transformer/encoderblock_1",
  "MultiHeadDotProductAttention_0",
)

GOLDEN = ("flexivit_tok", "flexivit_gap", "flexivit_map", "vit_gap_p16")

# As in tests/models/test_vit.py: the order of sums in float32.
PARITY = 3e-5


def _golden(name):
  return golden.read_big_vision(f"big_vision_{name}")


def _logits(path, name, **given):
  _, images, _, patch_size = _golden(name)
  with jax.default_matmul_precision("highest"):
    model = load.load(path, patch_size=patch_size, **given)
    return np.asarray(model(images))


def _file(tmp_path, arrays, prefix="params/", note=None):
  path = tmp_path / "file.npz"
  npz.write(path, {f"{prefix}{k}": x for k, x in arrays.items()}, note)
  return path


def _error(path, **given):
  with pytest.raises(ValueError) as caught:
    load.read(path, **given)
  return str(caught.value)


def _facts(**given):
  return Facts("file", ("given", given))


# Where in a file the parameters are, and what may be beside them.
PLACES = {
  "parameters alone": ("", {}),
  "since 2022": (
    "params/",
    {
      "opt/0/mu/embedding/kernel": np.zeros((1, 1, 3, 8)),
      "opt/target/embedding/kernel": np.zeros((1, 1, 3, 8)),
      "extra/step": np.zeros(()),
      "embedding/kernel": np.zeros((1, 1, 3, 8)),
    },
  ),
  "before 2022": (
    "opt/target/",
    {
      "opt/state/param_states/embedding/kernel/m": np.zeros((1, 1, 3, 8)),
      "opt/state/step": np.zeros(()),
      "extra/step": np.zeros(()),
    },
  ),
}


@pytest.mark.parametrize("place", PLACES)
def test_the_parameters_are_found_beside_anything_else(place):
  prefix, beside = PLACES[place]
  arrays = _golden("flexivit_map")[0]
  stored = beside | {f"{prefix}{k}": x for k, x in arrays.items()}
  found = big_vision.select(stored, "", "file")
  assert found.keys() == arrays.keys()
  assert all(found[name] is x for name, x in arrays.items())


def _towers(*names, prefix="params/"):
  """Several models in one file, and what a text model has beside them."""
  arrays = {f"{prefix}t": np.zeros(()), f"{prefix}txt/head/bias": np.zeros(3)}
  for i, tower in enumerate(names):
    for name, x in _golden("flexivit_map")[0].items():
      arrays[f"{prefix}{tower}/{name}"] = x + np.float32(i)
  return arrays


@pytest.mark.parametrize("prefix", big_vision.PREFIXES)
def test_one_of_several_models_is_chosen(prefix):
  arrays = _towers("img", "teacher/encoder", prefix=prefix)
  expected = _golden("flexivit_map")[0]
  for i, tower in enumerate(("img", "teacher/encoder")):
    found = big_vision.select(arrays, tower, "file")
    assert found.keys() == expected.keys()
    for name, x in expected.items():
      np.testing.assert_array_equal(found[name], x + np.float32(i))


def test_a_submodel_is_loaded_by_its_name_after_a_colon(tmp_path):
  path = _file(tmp_path, _towers("img", prefix=""))
  expected = _golden("flexivit_map")[2]
  got = _logits(f"{path}:img", "flexivit_map")
  np.testing.assert_allclose(got, expected, rtol=0, atol=PARITY)
  path = _file(tmp_path, _towers("img/encoder", prefix=""))
  got = _logits(f"{path}:img/encoder", "flexivit_map")
  np.testing.assert_allclose(got, expected, rtol=0, atol=PARITY)


@pytest.mark.parametrize(
  ("towers", "submodel", "text"),
  [
    (("a", "b/c"), "", "{0} holds several models: give {0}:a, {0}:b/c"),
    (("a", "b/c"), "d", "{0} has no submodel 'd'; there are {0}:a, {0}:b/c"),
    (("a",), "a/", "{0} has no submodel 'a/'; there are {0}:a"),
    ((), "img", "{0} has no submodel 'img'"),
  ],
)
def test_models_that_are_not_chosen_or_not_there(
  towers, submodel, text, tmp_path
):
  path = _file(tmp_path, _towers(*towers, prefix=""))
  asked = f"{path}:{submodel}" if submodel else path
  assert _error(asked) == text.format(path)


def _aged(arrays, posembed):
  """Today's names to those of an older file."""
  old = {}
  for name, x in arrays.items():
    in_block = name.startswith("Transformer/encoderblock")
    if name == "pos_embedding":
      name = posembed
    elif in_block:
      name = name.replace("LayerNorm_1", "LayerNorm_2")
      name = name.replace("MlpBlock_0", "MlpBlock_3")
      name = name.replace(ATTENTION, "MultiHeadDotProductAttention_1")
    old[name.removeprefix("MAPHead_0/")] = x
  return old


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize(
  ("prefix", "posembed"),
  [
    ("opt/target/", "Transformer/posembed_input/pos_embedding"),
    ("", "Transformer/pos_embedding"),
  ],
)
def test_old_names_give_the_same_model(name, prefix, posembed, tmp_path):
  arrays = _golden(name)[0]
  old = _aged(arrays, posembed)
  assert len(old.keys() - arrays.keys()) == 29 + 15 * ("map" in name)
  today = load.read(_file(tmp_path, arrays))
  checkpoint = load.read(_file(tmp_path, old, prefix))
  assert checkpoint.model == today.model
  assert checkpoint.arrays.keys() == arrays.keys()
  for key, x in arrays.items():
    np.testing.assert_array_equal(checkpoint.arrays[key], x)


def test_an_old_file_gives_its_published_logits(tmp_path):
  # The class token's position is a row of the table, as it was then: the sum
  # of both is what the file of today holds.
  arrays, _, logits, _ = _golden("flexivit_tok")
  rng = np.random.default_rng(0)
  row = rng.normal(size=(1, 1, 48)).astype(np.float32)
  old = _aged(arrays, "Transformer/posembed_input/pos_embedding")
  table = old["Transformer/posembed_input/pos_embedding"]
  old["Transformer/posembed_input/pos_embedding"] = np.concatenate(
    [row, table], axis=1
  )
  path = _file(tmp_path, old | {"cls": arrays["cls"] - row}, "opt/target/")
  got = _logits(path, "flexivit_tok")
  np.testing.assert_allclose(got, logits, rtol=0, atol=PARITY)
  # The row matters.
  path = _file(tmp_path, old, "opt/target/")
  assert np.abs(_logits(path, "flexivit_tok") - logits).max() > PARITY


@pytest.mark.parametrize(
  "names",
  [
    ("pos_embedding", "Transformer/pos_embedding"),
    ("Transformer/pos_embedding", "Transformer/posembed_input/pos_embedding"),
    (f"{BLOCK}/LayerNorm_1/bias", f"{BLOCK}/LayerNorm_2/bias"),
  ],
)
def test_two_names_of_one_array_are_refused(names):
  with pytest.raises(ValueError) as caught:
    big_vision.to_ours(dict.fromkeys(names, np.zeros(2)), _facts())
  assert (
    str(caught.value) == f"file: {names[0]} and {names[1]} are the same array"
  )


@functools.cache
def _random(model, dtype=np.float32):
  rng = np.random.default_rng(0)
  return {
    name: rng.normal(size=x.shape).astype(dtype)
    for name, x in parameters.shapes(model).items()
  }


def _read(theirs, **given):
  """(model, arrays under our names) of big_vision's file without a note."""
  facts = _facts(**given)
  ours = big_vision.to_ours(big_vision.select(theirs, "", "file"), facts)
  facts.add("convention", big_vision.CONVENTION)
  model = infer.model_of(ours, facts)
  parameters.check(model, ours, "file")
  return model, ours


GRID = learned_grid.LearnedGrid
# Models that big_vision has, and what must be given with their files.
HELD = {
  "class token": (dict(pool=pooling.ClassToken()), {}),
  "attention pooling": (dict(pool=pooling.Map()), {}),
  "position of the class token": (
    dict(pool=pooling.ClassToken(), prefix_position=True),
    {},
  ),
  "one position, and the class token's": (
    dict(
      pool=pooling.ClassToken(), prefix_position=True, position=GRID((1, 1))
    ),
    {},
  ),
  "tanh layer": (dict(representation=True), {}),
  "stacked, position of the class token": (
    dict(scan=True, pool=pooling.ClassToken(), prefix_position=True),
    {},
  ),
  "sincos2d and a class token": (
    dict(position=waves.SinCos2D(), pool=pooling.ClassToken()),
    {},
  ),
  "oblong positions": (dict(position=GRID((2, 4))), {"posemb": (2, 4)}),
  # 10 = 3 x 3 + 1 and 5 = 2 x 2 + 1: without the note the first is a token's.
  "positions one more than a square": (
    dict(position=GRID((2, 5)), pool=pooling.ClassToken()),
    {"posemb": (2, 5)},
  ),
  "positions in a row": (
    dict(position=GRID((1, 5)), pool=pooling.ClassToken()),
    {"posemb": (1, 5)},
  ),
  "without what the file cannot say": (
    dict(image_mean=(0.1, 0.2, 0.3), image_std=(0.4,), exact_gelu=True),
    dict(image_mean=(0.1, 0.2, 0.3), image_std=0.4, gelu="exact"),
  ),
}


@pytest.mark.parametrize("case", HELD)
def test_ours_there_and_back_is_exact(case):
  changes, given = HELD[case]
  model = made_up.tiny(**changes)
  ours = _random(model)
  theirs = big_vision.from_ours(ours, model)
  assert all(name.startswith("params/") for name in theirs)
  again, arrays = _read(theirs, **given)
  assert again == model
  assert arrays.keys() == ours.keys()
  for name, x in ours.items():
    np.testing.assert_array_equal(arrays[name], x)


@pytest.mark.parametrize("scan", [False, True])
def test_an_older_table_there_and_back_is_exact(scan):
  arrays = dict(_golden("flexivit_tok")[0])
  table = arrays["pos_embedding"]
  arrays["pos_embedding"] = np.concatenate([table[:, :1] * 2, table], axis=1)
  if scan:
    arrays = parameters.stack(arrays, 2)
  theirs = {f"params/{k}": x for k, x in arrays.items()}
  model, ours = _read(theirs)
  again = big_vision.from_ours(ours, model)
  assert again.keys() == theirs.keys()
  for key, x in theirs.items():
    np.testing.assert_array_equal(again[key], x)


def test_bfloat16_that_numpy_stored_as_two_bytes(tmp_path):
  arrays, _, logits, _ = _golden("flexivit_tok")
  half = {k: x.astype(ml_dtypes.bfloat16) for k, x in arrays.items()}
  path = tmp_path / "file.npz"
  np.savez(path, **{f"params/{k}": x for k, x in half.items()})
  with np.load(path) as file:
    assert file["params/cls"].dtype == np.dtype("V2")
  checkpoint = load.read(path)
  for name, x in half.items():
    assert checkpoint.arrays[name].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(checkpoint.arrays[name], x)
  # Weights rounded at 2^-9, in logits of order 1.
  error = np.abs(_logits(path, "flexivit_tok") - logits).max()
  assert PARITY < error < 0.05


CLS = {"cls": np.zeros((1, 1, 8), np.float32)}
# Rows of the table, whether there is a class token, what is given; the class
# token's rows and the grid.
TABLES = [
  (9, False, {}, (0, (3, 3))),
  (9, True, {}, (0, (3, 3))),
  (10, True, {}, (1, (3, 3))),
  (2, True, {}, (1, (1, 1))),
  (10, True, {"posemb": (2, 5)}, (0, (2, 5))),
  (16, True, {"posemb": (3, 5)}, (1, (3, 5))),
  (16, True, {"posemb": (2, 8)}, (0, (2, 8))),
  (7, True, {"posemb": (2, 3)}, (1, (2, 3))),
]


@pytest.mark.parametrize(("rows", "class_token", "given", "expected"), TABLES)
def test_the_class_tokens_row(rows, class_token, given, expected):
  table = np.random.default_rng(0).normal(size=(1, rows, 8))
  arrays = {"pos_embedding": table} | (CLS if class_token else {})
  facts = _facts(**given)
  ours = big_vision.to_ours(arrays, facts)
  extra, grid = expected
  assert infer.grid(ours["pos_embedding"].shape[1], facts) == grid
  np.testing.assert_array_equal(ours["pos_embedding"], table[:, extra:])
  assert ("cls_pos_embedding" in ours) == bool(extra)
  if extra:
    np.testing.assert_array_equal(ours["cls_pos_embedding"], table[:, :1])


@pytest.mark.parametrize(
  ("changes", "text"),
  [
    (dict(registers=2), "no registers"),
    (dict(layer_scale=1e-5), f"no {infer.LAYER_SCALE}"),
    (
      dict(qkv_bias=False),
      "no queries, keys and values without biases",
    ),
    (
      dict(pool=pooling.Gap(class_token=True)),
      "no class token beside average pooling",
    ),
    (
      dict(position=position_lib.NoPosition()),
      "no model without positions",
    ),
    (
      dict(position=row_column.RowColumn((3, 3))),
      "no row_column positions",
    ),
    (
      dict(
        rms_norm=True, gated_mlp=True, attention_scale=1.0, standardize=True
      ),
      "no rms_norm, no gated_mlp, no attention_scale, no standardize",
    ),
  ],
)
def test_what_big_vision_has_no_place_for_is_refused(changes, text, tmp_path):
  model = made_up.tiny(**changes)
  spec = origin.Spec(source="test", path="made up")
  checkpoint = model_lib.StoredModel(model, _random(model), spec)
  with pytest.raises(ValueError) as caught:
    save.save(checkpoint, tmp_path / "file.npz", "big_vision")
  assert str(caught.value) == f"big_vision has {text}"
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("position", [GRID((2, 4)), waves.SinCos2D()])
def test_a_class_tokens_position_beside_no_square_is_refused(position):
  model = made_up.tiny(
    pool=pooling.ClassToken(), prefix_position=True, position=position
  )
  with pytest.raises(ValueError) as caught:
    big_vision.from_ours(_random(model), model)
  assert str(caught.value) == (
    "big_vision knows a class token's position by one row more than a square "
    "of positions has, and this model's are no square"
  )


def test_what_big_vision_will_compute_otherwise_is_said(tmp_path):
  model = made_up.tiny(
    exact_gelu=True, norm_eps=1e-5, image_std=(0.2, 0.3, 0.4)
  )
  spec = origin.Spec(source="test", path="made up")
  checkpoint = model_lib.StoredModel(model, _random(model), spec)
  notes = save.save(checkpoint, tmp_path / "file.npz", "big_vision")
  assert sorted(notes) == [
    "eps is 1e-05, and will be 1e-06 there",
    "gelu is exact, and will be tanh there",
    "image_std is [0.2, 0.3, 0.4], and will be [0.5] there",
  ]
  plain = model_lib.StoredModel(made_up.tiny(), _random(made_up.tiny()), spec)
  assert save.save(plain, tmp_path / "plain.npz", "big_vision") == []


def test_where_there_is_no_table_positions_are_sines(tmp_path):
  model = made_up.tiny(position=waves.SinCos2D())
  path = _file(tmp_path, _random(model))
  read = load.read(path)
  assert read.model == model
  assert read.spec.origins["position"] == "assumed, as usual in big_vision"
  noted = _file(
    tmp_path, _random(model), note={"position": "none", "temperature": 7}
  )
  assert load.read(noted).model.position == position_lib.NoPosition()
