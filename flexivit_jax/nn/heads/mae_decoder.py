"""The decoder of masked autoencoding: from what is visible to every patch."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from flexivit_jax.attention import dense
from flexivit_jax.attention.kernel import Kernel
from flexivit_jax.core.masking import Masked
from flexivit_jax.core.tokens import Tokens
from flexivit_jax.nn import block as block_lib
from flexivit_jax.nn import encoder, linear
from flexivit_jax.nn.encoder import Size
from flexivit_jax.nn.heads.pixel_head import PixelHead
from flexivit_jax.nn.mixers import Context
from flexivit_jax.nn.positions import position as position_lib
from flexivit_jax.nn.positions import relative, rotary, waves


@dataclasses.dataclass(frozen=True)
class DecoderSpec:
  """What a decoder is made of, beside what the model says.

  Attributes:
    size: widths and depth. The paper's is 512 wide and 8 blocks deep
      (arXiv:2111.06377, section 4), for encoders of 1,024; this is for small
      ones.
    position: of each patch, of its own: one that is added.
  """

  size: Size = Size(128, 2, 512, 4)
  position: position_lib.Position = waves.SinCos2D()

  def __post_init__(self):
    added = not isinstance(
      self.position,
      position_lib.NoPosition | rotary.Rotary | relative.Relative,
    )
    if not added:
      raise ValueError(
        f"position is {type(self.position).__name__}: what is hidden is told "
        "apart by its place alone, so take positions that are added, sincos2d "
        "say"
      )
    self.position.tables(self.size.width)  # says why not

  def build(self, model) -> "Decoder":
    """The module beside an encoder, with its conventions."""
    return Decoder(
      self.size,
      self.position,
      kernel_hw=model.kernel_hw,
      channels=model.channels,
      dtype=jnp.dtype(model.dtype),
      eps=model.norm_eps,
      exact_gelu=model.exact_gelu,
      kernel=model.kernel,
      remat=model.remat,
    )


class Decoder(nn.Module):
  """A linear map to its own width, the visible tokens at their places and a
  learned one elsewhere, positions, blocks, a norm, and the pixels of each
  patch (He et al., arXiv:2111.06377, section 3).

  Otherwise than there, the class token stays with the encoder: rows of several
  images have as many as slots.

  Attributes:
    size, position: as in `DecoderSpec`.
    kernel_hw: size that the pixels of a patch are stored for (`PixelHead`).
    others: as in `ViT`.
  """

  size: Size
  position: position_lib.Position
  kernel_hw: tuple[int, int]
  channels: int
  dtype: jnp.dtype
  eps: float = 1e-6
  exact_gelu: bool = False
  kernel: Kernel = dense.Dense()
  remat: bool = False

  @nn.compact
  def __call__(self, encoded, tokens: Tokens, masked: Masked):
    """The numbers of each patch.

    Args:
      encoded: `[b, v, d]`, of the visible tokens.
      tokens: of which `masked` hides some, `[b, l]`; their patches are not
        read.

    Returns:
      `[b, l, n]`, as `PixelHead`.
    """
    d = self.size.width
    x = linear.Dense((d,), self.dtype, name="embedding")(encoded)
    init = nn.initializers.normal(stddev=0.02)
    hidden = self.param("mask_token", init, (1, 1, d)).astype(x.dtype)
    x = jnp.take_along_axis(x, masked.places[..., None], axis=1)
    x = jnp.where(masked.seen[..., None], x, hidden)
    x = x + self._positions(tokens).astype(x.dtype)
    block = block_lib.EncoderBlock
    if self.remat:
      policy = None
      if self.kernel.kept:
        kept = jax.checkpoint_policies.save_only_these_names
        policy = kept(*self.kernel.kept)
      block = nn.remat(block, static_argnums=(4,), policy=policy)
    block = functools.partial(
      block,
      num_heads=self.size.num_heads,
      mlp_dim=self.size.mlp_dim,
      dtype=self.dtype,
      eps=self.eps,
      exact_gelu=self.exact_gelu,
      kernel=self.kernel,
    )
    x = encoder.Encoder(block, self.size.depth, self.eps, name="Transformer")(
      x, Context(tokens.segments), train=False
    )
    head = PixelHead(self.kernel_hw, self.channels, self.dtype, name="pixels")
    return head(x, tokens)

  def _positions(self, tokens):
    tables = {}
    for name, (init, shape) in self.position.tables(self.size.width).items():
      # A path, in the encoder's tree; here a name.
      tables[name] = self.param(name.replace("/", "_"), init, shape)
    if tokens.whole_grid is not None:
      added = self.position.of_whole(tables, tokens.whole_grid)
      if added is not None:
        return added
    return self.position(tables, tokens.coords, tokens.grid_hw, self.size.width)
