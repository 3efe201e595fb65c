"""Hybrids in files: those of vit_jax's names against a forward pass in numpy,
and what can be saved."""

import jax
import jax.numpy as jnp
import made_up
import numpy as np
import pytest

from flexivit_jax.checkpoints import init_from, load, npz, repatch, save, shapes
from flexivit_jax.checkpoints.formats import parameters
from flexivit_jax.checkpoints.model import on_device
from flexivit_jax.core.tokens import patchify
from flexivit_jax.nn.stems.early_convolutions import EarlyConvolutions
from flexivit_jax.nn.stems.resnet import ResNet

D, HEADS, DEPTH = 16, 2, 1
BLOCKS, WIDTH, CELLS = (2, 1), 32, 2
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3), np.uint8)


def _published(rng, norms_as_images):
  """Arrays under the names of the hybrids of 2020, grid 2x2, patches of 16
  px: two cells of stride 8."""
  arrays = {}

  def put(name, *shape, scale=0.3):
    arrays[name] = (scale * rng.normal(size=shape)).astype(np.float32)

  def norm(name, c):
    # Of images of one pixel in some files.
    shape = (1, 1, 1, c) if norms_as_images and "gn" in name else (c,)
    for leaf in ("scale", "bias"):
      put(f"{name}/{leaf}", *shape)

  # So small that what is added to the deviation shows.
  put("conv_root/kernel", 7, 7, 3, WIDTH, scale=1e-4)
  norm("gn_root", WIDTH)
  ins = WIDTH
  for stage, units in enumerate(BLOCKS):
    n = WIDTH * 2**stage
    for unit in range(units):
      at = f"block{stage + 1}/unit{unit + 1}"
      put(f"{at}/conv1/kernel", 1, 1, ins, n)
      put(f"{at}/conv2/kernel", 3, 3, n, n, scale=1e-4)
      put(f"{at}/conv3/kernel", 1, 1, n, 4 * n)
      if unit == 0:
        put(f"{at}/conv_proj/kernel", 1, 1, ins, 4 * n)
        norm(f"{at}/gn_proj", 4 * n)
      for i, c in enumerate((n, n, 4 * n)):
        norm(f"{at}/gn{i + 1}", c)
      ins = 4 * n
  put("embedding/kernel", CELLS, CELLS, ins, D, scale=0.05)
  put("embedding/bias", D)
  put("cls", 1, 1, D)
  put("Transformer/posembed_input/pos_embedding", 1, 1 + 4, D)
  for i in range(DEPTH):
    at = f"Transformer/encoderblock_{i}"
    attention = f"{at}/MultiHeadDotProductAttention_1"
    for part in ("query", "key", "value"):
      put(f"{attention}/{part}/kernel", D, HEADS, D // HEADS)
      put(f"{attention}/{part}/bias", HEADS, D // HEADS)
    put(f"{attention}/out/kernel", HEADS, D // HEADS, D)
    put(f"{attention}/out/bias", D)
    norm(f"{at}/LayerNorm_0", D)
    norm(f"{at}/LayerNorm_2", D)
    put(f"{at}/MlpBlock_3/Dense_0/kernel", D, 24)
    put(f"{at}/MlpBlock_3/Dense_0/bias", 24)
    put(f"{at}/MlpBlock_3/Dense_1/kernel", 24, D)
    put(f"{at}/MlpBlock_3/Dense_1/bias", D)
  norm("Transformer/encoder_norm", D)
  put("pre_logits/kernel", D, D)
  put("pre_logits/bias", D)
  put("head/kernel", D, 7)
  put("head/bias", 7)
  return arrays


class Reference:
  """The forward pass of a hybrid in numpy, from its description."""

  def __init__(self, arrays, groups=32, std_eps=1e-5, pad_before=False):
    self.p = {k: x.astype(np.float64) for k, x in arrays.items()}
    self.groups, self.std_eps = groups, std_eps
    self.pad_before = pad_before

  def windows(self, x, side, stride, fill):
    """[side, side, b, h, w, c]: as TensorFlow's SAME, more of the padding
    after the image."""
    pads = []
    for n in x.shape[1:3]:
      total = max((-(-n // stride) - 1) * stride + side - n, 0)
      before = total - total // 2 if self.pad_before else total // 2
      pads.append((before, total - before))
    x = np.pad(x, ((0, 0), *pads, (0, 0)), constant_values=fill)
    h, w = ((n - side) // stride + 1 for n in x.shape[1:3])
    return np.array(
      [
        [
          x[:, i : i + stride * h : stride, j : j + stride * w : stride][
            :, :h, :w
          ]
          for j in range(side)
        ]
        for i in range(side)
      ]
    )

  def conv(self, x, name, stride):
    w = self.p[f"{name}/kernel"]
    filters = w.reshape(-1, w.shape[-1])
    filters = filters - filters.mean(0)
    filters /= np.sqrt((filters**2).mean(0)) + self.std_eps
    seen = self.windows(x, w.shape[0], stride, 0.0)
    return np.einsum("ijbhwc,ijcd->bhwd", seen, filters.reshape(w.shape))

  def scaled(self, x, name):
    return x * self.p[f"{name}/scale"].ravel() + self.p[f"{name}/bias"].ravel()

  def group_norm(self, x, name):
    b, h, w, c = x.shape
    grouped = x.reshape(b, h * w, self.groups, c // self.groups)
    mean = grouped.mean((1, 3), keepdims=True)
    grouped = (grouped - mean) / np.sqrt(
      grouped.var((1, 3), keepdims=True) + 1e-6
    )
    return self.scaled(grouped.reshape(x.shape), name)

  def layer_norm(self, x, name):
    x = x - x.mean(-1, keepdims=True)
    return self.scaled(x / np.sqrt(x.var(-1, keepdims=True) + 1e-6), name)

  def dense(self, x, name, axes=1):
    kernel = self.p[f"{name}/kernel"]
    return np.tensordot(x, kernel, axes) + self.p[f"{name}/bias"]

  def unit(self, x, at, stride):
    def relu(y):
      return np.maximum(y, 0)

    shortcut = x
    if f"{at}/conv_proj/kernel" in self.p:
      shortcut = self.conv(x, f"{at}/conv_proj", stride)
      shortcut = self.group_norm(shortcut, f"{at}/gn_proj")
    y = relu(self.group_norm(self.conv(x, f"{at}/conv1", 1), f"{at}/gn1"))
    y = self.conv(y, f"{at}/conv2", stride)
    y = relu(self.group_norm(y, f"{at}/gn2"))
    y = self.group_norm(self.conv(y, f"{at}/conv3", 1), f"{at}/gn3")
    return relu(shortcut + y)

  def stem(self, images):
    x = self.conv(images / 127.5 - 1, "conv_root", 2)
    x = np.maximum(self.group_norm(x, "gn_root"), 0)
    x = self.windows(x, 3, 2, -np.inf).max((0, 1))
    for stage, units in enumerate(BLOCKS):
      for unit in range(units):
        stride = 2 if stage and not unit else 1
        x = self.unit(x, f"block{stage + 1}/unit{unit + 1}", stride)
    return x

  def encoder(self, x):
    for i in range(DEPTH):
      at = f"Transformer/encoderblock_{i}"
      attention = f"{at}/MultiHeadDotProductAttention_1"
      y = self.layer_norm(x, f"{at}/LayerNorm_0")
      q, k, v = (
        self.dense(y, f"{attention}/{part}")
        for part in ("query", "key", "value")
      )
      weights = np.exp(np.einsum("bqhe,bkhe->bhqk", q, k) / q.shape[-1] ** 0.5)
      weights /= weights.sum(-1, keepdims=True)
      y = np.einsum("bhqk,bkhe->bqhe", weights, v)
      x = x + self.dense(y, f"{attention}/out", 2)
      y = self.dense(
        self.layer_norm(x, f"{at}/LayerNorm_2"), f"{at}/MlpBlock_3/Dense_0"
      )
      gelu = np.tanh((2 / np.pi) ** 0.5 * (y + 0.044715 * y**3))
      x = x + self.dense(0.5 * y * (1 + gelu), f"{at}/MlpBlock_3/Dense_1")
    return self.layer_norm(x, "Transformer/encoder_norm")

  def logits(self, images):
    features = self.stem(images)
    b, h, w, c = features.shape
    cut = features.reshape(b, h // CELLS, CELLS, w // CELLS, CELLS, c)
    tokens = np.einsum(
      "brictd,ctde->brie",
      cut.transpose(0, 1, 3, 2, 4, 5),
      self.p["embedding/kernel"],
    )
    tokens = tokens.reshape(b, -1, D) + self.p["embedding/bias"]
    cls = np.broadcast_to(self.p["cls"], (b, 1, D))
    x = np.concatenate([cls, tokens], axis=1)
    x = x + self.p["Transformer/posembed_input/pos_embedding"]
    pooled = self.encoder(x)[:, 0]
    pooled = np.tanh(self.dense(pooled, "pre_logits"))
    return self.dense(pooled, "head")


def _file(tmp_path, norms_as_images=True):
  arrays = _published(np.random.default_rng(1), norms_as_images)
  path = tmp_path / "R50+ViT-B_16.npz"
  np.savez(path, **arrays)
  return path, arrays


SQUARE = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), np.uint8)


@pytest.mark.usefixtures("float64")
def test_equals_a_forward_pass_in_numpy(tmp_path):
  path, arrays = _file(tmp_path)
  found = load.read(path, num_heads=HEADS)
  assert found.model.stem == ResNet(BLOCKS, WIDTH)
  assert found.spec.patch_size == (16, 16)
  params = {
    name: jnp.asarray(x, jnp.float64) for name, x in found.arrays.items()
  }
  model = found.model.clone(dtype="float64")
  tree = parameters_tree(params)
  tokens = patchify(SQUARE, (16, 16))
  got = jax.jit(lambda p: model.apply({"params": p}, tokens).logits)(tree)
  wanted = Reference(arrays).logits(SQUARE)
  # Logits of order 1 in float64, after some hundred operations.
  np.testing.assert_allclose(got[:, 0], wanted, rtol=0, atol=1e-9)
  for mutant in (dict(groups=16), dict(std_eps=1e-6), dict(pad_before=True)):
    other = Reference(arrays, **mutant).logits(SQUARE)
    # The norms leave little of what is added to a deviation of 1e-4.
    assert np.abs(other - wanted).max() > 1e-5, mutant


def parameters_tree(flat):
  tree = {}
  for name, x in flat.items():
    *groups, leaf = name.split("/")
    place = tree
    for group in groups:
      place = place.setdefault(group, {})
    place[leaf] = x
  return tree


def _hybrid(stem, **changes):
  return made_up.tiny(stem=stem, kernel_hw=(1, 1), **changes)


KINDS = (ResNet((), 8), ResNet((1, 2), 8), EarlyConvolutions((8, 16)))


@pytest.mark.parametrize(
  ("stem", "format_"),
  [(KINDS[2], "orbax"), (KINDS[1], "big_vision")],
)
def test_saved_and_loaded(stem, format_, tmp_path):
  model = _hybrid(stem)
  checkpoint = made_up.checkpoint(model)
  path = tmp_path / ("file.npz" if format_ == "big_vision" else "model")
  assert save.save(checkpoint, path, format_) == []
  found = load.read(path)
  assert found.model == model
  for name, x in checkpoint.arrays.items():
    np.testing.assert_array_equal(found.arrays[name], x)
  if format_ == "big_vision":
    assert set(npz.read(path)[0]) == {f"params/{n}" for n in checkpoint.arrays}


def _error(function):
  with pytest.raises(ValueError) as caught:
    function()
  return str(caught.value)


@pytest.mark.parametrize(
  ("format_", "program"),
  [
    ("timm", "timm"),
    ("naflexvit", "timm's NaFlexVit"),
    ("siglip2", "Hugging Face's SigLIP2"),
  ],
)
def test_other_formats_have_no_stem(format_, program, tmp_path):
  changes = dict(num_classes=0) if format_ == "siglip2" else {}
  checkpoint = made_up.checkpoint(_hybrid(KINDS[0], **changes))
  text = _error(lambda: save.save(checkpoint, tmp_path / "out", format_))
  assert text == (
    f"{program} has no convolutional stem (orbax has a place for it)"
  )


def test_odd_stems_are_refused(tmp_path):
  path, arrays = _file(tmp_path)
  del arrays["block1/unit1/conv1/kernel"]
  np.savez(path, **arrays)
  assert (
    "missing  block1/unit1/conv1/kernel  -           (1, 1, 32, 32)"
  ) in _error(lambda: load.read(path, num_heads=HEADS))
  arrays["block9/unit1/conv1/kernel"] = np.zeros((1, 1, 1, 1), np.float32)
  np.savez(path, **arrays)
  assert _error(lambda: load.read(path, num_heads=HEADS)) == (
    f"{path}: blocks is (2, 1, 1, 1, 1, 1, 1, 1, 1): give at most 5 stages of "
    "1 to 100 units, (3, 4, 9) say"
  )
  arrays["conv_root/kernel"] = np.zeros((7, 7, 32), np.float32)
  np.savez(path, **arrays)
  assert _error(lambda: load.read(path, num_heads=HEADS)) == (
    f"{path}: conv_root/kernel has shape (7, 7, 32), and rank 4 in every ViT"
  )


def test_images_that_a_hybrid_cannot_take_are_refused():
  model = _hybrid(KINDS[1])
  vit_ = on_device(made_up.checkpoint(model))
  assert _error(lambda: vit_(IMAGES, patch_size=4)) == (
    "patches of 4x4 pixels, but the stem makes one cell of 8x8: give multiples "
    "of 8, such as 8x8, or a stem of a smaller stride"
  )
  assert _error(lambda: vit_(list(IMAGES), patch_size=8)) == (
    "a convolutional stem takes whole images: packed rows and parts of an "
    'image have none, so take stem="none", or images of one size without '
    "packing or masking"
  )


def test_other_pixels_are_not_folded_into_a_stem():
  model = _hybrid(KINDS[0], image_mean=(0.4,), image_std=(0.2,))
  arrays = made_up.arrays(model)
  text = (
    "its convolutional stem takes pixels of mean (0.4,) and std (0.2,), and "
    "pads them: other pixels cannot be folded in, so leave image_mean and "
    "image_std at these"
  )
  assert _error(lambda: repatch.with_normalization(model, arrays)) == text
  target = _hybrid(KINDS[0])
  assert (
    _error(lambda: init_from.fit(model, arrays, target, (), "file")) == text
  )


def test_a_hybrid_starts_from_one_of_another_patch_size():
  source, target = _hybrid(KINDS[0]), _hybrid(KINDS[0]).clone(kernel_hw=(2, 2))
  arrays, lines = init_from.fit(
    source, made_up.arrays(source), target, (), "file"
  )
  parameters.check(target, arrays, "fitted")
  assert lines == ["patch embedding: of 1x1, stored at 2x2"]


def test_a_plain_vit_does_not_start_from_a_hybrid():
  source, target = _hybrid(KINDS[0]), made_up.tiny(kernel_hw=(1, 1))
  have, want = (parameters.shapes(m) for m in (source, target))
  assert (
    _error(lambda: shapes.check_shapes(have, want, "file")).splitlines()[-1]
    == "hint: the checkpoint was made with model.stem=resnet"
  )
  early = parameters.shapes(_hybrid(KINDS[2]))
  assert (
    _error(lambda: shapes.check_shapes(want, early, "file")).splitlines()[-1]
    == "hint: the checkpoint was made with model.stem=none"
  )
