"""Laws of masked autoencoding, on tiny models and drawn images."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flexivit_jax.core import masking
from flexivit_jax.core.cut import to_tokens
from flexivit_jax.core.tokens import Batch, Tokens, patchify
from flexivit_jax.models import cost, vit
from flexivit_jax.nn import adaln, pooling
from flexivit_jax.nn import encoder as encoder_lib
from flexivit_jax.nn.heads.mae_decoder import DecoderSpec
from flexivit_jax.nn.positions import learned_grid, position, row_column, waves
from flexivit_jax.nn.stems import resnet
from flexivit_jax.tasks import mae_target
from flexivit_jax.tasks.masked_autoencoding import DECODER, MaskedAutoencoder
from flexivit_jax.tasks.pack_metrics import LOSSES

SIZE = encoder_lib.Size(16, 1, 32, 2)
MODEL = vit.ViT(
  size=SIZE,
  position=learned_grid.LearnedGrid((3, 3)),
  pool=pooling.ClassToken(),
  kernel_hw=(4, 4),
  num_classes=0,
  registers=1,
)
TASK = MaskedAutoencoder(
  mask_ratio=0.6, decoder=DecoderSpec(SIZE, learned_grid.LearnedGrid((2, 3)))
)
# Rows by columns of patches, and which of the sizes: 1 patch, of which nothing
# is hidden, is one of them.
SIZES = ((2, 4), (4, 2))
IMAGES = (((3, 2), 0), ((2, 4), 1), ((1, 1), 0), ((2, 2), 1))
INDEX = (11, 5, 8, 3)
PADDING = 2


@functools.cache
def _images(dtype="float32"):
  rng = np.random.default_rng(0)
  return [
    rng.uniform(-1, 1, (1, gh * SIZES[s][0], gw * SIZES[s][1], 3)).astype(dtype)
    for (gh, gw), s in IMAGES
  ]


def _alone(i, dtype="float32"):
  """One image as a batch."""
  tokens = patchify(_images(dtype)[i], SIZES[IMAGES[i][1]])
  one = jnp.ones((1, 1), jnp.float32)
  return Batch(tokens, one.astype(int), one, jnp.array([[INDEX[i]]]))


def _packed(dtype="float32"):
  """All in one row, with an empty slot and padding."""
  rows = {
    "patches": [],
    "coords": [],
    "grid_hw": [],
    "segments": [],
    "size": [],
  }
  h, w = 4, 4  # the largest height and width
  for i, ((gh, gw), s) in enumerate(IMAGES):
    tokens = patchify(_images(dtype)[i], SIZES[s])
    l = gh * gw
    wide = np.full((l, h, w, 3), 0.7, dtype)  # junk beside a smaller patch
    ph, pw = SIZES[s]
    wide[:, :ph, :pw] = np.asarray(tokens.patches).reshape(l, ph, pw, 3)
    rows["patches"].append(wide.reshape(l, -1))
    rows["coords"].append(tokens.coords[0])
    rows["grid_hw"].append(tokens.grid_hw[0])
    rows["segments"].append(np.full(l, i + 1))
    rows["size"].append(np.full(l, s))
  rows = {k: np.concatenate(v) for k, v in rows.items()}

  def padded(name, fill):
    x = rows[name]
    pad = ((0, PADDING), *[(0, 0)] * (x.ndim - 1))
    return jnp.asarray(np.pad(x, pad, constant_values=fill))[None]

  tokens = Tokens(
    patches=padded("patches", 0.3),
    coords=padded("coords", 0),
    grid_hw=padded("grid_hw", 1),
    segments=padded("segments", 0).astype(jnp.int32),
    size_index=padded("size", 0).astype(jnp.int32),
    patch_sizes=SIZES,
    num_images=len(IMAGES) + 1,
  )
  index = jnp.array([[*INDEX, -1]])
  weights = (index >= 0).astype(jnp.float32)
  return Batch(tokens, index, weights, index)


@functools.cache
def _params(model=MODEL, task=TASK):
  """All of them random: fresh biases are zeros."""
  inputs = _alone(0).inputs
  shapes = jax.eval_shape(
    lambda key: task.init(model, key, inputs, None), jax.random.key(0)
  )
  leaves, tree = jax.tree.flatten(shapes)
  rng = np.random.default_rng(1)
  return tree.unflatten(
    [rng.normal(size=x.shape).astype(np.float32) * 0.3 for x in leaves]
  )


@jax.jit
def _measured(params, batch):
  return TASK.measure(MODEL, params, batch, patch_hw=None)


def _measure(batch):
  return _measured(_params(), batch)


def test_a_packed_image_has_the_loss_that_it_has_alone():
  found, alone = _measure(_packed()), _measure(_alone(1))
  only = np.zeros((1, 5), np.float32)
  only[0, 1] = 1
  one = _measure(dataclasses.replace(_packed(), weights=jnp.asarray(only)))
  for name in TASK.metrics:
    # float32: rows of 19 tokens against one of 8 sum in another order.
    np.testing.assert_allclose(one[name].total, alone[name].total, rtol=1e-5)
    np.testing.assert_allclose(one[name].count, alone[name].count, rtol=1e-5)
  assert one["loss"].total != found["loss"].total


@pytest.mark.slow
def test_packed_equals_separate(float64):
  """Loss, each size's loss and all gradients, of patches of two sizes."""
  model = MODEL.clone(dtype="float64")
  params = jax.tree.map(lambda x: np.asarray(x, np.float64), _params())
  key = jax.random.key(7)

  def loss(params, batch):
    found = TASK.measure(model, params, batch, patch_hw=None, dropout_key=key)
    return found["loss"].total, found

  gradient = jax.jit(jax.grad(loss, has_aux=True))
  whole, packed = gradient(params, _packed("float64"))
  parts = [gradient(params, _alone(i, "float64")) for i in range(len(IMAGES))]
  # Different products in float64, which are summed and counted in float32.
  near = {"rtol": 2e-6, "atol": 0}
  for name in TASK.metrics:
    for part in ("total", "count"):
      separate = [float(getattr(found[name], part)) for _, found in parts]
      np.testing.assert_allclose(
        getattr(packed[name], part), sum(separate), **near
      )
      assert separate[2] == 0  # of one patch
  losses = [float(found["loss"].total) for _, found in parts]
  np.testing.assert_allclose(
    packed[LOSSES].total, [losses[0], losses[1] + losses[3]], **near
  )
  assert packed[LOSSES].count.tolist() == [1, 2]
  separate = jax.tree.map(lambda *x: sum(x), *(g for g, _ in parts))
  for path, x in jax.tree_util.tree_leaves_with_path(whole):
    y = functools.reduce(lambda t, k: t[k.key], path, separate)
    # float64, but for weights and means of images in float32.
    np.testing.assert_allclose(x, y, rtol=0, atol=1e-6, err_msg=str(path))
    assert np.abs(x).max() > 1e-3 or "key" in str(path), path


def _by_hand(task, answer, masked, tokens):
  """Mean loss and that of the mean predictor, with loops."""
  losses, means = [], []
  for i, ((gh, gw), s) in enumerate(IMAGES):
    ph, pw = SIZES[s]
    own = np.flatnonzero(tokens.segments[0] == i + 1)
    cut = np.asarray(tokens.patches[0, own]).reshape(-1, 4, 4, 3)
    cut = cut[:, :ph, :pw].astype(np.float64)
    said = np.asarray(answer[0, own]).reshape(-1, 4, 4, 3)[:, :ph, :pw]
    of_loss, of_mean = [], []
    for j in range(gh * gw):
      if not masked.hidden[0, own[j]]:
        continue
      patch, over = cut[j], cut[j] if task.target == "patch" else cut
      values, centre = patch, over.mean()
      if task.target != "pixels":
        values = (patch - over.mean()) / np.sqrt(over.var() + 1e-6)
        centre = 0
      of_loss.append(np.square(said[j] - values).mean())
      of_mean.append(np.square(centre - values).mean())
    if of_loss:
      losses.append(np.mean(of_loss))
      means.append(np.mean(of_mean))
  return losses, means


OTHERS_ARE_SLOW = pytest.mark.parametrize(
  "target",
  [
    pytest.param(kind, marks=[pytest.mark.slow] * (kind != mae_target.PATCH))
    for kind in mae_target.KINDS
  ],
)


@OTHERS_ARE_SLOW
def test_the_loss_by_hand(target):
  """Hidden patches alone, each over its own numbers, each image the same."""
  task = dataclasses.replace(TASK, target=target)
  batch = _packed()

  @jax.jit
  def run(params, batch):
    tokens = batch.inputs
    masked = task.hide(tokens, batch.index, None)
    answer = task.answer(MODEL, params, tokens, masked)
    return (answer, masked), task.measure(MODEL, params, batch, patch_hw=None)

  (answer, masked), found = run(_params(), batch)
  losses, means = _by_hand(task, answer, masked, batch.inputs)
  # float32 sums of 24 numbers of about 1.
  near = {"rtol": 1e-5}
  np.testing.assert_allclose(found["loss"].total, sum(losses), **near)
  assert found["loss"].count == 3
  np.testing.assert_allclose(found["relative_loss"].total, sum(losses), **near)
  np.testing.assert_allclose(found["relative_loss"].count, sum(means), **near)


def _of_pixels(task, gradient):
  """Of a grid image's patches: on those that are visible, and on the others."""
  batch = _alone(0)
  masked = jax.jit(lambda b: task.hide(b.inputs, b.index, None))(batch)
  (found,) = gradient(batch.inputs.patches)
  return found[masked.seen[0]], found[masked.hidden[0]]


def _with_patches(patches):
  batch = _alone(0)
  tokens = dataclasses.replace(batch.inputs, patches=patches)
  return dataclasses.replace(batch, inputs=tokens)


@OTHERS_ARE_SLOW
def test_visible_pixels_matter_through_the_encoder_alone(target):
  task = dataclasses.replace(TASK, target=target)
  deaf = jax.tree.map(np.copy, _params())
  embedding = deaf[DECODER]["embedding"]
  embedding["kernel"] = 0 * embedding["kernel"]

  def loss(params, patches):
    batch = _with_patches(patches)
    return task.measure(MODEL, params, batch, patch_hw=None)["loss"].total

  gradient = jax.jit(jax.grad(loss, argnums=1))
  seen, hidden = _of_pixels(task, functools.partial(gradient, deaf))
  # All of an image have a share in its mean and deviation.
  assert target == mae_target.IMAGE or (seen == 0).all()
  assert (hidden != 0).any(axis=1).all()
  seen, _ = _of_pixels(task, functools.partial(gradient, _params()))
  assert (seen != 0).any(axis=1).all()


def test_the_answer_knows_nothing_of_hidden_pixels():
  def answer(patches):
    batch = _with_patches(patches)
    masked = TASK.hide(batch.inputs, batch.index, None)
    found = TASK.answer(MODEL, _params(), batch.inputs, masked)
    return jnp.square(found).sum()

  seen, hidden = _of_pixels(TASK, jax.jit(jax.grad(answer)))
  assert (hidden == 0).all()
  assert (seen != 0).any(axis=1).all()


def test_a_mask_belongs_to_its_image():
  """Whatever its batch and place; each step of training draws another."""
  rng = np.random.default_rng(2)
  images = jnp.asarray(rng.integers(0, 256, (6, 8, 8, 3), np.uint8))
  index = jnp.arange(6)[:, None] * 100
  tokens = patchify(images, (2, 2))

  @jax.jit
  def hide(index, key):
    return TASK.hide(tokens, index, key).seen

  def seen(order, key=None):
    return np.asarray(hide(index[order], key))

  whole = seen(np.arange(6))
  order = np.array([4, 1, 5, 5, 0, 2])
  np.testing.assert_array_equal(seen(order), whole[order])
  assert (whole[0] != whole[1]).any()
  keys = [jax.random.key(i) for i in (1, 2)]
  first, second = (seen(np.arange(6), key) for key in keys)
  assert (first != second).any()
  assert (first != whole).any()


def test_masks_are_uniform():
  task, n, cells = MaskedAutoencoder(), 4000, 12
  tokens = patchify(np.zeros((n, 6, 8, 1), np.uint8), (2, 2))
  hide = jax.jit(lambda index: task.hide(tokens, index, None).seen)
  seen = np.asarray(hide(jnp.arange(n)[:, None]))
  assert (seen.sum(axis=1) == 3).all()
  # Standard deviations of binomial counts; 5 of them is one in a million.
  deviation = np.sqrt(n * 0.25 * 0.75)
  assert (np.abs(seen.sum(axis=0) - n / 4) < 5 * deviation).all()
  # Two cells together: 3 / 12 * 2 / 11 of the images.
  pairs = seen.T.astype(int) @ seen
  share = 3 / 12 * 2 / 11
  off = pairs[~np.eye(cells, dtype=bool)]
  assert (np.abs(off - n * share) < 5 * np.sqrt(n * share)).all()


def _only_one_patch():
  weights = jnp.array([[0.0, 0, 1, 0, 0]])
  return dataclasses.replace(_packed(), weights=weights)


def test_one_patch_counts_nowhere():
  found = _measure(_only_one_patch())
  assert found["loss"].total == found["loss"].count == 0
  assert float(found["relative_loss"]) == 0
  assert _measure(_packed())["loss"].count == 3


@pytest.mark.slow
def test_one_patch_has_no_gradient_and_no_nan():
  def loss(params, batch):
    found = TASK.measure(MODEL, params, batch, patch_hw=None)
    return found["loss"].compute()

  gradient = jax.jit(jax.grad(loss))
  slopes = gradient(_params(), _only_one_patch())
  assert all((x == 0).all() for x in jax.tree.leaves(slopes))
  slopes = gradient(_params(), _packed())
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(slopes))


@pytest.mark.slow
@pytest.mark.parametrize("target", mae_target.KINDS)
def test_a_constant_image_is_no_nan(target):
  task = dataclasses.replace(TASK, target=target)
  batch = _with_patches(jnp.full_like(_alone(0).inputs.patches, 0.3))

  def loss(params):
    found = task.measure(MODEL, params, batch, patch_hw=None)
    return found["loss"].compute()

  slopes = jax.jit(jax.grad(loss))(_params())
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(slopes))


@pytest.mark.slow
def test_patches_of_one_number_of_four_channels():
  """Latents as floats, beyond [-1, 1] too, at patch 1."""
  model = MODEL.clone(kernel_hw=(1, 1), channels=4)
  task = MaskedAutoencoder(target="image", decoder=TASK.decoder)
  rng = np.random.default_rng(3)
  latents = jnp.asarray(rng.normal(size=(2, 4, 4, 4)) * 3 + 5, jnp.float32)
  params = task.init(model, jax.random.key(0), latents[:1], (1, 1))
  pixels = params[DECODER]["pixels"]
  assert pixels["kernel"].shape == (16, 1, 1, 4)
  # What answers zero is the mean predictor.
  params[DECODER]["pixels"] = jax.tree.map(jnp.zeros_like, pixels)
  ones = jnp.ones((2, 1))
  batch = Batch(latents, ones.astype(int), ones, jnp.arange(2)[:, None])
  found = jax.jit(lambda p, b: task.measure(model, p, b, patch_hw=(1, 1)))(
    params, batch
  )
  assert found["relative_loss"].total == found["relative_loss"].count
  # Of the image's own variance, of all but a quarter of its pixels.
  assert 0.5 < float(found["loss"]) < 1.5


@pytest.mark.slow
def test_each_patch_size_is_traced_once():
  traces = []

  @functools.partial(jax.jit, static_argnames="patch_hw")
  def measure(params, batch, patch_hw):
    traces.append(patch_hw)
    return TASK.measure(MODEL, params, batch, patch_hw=patch_hw)["loss"]

  one = jnp.ones((1, 1))
  for patch_hw in ((4, 4), (8, 4), (4, 4)):
    for i in range(2):
      images = np.full((1, 8, 8, 3), i, np.uint8)
      batch = Batch(images, one, one, one.astype(int) + i)
      measure(_params(), batch, patch_hw)
  assert traces == [(4, 4), (8, 4)]


def _counted(function, *arguments):
  """XLA's own count, two for each multiply-add."""
  compiled = jax.jit(function).lower(*arguments).compile()
  return compiled.cost_analysis()["flops"] / 2


@pytest.mark.slow
def test_the_encoder_sees_a_quarter():
  """By XLA's count of the program, and by ours of the whole task."""
  wide = encoder_lib.Size(128, 2, 512, 4)
  model = vit.ViT(
    size=wide,
    position=waves.SinCos2D(),
    pool=pooling.Gap(),
    kernel_hw=(4, 4),
    num_classes=0,
  )
  task = MaskedAutoencoder(decoder=DecoderSpec(encoder_lib.Size(64, 1, 256, 2)))
  images = jnp.zeros((8, 32, 32, 3), jnp.uint8)
  params = task.init(model, jax.random.key(0), images[:1], (4, 4))
  own = {k: v for k, v in params.items() if k != DECODER}
  tokens = patchify(images, (4, 4))
  masked = task.hide(tokens, jnp.arange(8)[:, None], None)
  assert masked.visible.patches.shape[1] == 16

  def encode(params, tokens):
    return model.apply({"params": params}, tokens).encoded

  share = _counted(encode, own, masked.visible) / _counted(encode, own, tokens)
  # Less than a quarter by the pairs of attention.
  assert 0.2 < share < 0.25
  one = jnp.ones((8, 1))
  batch = Batch(images, one, one, one.astype(int))
  counted = _counted(
    lambda p, b: task.measure(model, p, b, patch_hw=(4, 4))["loss"],
    params,
    batch,
  )
  ours = 8 * task.multiply_adds(model, (32, 32), (4, 4))
  # Norms, softmax, activations, masks and the loss are not counted by ours.
  assert 1 < counted / ours < 1.25
  encoder = cost.packed_multiply_adds(model, 16, 1, ((4, 4),))
  assert encoder < ours / 8 < 2 * encoder


def test_multiply_adds_of_rows():
  task = MaskedAutoencoder(decoder=DecoderSpec(encoder_lib.Size(64, 1, 256, 2)))
  model = MODEL.clone(pool=pooling.Gap(), registers=0)
  whole = task.multiply_adds(model, (16, 24), (4, 4))
  assert whole == task.packed_multiply_adds(model, 24, 1, ((4, 4),))
  d, own, visible, patches = 64, 16, 6, 24
  decoder = patches * (4 * d * d + 2 * d * 256) + 2 * patches**2 * d
  ends = visible * own * d + patches * d * 48
  encoder = visible * (4 * own * own + 2 * own * 32 + 48 * own)
  encoder += 2 * visible**2 * own
  assert whole == encoder + decoder + ends
  # Images of packed rows are an array; empty slots are not read.
  found = task.packed_multiply_adds(
    model, jnp.array([24.0, 12.0]), 1, ((4, 4),)
  )
  np.testing.assert_allclose(
    found, [whole, task.multiply_adds(model, (12, 16), (4, 4))]
  )
  # A row's program has places for all that may be visible.
  row = task.packed_multiply_adds(model, 24, 3, ((4, 4),))
  assert row > whole


@pytest.mark.slow
def test_what_is_drawn():
  rng = np.random.default_rng(4)
  images = rng.integers(0, 256, (9, 8, 12, 3), np.uint8)
  ones = jnp.ones((9, 1))
  batch = Batch(jnp.asarray(images), ones, ones, jnp.arange(9)[:, None])

  @jax.jit
  def draw(params, batch):
    return TASK.draw(MODEL, params, batch, patch_hw=(4, 4))

  drawn = np.asarray(draw(_params(), batch))
  assert drawn.shape == (8, 3, 8, 12, 3)
  original, masked, answer = drawn.swapaxes(0, 1)
  np.testing.assert_array_equal(original, images[:8])
  tokens = to_tokens(batch.inputs, (4, 4))
  hidden = np.asarray(TASK.hide(tokens, batch.index, None).hidden)[:8]
  hidden = hidden.reshape(8, 2, 3).repeat(4, axis=1).repeat(4, axis=2)
  assert (masked[hidden] == 128).all()
  np.testing.assert_array_equal(masked[~hidden], images[:8][~hidden])
  np.testing.assert_array_equal(answer[~hidden], images[:8][~hidden])
  assert (answer[hidden] != images[:8][hidden]).mean() > 0.9


@pytest.mark.slow
def test_the_encoder_begins_as_a_supervised_one():
  inputs = _alone(0).inputs
  params = TASK.init(MODEL, jax.random.key(5), inputs, None)
  alone = jax.jit(MODEL.init)(jax.random.key(5), inputs)["params"]
  assert set(params) == {*alone, DECODER}
  for path, x in jax.tree_util.tree_leaves_with_path(alone):
    own = functools.reduce(lambda t, k: t[k.key], path, params)
    np.testing.assert_array_equal(x, own)


@pytest.mark.parametrize(
  ("fields", "text"),
  [
    (
      {"mask_ratio": 1.0},
      "mask_ratio is 1.0: give more than 0 and less than 1, 0.75 say",
    ),
    (
      {"mask_ratio": 0.0},
      "mask_ratio is 0.0: give more than 0 and less than 1, 0.75 say",
    ),
    ({"target": "px"}, "target 'px': give patch, image or pixels"),
  ],
)
def test_fields_that_cannot_be(fields, text):
  with pytest.raises(ValueError) as caught:
    MaskedAutoencoder(**fields)
  assert str(caught.value) == text


@pytest.mark.parametrize(
  ("fields", "text"),
  [
    (
      {"position": position.NoPosition()},
      "position is NoPosition: what is hidden is told apart by its place "
      "alone, so take positions that are added, sincos2d say",
    ),
    (
      {"size": encoder_lib.Size(18, 1, 8, 2)},
      "sincos2d positions need a width that is a multiple of 4 and at least 8, "
      "not 18",
    ),
  ],
)
def test_decoders_that_cannot_be(fields, text):
  with pytest.raises(ValueError) as caught:
    DecoderSpec(**fields)
  assert str(caught.value) == text


@pytest.mark.parametrize(
  ("fields", "text"),
  [
    (
      {"num_classes": 10},
      "config.model.num_classes is 10, but the task mae has no classes: leave "
      "it out, or give 0",
    ),
    (
      {"stem": resnet.ResNet(()), "kernel_hw": (1, 1)},
      "config.model.stem takes whole images, and the task mae hides most of "
      'each: take stem="none"',
    ),
    (
      {"conditioning": adaln.AdaLNZero()},
      "config.model.conditioning is adaln_zero, and the task mae has nothing "
      'to tell the blocks: give config.model.conditioning="none"',
    ),
    (
      {"pool": pooling.Map()},
      'config.model.pool is "map", and the task mae trains what comes before '
      'the pool alone: take pool="gap" or "tok"',
    ),
    (
      {"norm_after_pool": True},
      "config.model.norm_after_pool is True, and the task mae trains what "
      "comes before the pool alone: leave it out",
    ),
    (
      {"representation": True},
      "config.model.representation is True, and the task mae trains what comes "
      "before the pool alone: leave it out",
    ),
  ],
)
def test_models_that_it_cannot_train(fields, text):
  with pytest.raises(ValueError) as caught:
    TASK.for_classes(MODEL.clone(**fields), ("one",))
  assert str(caught.value) == text


def test_any_number_of_classes_will_do():
  model, task = TASK.for_classes(MODEL.clone(num_classes=None), ("one",))
  assert model.num_classes == 0
  assert task == TASK


def test_grids_that_cannot_be():
  with pytest.raises(ValueError) as caught:
    TASK.check_grid((8, 12), (8, 12))
  assert str(caught.value) == (
    "1 patch of 8x12 in an image of 8x12 px, of which mask_ratio 0.6 hides "
    "none: take smaller patches or larger images"
  )
  MaskedAutoencoder(mask_ratio=0.01).check_grid((8, 8), (8, 4))  # one of two
  task = MaskedAutoencoder(
    decoder=DecoderSpec(SIZE, row_column.RowColumn((2, 2)))
  )
  task.check_grid((8, 8), (4, 4))
  with pytest.raises(ValueError) as caught:
    task.check_grid((8, 12), (4, 4))
  assert str(caught.value) == (
    "task.decoder.position: 2x3 patches are more than the 2x2 that the model "
    "has positions for: take larger patches, smaller images, or positions of "
    "another size or kind"
  )


def test_every_row_has_room_for_what_is_visible():
  """Through the task, whose rows are of a static length."""
  batch = _packed()
  hide = jax.jit(lambda batch: TASK.hide(batch.inputs, batch.index, None))
  masked = hide(batch)
  segments = np.asarray(batch.inputs.segments)
  wanted = [
    masking.num_visible(int((segments == i + 1).sum()), TASK.mask_ratio)
    for i in range(len(IMAGES))
  ]
  found = np.asarray(masked.visible.segments)
  assert [(found == i + 1).sum() for i in range(len(IMAGES))] == wanted
