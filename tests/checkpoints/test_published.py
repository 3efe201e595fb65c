"""The table of published checkpoints, and downloads from a real HTTPS server.

tests/data/localhost.pem is that server's key and certificate, made by
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc
    -days 36500 -subj /CN=localhost -keyout key.pem -out certificate.pem
    -addext subjectAltName=DNS:localhost,IP:127.0.0.1
    -addext keyUsage=critical,digitalSignature,keyCertSign
"""

import errno
import fcntl
import hashlib
import http.server
import io
import os
import pathlib
import shutil
import ssl
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flexivit_jax.checkpoints import download, published
from flexivit_jax.core.errors import Fault
from flexivit_jax.core.text import format_bytes
from flexivit_jax.core.tokens import patchify
from flexivit_jax.models import sizes, vit
from flexivit_jax.nn import pooling
from flexivit_jax.nn.positions import learned_grid, waves

PEM = pathlib.Path(__file__).parents[1] / "data" / "localhost.pem"
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


def _npz():
  noise = np.random.default_rng(0).integers(0, 256, 1 << 20, np.uint8)
  file = io.BytesIO()
  np.savez(file, noise=noise)
  return file.getvalue()


BODY = _npz()


class _Handler(http.server.BaseHTTPRequestHandler):
  def do_GET(self):
    self.server.requests.append(self.path)
    self.server.reply(self)

  def do_CONNECT(self):  # what a proxy is asked
    self.send_error(403)

  def log_message(self, *args):
    pass


class _Server(http.server.ThreadingHTTPServer):
  """Answers with `reply`, a function of the handler."""

  def __init__(self):
    super().__init__(("localhost", 0), _Handler)
    self.reply, self.requests = _send(BODY), []
    threading.Thread(target=self.serve_forever, args=(0.01,)).start()

  def handle_error(self, *args):  # the client hangs up: what is tested
    pass


def _send(*parts, status=200, length=True, **headers):
  """A reply of bytes; a function among the parts is called in its turn."""

  def reply(handler):
    handler.send_response(status)
    if length is True:
      headers["Content-Length"] = sum(map(len, parts))
    elif length:
      headers["Content-Length"] = length
    for name, value in headers.items():
      handler.send_header(name, str(value))
    handler.end_headers()
    for part in parts:
      part() if callable(part) else handler.wfile.write(part)

  return reply


def _model(address):
  return published.Published(
    "tiny", address, "Ti", (2, 2), None, "gap", 0, 224, (16,), "a test"
  )


@pytest.fixture
def server(monkeypatch):
  """Serves the one published checkpoint that there now is, `tiny`."""
  server = _Server()
  context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
  context.load_cert_chain(PEM)
  server.socket = context.wrap_socket(server.socket, server_side=True)
  server.address = f"https://localhost:{server.server_port}/tiny.npz"
  monkeypatch.setattr(published, "MODELS", (_model(server.address),))
  monkeypatch.setenv("SSL_CERT_FILE", str(PEM))
  for name in PROXIES:
    monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv(name.upper(), raising=False)
  yield server
  server.shutdown()
  server.server_close()


def _names(directory):
  """Of all files but the lock."""
  return sorted(p.name for p in directory.iterdir() if p.suffix != ".lock")


def _assert_refused(cache, reason, **kwargs):
  with pytest.raises(Fault) as e:
    download.fetch("tiny", cache=cache, **kwargs)
  assert str(e.value) == (
    f"cannot download tiny: {reason}\n"
    f"fetch {published.MODELS[0].address} by hand, and put it at\n"
    f"{cache}/tiny.npz: it is found there, and its SHA-256 recorded"
  )
  assert _names(cache) == []


def test_addresses_are_https_and_nothing_is_there_twice():
  names = [m.name for m in published.MODELS]
  addresses = [m.address for m in published.MODELS]
  bucket = "https://storage.googleapis.com/"
  assert all(a.startswith(bucket) and a.endswith(".npz") for a in addresses)
  assert len(names) == len(set(names)) == len(set(addresses)) == 39


def _count(model):
  """Parameters of our model of the same shapes."""
  grid = model.grid
  module = vit.ViT(
    size=sizes.SIZES[model.variant],
    position=learned_grid.LearnedGrid(grid) if grid else waves.SinCos2D(),
    pool={"tok": pooling.ClassToken, "gap": pooling.Gap}[model.pool](),
    kernel_hw=model.kernel_hw,
    num_classes=model.num_classes,
    scan=True,  # as many, and faster to trace
  )
  image = jnp.zeros((1, *model.kernel_hw, 3), jnp.uint8)
  shapes = jax.eval_shape(
    lambda: module.init(jax.random.key(0), patchify(image, model.kernel_hw))
  )
  return sum(x.size for x in jax.tree.leaves(shapes))


@pytest.mark.parametrize(
  "name",
  ["flexivit_s_i1k", "vit_s16_i1k_90ep", "deit3_l_384_1k", "augreg_ti16_i21k"],
)
def test_parameters_are_those_of_our_model(name):
  model = published.find(name)
  # Ours adds no position to the class token.
  width = sizes.SIZES[model.variant].width
  assert model.parameters == _count(model) + model.class_position * width


@pytest.mark.parametrize("model", published.MODELS, ids=lambda m: m.name)
def test_sizes_tile_the_images_and_the_limit_has_room(model):
  assert all(model.image_side % size == 0 for size in model.trained_sizes)
  if model.patch_size is not None:
    assert model.trained_sizes == (model.patch_size,)
  width = sizes.SIZES[model.variant].width
  # Attention pooling, were it that: as a block, but for the query's norm.
  room = model.max_bytes - 4 * model.parameters
  assert 4 * 13 * width**2 < room < model.parameters * 2


def test_names_by_pattern_and_the_nearest_name():
  assert published.list_models("flexivit_?_i1k") == (
    "flexivit_s_i1k",
    "flexivit_b_i1k",
    "flexivit_l_i1k",
  )
  assert published.list_models("none*") == ()
  with pytest.raises(ValueError) as e:
    download.fetch("flexivit_s_ilk")
  assert str(e.value) == (
    "no published checkpoint is named 'flexivit_s_ilk' (did you mean "
    "'flexivit_s_i1k'?); list_models() names all 39"
  )


def test_downloads_once_and_then_needs_no_server(
  server, tmp_path, monkeypatch, capfd
):
  monkeypatch.setenv("FLEXIVIT_JAX_CACHE", str(tmp_path / "new" / "cache"))
  path = download.fetch("tiny")
  assert path == tmp_path / "new" / "cache" / "tiny.npz"
  assert path.read_bytes() == BODY
  recorded = path.with_name("tiny.npz.sha256").read_text()
  assert recorded == f"{hashlib.sha256(BODY).hexdigest()}  tiny.npz\n"
  assert _names(path.parent) == ["tiny.npz", "tiny.npz.sha256"]
  assert server.requests == ["/tiny.npz"]
  server.shutdown()
  server.socket.close()
  assert download.fetch("tiny") == path
  assert capfd.readouterr() == ("", "")  # no bar where there is no terminal


def test_a_body_of_undeclared_length_and_a_redirect(server, tmp_path):
  def reply(handler):
    if handler.path == "/tiny.npz":
      _send(status=302, Location="/moved.npz")(handler)
    else:
      _send(BODY, length=None)(handler)

  server.reply = reply
  assert download.fetch("tiny", cache=tmp_path).read_bytes() == BODY
  assert server.requests == ["/tiny.npz", "/moved.npz"]


def test_a_file_put_there_by_hand_is_recorded(server, tmp_path):
  path = tmp_path / "tiny.npz"
  path.write_bytes(b"<html>")
  with pytest.raises(Fault) as e:
    download.fetch("tiny", cache=tmp_path)
  first, second = str(e.value).split("\n", 1)
  assert first == f"{path} is no npz file"
  assert second.startswith(f"fetch {server.address} by hand, and put it at\n")
  path.write_bytes(BODY)
  assert download.fetch("tiny", cache=tmp_path) == path
  assert _names(tmp_path) == ["tiny.npz", "tiny.npz.sha256"]
  assert server.requests == []


def test_damage_is_noticed_also_by_a_second_download(server, tmp_path):
  path = download.fetch("tiny", cache=tmp_path)
  damaged = bytearray(BODY)
  damaged[len(BODY) // 2] ^= 1
  path.write_bytes(damaged)
  digests = [hashlib.sha256(x).hexdigest()[:12] for x in (damaged, BODY)]
  with pytest.raises(Fault) as e:
    download.fetch("tiny", cache=tmp_path)
  text = str(e.value)
  assert text.startswith(f"{path} has changed: SHA-256 {digests[0]}..., ")
  assert digests[1] in text
  assert text.endswith(f"\ndelete {path}, and the next call downloads it again")
  path.unlink()
  server.reply = _send(damaged)
  with pytest.raises(Fault) as e:
    download.fetch("tiny", cache=tmp_path)
  assert str(e.value) == text
  path.unlink()
  server.reply = _send(BODY)
  assert download.fetch("tiny", cache=tmp_path).read_bytes() == BODY


LIMIT = _model("").max_bytes


@pytest.mark.parametrize(
  ("reply", "reason"),
  [
    (_send(status=404), "HTTP 404, Not Found"),
    (
      _send(status=302, Location="http://localhost/tiny.npz"),
      "HTTP 302, a redirect to 'http://localhost/tiny.npz', and only https is "
      "followed",
    ),
    (_send(status=302, Location="https://["), "Invalid IPv6 URL"),
    (
      _send(length=LIMIT + 1),
      f"{LIMIT + 1:,} bytes are declared, and {LIMIT:,} are the most",
    ),
    (
      _send(*[bytes(1 << 20)] * (LIMIT // 2**20 + 1), length=None),
      f"it goes on after {LIMIT:,} bytes, which are the most",
    ),
    (
      _send(BODY[:-9], length=len(BODY)),
      f"it ended after {len(BODY) - 9:,} of {len(BODY):,} bytes",
    ),
    (_send(BODY[:-9], length=None), "what came is no npz file"),
    (_send(b"<html>log in</html>"), "what came is no npz file"),
  ],
)
def test_bad_answers(server, tmp_path, reply, reason):
  server.reply = reply
  _assert_refused(tmp_path, reason)
  # Nothing of it is in the way of a good one.
  server.reply = _send(BODY)
  assert download.fetch("tiny", cache=tmp_path).read_bytes() == BODY


def test_no_network(server, tmp_path, monkeypatch):
  hold = threading.Event()
  server.reply = _send(BODY[:9], lambda: hold.wait(9), length=len(BODY))
  _assert_refused(tmp_path, "The read operation timed out", timeout=0.2)
  hold.set()
  proxy = _Server()
  with monkeypatch.context() as patch:
    patch.setenv("https_proxy", f"http://localhost:{proxy.server_port}")
    _assert_refused(tmp_path, "Tunnel connection failed: 403 Forbidden")
  proxy.shutdown()
  proxy.server_close()
  with monkeypatch.context() as patch:
    patch.delenv("SSL_CERT_FILE")
    with pytest.raises(Fault, match="CERTIFICATE_VERIFY_FAILED"):
      download.fetch("tiny", cache=tmp_path)
  plain = _model(f"http://localhost:{server.server_port}/tiny.npz")
  with monkeypatch.context() as patch:
    patch.setattr(published, "MODELS", (plain,))
    _assert_refused(tmp_path, "its address is not https")
  server.shutdown()
  server.server_close()
  refused = errno.ECONNREFUSED
  text = f"[Errno {refused}] {os.strerror(refused)}"
  _assert_refused(tmp_path, text)


@pytest.mark.parametrize(
  ("length", "wanted"), [(True, len(BODY)), (None, 4 * _model("").parameters)]
)
def test_too_little_space(server, tmp_path, monkeypatch, length, wanted):
  server.reply = _send(BODY, length=length)
  usage = shutil.disk_usage(tmp_path)

  def leave(free):
    now = usage._replace(free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: now)

  leave(wanted - 1)
  with pytest.raises(Fault) as e:
    download.fetch("tiny", cache=tmp_path)
  assert str(e.value) == (
    f"{tmp_path} has {format_bytes(wanted - 1)} free, and tiny takes "
    f"{format_bytes(wanted)}\n"
    "free some space, or name another directory in FLEXIVIT_JAX_CACHE"
  )
  assert _names(tmp_path) == []
  leave(wanted)
  assert download.fetch("tiny", cache=tmp_path).exists()


def _wait_for(condition):
  end = time.monotonic() + 60
  while not condition():
    assert time.monotonic() < end
    time.sleep(0.01)


def test_the_second_of_two_waits_and_takes_what_the_first_has(
  server, tmp_path, monkeypatch
):
  path = tmp_path / "tiny.npz"
  other = threading.Thread(
    target=download.fetch, args=("tiny",), kwargs={"cache": tmp_path}
  )
  monkeypatch.setattr(sys, "stderr", io.StringIO())
  with (tmp_path / "tiny.npz.lock").open("a") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    other.start()
    _wait_for(lambda: sys.stderr.getvalue().endswith("\n"))
    path.write_bytes(BODY)
    assert other.is_alive()
  other.join(60)
  assert not other.is_alive()
  text = f"waiting: another process fetches {path}\n"
  assert sys.stderr.getvalue() == text
  assert _names(tmp_path) == ["tiny.npz", "tiny.npz.sha256"]
  assert server.requests == []
