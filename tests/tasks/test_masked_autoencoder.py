"""Laws of masked autoencoding, on tiny models and drawn images."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flexivit_jax.core.cut import to_tokens
from flexivit_jax.core.tokens import Batch, Tokens, patchify
from flexivit_jax.models import vit
from flexivit_jax.nn import adaln, pooling
from flexivit_jax.nn import encoder as encoder_lib
from flexivit_jax.nn.heads.mae_decoder import DecoderSpec
from flexivit_jax.nn.positions import learned_grid, position, row_column
from flexivit_jax.nn.stems import resnet
from flexivit_jax.tasks import mae_target
from flexivit_jax.tasks.masked_autoencoding import MaskedAutoencoder
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


def _trains(**fields):
  model = MODEL.clone(num_classes=None)
  return TASK.for_classes(model.clone(**fields), ("one",))


def test_grids_of_which_something_is_hidden():
  assert _trains() == (MODEL, TASK)
  MaskedAutoencoder(mask_ratio=0.01).check_grid((8, 8), (8, 4))  # one of two
  TABLE.check_grid((8, 8), (4, 4))


TABLE = MaskedAutoencoder(
  decoder=DecoderSpec(SIZE, row_column.RowColumn((2, 2)))
)


@pytest.mark.parametrize(
  ("make", "text"),
  [
    (lambda: MaskedAutoencoder(mask_ratio=1.0), "mask_ratio is 1.0: give more"),
    (lambda: MaskedAutoencoder(target="px"), "give patch, image or pixels"),
    (
      lambda: DecoderSpec(position=position.NoPosition()),
      "position is NoPosition: what is hidden",
    ),
    (
      lambda: DecoderSpec(size=encoder_lib.Size(18, 1, 8, 2)),
      "a multiple of 4 and at least 8, not 18",
    ),
    (lambda: _trains(num_classes=10), "num_classes is 10, but the task mae"),
    (
      lambda: _trains(stem=resnet.ResNet(()), kernel_hw=(1, 1)),
      'take stem="none"',
    ),
    (
      lambda: _trains(conditioning=adaln.AdaLNZero()),
      'give config.model.conditioning="none"',
    ),
    (lambda: _trains(pool=pooling.Map()), 'take pool="gap" or "tok"'),
    (lambda: _trains(norm_after_pool=True), "config.model.norm_after_pool is"),
    (lambda: _trains(representation=True), "config.model.representation is"),
    (
      lambda: TASK.check_grid((8, 12), (8, 12)),
      "1 patch of 8x12 in an image of 8x12 px, of which mask_ratio 0.6 hides "
      "none: take smaller patches or larger images",
    ),
    (lambda: TABLE.check_grid((8, 12), (4, 4)), "task.decoder.position: 2x3"),
  ],
)
def test_refusals(make, text):
  with pytest.raises(ValueError, match=re.escape(text)):
    make()
