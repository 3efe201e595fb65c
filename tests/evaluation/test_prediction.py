"""Predictions agree with the model called by hand, in order, in one program."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flexivit_jax.checkpoints.model import LoadedModel
from flexivit_jax.checkpoints.origin import Spec
from flexivit_jax.core import resolution
from flexivit_jax.core.errors import Fault
from flexivit_jax.core.patch_size import FixedPatchSize
from flexivit_jax.core.token_drop import NoDrop
from flexivit_jax.core.tokens import patchify
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
from flexivit_jax.models import sizes, vit
from flexivit_jax.nn import pooling
from flexivit_jax.nn.positions import learned_grid
from flexivit_jax.tasks import classification

CLASSES, PATCH = 5, (4, 6)
SKIP = types.SimpleNamespace(skip=True, check=lambda bad, total: None)


@pytest.fixture(scope="module")
def model():
  module = vit.ViT(
    sizes.SIZES["mu"],
    learned_grid.LearnedGrid((4, 4)),
    pooling.Gap(),
    kernel_hw=(8, 8),
    num_classes=CLASSES,
  )
  images = jnp.zeros((1, 24, 24, 3), jnp.uint8)
  shapes = jax.eval_shape(
    module.init, jax.random.key(0), patchify(images, PATCH)
  )
  rng = np.random.default_rng(0)
  # Small, so that norms and attention are as usual; as initialised, the head
  # would be zero.
  params = jax.tree.map(
    lambda x: jnp.asarray(0.2 * rng.normal(size=x.shape), x.dtype),
    shapes["params"],
  )
  return LoadedModel(module, params, Spec("made up", "x"))


def _images(shapes):
  rng = np.random.default_rng(1)
  return tuple(rng.integers(0, 256, (*hw, 3), np.uint8) for hw in shapes)


def _source(pixels):
  labels = np.zeros(len(pixels), np.int64)
  return source.InMemory(pixels, labels, ("unknown",))


def _predict(model, batches, wanted, patch_hw=PATCH):
  mesh = mesh_lib.make_mesh()
  params = jax.device_put(model.params, placement.replicated(mesh))
  forward = predict.compile_forward(
    model.model, params, batches.example(0), patch_hw, wanted, mesh, print
  )
  return list(
    predict.predict(forward, params, batches, patch_hw, mesh, "image {}".format)
  )


def _packed(pixels, policy, batch_size=8, open_rows=4, **options):
  """Rows of few images each, several of them open at once."""
  cutter = Cutter(policy, FixedPatchSize(PATCH), NoDrop(), 40)
  packing = rows.Packing(40, 6, open_rows=open_rows)
  return packing_eval_loader.PackEvalLoader(
    _source(pixels), (), [(cutter, packing)], batch_size, **options
  )


def _close(found, expected):
  # Values of order 1 in float32, in programs of different batch sizes.
  np.testing.assert_allclose(found, expected, atol=2e-5)


def _softmax(logits):
  powers = np.exp(logits - logits.max(-1, keepdims=True))
  return powers / powers.sum(-1, keepdims=True)


def test_images_of_one_size_are_as_the_model_says(model):
  pixels = np.stack(_images([(24, 24)] * 19))
  batches = loading_eval_loader.EvalLoader(_source(pixels), [()], 8)
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
  batches = _packed(pixels, policy)
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


@pytest.mark.parametrize("packed", [False, True])
def test_a_partial_batch_needs_no_program_of_its_own(
  model, monkeypatch, packed
):
  traces, forward = [], predict._forward

  def counted(*args, **kwargs):
    traces.append(1)
    return forward(*args, **kwargs)

  monkeypatch.setattr(predict, "_forward", counted)
  pixels = _images([(24, 24)] * 19)
  if packed:
    batches = _packed(pixels, resolution.Native())
  else:
    batches = loading_eval_loader.EvalLoader(_source(pixels), [()], 8)
  assert len(_predict(model, batches, Wanted("softmax"))) == 19
  assert len(traces) == 1


def test_nothing_is_computed_that_is_not_wanted(model):
  batches = loading_eval_loader.EvalLoader(
    _source(np.stack(_images([(24, 24)]))), [()], 8
  )
  (one,) = _predict(model, batches, Wanted(None, features=True))
  assert one.classes is one.probabilities is one.tokens is None
  assert one.features.shape == (32,)
  (one,) = _predict(model, batches, Wanted("sigmoid"))
  assert one.features is one.tokens is None
  # Five where more were asked for would be no class.
  (one,) = _predict(model, batches, Wanted("softmax", 1000))
  assert sorted(one.classes) == list(range(CLASSES))
  assert one.probabilities.sum() == pytest.approx(1, abs=1e-6)


def test_probabilities_of_logits():
  logits = np.array([[3.0, -1.0, 0.5, 2.5]], np.float32)
  expected = {"softmax": _softmax(logits), "sigmoid": 1 / (1 + np.exp(-logits))}
  assert predict.PROBABILITIES.keys() == expected.keys()
  for name, loss in predict.PROBABILITIES.items():
    found = loss.probabilities(logits)
    np.testing.assert_allclose(found, expected[name], rtol=1e-6)


def test_classes_are_in_order_though_their_probabilities_round_to_one(model):
  head = {"kernel": np.zeros((32, CLASSES), "f4")}
  head["bias"] = np.array([50, 70, 60, 80, -1], np.float32)
  params = {**model.params, "head": head}
  certain = LoadedModel(model.model, params, model.spec)
  batches = loading_eval_loader.EvalLoader(
    _source(np.stack(_images([(24, 24)]))), [()], 8
  )
  (one,) = _predict(certain, batches, Wanted("sigmoid", 4))
  assert one.probabilities.tolist() == [1, 1, 1, 1]
  assert one.classes.tolist() == [3, 1, 2, 0]


class _Damaged(source.InMemory):
  def image(self, index):
    if index in (0, 9, 18):
      raise BadImageError(f"image {index}: bad")
    return super().image(index)


@pytest.mark.parametrize("packed", [False, True])
def test_bad_images_are_left_out(model, packed):
  good = [i for i in range(19) if i not in (0, 9, 18)]
  damaged = _Damaged(*vars(_source(_images([(24, 24)] * 19))).values())
  if packed:
    cutter = Cutter(resolution.Native(), FixedPatchSize(PATCH), NoDrop(), 40)
    batches = packing_eval_loader.PackEvalLoader(
      damaged, (), [(cutter, rows.Packing(40, 6))], 8, on_bad_image=SKIP
    )
  else:
    resize = transforms.Resize((24, 24))
    batches = loading_eval_loader.EvalLoader(
      damaged, [(resize,)], 8, on_bad_image=SKIP
    )
  found = _predict(model, batches, Wanted("softmax"))
  assert [p.index for p in found] == good
  assert sorted(batches.bad) == [0, 9, 18]


@pytest.mark.parametrize(
  ("wanted", "field"),
  [
    (Wanted("softmax"), "probabilities"),
    (Wanted(None, features=True), "features"),
    (Wanted(None, features=True, tokens=True), "features"),
  ],
)
def test_what_is_no_number_is_a_fault(model, wanted, field):
  params = jax.tree.map(lambda x: x * np.float32("nan"), model.params)
  broken = LoadedModel(model.model, params, model.spec)
  batches = loading_eval_loader.EvalLoader(
    _source(np.stack(_images([(24, 24)] * 2))), [()], 8
  )
  with pytest.raises(Fault) as caught:
    _predict(broken, batches, wanted)
  assert str(caught.value) == (
    f"image 0: the model's {field} are not finite numbers: its weights are "
    "damaged, or too large for its precision"
  )


def test_probabilities_follow_the_loss_of_a_run(model, small_experiment):
  assert predict.probabilities_of(model) is None
  for loss, expected in (("softmax", "softmax"), ("sigmoid", "sigmoid")):
    run = small_experiment(f"task.loss={loss}")
    assert isinstance(run.task, classification.Supervised)
    spec = Spec("made up", "x", experiment=run)
    found = LoadedModel(model.model, model.params, spec)
    assert predict.probabilities_of(found) == expected
