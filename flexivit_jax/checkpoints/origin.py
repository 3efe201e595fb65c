"""Origin of a loaded model: file, format, assumptions, and their report."""

import dataclasses
from collections.abc import Iterator, Mapping

from flexivit_jax.checkpoints.formats import infer
from flexivit_jax.config.experiment import Experiment
from flexivit_jax.core.text import listed
from flexivit_jax.models import vit
from flexivit_jax.nn import adaln
from flexivit_jax.nn.positions import (
  learned_grid,
  relative,
  rotary,
  row_column,
  waves,
)
from flexivit_jax.nn.positions import position as position_lib
from flexivit_jax.nn.stems import early_convolutions, resnet
from flexivit_jax.nn.stems import stem as stem_lib


@dataclasses.dataclass(frozen=True)
class Spec:
  """Where a model came from, and what is known beside the weights.

  Attributes:
    source: the format: "flexivit_jax run", "timm safetensors", ...
    path: of the file or directory.
    step: of a run's checkpoint.
    chosen: why that one, where nobody asked for it.
    patch_size: to use where none is given; None where nobody says.
    trained_sizes: patch sizes it was trained at, where known.
    classes: names, where known.
    experiment: a run's own.
    left_out: what else is in the file, which is no part of a ViT.
    origins: what the arrays do not say, to where it was found.
    checked: whether a SHA-256 that was saved with it agreed.
  """

  source: str
  path: str
  step: int | None = None
  chosen: str = ""
  patch_size: tuple[int, int] | None = None
  trained_sizes: tuple[tuple[int, int], ...] = ()
  classes: tuple[str, ...] = ()
  experiment: Experiment | None = None
  left_out: str = ""
  origins: Mapping[str, str] = dataclasses.field(default_factory=dict)
  checked: bool = False


def report(model: vit.ViT, spec: Spec, count: int) -> Iterator[str]:
  """The lines that a user reads first."""
  size, (kh, kw) = model.size, model.kernel_hw
  at = f", step {spec.step}{spec.chosen}" if spec.step is not None else ""
  yield f"{spec.source}: {spec.path}{at}"
  name = infer.variant(size.width, size.depth, size.mlp_dim)
  yield (
    f"  ViT-{name or 'custom'}: width {size.width}, depth {size.depth}, MLP "
    f"{size.mlp_dim}, {size.num_heads} heads, {count:,} parameters"
  )
  antialias = "with" if model.kernel_antialias else "without"
  yield (
    f"  patch embedding stored at {kh}x{kw}; other sizes by PI-resize, "
    f"bilinear {antialias} antialias"
  )
  if stem := _stem(model.stem):
    s = model.stem.stride
    yield (
      f"  its pixels are cells of a convolutional stem, {stem}: of {s}x{s} "
      f"pixels each, {model.stem.channels(model.channels)} channels"
    )
  yield f"  positions {_positions(model.position)}"
  conditioned = isinstance(model.conditioning, adaln.AdaLNZero)
  # What diffusion learned pools nothing and has no head.
  pool = f"pool {infer.POOLS[type(model.pool)]}"
  yield (
    f"  {'conditioned by adaLN-Zero' if conditioned else pool}, GELU "
    f"{'exact' if model.exact_gelu else 'tanh'}, eps {model.norm_eps:g}"
  )
  if extras := list(_extras(model)):
    yield f"  with {', '.join(extras)}"
  mean, std = (
    " ".join(f"{x:g}" for x in values)
    for values in (model.image_mean, model.image_std)
  )
  normalised = f"pixels normalised by mean {mean}, std {std}"
  if model.standardize:
    normalised = "pixels standardised, each image by its own mean and std"
  classes = f"{model.num_classes or 'no'} classes, "
  yield f"  {'' if conditioned else classes}{normalised}"
  if spec.trained_sizes:
    sizes = ", ".join(f"{h}x{w}" for h, w in spec.trained_sizes)
    yield f"  trained at patch sizes {sizes}"
  elif spec.patch_size is not None:
    h, w = spec.patch_size
    yield f"  used at patch size {h}x{w} where none is given"
  if spec.left_out:
    yield f"  left out: {spec.left_out}"
  # What the arrays themselves do not say.
  for origin in dict.fromkeys(spec.origins.values()):
    names = [name for name, own in spec.origins.items() if own == origin]
    yield f"  {origin}: {', '.join(names)}"


def _positions(position: position_lib.Position) -> str:
  match position:
    case learned_grid.LearnedGrid((rows, cols), antialias):
      how = f"bilinear {'with' if antialias else 'without'} antialias"
      return f"learned {rows}x{cols}; other grids {how}"
    case waves.SinCos2D(_, side):
      return f"sincos2d{_fractions(side)}"
    case waves.Fourier(side):
      return f"fourier{_fractions(side)}"
    case row_column.RowColumn((rows, cols), combine, read):
      start = f" from entry {position.first}" if position.first else ""
      aliased = "" if position.antialias else " without antialias"
      return (
        f"{combine} of {rows} rows and {cols} columns, {read}{start}{aliased}"
      )
    case row_column.JointTable((rows, cols)):
      return f"joint table of {rows}x{cols}"
    case rotary.Rotary(temperature):
      return f"rotary, temperature {temperature:g}"
    case relative.Relative((rows, cols)):
      return f"relative, up to {rows}x{cols}"
    case position_lib.NoPosition():
      return "none"


def _stem(stem: stem_lib.Stem) -> str | None:
  match stem:
    case resnet.ResNet(blocks, width):
      units = "-".join(map(str, blocks)) or "its root alone"
      return f"ResNet {units} of width {width}"
    case early_convolutions.EarlyConvolutions(widths):
      return f"convolutions of {listed(widths)}"


def _fractions(side):
  return "" if side is None else f", of fractions x {side:g}"


def _extras(model: vit.ViT) -> Iterator[str]:
  if model.prefix_position:
    yield "positions of the tokens in front"
  if model.pool.class_token and infer.POOLS[type(model.pool)] != "tok":
    yield "a class token that is not read"
  if model.registers:
    yield f"{model.registers} registers"
  named = {
    "LayerScale": model.layer_scale is not None,
    "QK norm": model.qk_norm,
    "a norm of the embedding": model.embedding_norm,
    "its final norm after pooling": model.norm_after_pool,
    "a tanh layer before the head": model.representation,
    "no biases of queries, keys and values": not model.qkv_bias,
    "no biases after attention and in MLPs": not model.proj_bias,
    "gated MLPs": model.gated_mlp,
    "RMSNorm": model.rms_norm,
    "stacked layers": model.scan,
  }
  yield from (name for name, used in named.items() if used)
  if model.attention_scale is not None:
    yield f"attention scaled by {model.attention_scale:g}"
