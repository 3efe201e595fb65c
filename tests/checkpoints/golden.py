"""Checkpoints with the numbers that their own programs gave for them."""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from flexivit_jax.core.tokens import Tokens, patchify, unpatchify

DATA = pathlib.Path(__file__).parents[1] / "data"


@functools.cache
def read(name):
  """(arrays under their own names, images, logits) of a file in tests/data."""
  with np.load(DATA / f"{name}.npz") as file:
    golden = dict(file)
  prefix = "state_dict/"
  arrays = {
    k.removeprefix(prefix): x for k, x in golden.items() if k.startswith(prefix)
  }
  return arrays, golden["images_uint8"], golden["logits"]


@functools.cache
def read_big_vision(name):
  """(arrays under big_vision's names today, images, logits, patch size)."""
  with np.load(DATA / f"{name}.npz") as file:
    numbers = dict(file)
  patch_size, key = 30, "logits/seqhw=8"
  if name.endswith("_p16"):
    patch_size, key = 16, "logits"
  prefix = "params/"
  arrays = {
    k.removeprefix(prefix): x
    for k, x in numbers.items()
    if k.startswith(prefix)
  }
  return arrays, numbers["images_uint8"], numbers[key], patch_size


def error(vit, images, logits):
  """Largest difference of a model's logits to the reference."""
  with jax.default_matmul_precision("highest"):
    return float(np.abs(np.asarray(vit(images)) - logits).max())


def read_flexible(name):
  """(arrays under their own names, images of several sizes, the numbers).

  Pix2Struct's are given as patches that are standardised already: its images
  are put together from them, in float.
  """
  with np.load(DATA / f"{name}.npz") as file:
    numbers = dict(file)
  prefix = "state_dict/"
  arrays = {
    k.removeprefix(prefix): numbers.pop(k)
    for k in list(numbers)
    if k.startswith(prefix)
  }
  if "image0_uint8" in numbers:
    images = [numbers[f"image{i}_uint8"] for i in range(3)]
  else:
    images = []
    rows = zip(
      numbers["flattened_patches"], numbers["attention_mask"], strict=True
    )
    for flat, mask in rows:
      ids, patches = np.split(flat[mask], [2], axis=1)
      hw = tuple(8 * int(n) for n in ids.max(axis=0))
      images.append(np.asarray(unpatchify(patches[None], hw, (8, 8)))[0])
  return arrays, images, numbers


def one_per_row(images, patch_hw):
  """Tokens with a row for each image, padded to the longest."""
  alone = [patchify(jnp.asarray(image[None]), patch_hw) for image in images]
  longest = max(tokens.patches.shape[1] for tokens in alone)
  return _joined(alone, [0] * len(images), longest)


def packed(images, patch_hw):
  """Tokens with all images in one row, and padding after them."""
  alone = [patchify(jnp.asarray(image[None]), patch_hw) for image in images]
  parts = [t.patches.shape[1] for t in alone]
  tokens = _joined(alone, np.cumsum([0, *parts[:-1]]), sum(parts) + 5)

  def in_one_row(x):
    return x.sum(axis=0, keepdims=True, dtype=x.dtype)

  number = jnp.arange(1, len(images) + 1, dtype=jnp.int32)[:, None]
  empty = in_one_row(tokens.segments)[..., None] == 0
  return dataclasses.replace(
    tokens,
    patches=in_one_row(tokens.patches),
    coords=in_one_row(tokens.coords),
    grid_hw=jnp.where(
      empty, 1, in_one_row(tokens.grid_hw * tokens.segments[..., None])
    ),
    segments=in_one_row(tokens.segments * number),
    num_images=len(images),
  )


def _joined(alone, starts, length):
  """Each image's tokens in a row of its own, from `starts` on."""

  def padded(field, value):
    return jnp.stack(
      [
        jnp.pad(
          getattr(t, field)[0],
          ((s, length - s - t.patches.shape[1]), (0, 0)),
          constant_values=value,
        )
        for t, s in zip(alone, starts, strict=True)
      ]
    )

  segments = np.zeros((len(alone), length), np.int32)
  for row, t, start in zip(segments, alone, starts, strict=True):
    row[start : start + t.patches.shape[1]] = 1
  return Tokens(
    patches=padded("patches", 0),
    coords=padded("coords", 0),
    grid_hw=padded("grid_hw", 1),
    segments=jnp.asarray(segments),
    patch_sizes=alone[0].patch_sizes,
  )


LAYOUTS = {"one per row": one_per_row, "packed": packed}


def of_each(model, params, tokens):
  """[(encoded `[n, d]`, pooled `[d]`, logits or None)] of the images."""
  with jax.default_matmul_precision("highest"):
    out = jax.jit(model.apply)({"params": params}, tokens)
  found = []
  for row, segments in enumerate(np.asarray(tokens.segments)):
    for slot in range(tokens.num_images):
      found.append(
        (
          np.asarray(out.encoded[row][segments == slot + 1]),
          np.asarray(out.pooled[row, slot]),
          None if out.logits is None else np.asarray(out.logits[row, slot]),
        )
      )
  return found
