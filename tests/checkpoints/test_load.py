import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flexivit_jax
from flexivit_jax.checkpoints.formats import parameters
from flexivit_jax.checkpoints.model import LoadedModel
from flexivit_jax.checkpoints.origin import Spec
from flexivit_jax.core import resolution
from flexivit_jax.core.tokens import patchify
from flexivit_jax.models import sizes
from flexivit_jax.models import vit as vit_lib
from flexivit_jax.nn import encoder, pooling
from flexivit_jax.nn.positions import (
  learned_grid,
  row_column,
)

DATA = pathlib.Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def golden():
  return dict(np.load(DATA / "big_vision_flexivit_tok.npz"))


@pytest.fixture(scope="module")
def checkpoint(golden, tmp_path_factory):
  path = tmp_path_factory.mktemp("npz") / "flexivit.npz"
  np.savez(path, **{k: v for k, v in golden.items() if k.startswith("params/")})
  return path


@pytest.fixture(scope="module")
def vit(checkpoint):
  return flexivit_jax.load(checkpoint)


def test_a_big_vision_file_gives_its_published_logits(vit, golden):
  images = golden["images_uint8"]
  with jax.default_matmul_precision("highest"):
    for seqhw in (5, 8):
      logits = vit(images, patch_size=240 // seqhw)
      # As in tests/models/test_vit.py.
      np.testing.assert_allclose(
        logits, golden[f"logits/seqhw={seqhw}"], rtol=0, atol=3e-5
      )


def test_floats_in_the_unit_range_equal_uint8(vit, golden):
  images = golden["images_uint8"]
  a, b = (
    vit(x, patch_size=48)
    for x in (images, images.astype(np.float32) / 127.5 - 1)
  )
  np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


def test_printing_says_what_was_found(vit, checkpoint, golden):
  text = str(vit)
  count = sum(v.size for k, v in golden.items() if k.startswith("params/"))
  assert f"big_vision npz: {checkpoint}" in text
  assert f"width 48, depth 2, MLP 96, 3 heads, {count:,} parameters" in text
  assert text.splitlines()[2:] == [
    "  patch embedding stored at 32x32; other sizes by PI-resize, bilinear "
    "without antialias",
    "  positions learned 7x7; other grids bilinear with antialias",
    "  pool tok, GELU tanh, eps 1e-06",
    "  10 classes, pixels normalised by mean 0.5, std 0.5",
    "  assumed, as usual in big_vision: posemb_antialias, kernel_antialias, "
    "image_mean, image_std, gelu, eps",
    "  assumed, as it has a class token: pool",
  ]


@pytest.mark.slow
def test_more_patches_than_positions_are_refused():
  position = row_column.JointTable((2, 3))
  model = vit_lib.ViT(
    encoder.Size(8, 1, 8, 1), position, pooling.Gap(), num_classes=2
  )
  images = np.zeros((1, 24, 16, 3), np.uint8)
  params = model.init(jax.random.key(0), patchify(images, (12, 8)))["params"]
  vit = LoadedModel(model, params, Spec("test", "nowhere"))
  assert vit(images, patch_size=(12, 8)).shape == (1, 2)
  with pytest.raises(ValueError, match="3x2 patches are more than the 2x3"):
    vit(images, patch_size=8)


def test_compiles_once_per_shape_and_patch_size(vit, golden):
  images = golden["images_uint8"]
  vit(images, patch_size=40)
  size = vit._apply._cache_size()
  vit(images, patch_size=40)
  vit(images[::-1].copy(), patch_size=(40, 40))
  assert vit._apply._cache_size() == size
  vit(images, patch_size=60)
  assert vit._apply._cache_size() == size + 1


@pytest.mark.parametrize(
  ("images", "patch_size", "message"),
  [
    (np.zeros((1, 48, 48, 3), np.uint8), None, "does not say at which patch"),
    (np.zeros((1, 48, 48, 3), np.uint8), 5, "48x48 pixels.*5x5"),
    (np.zeros((48, 48, 3), np.uint8), 16, r"shape \(48, 48, 3\): expected \[n"),
    (np.zeros((1, 48, 48, 3), np.int32), 16, "images are int32"),
    (np.full((1, 48, 48, 3), 200.0), 16, r"\[200, 200\], not in \[-1, 1\]"),
  ],
)
def test_wrong_images_are_refused(vit, images, patch_size, message):
  with pytest.raises(ValueError, match=message):
    vit(images, patch_size=patch_size)


@pytest.fixture(scope="module")
def photos():
  rng = np.random.default_rng(1)
  shapes = (96, 64), (48, 208), (16, 16), (100, 70)
  return [rng.integers(0, 256, (*hw, 3), np.uint8) for hw in shapes]


def test_a_list_of_images_equals_each_alone(vit, photos):
  whole = photos[:3]
  logits = vit(whole, patch_size=16)
  features = vit.features(whole, patch_size=16)
  patches = vit.patch_features(whole, patch_size=16)
  assert logits.shape == (3, 10)
  assert features.shape == (3, 48)
  assert [x.shape for x in patches] == [(6, 4, 48), (3, 13, 48), (1, 1, 48)]
  for i, image in enumerate(whole):
    alone = vit.outputs(image[None], patch_size=16)
    # Sums in another order, of numbers of about 3.
    for got, name in (
      (logits[i], "logits"),
      (features[i], "pooled"),
      (patches[i], "encoded"),
    ):
      np.testing.assert_allclose(got, alone[name][0], rtol=0, atol=1e-5)


def test_a_list_resizes_to_whole_patches_or_as_asked(vit, photos):
  patches = vit.patch_features(photos[3:], patch_size=16)
  assert patches[0].shape == (6, 4, 48)
  patches = vit.patch_features(
    photos, patch_size=16, resolution=resolution.NaFlex(12)
  )
  assert [x.shape[:2] for x in patches] == [(4, 3), (2, 6), (3, 3), (4, 3)]
  wide = vit.patch_features(photos[:1], patch_size=(16, 32))
  assert wide[0].shape == (6, 2, 48)


def test_lists_of_other_sizes_share_programs(vit, photos):
  vit(photos, patch_size=16)
  vit.patch_features(photos, patch_size=16)
  count = vit._apply_packed._cache_size()
  others = [x[: x.shape[0] // 16 * 16 : 2] for x in photos]
  vit(others, patch_size=16)
  vit.patch_features(others, patch_size=16)
  assert vit._apply_packed._cache_size() == count


@pytest.mark.parametrize(
  ("images", "options", "message"),
  [
    ([], {}, "the list of images is empty"),
    (
      [np.zeros((16, 16, 3), np.uint8), np.zeros((16, 16), np.uint8)],
      {},
      "image 1 has shape (16, 16): expected [h, w, 3]",
    ),
    (
      [np.zeros((16, 16, 3), np.uint8), np.full((16, 16, 3), -1.0)],
      {},
      "some images are uint8, others float: give one kind",
    ),
    (
      [np.zeros((16, 16, 3), np.uint8)],
      {"resolution": resolution.Sampled(16, 32)},
      "resolution Sampled is random: give Native, NaFlex, Pix2Struct or Square",
    ),
    (
      np.zeros((1, 16, 16, 3), np.uint8),
      {"resolution": resolution.Native()},
      "resolution is for a list of images; an array's images have one size",
    ),
  ],
)
def test_wrong_lists_are_refused(vit, images, options, message):
  with pytest.raises(ValueError) as caught:
    vit(images, patch_size=16, **options)
  assert str(caught.value) == message


def test_leftovers_in_a_file_are_refused(golden, tmp_path):
  params = {k: v for k, v in golden.items() if k.startswith("params/")}
  path = tmp_path / "a.npz"
  np.savez(path, **params, **{"params/extra": np.zeros(3)})
  with pytest.raises(
    ValueError, match=r"(?s)a.npz does not match.*unexpected  extra"
  ):
    flexivit_jax.load(path)
  del params["params/Transformer/encoderblock_1/LayerNorm_1/bias"]
  np.savez(path, **params)
  with pytest.raises(ValueError, match=r"missing +Transformer/encoderblock_1"):
    flexivit_jax.load(path)


def test_paths_that_hold_nothing_are_refused(tmp_path):
  with pytest.raises(ValueError, match="nowhere: no such file"):
    flexivit_jax.load(tmp_path / "nowhere")
  with pytest.raises(ValueError, match=r"no run \(config.*it holds nothing"):
    flexivit_jax.load(tmp_path)
  (tmp_path / "a.txt").write_text("")
  with pytest.raises(
    ValueError, match="is no checkpoint of a kind that is kno"
  ):
    flexivit_jax.load(tmp_path / "a.txt")


@pytest.mark.slow
def test_a_run_loads_its_best_step(small_run):
  workdir, _ = small_run
  vit = flexivit_jax.load(workdir)
  assert vit.spec.trained_sizes == ((6, 6), (12, 12))
  assert vit.spec.classes == tuple("0123456789")
  images = np.zeros((3, 24, 24, 3), np.uint8)
  assert vit(images, patch_size=6).shape == (3, 10)
  with pytest.raises(ValueError, match=r"give one \(it was trained at 6x6, 12"):
    vit(images)
  assert "(best on validation)" in str(vit)
  last = flexivit_jax.load(workdir, step=30)
  assert last.spec.step == 30
  with pytest.raises(
    ValueError, match=r"no checkpoint of step 7; there are .*30"
  ):
    flexivit_jax.load(workdir, step=7)
  assert jax.tree.all(
    jax.tree.map(lambda x: x.dtype == jnp.float32, vit.params)
  )


def test_floats_that_look_like_zero_to_one_are_warned_of(vit):
  images = np.full((1, 48, 48, 3), 0.5, np.float32)
  with pytest.warns(UserWarning, match=r"\[0.5, 0.5\]; .*give 2 \* x - 1"):
    vit(images, patch_size=16)


def test_a_published_name_is_its_file_in_the_cache(
  golden, tmp_path, monkeypatch
):
  cache = tmp_path / "cache"
  cache.mkdir()
  monkeypatch.setenv("FLEXIVIT_JAX_CACHE", str(cache))
  file = cache / "flexivit_s_i1k.npz"
  params = {k: v for k, v in golden.items() if k.startswith("params/")}
  np.savez(file, **params)
  count = sum(x.size for x in params.values())
  with pytest.raises(ValueError) as caught:
    flexivit_jax.load("flexivit_s_i1k")
  assert str(caught.value) == (
    f"{file} holds {count:,} numbers, and flexivit_s_i1k has about 22,878,568: "
    "delete it, and the next call downloads it"
  )
  file.unlink()
  (cache / "flexivit_s_i1k.npz.sha256").unlink()
  model = vit_lib.ViT(
    size=sizes.SIZES["S"],
    position=learned_grid.LearnedGrid((7, 7)),
    pool=pooling.ClassToken(),
    num_classes=1000,
  )
  # Zeros would compress beyond what is believed.
  rng = np.random.default_rng(0)
  np.savez(
    file,
    **{
      f"params/{k}": rng.standard_normal(x.shape, np.float32)
      for k, x in parameters.shapes(model).items()
    },
  )
  named = flexivit_jax.load("flexivit_s_i1k")
  assert named.model == model
  assert named.spec.trained_sizes[0] == (48, 48)
  assert named.spec.origins["trained_sizes"] == "its name"
  with pytest.raises(ValueError, match="did you mean 'flexivit_s_i1k'"):
    flexivit_jax.load("flexivit_s_ilk")
