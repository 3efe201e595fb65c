"""Images side by side in one packed row."""

import jax.numpy as jnp
import numpy as np

from flexivit_jax.core.tokens import Tokens, patchify


def in_one_row(images, patch_hw, padding=3, junk=77) -> Tokens:
  """One row of all images, with padding behind them and an empty slot.

  Args:
    images: of any sizes, each `[h, w, c]`.
    junk: what padding holds.
  """
  parts = [patchify(jnp.asarray(x)[None], patch_hw) for x in images]
  lengths = [x.patches.shape[1] for x in parts]

  def joined(name, fill):
    row = jnp.concatenate([getattr(x, name) for x in parts], axis=1)
    pad = ((0, 0), (0, padding), (0, 0))
    return jnp.pad(row, pad, constant_values=fill)

  slots = np.repeat([*range(1, len(parts) + 1), 0], [*lengths, padding])
  return Tokens(
    patches=joined("patches", junk),
    coords=joined("coords", 0),
    grid_hw=joined("grid_hw", 1),
    segments=jnp.asarray(slots, jnp.int32)[None],
    patch_sizes=parts[0].patch_sizes,
    num_images=len(parts) + 1,
  )
