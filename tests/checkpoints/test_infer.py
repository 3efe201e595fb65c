"""The model that arrays are made for, read off them."""

import functools
import json

import flax.traverse_util
import jax
import jax.numpy as jnp
import made_up
import numpy as np
import pytest

from flexivit_jax.checkpoints.formats import infer, parameters
from flexivit_jax.checkpoints.formats.metadata import Facts
from flexivit_jax.core.tokens import patchify
from flexivit_jax.models import vit
from flexivit_jax.nn import encoder, pooling
from flexivit_jax.nn.positions import (
  learned_grid,
  position,
  relative,
  rotary,
  row_column,
  waves,
)

BLOCKS, ATTENTION = "Transformer/encoderblock", "MultiHeadDotProductAttention_0"

SIZES = (
  encoder.Size(8, 1, 12, 1),
  encoder.Size(16, 2, 8, 4),
  encoder.Size(24, 3, 60, 3),
  encoder.Size(12, 4, 12, 12),
)
POSITIONS = (
  learned_grid.LearnedGrid((3, 3)),
  learned_grid.LearnedGrid((7, 7), antialias=False),
  learned_grid.LearnedGrid((2, 5)),
  waves.SinCos2D(100.0),
  waves.SinCos2D(fractional_side=7.5),
  position.NoPosition(),
  waves.Fourier(fractional_side=1.0),
  row_column.RowColumn((5, 6), "product", "fractional"),
  row_column.RowColumn((4, 3), "stack", "interpolated", antialias=False),
  row_column.RowColumn((9, 2), first=1),
  row_column.JointTable((4, 7)),
  rotary.Rotary(50.0),
  relative.Relative((2, 6)),
)
POOLS = (
  pooling.Gap(),
  pooling.Gap(class_token=True),
  pooling.ClassToken(),
  pooling.Map(),
)
FIELDS = {
  "size": SIZES,
  "position": POSITIONS,
  "pool": POOLS,
  "kernel_hw": ((4, 4), (6, 3), (1, 2)),
  "num_classes": (0, 1, 5),
  "channels": (1, 3, 4),
  "kernel_antialias": (False, True),
  "embedding_norm": (False, True),
  "registers": (0, 1, 3),
  "prefix_position": (False, True),
  "representation": (False, True),
  "layer_scale": (None, 1e-5),  # arrays do not say how it began
  "qk_norm": (False, True),
  "qkv_bias": (True, False),
  "proj_bias": (True, False),
  "attention_scale": (None, 1.0),
  "gated_mlp": (False, True),
  "rms_norm": (False, True),
  "norm_after_pool": (False, True),
  "exact_gelu": (False, True),
  "norm_eps": (1e-6, 1e-5, 1e-12),
  "scan": (False, True),
}


def _drawn(seed):
  """A model with all its options drawn."""
  rng = np.random.default_rng(seed)
  fields = {
    k: choices[rng.integers(len(choices))] for k, choices in FIELDS.items()
  }
  if rng.random() < 0.2:
    return vit.ViT(**fields, standardize=True)
  for name, low in (("image_mean", 0.0), ("image_std", 0.1)):
    count = rng.choice([1, fields["channels"]])
    fields[name] = tuple(rng.uniform(low, 1, count).tolist())
  if not (fields["pool"].class_token or fields["registers"]):
    fields["prefix_position"] = False  # of nothing
  if isinstance(fields["position"], rotary.Rotary):
    fields["size"] = SIZES[1]  # heads of four channels
  return vit.ViT(**fields)


DRAWN = [_drawn(seed) for seed in range(48)]


@functools.cache
def _shapes(model):
  return parameters.shapes(model)


def _arrays(model):
  return {k: np.zeros(x.shape, x.dtype) for k, x in _shapes(model).items()}


def _facts(facts, path="dir/file"):
  return Facts(path, ("note", facts))


def _read(model, arrays=None, **facts):
  arrays = _arrays(model) if arrays is None else arrays
  said = infer.facts_of(model) | facts
  return infer.model_of(arrays, _facts(said))


def _plain(model):
  """Names, shapes and types of an ordinary init."""
  hw = model.kernel_hw
  image = jnp.zeros((1, *hw, model.channels), jnp.uint8)
  shapes = jax.eval_shape(
    lambda: model.init(jax.random.key(0), patchify(image, hw))
  )
  return flax.traverse_util.flatten_dict(shapes["params"], sep="/")


def test_a_model_is_read_off_its_own_arrays():
  for model in DRAWN:
    # Facts as a file holds them: through JSON.
    facts = json.loads(json.dumps(infer.facts_of(model)))
    arrays = _shapes(model)
    read = infer.model_of(arrays, _facts(facts))
    assert read == model
    # Equal models are compiled once.
    assert hash(read) == hash(model)
    assert infer.facts_of(read) == facts
    parameters.check(read, arrays, "dir/file")


def test_shapes_are_those_of_an_ordinary_init():
  for model in DRAWN[::4]:
    assert _shapes(model) == _plain(model)


@pytest.mark.parametrize(
  ("given", "config", "widths", "expected"),
  [
    (6, 4, (192, 12, 768), (6, "given")),
    (None, 4, (192, 12, 768), (4, "config.json")),
    (None, None, (192, 12, 768), (3, "widths of ViT-Ti")),
    (None, 4, (192, 13, 768), (4, "config.json")),
    (1, 4, (192, 13, 768), (1, "given")),
  ],
)
def test_heads_are_those_given_then_written_then_of_the_variant(
  given, config, widths, expected
):
  sources = (
    ("given", {"num_heads": given}),
    ("config.json", {"num_heads": config}),
  )
  facts = Facts("file", *sources)
  heads, origin = expected
  assert infer.num_heads(facts, *widths) == heads
  assert facts.origins == {"num_heads": origin}


QUERY = f"{BLOCKS}_0/{ATTENTION}/query/kernel"
MLP = f"{BLOCKS}_0/MlpBlock_0/Dense_0/kernel"


@pytest.mark.parametrize("name", [QUERY, MLP, "embedding/kernel"])
def test_arrays_that_every_vit_has_are_missed(name):
  arrays = _arrays(made_up.tiny())
  del arrays[name]
  count = len(arrays)
  with pytest.raises(ValueError) as caught:
    _read(made_up.tiny(), arrays)
  assert str(caught.value) == (
    f"dir/file: no array {name}, which every ViT has; it holds {count} arrays, "
    f"such as {', '.join(sorted(arrays)[:3])}"
  )
  with pytest.raises(ValueError) as caught:
    _read(made_up.tiny(), {})
  assert str(caught.value) == (
    f"dir/file: no array {QUERY}, which every ViT has; it holds 0 arrays"
  )


@pytest.mark.parametrize(
  ("name", "rank"),
  [
    (QUERY, 3),
    (MLP, 2),
    ("embedding/kernel", 4),
    ("pos_embedding", 3),
    ("registers", 3),
    ("head/bias", 1),
  ],
)
def test_arrays_of_another_rank_are_refused(name, rank):
  model = made_up.tiny(registers=2)
  for wrong in {*range(6)} - {rank}:
    shape = (2,) * wrong
    arrays = _arrays(model) | {name: np.zeros(shape)}
    with pytest.raises(ValueError) as caught:
      _read(model, arrays)
    assert str(caught.value) == (
      f"dir/file: {name} has shape {shape}, and rank {rank} in every ViT"
    )


@pytest.mark.parametrize(
  ("model", "facts", "text"),
  [
    (
      made_up.tiny(pool=pooling.Map()),
      {"pool": "gap"},
      "pool is 'gap' (note), but the file has an attention-pooling head",
    ),
    (
      made_up.tiny(),
      {"pool": "tok"},
      "pool is 'tok' (note), but the file has no class token",
    ),
    (
      made_up.tiny(pool=pooling.ClassToken()),
      {"pool": "max"},
      "pool is 'max' (note), but only 'tok', 'gap' and 'map' are known here",
    ),
    (
      made_up.tiny(position=position.NoPosition()),
      {"posemb": (7, 7)},
      "posemb is (7, 7) (note), but the file has no pos_embedding",
    ),
    (
      made_up.tiny(position=position.NoPosition()),
      {"position": "rope"},
      "no pos_embedding, and position is 'rope' (note): only 'none', "
      "'sincos2d', 'rotary' are known here",
    ),
    (
      made_up.tiny(position=waves.SinCos2D()),
      {"temperature": 0.5},
      "temperature is 0.5: give at least 1",
    ),
    (
      made_up.tiny(position=rotary.Rotary()),
      {"temperature": None},
      "nobody says the temperature of its positions, 'rotary'",
    ),
    (
      made_up.tiny(position=row_column.RowColumn((3, 4))),
      {"posemb_read": "quadratic"},
      "read is 'quadratic': give one of absolute, fractional, interpolated",
    ),
    (
      made_up.tiny(position=relative.Relative((3, 4))),
      {"position": "rotary"},
      "position is 'rotary' (note), but its arrays are those of 'relative'",
    ),
    (
      made_up.tiny(),
      {"gelu": "quick_gelu"},
      "gelu is 'quick_gelu' (note): only 'tanh' and 'exact' are known here",
    ),
    (
      made_up.tiny(),
      {"eps": 2.0},
      "norm_eps is 2.0: give more than 0 and less than 1",
    ),
  ],
)
def test_facts_that_are_not_of_the_arrays_or_of_any_model(model, facts, text):
  with pytest.raises(ValueError) as caught:
    _read(model, **facts)
  assert str(caught.value) == f"dir/file: {text}"


@pytest.mark.parametrize("fact", ["gelu", "eps"])
def test_facts_that_no_array_holds_are_asked_for(fact):
  with pytest.raises(ValueError) as caught:
    _read(made_up.tiny(), **{fact: None})
  assert str(caught.value).startswith(f"dir/file does not say {fact} (")


@pytest.mark.parametrize(
  ("changed", "text"),
  [
    ({MLP: (8, 0)}, "mlp_dim is 0: give 1 to 1000000"),
    (
      {"embedding/kernel": (0, 4, 3, 8)},
      "kernel_hw (0, 4): give (height, width), each of 1 to 1024 pixels",
    ),
    (
      {f"{BLOCKS}_100000000/x": (1,)},
      "Transformer/encoderblock_100000000/... is beyond the 1000 layers that a "
      "model may have",
    ),
    (
      {"head/bias": (20_000_000,)},
      "num_classes is 20000000: give 0 to 10000000",
    ),
    (
      {"pos_embedding": (1, 2000**2, 0)},
      "size is (2000, 2000) rows and cols: give 1 to 1024 of each",
    ),
  ],
)
def test_sizes_that_no_model_has(changed, text):
  shapes = {k: jax.ShapeDtypeStruct(v, np.float32) for k, v in changed.items()}
  facts = {"num_heads": None, "posemb": None}
  with pytest.raises(ValueError) as caught:
    _read(made_up.tiny(), _arrays(made_up.tiny()) | shapes, **facts)
  assert str(caught.value) == f"dir/file: {text}"


def test_a_layers_number_of_thousands_of_digits_is_a_name_like_others():
  name = f"{BLOCKS}_{'1' * 5000}/x"
  arrays = _arrays(made_up.tiny()) | {name: np.zeros(1)}
  assert _read(made_up.tiny(), arrays) == made_up.tiny()


def test_the_largest_model_costs_nothing_to_look_at():
  # What a file declares is not yet what is allocated.
  model = vit.ViT(
    size=encoder.Size(10**6, 1000, 10**6, 1),
    position=learned_grid.LearnedGrid((1024, 1024)),
    pool=pooling.Map(),
    kernel_hw=(1024, 1024),
    num_classes=10**7,
    channels=10_000,
  )
  shapes = parameters.shapes(model)
  assert len(shapes) == 1000 * 16 + 22
  assert shapes["embedding/kernel"].shape == (1024, 1024, 10_000, 10**6)
