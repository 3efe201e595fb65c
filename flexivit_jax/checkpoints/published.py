"""Checkpoints that their authors published, by name, kept in a cache.

The addresses are those of big_vision's configs/proj/flexivit/README.md and
models/vit.py (github.com/google-research/big_vision). They come without sums:
the SHA-256 of the first use is recorded, and each later use checked against it.
"""

import dataclasses
import fnmatch
import math

from flexivit_jax.core.text import nearest, show

_BUCKETS = "https://storage.googleapis.com"

_WIDTH = {"Ti": 192, "S": 384, "B": 768, "L": 1024}
_DEPTH = {"Ti": 12, "S": 12, "B": 12, "L": 24}


@dataclasses.dataclass(frozen=True)
class Published:
  """A published checkpoint: a big_vision npz file of float32.

  Attributes:
    name: ours.
    address: https.
    variant: "Ti", "S", "B" or "L".
    kernel_hw: of the stored patch embedding.
    grid: (rows, cols) of the position table; None: fixed positions.
    pool: "tok" or "gap"; None: not known before the file is read.
    num_classes: of the head.
    image_side: pixels that it was trained at.
    trained_sizes: patch sizes at that side, pixels.
    patch_size: the one that it is for, pixels; None: any of `trained_sizes`.
    class_position: the table starts with a position for the class token.
    source: the paper.
  """

  name: str
  address: str
  variant: str
  kernel_hw: tuple[int, int]
  grid: tuple[int, int] | None
  pool: str | None
  num_classes: int
  image_side: int
  trained_sizes: tuple[int, ...]
  source: str
  patch_size: int | None = None
  class_position: bool = False

  @property
  def parameters(self) -> int:
    """How many; without those of the pooling where that is not known."""
    d, depth = _WIDTH[self.variant], _DEPTH[self.variant]
    positions = math.prod(self.grid) + self.class_position if self.grid else 0
    # The norms, query, key, value and out, and the MLP of 4 d.
    block = 4 * d + 4 * (d * d + d) + (4 * d * d + 4 * d) + (4 * d * d + d)
    embedding = (math.prod(self.kernel_hw) * 3 + 1) * d
    head = (d + 1) * self.num_classes
    tokens = positions + (self.pool == "tok")
    return embedding + tokens * d + depth * block + 2 * d + head

  @property
  def max_bytes(self) -> int:
    """No file of it is larger: pooling, pre_logits and headers take less."""
    return self.parameters * 4 * 5 // 4 + 2**20


def _flexivit(name, variant, num_classes=1000, pool="tok", patch_size=None):
  sizes = (48, 40, 30, 24, 20, 16, 15, 12, 10, 8)
  return Published(
    name,
    f"{_BUCKETS}/big_vision/flexivit/{name}.npz",
    variant,
    kernel_hw=(32, 32),
    grid=(7, 7),
    pool=pool,
    num_classes=num_classes,
    image_side=240,
    trained_sizes=(patch_size,) if patch_size else sizes,
    patch_size=patch_size,
    source="arXiv:2212.08013",
  )


def _flexivit_i1k(name):
  return _flexivit(name, name.split("_")[1].upper())


def _flexivit_i21k(name, patch_size=None):
  return _flexivit(name, "B", 21843, None, patch_size)


def _plain(name, path, variant, patch, side=224, **more):
  values = {"grid": (side // patch, side // patch), "pool": "tok"}
  values |= {"num_classes": 1000} | more
  return Published(
    name,
    f"{_BUCKETS}/{path}.npz",
    variant,
    kernel_hw=(patch, patch),
    image_side=side,
    trained_sizes=(patch,),
    patch_size=patch,
    **values,
  )


def _vit_s16(name):
  path, source = f"big_vision/{name}", "arXiv:2205.01580"
  return _plain(name, path, "S", 16, pool="gap", grid=None, source=source)


def _augreg(name, variant, patch, recipe):
  return _plain(
    name,
    f"vit_models/augreg/{variant}_{patch}-i21k-300ep-lr_0.001-{recipe}"
    "-do_0.0-sd_0.0",
    variant,
    patch,
    num_classes=21843,
    class_position=True,
    source="arXiv:2106.10270",
  )


def _deit3(name):
  _, size, side, data = name.split("_")
  full = {"s": "small", "b": "base", "l": "large"}[size]
  path = f"big_vision/zoo/deit3/bv_deit_3_{full}_{side}_{data}"
  source = "arXiv:2204.07118"
  return _plain(name, path, size.upper(), 16, int(side), source=source)


# fmt: off
MODELS = (
  *map(_flexivit_i1k, (  # without a number: 1200 epochs
    "flexivit_s_i1k", "flexivit_s_i1k_90ep",
    "flexivit_s_i1k_300ep", "flexivit_s_i1k_600ep",
    "flexivit_b_i1k", "flexivit_b_i1k_90ep",
    "flexivit_b_i1k_300ep", "flexivit_b_i1k_600ep",
    "flexivit_l_i1k", "flexivit_l_i1k_90ep",
    "flexivit_l_i1k_300ep", "flexivit_l_i1k_600ep",
  )),
  *map(_flexivit_i21k, (
    "flexivit_b_i21k_90ep", "flexivit_b_i21k_300ep", "flexivit_b_i21k_1000ep",
  )),
  # FlexiViT's baselines.
  _flexivit_i21k("vit_b16_i21k_300ep", 16),
  _flexivit_i21k("vit_b30_i21k_300ep", 30),
  *map(_vit_s16, (
    "vit_s16_i1k_90ep", "vit_s16_i1k_150ep", "vit_s16_i1k_300ep",
  )),
  _augreg("augreg_ti16_i21k", "Ti", 16, "aug_none-wd_0.03"),
  _augreg("augreg_s32_i21k", "S", 32, "aug_none-wd_0.1"),
  _augreg("augreg_s16_i21k", "S", 16, "aug_light1-wd_0.03"),
  _augreg("augreg_b32_i21k", "B", 32, "aug_light1-wd_0.1"),
  _augreg("augreg_b16_i21k", "B", 16, "aug_medium1-wd_0.1"),
  _augreg("augreg_b8_i21k", "B", 8, "aug_medium2-wd_0.1"),
  _augreg("augreg_l16_i21k", "L", 16, "aug_strong1-wd_0.1"),
  # Their first layer was converted to images in [-1, 1]; 21k: trained on
  # ImageNet-21k, then on ImageNet-1k.
  *map(_deit3, (
    "deit3_s_224_1k", "deit3_s_224_21k", "deit3_s_384_1k", "deit3_s_384_21k",
    "deit3_b_224_1k", "deit3_b_224_21k", "deit3_b_384_1k", "deit3_b_384_21k",
    "deit3_l_224_1k", "deit3_l_224_21k", "deit3_l_384_1k", "deit3_l_384_21k",
  )),
)


def list_models(pattern: str = "*") -> tuple[str, ...]:
  """Names of published checkpoints, such as list_models("flexivit_*_i1k")."""
  names = (model.name for model in MODELS)
  return tuple(name for name in names if fnmatch.fnmatchcase(name, pattern))


def find(name: str) -> Published:
  """The published checkpoint of that name.

  Raises:
    ValueError: there is none.
  """
  for model in MODELS:
    if model.name == name:
      return model
  close = nearest(name, list_models())
  hint = f" (did you mean {close!r}?)" if close else ""
  raise ValueError(
    f"no published checkpoint is named {show(name)}{hint}; list_models() names "
    f"all {len(MODELS)}"
  )
