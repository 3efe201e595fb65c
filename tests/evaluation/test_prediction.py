"""Predictions agree with the model called by hand, in order, in one program."""

import types

import jax
import numpy as np
import pytest

from flexivit_jax.checkpoints.model import LoadedModel
from flexivit_jax.checkpoints.origin import Spec
from flexivit_jax.core import resolution
from flexivit_jax.core.errors import Fault
from flexivit_jax.core.patch_size import FixedPatchSize
from flexivit_jax.core.token_drop import NoDrop
from flexivit_jax.data.loading import eval_loader as loading_eval_loader
from flexivit_jax.data.packing import eval_loader as packing_eval_loader
from flexivit_jax.data.packing import rows
from flexivit_jax.data.packing.cutter import Cutter
from flexivit_jax.data.pixels import transforms
from flexivit_jax.data.pixels.decode import BadImageError
from flexivit_jax.data.sources import source
from flexivit_jax.devices import mesh as mesh_lib
from flexivit_jax.devices import placement
from flexivit_jax.evaluation import predict
from flexivit_jax.evaluation.predict import Wanted
from tests import tiny

CLASSES, PATCH = 5, (4, 6)
RESIZE, NATIVE = transforms.Resize((24, 24)), resolution.Native()
SKIP = types.SimpleNamespace(skip=True, check=lambda bad, total: None)


@pytest.fixture(scope="module")
def model():
  module = tiny.tiny(num_classes=CLASSES)
  params = tiny.parameters(module, scale=0.2)
  return LoadedModel(module, params, Spec("made up", "x"))


def _images(shapes):
  rng = np.random.default_rng(1)
  return tuple(rng.integers(0, 256, (*hw, 3), np.uint8) for hw in shapes)


def _source(pixels):
  labels = np.zeros(len(pixels), np.int64)
  return source.InMemory(pixels, labels, ("unknown",))


def _grid(source, **options):
  """Batches of images of one size."""
  resize = () if isinstance(source.pixels, np.ndarray) else (RESIZE,)
  return loading_eval_loader.EvalLoader(source, [resize], 8, **options)


def _packed(source, policy=NATIVE, **options):
  """Rows of few images each, several of them open at once."""
  cutter = Cutter(policy, FixedPatchSize(PATCH), NoDrop(), 40)
  packing = rows.Packing(40, 6, open_rows=4)
  return packing_eval_loader.PackEvalLoader(
    source, (), [(cutter, packing)], 8, **options
  )


def _predict(model, batches, wanted, patch_hw=PATCH):
  mesh = mesh_lib.make_mesh()
  params = jax.device_put(model.params, placement.replicated(mesh))
  forward = predict.compile_forward(
    model.model, params, batches.example(0), patch_hw, wanted, mesh, print
  )
  return list(
    predict.predict(forward, params, batches, patch_hw, mesh, "image {}".format)
  )


def _close(found, expected):
  # Values of order 1 in float32, in programs of different batch sizes.
  np.testing.assert_allclose(found, expected, atol=2e-5)


def _softmax(logits):
  powers = np.exp(logits - logits.max(-1, keepdims=True))
  return powers / powers.sum(-1, keepdims=True)


def test_images_of_one_size_are_as_the_model_says(model):
  pixels = np.stack(_images([(24, 24)] * 19))
  batches = _grid(_source(pixels))
  found = _predict(model, batches, Wanted("softmax", 3, True, True))
  assert [p.index for p in found] == list(range(19))
  out = jax.device_get(model.outputs(pixels, PATCH))
  _close(np.stack([p.features for p in found]), out["pooled"])
  _close(np.stack([p.tokens for p in found]), out["encoded"])
  assert found[0].tokens.shape == (6, 4, 32)
  probabilities = _softmax(out["logits"])
  # Images must differ for the order to be tested.
  assert np.ptp(probabilities, axis=0).max() > 0.01
  order = np.argsort(-probabilities)[:, :3]
  np.testing.assert_array_equal(np.stack([p.classes for p in found]), order)
  top = np.take_along_axis(probabilities, order, -1)
  _close(np.stack([p.probabilities for p in found]), top)


def test_packed_images_come_in_order_and_keep_their_grids(model):
  """Though some rows are full before others that were opened earlier."""
  shapes = [(24, 24), (8, 60), (4, 6), (20, 18), (32, 6), (13, 31)] * 7
  pixels, policy = _images(shapes), resolution.Native(24)
  batches = _packed(_source(pixels), policy)
  order = [i for _, b in batches for i in b.index[b.index >= 0]]
  assert order != sorted(order)  # or nothing is tested
  found = _predict(model, batches, Wanted("softmax", 1, True, True))
  assert [p.index for p in found] == list(range(len(shapes)))
  out = model.outputs(list(pixels), PATCH, resolution=policy)
  _close(np.stack([p.features for p in found]), out["pooled"])
  for own, expected in zip(found, out["encoded"], strict=True):
    assert own.tokens.shape == expected.shape
    _close(own.tokens, expected)
  best = np.argmax(out["logits"], -1)
  np.testing.assert_array_equal([p.classes[0] for p in found], best)


def test_nothing_is_computed_that_is_not_wanted(model):
  batches = _grid(_source(np.stack(_images([(24, 24)]))))
  (one,) = _predict(model, batches, Wanted(None, features=True))
  assert one.classes is one.probabilities is one.tokens is None
  assert one.features.shape == (32,)
  # Five where more were asked for would be no class.
  (one,) = _predict(model, batches, Wanted("sigmoid", 1000))
  assert one.features is one.tokens is None
  assert sorted(one.classes) == list(range(CLASSES))


def test_classes_are_in_order_though_their_probabilities_round_to_one(model):
  head = {"kernel": np.zeros((32, CLASSES), "f4")}
  head["bias"] = np.array([50, 70, 60, 80, -1], np.float32)
  params = {**model.params, "head": head}
  certain = LoadedModel(model.model, params, model.spec)
  batches = _grid(_source(np.stack(_images([(24, 24)]))))
  (one,) = _predict(certain, batches, Wanted("sigmoid", 4))
  assert one.probabilities.tolist() == [1, 1, 1, 1]
  assert one.classes.tolist() == [3, 1, 2, 0]


class _Damaged(source.InMemory):
  def image(self, index):
    if index in (0, 9, 18):
      raise BadImageError(f"image {index}: bad")
    return super().image(index)


@pytest.mark.parametrize("make", [_grid, _packed])
def test_bad_images_are_left_out(model, make):
  damaged = _Damaged(*vars(_source(_images([(24, 24)] * 19))).values())
  batches = make(damaged, on_bad_image=SKIP)
  found = _predict(model, batches, Wanted("softmax"))
  good = [i for i in range(19) if i not in (0, 9, 18)]
  assert [p.index for p in found] == good
  assert sorted(batches.bad) == [0, 9, 18]


@pytest.mark.parametrize(
  ("wanted", "field"),
  [
    (Wanted("softmax"), "probabilities"),
    (Wanted(None, features=True, tokens=True), "features"),
  ],
)
def test_numbers_that_are_not_finite_are_a_fault(model, wanted, field):
  params = jax.tree.map(lambda x: x * np.float32("nan"), model.params)
  broken = LoadedModel(model.model, params, model.spec)
  batches = _grid(_source(np.stack(_images([(24, 24)] * 2))))
  text = f"^image 0: the model's {field} are not finite numbers: its weights"
  with pytest.raises(Fault, match=text):
    _predict(broken, batches, wanted)


def test_probabilities_follow_the_loss_of_a_run(model, small_experiment):
  assert predict.probabilities_of(model) is None
  for loss in ("softmax", "sigmoid"):
    spec = Spec("x", "x", experiment=small_experiment(f"task.loss={loss}"))
    found = LoadedModel(model.model, model.params, spec)
    assert predict.probabilities_of(found) == loss
