"""The model against big_vision's numbers, and its laws."""

import dataclasses
import functools
import pathlib
import re

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flexivit_jax.core.tokens import patchify
from flexivit_jax.models import sizes, vit
from flexivit_jax.nn import encoder, pooling
from flexivit_jax.nn.positions import learned_grid
from tests import tiny

DATA = pathlib.Path(__file__).parents[1] / "data"

# Max abs difference to the reference in float32 at highest precision. A right
# forward stays within 1.4e-5; what remains is the order of sums.
PARITY = 3e-5
# Averages of tokens lie closer, within 4.1e-6, and so do the mutants.
PARITY_GAP = 1e-5

GOLDEN = {
  "flexivit_tok": (pooling.ClassToken(), (32, 32), (7, 7)),
  "flexivit_gap": (pooling.Gap(), (32, 32), (7, 7)),
  "flexivit_map": (pooling.Map(), (32, 32), (7, 7)),
  "vit_gap_p16": (pooling.Gap(), (16, 16), (4, 4)),
}


@functools.cache
def _golden(name):
  return dict(np.load(DATA / f"big_vision_{name}.npz"))


def _model(name, **changes):
  pool, kernel_hw, grid = GOLDEN[name]
  fields = dict(
    size=encoder.Size(48, 2, 96, 3),
    position=learned_grid.LearnedGrid(grid),
    pool=pool,
    kernel_hw=kernel_hw,
    num_classes=10,
  )
  return vit.ViT(**(fields | changes))


def _errors(name, seqhw, **changes):
  """Largest difference of each offered quantity to the reference."""
  golden = _golden(name)
  params = flax.traverse_util.unflatten_dict(
    {
      k.removeprefix("params/"): v
      for k, v in golden.items()
      if k.startswith("params/")
    },
    sep="/",
  )
  images = golden["images_uint8"]
  suffix = f"/seqhw={seqhw}" if name.startswith("flexi") else ""
  tokens = patchify(images, (images.shape[1] // seqhw,) * 2)
  with jax.default_matmul_precision("highest"):
    out = tiny.apply(_model(name, **changes), params, tokens)
  stem, embedded = golden["stem" + suffix], golden["with_posemb" + suffix]
  pairs = {
    "stem": (out.stem[:1].reshape(stem.shape), stem),
    "with_posemb": (out.embedded[:, : embedded.shape[1]], embedded),
    "pre_logits": (out.pooled[:, 0], golden["pre_logits" + suffix]),
    "logits": (out.logits[:, 0], golden["logits" + suffix]),
  }
  return {k: float(np.abs(a - b).max()) for k, (a, b) in pairs.items()}


CASES = [
  (name, seqhw)
  for name in GOLDEN
  for seqhw in ((5, 8, 15, 30) if name.startswith("flexi") else (4,))
]


def _tolerance(name):
  return PARITY_GAP if "gap" in name else PARITY


@pytest.mark.parametrize(("name", "seqhw"), CASES)
def test_equals_big_vision(name, seqhw):
  errors = _errors(name, seqhw)
  assert max(errors.values()) <= _tolerance(name), errors


@pytest.mark.parametrize(
  ("name", "seqhw", "mutant"),
  [
    ("flexivit_tok", 8, {"exact_gelu": True}),
    ("flexivit_map", 8, {"norm_eps": 1e-5}),
    ("vit_gap_p16", 4, {"exact_gelu": True}),
    ("flexivit_gap", 8, {"norm_eps": 1e-5}),
    ("flexivit_gap", 30, {"kernel_antialias": True}),
    (
      "flexivit_gap",
      5,
      {"position": learned_grid.LearnedGrid((7, 7), antialias=False)},
    ),
  ],
)
def test_mutants_are_noticed(name, seqhw, mutant):
  assert _errors(name, seqhw, **mutant)["logits"] > _tolerance(name)


def _tiny(**changes):
  fields = dict(
    size=encoder.Size(16, 2, 32, 2),
    position=learned_grid.LearnedGrid((3, 3)),
    pool=pooling.Gap(),
    kernel_hw=(6, 6),
    num_classes=5,
  )
  return vit.ViT(**(fields | changes))


IMAGES = np.random.default_rng(0).integers(0, 256, (2, 12, 24, 3), np.uint8)
TOKENS = patchify(IMAGES, (6, 6))


@pytest.mark.parametrize("patch_hw", [(2, 3), (4, 4), (6, 6), (12, 8)])
def test_any_patch_size_and_image_shape_trains(patch_hw):
  model = _tiny()
  tokens = patchify(jnp.asarray(IMAGES), patch_hw)
  params = tiny.parameters(model, scale=0.2)

  def loss(params):
    return (model.apply({"params": params}, tokens).logits ** 2).sum()

  gradients = jax.jit(jax.grad(loss))(params)
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))
  # Through PI-resize and interpolation, down to what is stored.
  assert gradients["embedding"]["kernel"].shape == (6, 6, 3, 16)
  assert np.abs(gradients["embedding"]["kernel"]).max() > 1e-4
  assert np.abs(gradients["pos_embedding"]).min() > 0


def test_uint8_and_unit_range_floats_agree():
  model = _tiny()
  floats = jnp.asarray(IMAGES, jnp.float32) / 127.5 - 1
  tokens = [patchify(jnp.asarray(x), (6, 6)) for x in (IMAGES, floats)]
  params = tiny.parameters(model, scale=0.2)
  a, b = (tiny.apply(model, params, t).logits for t in tokens)
  np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_bfloat16_stays_close_and_keeps_float32_parameters():
  full, half = _tiny(), _tiny(dtype="bfloat16")
  params = half.init(jax.random.key(0), TOKENS)["params"]
  assert {x.dtype.name for x in jax.tree.leaves(params)} == {"float32"}
  params = tiny.parameters(full, scale=0.2)
  a, b = (tiny.apply(m, params, TOKENS) for m in (full, half))
  assert b.encoded.dtype == jnp.bfloat16
  assert b.logits.dtype == jnp.float32
  # Two layers of roundings at 2^-9 of values of order 1.
  error = np.abs(a.logits - b.logits).max()
  assert 0 < error < 0.05


@pytest.mark.slow
def test_scan_and_remat_change_neither_values_nor_gradients():
  plain = _tiny()
  params = tiny.parameters(plain, scale=0.2)
  blocks = params["Transformer"]
  stacked = params | {
    "Transformer": {
      "encoder_norm": blocks["encoder_norm"],
      "encoderblock": jax.tree.map(
        lambda *x: jnp.stack(x),
        *(blocks[f"encoderblock_{i}"] for i in range(2)),
      ),
    }
  }

  def loss(model, params):
    return (model.apply({"params": params}, TOKENS).logits ** 2).sum()

  value, gradient = jax.jit(jax.value_and_grad(functools.partial(loss, plain)))(
    params
  )
  for changes in (
    {"remat": True},
    {"scan": True},
    {"scan": True, "remat": True},
  ):
    own = stacked if changes.get("scan") else params
    f = functools.partial(loss, _tiny(**changes))
    got, got_gradient = jax.jit(jax.value_and_grad(f))(own)
    np.testing.assert_allclose(got, value, rtol=1e-5)
    np.testing.assert_allclose(
      got_gradient["embedding"]["kernel"],
      gradient["embedding"]["kernel"],
      rtol=0,
      atol=1e-5 * np.abs(gradient["embedding"]["kernel"]).max(),
    )


def test_options_add_the_documented_leaves():
  model = _tiny(
    pool=pooling.ClassToken(),
    registers=2,
    prefix_position=True,
    norm_after_pool=True,
    layer_scale=1e-4,
    qk_norm=True,
    embedding_norm=True,
    representation=True,
  )

  def leaves(model):
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), TOKENS))
    flat = flax.traverse_util.flatten_dict(params["params"], sep="/")
    return {name: x.shape for name, x in flat.items()}

  added = {
    name: shape
    for name, shape in leaves(model).items()
    if name not in leaves(_tiny()) and "encoderblock_1" not in name
  }
  block = "Transformer/encoderblock_0"
  attention = f"{block}/MultiHeadDotProductAttention_0"
  assert added == {
    "cls": (1, 1, 16),
    "cls_pos_embedding": (1, 1, 16),
    "registers": (1, 2, 16),
    "registers_pos_embedding": (1, 2, 16),
    "pool_norm/scale": (16,),
    "pool_norm/bias": (16,),
    "embedding_norm/scale": (16,),
    "embedding_norm/bias": (16,),
    "pre_logits/kernel": (16, 16),
    "pre_logits/bias": (16,),
    f"{block}/LayerScale_0/scale": (16,),
    f"{block}/LayerScale_1/scale": (16,),
    f"{attention}/query_ln/scale": (8,),
    f"{attention}/query_ln/bias": (8,),
    f"{attention}/key_ln/scale": (8,),
    f"{attention}/key_ln/bias": (8,),
  }


OF_QKV = ("query/bias", "key/bias", "value/bias")
OF_PROJECTIONS = ("out/bias", "Dense_0/bias", "Dense_1/bias")


@pytest.mark.parametrize(
  ("option", "endings"),
  [("qkv_bias", OF_QKV), ("proj_bias", OF_PROJECTIONS)],
)
def test_absent_biases_are_zeros(option, endings):
  model = _tiny()
  flat = flax.traverse_util.flatten_dict(
    tiny.parameters(model, scale=0.2), sep="/"
  )
  biases = {k for k in flat if k.endswith(endings)}
  zeroed, without = (
    flax.traverse_util.unflatten_dict(x, sep="/")
    for x in (
      flat | {k: jnp.zeros_like(flat[k]) for k in biases},
      {k: x for k, x in flat.items() if k not in biases},
    )
  )
  a = tiny.apply(model, zeroed, TOKENS).logits
  b = tiny.apply(_tiny(**{option: False}), without, TOKENS).logits
  np.testing.assert_array_equal(a, b)


IMAGENET = {
  "image_mean": (0.485, 0.456, 0.406),
  "image_std": (0.229, 0.224, 0.225),
}


def test_pixels_are_normalised_as_the_model_says():
  model = _tiny(**IMAGENET)
  params = tiny.parameters(model, scale=0.2)

  def stem(model, images):
    tokens = patchify(jnp.asarray(images, jnp.float32), (6, 6))
    return tiny.apply(model, params, tokens).stem

  unit = IMAGES.astype(np.float32) / 255
  normed = (unit - IMAGENET["image_mean"]) / IMAGENET["image_std"]
  with jax.default_matmul_precision("highest"):
    expected = stem(_tiny(), normed)
    u8 = tiny.apply(model, params, TOKENS).stem
    for got in (u8, stem(model, unit * 2 - 1)):
      # Roundings of pixels of order 2, summed over 108 weights of 0.2.
      np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)
  assert np.abs(stem(_tiny(), unit * 2 - 1) - expected).max() > 0.1


# Counted from the leaf tables of the published files (1,000 classes, class
# token, kernel 32x32, positions 7x7); Ti follows from the same formula.
PARAMETERS = {
  "S": 22_878_568,
  "B": 88_223_464,
  "L": 306_534_376,
}


@pytest.mark.parametrize(("name", "count"), PARAMETERS.items())
def test_parameter_counts_are_those_of_the_published_files(name, count):
  model = _tiny(
    size=sizes.SIZES[name],
    position=learned_grid.LearnedGrid((7, 7)),
    pool=pooling.ClassToken(),
    kernel_hw=(32, 32),
    num_classes=1000,
  )
  tokens = patchify(jnp.zeros((1, 32, 32, 3)), (32, 32))
  params = jax.eval_shape(lambda: model.init(jax.random.key(0), tokens))
  assert sum(x.size for x in jax.tree.leaves(params)) == count


@pytest.mark.parametrize(
  ("changes", "text"),
  [
    ({"kernel_hw": (8, 1025)}, "kernel_hw (8, 1025): give (height, width),"),
    ({"dtype": "float16"}, "dtype 'float16': give float32 or bfloat16"),
    ({"dtype": "float64"}, "'float64' needs jax_enable_x64: give float32"),
    ({"dropout": 1.0}, "dropout is 1.0: give at least 0 and less than 1"),
    ({"drop_path": np.nan}, "drop_path is nan: give at least 0 and less than"),
    ({"registers": -1}, "registers is -1: give 0 to 10000"),
    ({"num_classes": 10**9}, "num_classes is 1000000000: give 0 to 10000000"),
    ({"channels": 0}, "channels is 0: give 1 to 10000"),
    ({"layer_scale": 1.5}, "layer_scale is 1.5: give 0 to 1, or None for none"),
    ({"image_mean": (0.5, 0.5)}, "image_mean is (0.5, 0.5): give one number"),
    ({"image_std": (0.0,)}, "image_std is (0.0,): give one number of 0.001 to"),
    ({"standardize": True, "image_std": (0.2,)}, "leave these at (0.5,)"),
    ({"attention_scale": 0.0}, "attention_scale is 0.0: give more than 0 and"),
    ({"norm_eps": np.nan}, "norm_eps is nan: give more than 0 and less than 1"),
  ],
)
def test_values_that_no_model_has(changes, text):
  with pytest.raises(ValueError, match=re.escape(text)):
    _tiny(**changes)


@pytest.mark.parametrize(
  ("make", "text"),
  [
    (lambda: encoder.Size(16, 2, 32, 3), "width 16 is not a multiple of"),
    (lambda: encoder.Size(16, 0, 32, 2), "depth is 0: give 1 to 1000"),
    (lambda: _init(TOKENS, num_classes=None), "num_classes is not set"),
    (
      lambda: _init(patchify(IMAGES[..., :1], (6, 6))),
      "patches hold 36 numbers, but 6x6 pixels of 3 channels are 108",
    ),
    (
      lambda: _init(dataclasses.replace(TOKENS, patch_sizes=((6, 6), (4, 4)))),
      "several sizes need one",
    ),
  ],
)
def test_refusals(make, text):
  with pytest.raises(ValueError, match=text):
    make()


def _init(tokens, **changes):
  model = _tiny(**changes)
  return jax.eval_shape(lambda: model.init(jax.random.key(0), tokens))
