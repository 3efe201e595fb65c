"""Checkpoints that their authors published, by name, kept in a cache.

The addresses are those of big_vision's configs/proj/flexivit/README.md and
models/vit.py (github.com/google-research/big_vision). They come without sums:
the SHA-256 of the first use is recorded, and each later use checked against it.
"""

import contextlib
import dataclasses
import fcntl
import fnmatch
import http.client
import math
import os
import pathlib
import shutil
import sys
import urllib.error
import urllib.parse
import urllib.request
import zipfile

import tqdm

from flexivit_jax.checkpoints import files, manifest
from flexivit_jax.core.faults import Fault
from flexivit_jax.core.text import cut, format_bytes, nearest, show

CHUNK = 2**16  # bytes

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
# fmt: on


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


def cache_directory() -> pathlib.Path:
  """$FLEXIVIT_JAX_CACHE, else flexivit_jax in the user's cache directory."""
  own = os.environ.get("FLEXIVIT_JAX_CACHE")
  if own:
    return pathlib.Path(own).expanduser()
  users = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
  return pathlib.Path(users).expanduser() / "flexivit_jax"


def fetch(
  name: str,
  *,
  cache: str | os.PathLike[str] | None = None,
  timeout: float = 60.0,
) -> pathlib.Path:
  """The file of a published checkpoint, downloaded where it is not there yet.

  Of several processes one downloads and the others wait. The SHA-256 of the
  first use is recorded beside it, and checked from then on. A terminal shows
  progress.

  Args:
    cache: directory of the files; None: `cache_directory()`.
    timeout: seconds without an answer after which a download ends.

  Raises:
    ValueError: the name is unknown.
    Fault: it could not be downloaded, the disk has too little space, or the
      file is not what it was at its first use.
  """
  model = find(name)
  directory = cache_directory() if cache is None else pathlib.Path(cache)
  path = directory.expanduser().absolute() / f"{name}.npz"
  recorded = path.with_name(f"{path.name}.sha256")
  if not (path.exists() and recorded.exists()):
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path):
      if not path.exists():  # another process may have been first
        _download(model, path, timeout)
      if not recorded.exists():
        _record(model, path)
        return path
  try:
    manifest.check_sum(path)
  except ValueError as e:
    raise Fault(
      f"{e}\ndelete {path}, and the next call downloads it again"
    ) from e
  return path


def _record(model, path):
  if not zipfile.is_zipfile(path):  # put there by hand
    raise Fault(f"{path} is no npz file\n{_by_hand(model, path)}")
  manifest.write_sum(path)


@contextlib.contextmanager
def _locked(path):
  """Held until closed or until the process ends, killed or not."""
  with path.with_name(f"{path.name}.lock").open("a") as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      print(f"waiting: another process fetches {path}", file=sys.stderr)
      fcntl.flock(file, fcntl.LOCK_EX)
    yield


class _FailedError(Exception):
  """Why nothing was downloaded, in a few words."""


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
  def redirect_request(self, req, fp, code, msg, headers, newurl):
    if urllib.parse.urlsplit(newurl).scheme != "https":
      text = f"a redirect to {show(newurl)}, and only https is followed"
      raise urllib.error.HTTPError(newurl, code, text, headers, fp)
    return super().redirect_request(req, fp, code, msg, headers, newurl)


def _download(model, path, timeout):
  """Under the final name once it is whole and on the disk; else nothing."""
  for leftover in path.parent.glob(f"{path.name}.*.unfinished"):
    leftover.unlink(missing_ok=True)  # of a process that was killed
  try:
    with (
      _open(model.address, timeout) as response,
      files.replacing(path) as unfinished,
    ):
      total = response.length  # None where it is not declared
      if total is not None and total > model.max_bytes:
        raise _FailedError(
          f"{total:,} bytes are declared, and {model.max_bytes:,} are the most"
        )
      _check_space(model, path, total)
      with unfinished.open("wb") as file:
        for chunk in _chunks(response, model):
          file.write(chunk)
      if not zipfile.is_zipfile(unfinished):  # a page to log in, say
        raise _FailedError("what came is no npz file")
  except _FailedError as e:
    raise Fault(
      f"cannot download {model.name}: {e}\n{_by_hand(model, path)}"
    ) from e


def _by_hand(model, path):
  return (
    f"fetch {model.address} by hand, and put it at\n"
    f"{path}: it is found there, and its SHA-256 recorded"
  )


def _check_space(model, path, total):
  wanted = 4 * model.parameters if total is None else total
  free = shutil.disk_usage(path.parent).free
  if free < wanted:
    raise Fault(
      f"{path.parent} has {format_bytes(free)} free, and {model.name} takes "
      f"{format_bytes(wanted)}\nfree some space, or name another directory in "
      "FLEXIVIT_JAX_CACHE"
    )


def _open(address, timeout):
  if urllib.parse.urlsplit(address).scheme != "https":
    raise _FailedError("its address is not https")
  with _network_errors():
    opener = urllib.request.build_opener(_HttpsOnly)
    return opener.open(address, timeout=timeout)


def _chunks(response, model):
  """The body, as many bytes as are declared and no more than the limit."""
  total, done = response.length, 0
  with tqdm.tqdm(
    total=total, desc=model.name, unit="B", unit_scale=True, disable=None
  ) as bar:
    while True:
      with _network_errors():
        chunk = response.read(CHUNK)
      if not chunk:
        break
      done += len(chunk)
      if done > model.max_bytes:
        raise _FailedError(
          f"it goes on after {model.max_bytes:,} bytes, which are the most"
        )
      bar.update(len(chunk))
      yield chunk
  if total is not None and done != total:
    raise _FailedError(f"it ended after {done:,} of {total:,} bytes")


@contextlib.contextmanager
def _network_errors():
  try:
    yield
  except urllib.error.HTTPError as e:
    e.close()
    raise _FailedError(f"HTTP {e.code}, {cut(str(e.reason), 200)}") from e
  except urllib.error.URLError as e:
    raise _FailedError(cut(str(e.reason), 200)) from e
  except http.client.IncompleteRead as e:
    raise _FailedError("it ended early") from e
  except (OSError, ValueError, http.client.HTTPException) as e:
    # ValueError: it leads to what is no address.
    raise _FailedError(cut(str(e) or type(e).__name__, 200)) from e
