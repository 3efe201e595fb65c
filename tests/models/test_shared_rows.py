"""A model whose rows devices share equals that of one device."""

import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from flexivit_jax.attention import (
  blockwise,
  local,
  query_sharded,
  ring,
  ulysses,
)
from flexivit_jax.core.tokens import Batch, Tokens
from flexivit_jax.devices import mesh as mesh_lib
from flexivit_jax.devices import parameter_sharding, placement
from flexivit_jax.models import shared_rows, vit
from flexivit_jax.nn import encoder, linear, pooling
from flexivit_jax.nn.positions import learned_grid, relative, rotary, waves
from flexivit_jax.tasks.classification import Supervised
from flexivit_jax.training import double_averaging, step

TASK = Supervised()
SIZE = encoder.Size(16, 2, 32, 4)
DISTRIBUTIONS = {
  "query_sharded": query_sharded.QuerySharded(),
  "ring": ring.Ring(),
  "ulysses": ulysses.Ulysses(),
}


def _model(**changes):
  fields = dict(
    size=SIZE,
    position=learned_grid.LearnedGrid((8, 8)),
    pool=pooling.Gap(),
    kernel_hw=(2, 2),
    num_classes=5,
    dtype="float64",
  )
  return vit.ViT(**fields | changes)


def _grids():
  rng = np.random.default_rng(0)
  return Batch(
    inputs=rng.integers(0, 256, (4, 16, 16, 3), np.uint8),
    labels=rng.integers(0, 5, (4, 1), np.int32),
    weights=np.array([[1], [1], [0], [1]], np.float32),
    index=np.arange(4, dtype=np.int32)[:, None],
  )


def _packs():
  """Rows of two or three images and padding; images cross devices."""
  rng = np.random.default_rng(0)
  b, l, e = 4, 32, 3
  segments, coords = np.zeros((b, l), np.int32), np.zeros((b, l, 2), np.int32)
  grids, weights = np.ones((b, l, 2), np.int32), np.zeros((b, e), np.float32)
  for row, shapes in enumerate(
    ([(3, 5), (4, 4)], [(2, 5), (3, 3), (2, 4)], [(5, 5)], [(1, 7), (6, 4)])
  ):
    start = 0
    for i, (h, w) in enumerate(shapes):
      own = slice(start, start + h * w)
      segments[row, own], grids[row, own] = i + 1, (h, w)
      coords[row, own] = np.stack(np.divmod(np.arange(h * w), w), axis=-1)
      weights[row, i], start = 1, start + h * w
  patches = rng.integers(0, 256, (b, l, 12), np.uint8)
  tokens = Tokens(
    *(patches, coords, grids, segments), patch_sizes=((2, 2),), num_images=e
  )
  labels = rng.integers(0, 5, (b, e), np.int32)
  return Batch(tokens, labels, weights, np.arange(12).reshape(b, e))


def _params(model, batch):
  inputs = jax.tree.map(lambda x: x[:1], batch.inputs)
  shapes = TASK.init(model, jax.random.key(0), inputs, (2, 2))
  rng = np.random.default_rng(1)
  return jax.tree.map(
    lambda x: jnp.asarray(rng.normal(size=x.shape) * 0.2, x.dtype), shapes
  )


def _gradients(model, params, batch, mesh=None, how=step.mean_gradients):
  """Of a step, and its metrics; on a mesh where there is one."""

  def gradients(params, batch):
    measure = functools.partial(TASK.measure, model, patch_hw=(2, 2))
    return how(measure, params, batch, jax.random.key(0))

  if mesh is None:
    return jax.jit(gradients)(params, batch)
  placed = parameter_sharding.placed(
    params, parameter_sharding.Replicated(), mesh
  )
  where = jax.tree.map(lambda x: x.sharding, placed)
  return jax.jit(
    mesh_lib.on_mesh(gradients, mesh),
    in_shardings=(where, placement.over_rows(mesh)),
    out_shardings=(where, placement.replicated(mesh)),
  )(params, batch)


def _assert_equal(got, expected, tolerance):
  """Relative to the largest of each array, or to 1e-3: the gradient of a key's
  bias is 0, but for rounding."""

  def compare(path, x, y):
    scale = max(np.abs(y).max(initial=0), 1e-3)
    where = jax.tree_util.keystr(path)
    np.testing.assert_allclose(
      x, y, rtol=0, atol=tolerance * scale, err_msg=where
    )

  jax.tree_util.tree_map_with_path(compare, got, expected)


OPTIONS = (
  {"qk_norm": True},
  {"scan": True, "remat": True, "pool": pooling.Map()},
  {"position": rotary.Rotary(), "qk_norm": True},
  {"position": waves.SinCos2D(), "rms_norm": True},
  {"kernel": blockwise.Blockwise(8, 16), "remat": True},
)
# Each option with packs or images of one size, and the distributions in turn.
CASES = [
  pytest.param("query_sharded", {}, "grids"),
  *(
    pytest.param(
      *(list(DISTRIBUTIONS)[(i + j) % 3], changes, data),
      marks=pytest.mark.slow,
    )
    for i, changes in enumerate(OPTIONS)
    for j, data in enumerate(("grids", "packs"))
  ),
]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("name", "changes", "data"), CASES)
def test_gradients_are_those_of_one_device(name, changes, data):
  batch = _grids() if data == "grids" else _packs()
  model = _model(distribution=DISTRIBUTIONS[name], **changes)
  params = _params(model, batch)
  expected = _gradients(model, params, batch)
  mesh = mesh_lib.make_mesh(mesh_lib.MeshSpec(data=2, seq=4))
  # Sums in another order, of up to 64 numbers of order 1.
  _assert_equal(_gradients(model, params, batch, mesh), expected, 1e-12)
  got = _gradients(model, params, batch, mesh, double_averaging.gradients)
  _assert_equal(got, expected, 1e-12)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
  "double", [pytest.param(False, marks=pytest.mark.slow), True]
)
def test_microbatches_add_up(double):
  batch, model = _grids(), _model()
  params = _params(model, batch)
  mesh = mesh_lib.make_mesh(mesh_lib.MeshSpec(data=2, seq=4))
  how = step.mean_gradients
  if double:
    how = double_averaging.gradients
  got = _gradients(
    model, params, batch, mesh, functools.partial(how, accumulate=2)
  )
  _assert_equal(got, _gradients(model, params, batch), 1e-12)


@pytest.mark.usefixtures("float64")
def test_stochastic_depth_is_of_whole_images_of_packs():
  # More images in a row than a device has tokens of it.
  b, l, e = 2, 32, 16
  rng = np.random.default_rng(0)
  segments = np.tile(np.repeat(np.arange(1, e + 1, dtype=np.int32), 2), (b, 1))
  cells = np.tile(np.array([[0, 0], [0, 1]], np.int32), (b, e, 1))
  tokens = Tokens(
    rng.integers(0, 256, (b, l, 12), np.uint8),
    cells,
    np.full_like(cells, (1, 2)),
    segments,
    patch_sizes=((2, 2),),
    num_images=e,
  )
  labels = rng.integers(0, 5, (b, e), np.int32)
  weights = np.ones((b, e), np.float32)
  batch = Batch(tokens, labels, weights, np.arange(b * e).reshape(b, e))
  model = _model(size=encoder.Size(16, 2, 32, 4), drop_path=0.6)
  params = _params(model, batch)

  def on_one_device(measure, params, batch, key):
    # Each group of devices draws from a key of its own; here is one group.
    key = jax.random.fold_in(key, 0)
    return step.mean_gradients(measure, params, batch, key)

  expected = _gradients(model, params, batch, how=on_one_device)
  mesh = mesh_lib.make_mesh(mesh_lib.MeshSpec(1, 8))
  got = _gradients(model, params, batch, mesh, double_averaging.gradients)
  _assert_equal(got[0], expected[0], 1e-12)
  whole = _gradients(_model(size=model.size), params, batch)
  with pytest.raises(AssertionError):
    _assert_equal(whole[0], expected[0], 1e-2)


class _Dropped(nn.Module):
  @nn.compact
  def __call__(self, x):
    return linear.dropout(self, 0.5, x, train=True)


def test_devices_of_a_sequence_drop_numbers_of_their_own():
  def drop(x):
    return _Dropped().apply({}, x, rngs={"dropout": jax.random.key(0)})

  mesh = mesh_lib.make_mesh(mesh_lib.MeshSpec(1, 8))
  tokens = PartitionSpec(None, "seq")
  by_share = jax.shard_map(
    drop,
    in_specs=tokens,
    out_specs=tokens,
    check_vma=False,  # as in `double_averaging`
  )
  where = NamedSharding(mesh, tokens)
  dropped = jax.jit(mesh_lib.on_mesh(by_share, mesh), in_shardings=where)
  found = np.asarray(dropped(jnp.ones((2, 128, 16))))
  assert set(np.unique(found)) == {0, 2}
  shares = np.split(found, 8, axis=1)
  for one, other in itertools.combinations(shares, 2):
    # Of 512 numbers half agree by chance; by five standard deviations.
    assert abs((one == other).mean() - 0.5) < 0.12


@pytest.mark.parametrize(
  ("changes", "length", "text"),
  [
    (
      {},
      66,
      "66 tokens of a row do not divide over the 4 devices of the mesh's axis "
      "seq: take seq=1 or 2 or 3 or 6, or 64 or 68 tokens",
    ),
    (
      {"distribution": ulysses.Ulysses(), "size": encoder.Size(12, 1, 32, 3)},
      64,
      "3 heads do not divide over the 4 devices",
    ),
    (
      {"distribution": local.Local()},
      64,
      "take query_sharded, ring or ulysses",
    ),
    ({"pool": pooling.ClassToken()}, 64, 'take pool="gap" or "map"'),
    ({"registers": 4}, 64, "4 register tokens .* take registers=0"),
    (
      {"position": relative.Relative((8, 8))},
      64,
      "take learned_grid, sincos2d or rotary positions, or seq=1",
    ),
  ],
)
def test_refusals(changes, length, text):
  model = _model(**{"dtype": "float32"} | changes)
  with pytest.raises(ValueError, match=text):
    check(model, length=length, parts=4)
  check(model, length=length, parts=1)


def check(model, *, length, parts):
  shared_rows.check_model(model, parts=parts)
  shared_rows.check_length(model, length=length, parts=parts)
