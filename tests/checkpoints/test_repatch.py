import jax
import jax.numpy as jnp
import made_up
import numpy as np
import pytest

from flexivit_jax.checkpoints import repatch
from flexivit_jax.checkpoints.formats import parameters
from flexivit_jax.checkpoints.model import StoredModel, on_device
from flexivit_jax.checkpoints.origin import Spec
from flexivit_jax.core import resize
from flexivit_jax.core.tokens import patchify
from flexivit_jax.models import vit
from flexivit_jax.nn import encoder, pooling
from flexivit_jax.nn.positions import learned_grid

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 48, 64, 3), np.uint8)

# Roundings of float32 in sums of some hundred terms, of values of order 1.
ROUNDING = 2e-5


def _model(**changes):
  fields = dict(
    size=encoder.Size(16, 2, 32, 2),
    position=learned_grid.LearnedGrid((3, 4)),
    pool=pooling.ClassToken(),
    kernel_hw=(16, 16),
    num_classes=5,
    registers=2,
    prefix_position=True,
  )
  return vit.ViT(**(fields | changes))


def _logits(model, arrays, patch_size=16):
  return made_up.logits(model, arrays, IMAGES, patch_size)


def _stem(model, arrays, images, patch_hw):
  params = on_device(
    StoredModel(model, dict(arrays), Spec("test", "made up"))
  ).params
  tokens = patchify(jnp.asarray(images), patch_hw)
  with jax.default_matmul_precision("highest"):
    return np.asarray(model.apply({"params": params}, tokens).stem)


@pytest.mark.parametrize("factor", [2, 3])
def test_larger_patches_of_a_larger_image_keep_every_embedding(factor):
  # Enlarging is what PI-resize inverts: <B x, P w> = <x, w>.
  model = _model()
  arrays = made_up.arrays(model)
  big_hw = (16 * factor, 16 * factor)
  enlarge = resize.bilinear_matrix(16, 16 * factor)
  patches = patchify(IMAGES / 127.5 - 1, (16, 16)).patches
  patches = np.asarray(patches, np.float64).reshape(2, 3, 4, 16, 16, 3)
  big = np.einsum("ih,jw,brchwk->bricjk", enlarge, enlarge, patches)
  big = big.reshape(2, 48 * factor, 64 * factor, 3)
  before = _stem(model, arrays, IMAGES, (16, 16))
  after_model, after = repatch.repatch(model, arrays, big_hw)
  got = _stem(after_model, after, big.astype(np.float32), big_hw)
  error = np.linalg.norm(got - before) / np.linalg.norm(before)
  assert error < 1e-5
  # A plain resize of the kernel, which keeps its sum, does not.
  plain = np.einsum(
    "ih,jw,hwck->ijck", enlarge, enlarge, arrays[repatch.KERNEL]
  )
  plain = {**arrays, repatch.KERNEL: (plain / factor**2).astype(np.float32)}
  wrong = _stem(after_model, plain, big.astype(np.float32), big_hw)
  assert np.linalg.norm(wrong - before) / np.linalg.norm(before) > 1e-2


@pytest.mark.parametrize("patch_hw", [(8, 8), (12, 16), (24, 16), (16, 32)])
def test_stored_at_a_size_equals_resized_on_the_fly(patch_hw):
  model = _model()
  arrays = made_up.arrays(model)
  expected = _logits(model, arrays, patch_size=patch_hw)
  stored, resized = repatch.repatch(model, arrays, patch_hw, (48, 64))
  assert stored.kernel_hw == patch_hw
  assert stored.position.size == (48 // patch_hw[0], 64 // patch_hw[1])
  parameters.check(stored, resized, "made up")
  got = _logits(stored, resized, patch_size=patch_hw)
  np.testing.assert_allclose(got, expected, rtol=0, atol=ROUNDING)
  assert np.abs(expected).max() > 0.1


def test_antialias_is_the_models():
  model = _model(
    kernel_antialias=True, position=learned_grid.LearnedGrid((3, 4), False)
  )
  arrays = made_up.arrays(model)
  expected = _logits(model, arrays, patch_size=8)
  stored, resized = repatch.repatch(model, arrays, (8, 8), (48, 64))
  got = _logits(stored, resized, patch_size=8)
  np.testing.assert_allclose(got, expected, rtol=0, atol=ROUNDING)
  other = _model()
  _, wrong = repatch.repatch(other, arrays, (8, 8), (48, 64))
  assert np.abs(_logits(stored, wrong, patch_size=8) - expected).max() > 1e-3


IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.parametrize(
  ("old", "new"),
  [
    (((0.5,), (0.5,)), IMAGENET),
    (IMAGENET, ((0.5,), (0.5,))),
  ],
)
def test_folded_normalisation_computes_the_same(old, new):
  model = _model(image_mean=old[0], image_std=old[1])
  arrays = made_up.arrays(model)
  folded_model, folded = repatch.with_normalization(model, arrays, *new)
  assert (folded_model.image_mean, folded_model.image_std) == new
  expected = _logits(model, arrays)
  got = _logits(folded_model, folded)
  np.testing.assert_allclose(got, expected, rtol=0, atol=ROUNDING)
  # The kernel alone, without the bias or with another channel order, does not.
  for wrong in (
    {**folded, repatch.BIAS: arrays[repatch.BIAS]},
    {**folded, repatch.KERNEL: folded[repatch.KERNEL][:, :, ::-1]},
  ):
    assert np.abs(_logits(folded_model, wrong) - expected).max() > 1e-3


@pytest.mark.parametrize("scan", [False, True])
def test_folded_layer_scale_computes_the_same(scan):
  model = _model(layer_scale=1e-5, scan=scan)
  arrays = made_up.arrays(model)
  folded_model, folded = repatch.without_layer_scale(model, arrays)
  parameters.check(folded_model, folded, "made up")
  expected = _logits(model, arrays)
  got = _logits(folded_model, folded)
  np.testing.assert_allclose(got, expected, rtol=0, atol=ROUNDING)
  unscaled = {n: x for n, x in arrays.items() if n in folded}
  assert np.abs(_logits(folded_model, unscaled) - expected).max() > 1e-2


def test_folded_prefix_positions_compute_the_same_bit_for_bit():
  model = _model()
  arrays = made_up.arrays(model)
  folded_model, folded = repatch.without_prefix_position(model, arrays)
  parameters.check(folded_model, folded, "made up")
  np.testing.assert_array_equal(
    _logits(folded_model, folded), _logits(model, arrays)
  )


def test_inputs_are_not_changed_and_types_are_kept():
  model = _model(layer_scale=1e-5, image_mean=(0.4,))
  arrays = made_up.arrays(model, np.float16)
  before = {name: x.copy() for name, x in arrays.items()}
  changed = model, arrays
  changed = repatch.repatch(*changed, (8, 8), (48, 64))
  changed = repatch.with_normalization(*changed)
  changed = repatch.without_layer_scale(*changed)
  _, got = repatch.without_prefix_position(*changed)
  assert {x.dtype.name for x in got.values()} == {"float16"}
  for name, x in before.items():
    np.testing.assert_array_equal(arrays[name], x)


def test_an_image_of_no_whole_number_of_patches_is_refused():
  model = _model()
  with pytest.raises(ValueError, match="48x60 pixels is not a whole number"):
    repatch.repatch(model, made_up.arrays(model), (8, 8), (48, 60))
