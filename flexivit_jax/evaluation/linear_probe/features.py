"""Pooled features of each image, as the head reads them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from flexivit_jax.core.cut import to_tokens
from flexivit_jax.core.tokens import Batch
from flexivit_jax.models.vit import ViT


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Features:
  """One model's features at one patch size.

  On devices `[b, e]`, one for each image slot; gathered on the host by
  `gather`, `[n]`, one for each image.

  Attributes:
    index: i32, of the image in its source; -1 where there is none.
    label: i32, its class.
    pooled: f32 `[b, e, d]`, on the host `[n, d]`.
  """

  index: jax.Array | np.ndarray
  label: jax.Array | np.ndarray
  pooled: jax.Array | np.ndarray

  def __len__(self) -> int:
    return len(self.index)


def forward(model: ViT, params, batch: Batch, *, patch_hw) -> Features:
  """The model's features of a batch, on its devices; a head is not computed.

  Args:
    patch_hw: patch size in pixels; None for packed rows.
  """
  outputs = model.apply({"params": params}, to_tokens(batch.inputs, patch_hw))
  return Features(batch.index, batch.labels, outputs.pooled.astype(jnp.float32))


def gather(parts: list[Features]) -> Features:
  """Features of batches, on the host, by index; slots without image are left
  out.

  Raises:
    ValueError: there is none.
  """
  index = np.concatenate([np.asarray(part.index).ravel() for part in parts])
  real = np.flatnonzero(index >= 0)
  if not real.size:
    raise ValueError("there is no image to evaluate on")
  order = real[np.argsort(index[real], kind="stable")]
  label = np.concatenate([np.asarray(part.label).ravel() for part in parts])
  pooled = np.concatenate(
    [np.asarray(x.pooled).reshape(-1, x.pooled.shape[-1]) for x in parts]
  )
  return Features(index[order], label[order], pooled[order])
