"""Classification heads: attention pooling (MAP)."""

import flax.linen as nn
import jax.numpy as jnp

from flexivit_jax.attention import key_sharded
from flexivit_jax.nn import attention, mlp, norms


class MapHead(nn.Module):
  """`Map`: attention of one learned query per image, norm, residual MLP.

  Attributes are those of the encoder's blocks.
  """

  num_heads: int
  mlp_dim: int
  dtype: jnp.dtype
  eps: float
  exact_gelu: bool = False
  rms_norm: bool = False

  @nn.compact
  def __call__(self, x, segments, num_images: int):
    """x: `[b, l, d]`; returns `[b, num_images, d]`."""
    b, _, d = x.shape
    init = nn.initializers.xavier_uniform()
    probe = self.param("probe", init, (1, 1, d)).astype(self.dtype)
    probes = jnp.broadcast_to(probe, (b, num_images, d))
    slots = None
    if segments is not None:
      slots = jnp.arange(1, num_images + 1, dtype=segments.dtype)[None]
    x = attention.Attention(
      self.num_heads,
      self.dtype,
      self.eps,
      distribution=key_sharded.KeySharded(),
      name="MultiHeadDotProductAttention_0",
    )(probes, x, x_segments=slots, y_segments=segments)
    y = norms.norm(self.eps, self.rms_norm, "LayerNorm_0")(x)
    return x + mlp.Mlp(
      self.mlp_dim, self.dtype, self.exact_gelu, name="MlpBlock_0"
    )(y, train=False)
