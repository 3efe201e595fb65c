"""The model against big_vision's numbers, and its laws."""

import dataclasses
import functools
import pathlib

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flexivit_jax.core.patch_pixels import standardize
from flexivit_jax.core.tokens import Tokens, patchify
from flexivit_jax.models import sizes, vit
from flexivit_jax.nn import encoder, pooling
from flexivit_jax.nn.positions import learned_grid, waves
from flexivit_jax.nn.positions import position as position_lib

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


@functools.partial(jax.jit, static_argnums=0)
def _apply(model, params, tokens):
  return model.apply({"params": params}, tokens)


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
    out = _apply(_model(name, **changes), params, tokens)
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


@pytest.mark.parametrize("name", list(GOLDEN))
@pytest.mark.parametrize("mutant", [{"exact_gelu": True}, {"norm_eps": 1e-5}])
def test_wrong_gelu_and_eps_are_noticed(name, mutant):
  seqhw = 8 if name.startswith("flexi") else 4
  assert _errors(name, seqhw, **mutant)["logits"] > _tolerance(name)


def test_positions_without_antialias_are_noticed_at_grid_5():
  mutant = learned_grid.LearnedGrid((7, 7), antialias=False)
  errors = _errors("flexivit_gap", 5, position=mutant)
  assert errors["stem"] <= PARITY
  assert errors["with_posemb"] > PARITY
  assert errors["logits"] > PARITY


def test_antialias_in_the_patch_embedding_is_noticed():
  errors = _errors("flexivit_gap", 30, kernel_antialias=True)
  assert errors["stem"] > PARITY


def _random_params(model, tokens, seed=0):
  """Parameters without the zeros of fresh heads, that every output varies."""
  params = jax.eval_shape(lambda: model.init(jax.random.key(0), tokens))
  leaves, tree = jax.tree.flatten(params["params"])
  rng = np.random.default_rng(seed)
  return tree.unflatten(
    [jnp.asarray(rng.normal(size=x.shape) * 0.2, x.dtype) for x in leaves]
  )


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

POOLS = {
  "gap": pooling.Gap(),
  "tok": pooling.ClassToken(),
  "gap beside a class token": pooling.Gap(class_token=True),
  "map": pooling.Map(),
}


@pytest.mark.parametrize("pool", POOLS.values(), ids=list(POOLS))
@pytest.mark.parametrize(
  "registers", [pytest.param(0, marks=pytest.mark.slow), 3]
)
@pytest.mark.parametrize("option", ["prefix_position", "norm_after_pool"])
def test_packed_rows_equal_separate_rows(pool, registers, option):
  # Two images of one row, with padding, against each in a row of its own.
  model = _tiny(pool=pool, registers=registers, **{option: True})
  separate = patchify(jnp.asarray(IMAGES), (4, 6))
  l = separate.patches.shape[1]
  params = _random_params(model, separate)
  expected = _apply(model, params, separate).logits[:, 0]

  def row(x, fill):
    x = np.broadcast_to(x, (2, l, x.shape[-1])).reshape(1, 2 * l, -1)
    return jnp.asarray(
      np.pad(x, ((0, 0), (0, 5), (0, 0)), constant_values=fill)
    )

  segments = np.repeat([1, 2, 0], [l, l, 5])[None]
  packed = Tokens(
    patches=row(separate.patches, 77),
    coords=row(separate.coords, 0),
    grid_hw=row(separate.grid_hw, 1),
    segments=jnp.asarray(segments, jnp.int32),
    patch_sizes=separate.patch_sizes,
    num_images=3,
  )
  got = _apply(model, params, packed).logits
  assert got.shape == (1, 3, 5)
  # The same sums in another order, logits of order 1.
  np.testing.assert_allclose(got[0, :2], expected, rtol=0, atol=1e-5)
  assert np.abs(expected[0] - expected[1]).max() > 1e-2


def test_without_positions_the_order_of_patches_does_not_matter():
  tokens = patchify(jnp.asarray(IMAGES), (6, 6))
  shuffled = dataclasses.replace(tokens, patches=tokens.patches[:, ::-1])
  for position, same in (
    (position_lib.NoPosition(), True),
    (learned_grid.LearnedGrid((3, 3)), False),
    (waves.SinCos2D(), False),
  ):
    model = _tiny(position=position)
    params = _random_params(model, tokens)
    a, b = (_apply(model, params, t).logits for t in (tokens, shuffled))
    assert (np.abs(a - b).max() < 1e-5) == same


def test_permuting_tokens_with_their_coordinates_changes_nothing():
  tokens = patchify(jnp.asarray(IMAGES), (6, 6))
  tokens = dataclasses.replace(
    tokens, coords=jnp.broadcast_to(tokens.coords, (2, 8, 2))
  )
  permuted = dataclasses.replace(
    tokens, patches=tokens.patches[:, ::-1], coords=tokens.coords[:, ::-1]
  )
  model = _tiny()
  params = _random_params(model, tokens)
  a, b = (_apply(model, params, t).logits for t in (tokens, permuted))
  np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize("patch_hw", [(2, 3), (4, 4), (6, 6), (12, 8)])
def test_any_patch_size_and_image_shape_trains(patch_hw):
  model = _tiny()
  tokens = patchify(jnp.asarray(IMAGES), patch_hw)
  params = _random_params(model, tokens)

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
  params = _random_params(model, tokens[0])
  a, b = (_apply(model, params, t).logits for t in tokens)
  np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_bfloat16_stays_close_and_keeps_float32_parameters():
  tokens = patchify(jnp.asarray(IMAGES), (6, 6))
  full, half = _tiny(), _tiny(dtype="bfloat16")
  params = half.init(jax.random.key(0), tokens)["params"]
  assert {x.dtype.name for x in jax.tree.leaves(params)} == {"float32"}
  params = _random_params(full, tokens)
  a, b = (_apply(m, params, tokens) for m in (full, half))
  assert b.encoded.dtype == jnp.bfloat16
  assert b.logits.dtype == jnp.float32
  # Two layers of roundings at 2^-9 of values of order 1.
  error = np.abs(a.logits - b.logits).max()
  assert 0 < error < 0.05


@pytest.mark.slow
def test_scan_and_remat_change_neither_values_nor_gradients():
  tokens = patchify(jnp.asarray(IMAGES), (6, 6))
  plain = _tiny()
  params = _random_params(plain, tokens)
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
    return (model.apply({"params": params}, tokens).logits ** 2).sum()

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
  tokens = patchify(jnp.asarray(IMAGES), (6, 6))
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
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), tokens))
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


def test_options_leave_out_the_documented_leaves():
  tokens = patchify(jnp.asarray(IMAGES), (6, 6))

  def leaves(**changes):
    model = _tiny(**changes)
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), tokens))
    return flax.traverse_util.flatten_dict(params["params"], sep="/").keys()

  gone = leaves() - leaves(qkv_bias=False)
  assert len(gone) == 6
  assert all(
    name.split("/", 3)[3] in ("query/bias", "key/bias", "value/bias")
    for name in gone
  )
  assert leaves() - leaves(norm_after_pool=True) == {
    "Transformer/encoder_norm/scale",
    "Transformer/encoder_norm/bias",
  }


OF_QKV = ("query/bias", "key/bias", "value/bias")
OF_PROJECTIONS = ("out/bias", "Dense_0/bias", "Dense_1/bias")


@pytest.mark.parametrize(
  ("option", "endings"),
  [("qkv_bias", OF_QKV), ("proj_bias", OF_PROJECTIONS)],
)
def test_absent_biases_are_zeros(option, endings):
  tokens = patchify(jnp.asarray(IMAGES), (6, 6))
  model = _tiny()
  flat = flax.traverse_util.flatten_dict(_random_params(model, tokens), sep="/")
  biases = {k for k in flat if k.endswith(endings)}
  zeroed, without = (
    flax.traverse_util.unflatten_dict(x, sep="/")
    for x in (
      flat | {k: jnp.zeros_like(flat[k]) for k in biases},
      {k: x for k, x in flat.items() if k not in biases},
    )
  )
  a = _apply(model, zeroed, tokens).logits
  b = _apply(_tiny(**{option: False}), without, tokens).logits
  np.testing.assert_array_equal(a, b)


def test_rms_norm_and_gated_mlps_have_the_documented_leaves():
  tokens = patchify(jnp.asarray(IMAGES), (6, 6))

  def leaves(**changes):
    model = _tiny(
      pool=pooling.Map(), qk_norm=True, embedding_norm=True, **changes
    )
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), tokens))
    return flax.traverse_util.flatten_dict(params["params"], sep="/").keys()

  norms = {
    name.removesuffix("scale") + "bias"
    for name in leaves()
    if name.endswith("scale")
  }
  assert leaves() - leaves(rms_norm=True) == norms
  assert leaves(rms_norm=True) < leaves()
  block = "Transformer/encoderblock_0/MlpBlock_0/Dense_gate"
  added = leaves(gated_mlp=True) - leaves()
  assert {f"{block}/kernel", f"{block}/bias"} <= added
  assert all("/MlpBlock_0/Dense_gate/" in name for name in added)
  assert not any(name.startswith("MAPHead_0") for name in added)


def test_standardized_images_may_be_given_instead():
  model = _tiny(standardize=True)
  tokens = patchify(jnp.asarray(IMAGES), (6, 6))
  params = _random_params(model, tokens)
  plain = model.clone(standardize=False)
  a = _apply(model, params, tokens)
  b = _apply(plain, params, standardize(tokens))
  # In one program the roundings of the pixels are fused otherwise.
  np.testing.assert_allclose(a.logits, b.logits, rtol=0, atol=1e-6)
  assert np.abs(a.stem - _apply(plain, params, tokens).stem).max() > 0.1


def test_an_average_may_be_normed_after_it():
  # With one patch per image, before and after are the same.
  one = patchify(jnp.asarray(IMAGES), (12, 24))
  many = patchify(jnp.asarray(IMAGES), (6, 6))
  before, after = _tiny(), _tiny(norm_after_pool=True)
  params = _random_params(before, one)
  moved = {k: v for k, v in params.items() if k != "Transformer"}
  blocks = dict(params["Transformer"])
  moved["pool_norm"] = blocks.pop("encoder_norm")
  moved["Transformer"] = blocks
  for tokens, same in ((one, True), (many, False)):
    a = _apply(before, params, tokens).logits
    b = _apply(after, moved, tokens).logits
    assert (np.abs(a - b).max() < 1e-6) == same


def test_positions_of_the_prefix_are_added_to_it():
  tokens = patchify(jnp.asarray(IMAGES), (6, 6))
  plain = _tiny(pool=pooling.ClassToken(), registers=2)
  model = _tiny(pool=pooling.ClassToken(), registers=2, prefix_position=True)
  params = _random_params(model, tokens)
  added = {k: v for k, v in params.items() if not k.endswith("s_pos_embedding")}
  for name in ("cls", "registers"):
    added[name] = params[name] + params[f"{name}_pos_embedding"]
  a = _apply(model, params, tokens).logits
  b = _apply(plain, added, tokens).logits
  np.testing.assert_array_equal(a, b)


IMAGENET = {
  "image_mean": (0.485, 0.456, 0.406),
  "image_std": (0.229, 0.224, 0.225),
}


def test_pixels_are_normalised_as_the_model_says():
  model = _tiny(**IMAGENET)
  params = _random_params(model, patchify(jnp.asarray(IMAGES), (6, 6)))
  unit = IMAGES.astype(np.float32) / 255
  normed = (unit - IMAGENET["image_mean"]) / IMAGENET["image_std"]
  with jax.default_matmul_precision("highest"):
    expected = _apply(
      _tiny(), params, patchify(jnp.asarray(normed, jnp.float32), (6, 6))
    ).stem
    for images in (IMAGES, unit * 2 - 1):
      got = _apply(model, params, patchify(jnp.asarray(images), (6, 6))).stem
      # Roundings of pixels of order 2, summed over 108 weights of 0.2.
      np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)
  plain = _apply(_tiny(), params, patchify(jnp.asarray(IMAGES), (6, 6))).stem
  assert np.abs(plain - expected).max() > 0.1


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


def test_fresh_heads_give_zero_logits_plus_their_bias():
  tokens = patchify(jnp.asarray(IMAGES), (6, 6))
  model = _tiny(head_bias=-10.0)
  params = model.init(jax.random.key(0), tokens)
  assert (model.apply(params, tokens).logits == -10).all()


def test_refusals():
  tokens = patchify(jnp.asarray(IMAGES), (6, 6))

  def init(model, tokens=tokens):
    return jax.eval_shape(lambda: model.init(jax.random.key(0), tokens))

  with pytest.raises(ValueError, match="num_classes is not set"):
    init(_tiny(num_classes=None))
  with pytest.raises(ValueError, match="width 16 is not a multiple of"):
    encoder.Size(16, 2, 32, 3)
  grey = patchify(jnp.zeros((1, 12, 12, 1)), (6, 6))
  with pytest.raises(ValueError, match=r"hold 36 numbers.*3 channels are 108"):
    init(_tiny(), grey)
  mixed = dataclasses.replace(tokens, patch_sizes=((6, 6), (4, 4)))
  with pytest.raises(ValueError, match="several sizes need one"):
    init(_tiny(), mixed)
  assert init(_tiny(num_classes=0)) is not None


PIXELS = "give (height, width), each of 1 to 1024 pixels"
BELOW_1 = "give at least 0 and less than 1"
ABOVE_0 = "give more than 0 and less than 1"


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"kernel_hw": (0, 8)}, f"kernel_hw (0, 8): {PIXELS}"),
    ({"kernel_hw": (8, 1025)}, f"kernel_hw (8, 1025): {PIXELS}"),
    ({"dtype": "float16"}, "dtype 'float16': give float32 or bfloat16"),
    (
      {"dtype": "float64"},
      "dtype 'float64' needs jax_enable_x64: give float32 or bfloat16",
    ),
    ({"dropout": 1.0}, f"dropout is 1.0: {BELOW_1}"),
    ({"drop_path": -0.1}, f"drop_path is -0.1: {BELOW_1}"),
    ({"drop_path": np.nan}, f"drop_path is nan: {BELOW_1}"),
    ({"registers": -1}, "registers is -1: give 0 to 10000"),
    ({"registers": 10_001}, "registers is 10001: give 0 to 10000"),
    ({"num_classes": -1}, "num_classes is -1: give 0 to 10000000"),
    (
      {"num_classes": 10**9},
      "num_classes is 1000000000: give 0 to 10000000",
    ),
    ({"channels": 0}, "channels is 0: give 1 to 10000"),
    (
      {"layer_scale": -0.5},
      "layer_scale is -0.5: give 0 to 1, or None for none",
    ),
    ({"layer_scale": 1.5}, "layer_scale is 1.5: give 0 to 1, or None for none"),
    (
      {"image_mean": (0.5, 0.5)},
      "image_mean is (0.5, 0.5): give one number of 0 to 1, or one for each of "
      "3 channels",
    ),
    (
      {"image_std": (0.0,)},
      "image_std is (0.0,): give one number of 0.001 to 1, or one for each of "
      "3 channels",
    ),
    (
      {"standardize": True, "image_std": (0.2,)},
      "standardize with image_mean (0.5,) and image_std (0.2,): leave these at "
      "(0.5,)",
    ),
    (
      {"attention_scale": 0.0},
      "attention_scale is 0.0: give more than 0 and at most 100, or None for "
      "1 / sqrt(width / num_heads)",
    ),
    ({"norm_eps": 0.0}, f"norm_eps is 0.0: {ABOVE_0}"),
    ({"norm_eps": 1.0}, f"norm_eps is 1.0: {ABOVE_0}"),
    ({"norm_eps": np.nan}, f"norm_eps is nan: {ABOVE_0}"),
  ],
)
def test_values_that_no_model_has(changes, message):
  with pytest.raises(ValueError) as caught:
    _tiny(**changes)
  assert str(caught.value) == message


def test_float64_is_a_type_where_jax_has_it(float64):
  assert _tiny(dtype="float64").dtype == "float64"


@pytest.mark.parametrize(
  ("field", "low", "high"),
  [
    ("width", 0, 1_000_000),
    ("depth", 0, 1000),
    ("mlp_dim", -1, 1_000_000),
    ("num_heads", 0, 1_000_000),
  ],
)
def test_sizes_that_no_model_has(field, low, high):
  size = encoder.Size(16, 2, 32, 2)
  for value in (low, high + 1):
    with pytest.raises(ValueError) as caught:
      dataclasses.replace(size, **{field: value})
    assert str(caught.value) == f"{field} is {value}: give 1 to {high}"


@pytest.mark.parametrize("size", [(0, 4), (4, -1), (4, 1025)])
def test_position_tables_that_cannot_be(size):
  with pytest.raises(ValueError) as caught:
    learned_grid.LearnedGrid(size)
  assert str(caught.value) == (
    f"size is {size} rows and cols: give 1 to 1024 of each"
  )


@pytest.mark.parametrize("temperature", [-1.0, 0.0, 0.5, np.nan])
def test_wavelengths_that_cannot_be(temperature):
  with pytest.raises(ValueError) as caught:
    waves.SinCos2D(temperature)
  assert str(caught.value) == (f"temperature is {temperature}: give at least 1")
