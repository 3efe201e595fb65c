"""Files as users have them: one clear error that names them, or a model."""

import functools
import itertools

import made_up
import ml_dtypes
import numpy as np
import pytest

from flexivit_jax.checkpoints import load, npz, safetensors
from flexivit_jax.checkpoints import model as model_lib
from flexivit_jax.checkpoints.formats import (
  big_vision,
  hugging_face,
  parameters,
  timm,
)
from flexivit_jax.nn import pooling

BLOCK, ATTENTION = "Transformer/encoderblock", "MultiHeadDotProductAttention_0"


def _tiny(**changes):
  return made_up.tiny(**({"pool": pooling.ClassToken()} | changes))


_shapes = functools.cache(parameters.shapes)


@functools.cache
def _random(model):
  rng = np.random.default_rng(0)
  return {
    name: rng.normal(size=x.shape).astype(np.float32)
    for name, x in _shapes(model).items()
  }


def _zeros(*shape):
  return np.zeros(shape, np.float32)


def _without(*parts):
  """The arrays but those with any of the parts in their names."""
  arrays = _random(_tiny())
  return {k: x for k, x in arrays.items() if not any(p in k for p in parts)}


def _with(**changed):
  return _random(_tiny()) | changed


def _at(name, array):
  return _random(_tiny()) | {name: array}


def _as(dtype):
  return {name: x.astype(dtype) for name, x in _random(_tiny()).items()}


def _renamed(old, new):
  return {k.replace(old, new): x for k, x in _random(_tiny()).items()}


QUERY = f"{BLOCK}_0/{ATTENTION}/query/kernel"
NO_QUERY = f": no array {QUERY}, which every ViT has; it holds"
# How a table begins; spaces that align it are left out here.
TABLE = " does not match the model: kind name checkpoint model"

# What is in a file, and how the error goes on after the file's path; None: it
# is a model.
ODD = {
  "another model": (
    {"conv1/kernel": _zeros(3, 3, 3, 8), "fc/bias": _zeros(5)},
    f"{NO_QUERY} 2 arrays, such as conv1/kernel, fc/bias",
  ),
  "positions of rank 2": (
    _with(pos_embedding=_zeros(9, 8)),
    ": pos_embedding has shape (9, 8), and rank 3 in every ViT",
  ),
  "no positions": (
    _with(pos_embedding=_zeros(1, 0, 8)),
    ": its 0 positions are no square: give its rows and columns as "
    "posemb=(rows, cols)",
  ),
  "heads that do not divide": (
    _at(QUERY, _zeros(8, 3, 3)),
    ": width 8 is not a multiple of num_heads 3",
  ),
  "a layer too few": (
    _renamed("encoderblock_1", "encoderblock_2"),
    f"{TABLE} missing {BLOCK}_1/LayerNorm_0/bias - (8,)",
  ),
  "a head without a bias": (
    _without("head/bias"),
    f"{TABLE} missing head/bias - (5,)",
  ),
  "norms without biases": (
    _without("LayerNorm_0/bias", "LayerNorm_1/bias", "norm/bias"),
    ": rms_norm is False (assumed, as usual in big_vision), but its norms have "
    "no biases",
  ),
  "no channels": (
    _at("embedding/kernel", _zeros(4, 4, 0, 8)),
    ": channels is 0: give 1 to 10000",
  ),
  "whole numbers": (
    _as(np.int8),
    ": Transformer/encoder_norm/bias is int8, not floating point",
  ),
  "a class token beside a pooling head": (
    _random(_tiny(pool=pooling.Map())) | {"cls": _zeros(1, 1, 8)},
    ": a class token beside an attention-pooling head; no model here has both",
  ),
  "bytes in another order": (_as(">f4"), None),
  "a million classes": (
    _at("head/bias", np.zeros(10**6, np.float16))
    | {"head/kernel": np.zeros((8, 10**6), np.float16)},
    None,
  ),
}


@pytest.mark.parametrize("case", ODD)
def test_odd_arrays(case, tmp_path):
  arrays, text = ODD[case]
  path = tmp_path / "file.npz"
  np.savez(path, **{f"params/{name}": x for name, x in arrays.items()})
  if text is None:
    checkpoint = load.read(path)
    assert checkpoint.arrays.keys() == arrays.keys()
    model = model_lib.on_device(checkpoint)
    logits = model(np.zeros((1, 4, 4, model.model.channels), np.uint8), 4)
    assert np.isfinite(logits).all()
    return
  with pytest.raises(ValueError) as caught:
    load.load(path)
  assert " ".join(str(caught.value).split()).startswith(f"{path}{text}")


@pytest.mark.parametrize(
  ("first", "second"), list(itertools.permutations(big_vision.PREFIXES, 2))
)
def test_of_two_places_the_first_known_is_read(first, second, tmp_path):
  # The latest big_vision's, whatever their order in the file.
  arrays = _random(_tiny())
  doubled = {name: 2 * x for name, x in arrays.items()}
  path = tmp_path / "file.npz"
  np.savez(
    path,
    **{f"{first}{name}": x for name, x in arrays.items()},
    **{f"{second}{name}": x for name, x in doubled.items()},
  )
  wanted = min(first, second, key=big_vision.PREFIXES.index)
  expected = arrays if wanted == first else doubled
  found = load.read(path).arrays
  assert found.keys() == expected.keys()
  for name, x in expected.items():
    np.testing.assert_array_equal(found[name], x)


@pytest.mark.parametrize(
  ("given", "text"),
  [
    ({"posemb": 3}, "posemb is 3 (given): (rows, cols) is expected"),
    ({"num_heads": 4}, "num_heads is 4 (given), but its arrays have 2"),
    ({"eps": "small"}, "eps is 'small' (given): a number is expected"),
    (
      {"image_mean": (123.7, 116.3, 103.5)},
      "image_mean is (123.7, 116.3, 103.5): give one number of 0 to 1, or one "
      "for each of 3 channels",
    ),
  ],
)
def test_what_is_given_and_cannot_be(given, text, tmp_path):
  path = tmp_path / "file.npz"
  np.savez(path, **_random(_tiny()))
  with pytest.raises(ValueError) as caught:
    load.load(path, **given)
  assert str(caught.value) == f"{path}: {text}"


# A note that another program, or a later version, left in the file.
@pytest.mark.parametrize(
  ("note", "text"),
  [
    ({"eps": None, "unheard of": {}}, None),
    ({"eps": [1e-6]}, "eps is [1e-06] (the file's note): a number is expected"),
    (
      {"classes": 5},
      "classes is 5 (the file's note): a list of names is expected",
    ),
    (
      {"patch_size": {}},
      "patch_size is {} (the file's note): pixels, or (height, width), is "
      "expected",
    ),
  ],
)
def test_odd_notes(note, text, tmp_path):
  path = tmp_path / "file.npz"
  npz.write(path, _random(_tiny()), note)
  if text is None:
    assert load.read(path).model == _tiny()
    return
  with pytest.raises(ValueError) as caught:
    load.load(path)
  assert str(caught.value) == f"{path}: {text}"


FUZZED = {
  "class token with a position": _tiny(prefix_position=True),
  "attention pooling, stacked": _tiny(pool=pooling.Map(), scan=True),
}


def _taken(x, rng):
  """With any length of at most 6 along one of its axes."""
  axis, count = rng.integers(x.ndim), rng.integers(7)
  rows = rng.integers(0, x.shape[axis], count) if x.shape[axis] else []
  return np.take(x, np.asarray(rows, int), axis)


TYPES = (np.int32, np.bool_, np.float16, np.float64, ml_dtypes.bfloat16)


def _mutated(arrays, rng):
  """Arrays of which one to three were lost, reshaped, renamed, or changed."""
  arrays = dict(arrays)
  for _ in range(rng.integers(1, 4)):
    if not arrays:
      break
    name = str(rng.choice(sorted(arrays)))
    x = arrays[name]
    match rng.integers(9):
      case 0:
        del arrays[name]
      case 1:  # all that share a part of their names
        part = str(rng.choice(name.replace(".", "/").split("/")))
        arrays = {k: v for k, v in arrays.items() if part not in k}
      case 2:
        arrays[name] = x.reshape(-1)
      case 3:
        arrays[name] = np.expand_dims(x, rng.integers(x.ndim + 1))
      case 4:
        arrays[name] = x.T
      case 5 if x.ndim:
        arrays[name] = _taken(x, rng)
      case 6:
        arrays[name] = x.astype(TYPES[rng.integers(len(TYPES))])
      case 7:  # the name of another, which is lost
        other = str(rng.choice(sorted(arrays)))
        arrays[other] = arrays.pop(name)
      case 8:  # a name that is almost its own
        at, count = rng.integers(len(name) + 1), rng.integers(2)
        written = str(rng.choice(list("0123/_.ax")))
        arrays[name[:at] + written + name[at + count :]] = arrays.pop(name)
  return arrays


def _outcome(path, **given):
  """What is said of a file, or None for a model with all its arrays."""
  try:
    checkpoint = load.read(path, **given)
  except ValueError as e:
    return str(e)
  shapes = {name: x.shape for name, x in checkpoint.arrays.items()}
  wanted = _shapes(checkpoint.model)
  assert shapes == {name: x.shape for name, x in wanted.items()}
  return None


@pytest.fixture
def fast(monkeypatch):
  """Each model is traced once."""
  monkeypatch.setattr(parameters, "shapes", _shapes)


ROUNDS = 100


def _fuzz(write, path, arrays, **given):
  rng = np.random.default_rng(0)
  told = []
  for _ in range(ROUNDS):
    write(path, _mutated(arrays, rng))
    told.append(_outcome(path, **given))
  errors = [text for text in told if text is not None]
  assert [text for text in errors if not text.startswith(str(path))] == []
  # Both happen: of another type, or without its head, it is a model still.
  assert 0 < len(errors) < ROUNDS


@pytest.mark.parametrize("case", FUZZED)
def test_npz_files_that_were_tampered_with(case, fast, tmp_path):
  model = FUZZED[case]
  arrays = big_vision.from_ours(_random(model), model)

  def write(path, arrays):
    np.savez(path, **arrays)

  _fuzz(write, tmp_path / "file.npz", arrays)


@pytest.mark.parametrize("format_", [timm, hugging_face], ids=["timm", "hf"])
def test_safetensors_that_were_tampered_with(format_, fast, tmp_path):
  model = _tiny(prefix_position=True)
  arrays = format_.from_ours(_random(model), model)

  def write(path, arrays):
    safetensors.write(path, arrays, {})

  _fuzz(write, tmp_path / "file.safetensors", arrays, num_heads=2)


CONFIGS = (
  '{"architecture": 5, "model_args": 7}',
  '{"architecture": "vit", "model_args": {"num_heads": "two"}}',
  '{"architecture": "vit", "pretrained_cfg": {"mean": {"r": 1}}}',
  '{"architecture": "vit", "label_names": [1, 2, 3, 4, 5, 6]}',
  '{"model_type": "vit", "patch_size": 0, "image_size": 12}',
  '{"model_type": "vit", "layer_norm_eps": "tiny"}',
  '{"model_type": "vit", "num_attention_heads": 0}',
  '{"model_type": "vit", "id2label": [1, 2]}',
  "nothing",
)


@pytest.mark.parametrize("config", CONFIGS)
def test_a_config_json_may_hold_anything(config, tmp_path):
  format_ = timm if "architecture" in config else hugging_face
  model = _tiny(prefix_position=True)
  file = tmp_path / "model.safetensors"
  safetensors.write(file, format_.from_ours(_random(model), model), {})
  assert _outcome(file, num_heads=2) is None
  (tmp_path / "config.json").write_text(config, "latin-1")
  # Heads are given where nothing is wrong with what is said of them.
  given = {} if "heads" in config else {"num_heads": 2}
  text = _outcome(file, **given)
  assert text is not None
  assert str(tmp_path) in text
  assert len(text.splitlines()) == 1


def test_no_more_names_of_classes_than_the_head_has(tmp_path):
  arrays = {f"params/{k}": x for k, x in _random(_tiny()).items()}
  npz.write(tmp_path / "file.npz", arrays, {"classes": list("abcdef")})
  assert _outcome(tmp_path / "file.npz") == (
    f"{tmp_path}/file.npz: 6 names of classes (the file's note), but the head "
    "has 5"
  )
  # A head may be wider than the data that it was trained on.
  npz.write(tmp_path / "file.npz", arrays, {"classes": ["a", "b"]})
  assert load.read(tmp_path / "file.npz").spec.classes == ("a", "b")
