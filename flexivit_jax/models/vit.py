"""The Vision Transformer: Tokens in, one vector per image out."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from flexivit_jax.attention import dense, query_sharded
from flexivit_jax.attention.distribution import Distribution
from flexivit_jax.attention.kernel import Kernel
from flexivit_jax.core.patch_pixels import standardize
from flexivit_jax.core.tokens import Tokens
from flexivit_jax.devices import axes
from flexivit_jax.models import blocks
from flexivit_jax.models.fields import check_fields
from flexivit_jax.nn import adaln, encoder, linear, norms, pooling
from flexivit_jax.nn.encoder import Size
from flexivit_jax.nn.heads import classifier
from flexivit_jax.nn.mixers import Context
from flexivit_jax.nn.patch_embedding import PatchEmbedding
from flexivit_jax.nn.positions import position as position_lib
from flexivit_jax.nn.stems import stem as stem_lib


class Outputs(NamedTuple):
  """Values of each stage; jit drops those that are not read.

  Attributes:
    stem: `[b, l, d]`, patch embeddings.
    embedded: `[b, l, d]`, with positions, before class and register tokens.
    encoded: `[b, l, d]`, patches after the final norm, if not the pool's.
    pooled: `[b, e, d]`, what the head reads: the features.
    logits: `[b, e, num_classes]` in float32, or None without a head.
  """

  stem: jax.Array
  embedded: jax.Array
  encoded: jax.Array
  pooled: jax.Array
  logits: jax.Array | None


class ViT(nn.Module):
  """One Vision Transformer for every patch size.

  Attributes:
    size: widths and depth.
    position: how places of patches reach the model.
    pool: how an image's tokens become one vector.
    kernel_hw: stored size of the patch embedding, in pixels or a stem's cells.
      It is PI-resized to the patches that it meets; FlexiViT stores 32x32.
    num_classes: width of the head; None: as many as the data has; 0: no head.
    channels: of the image.
    kernel_antialias: of PI-resize; off in the published FlexiViT.
    image_mean, image_std: of pixels of 0 to 1, one number or one for each
      channel. Images are given as u8, or as floats in [-1, 1].
    standardize: each image has mean 0 and variance 1 instead (Pix2Struct).
    embedding_norm: norm after the patch embedding (arXiv:2212.08013).
    registers: number of register tokens (arXiv:2309.16588).
    prefix_position: positions of class and register tokens, as in the ViT
      paper; big_vision has none.
    representation: a tanh layer before the head (`pre_logits`).
    layer_scale: initial value of LayerScale; None: no LayerScale.
    qk_norm: norm of queries and keys.
    qkv_bias, proj_bias: biases of queries, keys and values, and of the other
      linear maps of a block.
    attention_scale: of products of queries and keys in the blocks; None:
      1 / sqrt(width / num_heads). T5 and Pix2Struct have 1.
    gated_mlp: GEGLU (arXiv:2002.05202) in the blocks.
    rms_norm: RMSNorm (arXiv:1910.07467) instead of every LayerNorm.
    norm_after_pool: the final norm is of the pooled vector (timm's fc_norm).
    norm_eps: of every norm.
    exact_gelu: erf, as in timm and Hugging Face's ViT, instead of tanh.
    head_bias: initial bias of the head; -10 for a sigmoid of many classes.
    dropout: after the embedding and in the blocks.
    drop_path: stochastic depth of the last block, rising linearly.
    dtype: of the products: float32 or bfloat16 (float64 in tests). Parameters,
      softmax, norms' statistics and logits stay float32.
    scan: one traced block over stacked parameters; compiles faster.
    remat: recompute blocks in the backward pass, but for what the kernel and
      the distribution keep (`kept`).
    kernel: `dense`, or `blockwise` where rows are long.
    distribution: of attention where devices share the tokens of a row.
    stem: convolutions whose feature map is cut; for whole images.
    conditioning: what steers the blocks beside the tokens.
  """

  size: Size
  position: position_lib.Position
  pool: pooling.Pool
  kernel_hw: tuple[int, int] = (32, 32)
  num_classes: int | None = None
  channels: int = 3
  kernel_antialias: bool = False
  image_mean: tuple[float, ...] = (0.5,)
  image_std: tuple[float, ...] = (0.5,)
  standardize: bool = False
  embedding_norm: bool = False
  registers: int = 0
  prefix_position: bool = False
  representation: bool = False
  layer_scale: float | None = None
  qk_norm: bool = False
  qkv_bias: bool = True
  proj_bias: bool = True
  attention_scale: float | None = None
  gated_mlp: bool = False
  rms_norm: bool = False
  norm_after_pool: bool = False
  exact_gelu: bool = False
  norm_eps: float = 1e-6
  head_bias: float = 0.0
  dropout: float = 0.0
  drop_path: float = 0.0
  dtype: str = "float32"
  scan: bool = False
  remat: bool = False
  kernel: Kernel = dense.Dense()
  distribution: Distribution = query_sharded.QuerySharded()
  stem: stem_lib.Stem = stem_lib.NoStem()
  conditioning: adaln.Conditioning = adaln.Unconditioned()

  def __post_init__(self):
    super().__post_init__()
    check_fields(self)

  @property
  def stored_patch_hw(self) -> tuple[int, int]:
    """Pixels of the patches that the stored patch embedding is for."""
    h, w = self.kernel_hw
    return h * self.stem.stride, w * self.stem.stride

  @property
  def _conditioned(self) -> bool:
    return isinstance(self.conditioning, adaln.AdaLNZero)

  @nn.compact
  def __call__(
    self,
    tokens: Tokens,
    *,
    condition: jax.Array | None = None,
    train: bool = False,
  ) -> Outputs:
    """Tokens to `Outputs`.

    Args:
      condition: `[b, e, d]`, where blocks are conditioned; not to initialise.
      train: turns dropout on (rng "dropout").
    """
    dtype = jnp.dtype(self.dtype)
    condition = self._checked(condition, tokens)
    if self.standardize:
      tokens = standardize(tokens)
    tokens = jax.tree.map(axes.own_tokens, tokens)
    cut, mean, std = tokens, self.image_mean, self.image_std
    if not isinstance(self.stem, stem_lib.NoStem):
      cut = stem_lib.feature_tokens(
        self.stem,
        tokens,
        channels=self.channels,
        mean=mean,
        std=std,
        dtype=dtype,
        remat=self.remat,
      )
      mean = std = (0.5,)  # which leaves features as they are
    stem = PatchEmbedding(
      self.size.width,
      self.kernel_hw,
      self.stem.channels(self.channels),
      dtype,
      self.kernel_antialias,
      mean,
      std,
      name="embedding",
    )(cut)
    if self.embedding_norm:
      stem = self._norm("embedding_norm")(stem)
    embedded = self._add_positions(stem, tokens)
    encoded, pooled = self._encode(embedded, tokens, condition, train)
    if self.norm_after_pool:
      pooled = self._norm("pool_norm")(pooled)
    if self.representation:
      pooled = jnp.tanh(
        linear.Dense((self.size.width,), dtype, name="pre_logits")(pooled)
      )
    return Outputs(stem, embedded, encoded, pooled, self._head(pooled))

  def _checked(self, condition, tokens):
    shape = (tokens.patches.shape[0], tokens.num_images, self.size.width)
    if condition is None and self._conditioned and self.is_initializing():
      return jnp.zeros(shape)
    adaln.check(self.conditioning, condition, shape)
    return condition

  def _norm(self, name):
    return norms.norm(self.norm_eps, self.rms_norm, name)

  def _add_positions(self, stem, tokens):
    tables = {
      name: self._table(name, *init_and_shape)
      for name, init_and_shape in self.position.tables(self.size.width).items()
    }
    added = None
    if tokens.whole_grid is not None:
      added = self.position.of_whole(tables, tokens.whole_grid)
    if added is None:
      added = self.position(
        tables, tokens.coords, tokens.grid_hw, self.size.width
      )
    if added is None:
      return stem
    if added.shape[1] != stem.shape[1]:  # whole, but the tokens are a share
      added = axes.own_tokens(added)
    return axes.split(stem + added.astype(stem.dtype))

  def _table(self, name, init, shape):
    """The parameter of a name that may have a slash."""
    group, _, leaf = name.rpartition("/")
    if not group:
      return self.param(name, init, shape)
    return self.param(group, lambda key: {leaf: init(key, shape)})[leaf]

  def _encode(self, embedded, tokens, condition, train):
    e = tokens.num_images
    x, segments = embedded, tokens.segments
    group = self._extra_tokens()
    if group is not None:
      x, segments = pooling.prepend(x, segments, group, e)
    relation = self.position.relation(
      tokens.coords,
      prefix=x.shape[1] - embedded.shape[1],
      head_width=self.size.width // self.size.num_heads,
    )
    x = linear.dropout(self, self.dropout, x, train=train)
    x = encoder.Encoder(
      blocks.block(self, embedded.dtype),
      self.size.depth,
      None if self.norm_after_pool else self.norm_eps,
      self.drop_path,
      self.scan,
      self.rms_norm,
      self._conditioned,
      name="Transformer",
    )(x, Context(axes.everywhere(segments), relation, condition), train=train)
    g = 0 if group is None else group.shape[1]
    patches = x[:, e * g :]
    return patches, self._pool(x, patches, tokens, g)

  def _extra_tokens(self):
    """`[1, g, d]`: the class token, then the registers; None for neither."""
    group = []
    if self.pool.class_token:
      group.append(self._extra_token("cls", 1, nn.initializers.zeros))
    if self.registers:
      init = nn.initializers.normal(stddev=0.02)
      group.append(self._extra_token("registers", self.registers, init))
    return jnp.concatenate(group, axis=1) if group else None

  def _extra_token(self, name, count, init):
    shape = (1, count, self.size.width)
    token = self.param(name, init, shape)
    if not self.prefix_position:
      return token
    init = nn.initializers.normal(stddev=self.size.width**-0.5)
    return token + self.param(f"{name}_pos_embedding", init, shape)

  def _pool(self, x, patches, tokens, g):
    e = tokens.num_images
    match self.pool:
      case pooling.ClassToken():
        return x[:, : e * g : g]
      case pooling.Gap():
        return pooling.average(patches, tokens.segments, e)
      case pooling.Map():
        return classifier.MapHead(
          self.size.num_heads,
          self.size.mlp_dim,
          patches.dtype,
          self.norm_eps,
          self.exact_gelu,
          rms_norm=self.rms_norm,
          name="MAPHead_0",
        )(patches, tokens.segments, e)

  def _head(self, pooled):
    if self.num_classes is None:
      raise ValueError("num_classes is not set: give a number, 0 for no head")
    if not self.num_classes:
      return None
    return linear.Dense(
      (self.num_classes,),
      jnp.promote_types(pooled.dtype, jnp.float32),
      kernel_init=nn.initializers.zeros,
      bias_init=nn.initializers.constant(self.head_bias),
      name="head",
    )(pooled)
