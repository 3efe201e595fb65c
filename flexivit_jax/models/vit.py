"""The Vision Transformer: Tokens in, one vector per image out."""

import functools
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
from flexivit_jax.nn import adaln, encoder, linear, norms, pooling
from flexivit_jax.nn import block as block_lib
from flexivit_jax.nn.encoder import MAX_SIDE, Size, check_count
from flexivit_jax.nn.heads import classifier
from flexivit_jax.nn.mixers import Context
from flexivit_jax.nn.patch_embedding import PatchEmbedding
from flexivit_jax.nn.positions import position as position_lib
from flexivit_jax.nn.positions.relative import Relative
from flexivit_jax.nn.stems import stem as stem_lib
from flexivit_jax.nn.stems.stem import NoStem


class Outputs(NamedTuple):
  """What the model computes on the way; jit drops what nobody reads.

  Attributes:
    stem: `[b, l, d]`, patch embeddings.
    embedded: `[b, l, d]`, with positions, before class and register tokens.
    encoded: `[b, l, d]`, patches after the final norm, or before the pool's
      where that comes later.
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
    position: how it knows where patches lie: what is added to their
      embeddings, or what attention uses.
    pool: how an image's tokens become one vector.
    kernel_hw: size at which the patch embedding is stored; it is PI-resized to
      the patches it meets. FlexiViT stores 32x32. In pixels, or in cells of a
      stem's feature map.
    num_classes: width of the head; None: as many as the data has; 0: no head.
    channels: of the image.
    kernel_antialias: of PI-resize; off in the published FlexiViT.
    image_mean, image_std: what the patch embedding expects pixels of 0 to 1 to
      be normalised by; one number, or one for each channel. 0.5 and 0.5 are
      pixels of -1 to 1. Images are given as ever: u8, or float in [-1, 1].
    standardize: each image's pixels are shifted and scaled to mean 0 and
      variance 1 (`core.tokens.standardize`) instead, as in Pix2Struct. A
      clone without it takes floats that are standardised already.
    embedding_norm: norm after the patch embedding, FlexiViT's alternative
      to PI-resize (arXiv:2212.08013).
    registers: number of register tokens (arXiv:2309.16588).
    prefix_position: whether class and register tokens have positions of their
      own, as in the ViT paper; big_vision's have none.
    representation: a tanh layer of the encoder's width before the head
      (`pre_logits`), as in the ViT paper's pre-training.
    layer_scale: initial value of LayerScale; None: no LayerScale.
    qk_norm: norm of queries and keys.
    qkv_bias: whether queries, keys and values have biases.
    proj_bias: whether the attention's output and the MLP of a block have.
    attention_scale: of the products of queries and keys in the blocks; None:
      1 / sqrt(width / num_heads). T5 and Pix2Struct have 1.
    gated_mlp: the MLP of a block multiplies one linear map by the GELU of
      another (GEGLU, arXiv:2002.05202).
    rms_norm: every norm is RMSNorm (arXiv:1910.07467) instead of LayerNorm.
    norm_after_pool: the final norm is applied to the pooled vector instead of
      to each token (timm's fc_norm).
    exact_gelu: erf instead of the tanh approximation. big_vision and SigLIP
      use tanh, timm and Hugging Face's ViT erf.
    norm_eps: of every norm.
    head_bias: initial value of the head's bias: -10 for a sigmoid loss over
      many classes.
    dropout: after the embedding and in the blocks.
    drop_path: stochastic depth of the last block, rising linearly.
    dtype: of the products: float32 or bfloat16 (float64 in tests). Parameters,
      softmax, norms' statistics and logits stay float32.
    scan: one traced block over stacked parameters; compiles faster.
    remat: recompute each block in the backward pass; takes less memory. What
      the kernel and the distribution say (`kept`) is kept all the same.
    kernel: how attention is computed. `dense` where rows are short, `blockwise`
      where their tokens squared are too many numbers.
    distribution: of attention where devices share the tokens of a row; on one
      device all are the same.
    stem: convolutions whose feature map is cut into patches, instead of the
      image. It needs whole images.
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
    if self.dtype not in ("float32", "bfloat16", "float64"):
      raise ValueError(f"dtype {self.dtype!r}: give float32 or bfloat16")
    if self.dtype == "float64" and not jax.config.jax_enable_x64:
      # JAX would compute in float32.
      raise ValueError(
        "dtype 'float64' needs jax_enable_x64: give float32 or bfloat16"
      )
    if not 1 <= min(self.kernel_hw) <= max(self.kernel_hw) <= MAX_SIDE:
      raise ValueError(
        f"kernel_hw {self.kernel_hw}: give (height, width), each of 1 to "
        f"{MAX_SIDE} pixels"
      )
    for name in ("dropout", "drop_path"):
      if not 0 <= getattr(self, name) < 1:
        raise ValueError(
          f"{name} is {getattr(self, name)}: give at least 0 and less than 1"
        )
    check_count("registers", self.registers, 0, 10_000)
    check_count("num_classes", self.num_classes or 0, 0, 10_000_000)
    check_count("channels", self.channels, 1, 10_000)
    if self.layer_scale is not None and not 0 <= self.layer_scale <= 1:
      raise ValueError(
        f"layer_scale is {self.layer_scale}: give 0 to 1, or None for none"
      )
    for name in ("image_mean", "image_std"):
      values = getattr(self, name)
      low = 0 if name == "image_mean" else 1e-3
      if len(values) not in (1, self.channels) or not all(
        low <= v <= 1 for v in values
      ):
        raise ValueError(
          f"{name} is {values}: give one number of {low:g} to 1, or one for "
          f"each of {self.channels} channels"
        )
    if self.standardize and {*self.image_mean, *self.image_std} != {0.5}:
      raise ValueError(
        f"standardize with image_mean {self.image_mean} and image_std "
        f"{self.image_std}: leave these at (0.5,)"
      )
    scale = self.attention_scale
    if scale is not None and not 0 < scale <= 100:
      raise ValueError(
        f"attention_scale is {scale}: give more than 0 and at most 100, or "
        "None for 1 / sqrt(width / num_heads)"
      )
    if not 0 < self.norm_eps < 1:
      raise ValueError(
        f"norm_eps is {self.norm_eps}: give more than 0 and less than 1"
      )
    stem_lib.check_kernel(self.stem, self.kernel_hw)
    if self._conditioned and self.norm_after_pool:
      raise ValueError(
        "conditioning adaln_zero shifts and scales the final norm of each "
        "token, and norm_after_pool leaves none: give norm_after_pool=False"
      )

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
      condition: `[b, e, d]`, what steers the blocks, if `conditioning` says
        that something does. To initialise parameters none is needed.
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
    dtype, e = embedded.dtype, tokens.num_images
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
    block = block_lib.EncoderBlock
    if self.remat:
      block = nn.remat(
        block,
        prevent_cse=not self.scan,
        static_argnums=(4,),
        policy=self._kept_under_remat(),
      )
    block = functools.partial(
      block,
      num_heads=self.size.num_heads,
      mlp_dim=self.size.mlp_dim,
      dtype=dtype,
      eps=self.norm_eps,
      exact_gelu=self.exact_gelu,
      qk_norm=self.qk_norm,
      qkv_bias=self.qkv_bias,
      layer_scale=self.layer_scale,
      dropout=self.dropout,
      rms_norm=self.rms_norm,
      gated_mlp=self.gated_mlp,
      proj_bias=self.proj_bias,
      attention_scale=self.attention_scale,
      kernel=self.kernel,
      distribution=self.distribution,
      conditioned=self._conditioned,
    )
    x = encoder.Encoder(
      block,
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

  def _kept_under_remat(self):
    names = (*self.kernel.kept, *self.distribution.kept)
    if not names:
      return None
    return jax.checkpoint_policies.save_only_these_names(*names)

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
    head = linear.Dense(
      (self.num_classes,),
      jnp.promote_types(pooled.dtype, jnp.float32),
      kernel_init=nn.initializers.zeros,
      bias_init=nn.initializers.constant(self.head_bias),
      name="head",
    )
    return head(pooled)


def check_model(model: ViT, *, parts: int) -> None:
  """Refuses a model that devices could not share, for rows of any length.

  Args:
    parts: devices that share a row.

  Raises:
    ValueError: with what would work.
  """
  if parts > 1:
    _check_tokens(model, parts)
  check_length(model, length=parts, parts=parts)


def check_length(model: ViT, *, length: int, parts: int) -> None:
  """Refuses rows that the devices could not share.

  Args:
    length: patches of a row.
    parts: devices that share it.

  Raises:
    ValueError: with what would work.
  """
  model.distribution.check(
    length=length,
    num_heads=model.size.num_heads,
    parts=parts,
    kernel=model.kernel,
  )


def _check_tokens(model: ViT, parts: int) -> None:
  shared = f"{parts} devices of the mesh's axis seq share each row"
  if model.pool.class_token:
    raise ValueError(
      f"a class token stands before the patches, and {shared}, which then "
      'would not divide: take pool="gap" or "map"'
    )
  if model.registers:
    raise ValueError(
      f"{model.registers} register tokens stand before the patches, and "
      f"{shared}, which then would not divide: take registers=0"
    )
  if not isinstance(model.stem, NoStem):
    raise ValueError(
      f"a convolutional stem takes whole images, and {shared}: take "
      'stem="none", or seq=1'
    )
  if isinstance(model.position, Relative):
    raise ValueError(
      f"relative positions need all pairs of tokens, and {shared}: take "
      "learned_grid, sincos2d or rotary positions, or seq=1"
    )
