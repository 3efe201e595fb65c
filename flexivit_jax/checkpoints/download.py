"""Download of published checkpoints over HTTPS, resumed, SHA-256 checked."""

import contextlib
import fcntl
import http.client
import os
import pathlib
import shutil
import sys
import urllib.error
import urllib.parse
import urllib.request
import zipfile

import tqdm

from flexivit_jax.checkpoints import atomic, manifest
from flexivit_jax.checkpoints.published import find
from flexivit_jax.core.errors import Fault
from flexivit_jax.core.text import cut, format_bytes, show

CHUNK = 2**16  # bytes


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
      atomic.replacing(path) as unfinished,
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
