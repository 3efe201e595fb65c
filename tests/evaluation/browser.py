"""Chromium without a window, steered over a pipe in its DevTools protocol."""

import base64
import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

NAMES = ("chromium", "chromium-browser", "google-chrome")
PROGRAM = next(filter(None, map(shutil.which, NAMES)), None)

# The protocol is spoken on descriptors 3 and 4.
LAUNCH = """
import fcntl, os, sys
ours = [fcntl.fcntl(int(x), fcntl.F_DUPFD, 10) for x in sys.argv[1:3]]
os.dup2(ours[0], 3)
os.dup2(ours[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Browser:
  """One page of one browser.

  Attributes:
    complaints: what the console and the network log said.
    requests: addresses that were asked for.
  """

  def __init__(self, process, write, read):
    self._process, self._write, self._read = process, write, read
    self._count, self._session = 0, None
    self.complaints, self.requests = [], []
    target = self("Target.createTarget", url="about:blank")["targetId"]
    self._session = self(
      "Target.attachToTarget", targetId=target, flatten=True
    )["sessionId"]
    for domain in ("Page", "Runtime", "Log", "Network"):
      self(f"{domain}.enable")

  def __call__(self, method, **params):
    """Sends a command and waits for its result."""
    self._count += 1
    message = {"id": self._count, "method": method, "params": params}
    if self._session is not None:
      message["sessionId"] = self._session
    self._write.write(json.dumps(message).encode() + b"\0")
    self._write.flush()
    while True:
      answer = self._next()
      if answer.get("id") == self._count:
        assert "error" not in answer, answer
        return answer["result"]

  def _next(self):
    content = bytearray()
    while not content.endswith(b"\0"):
      byte = self._read.read(1)
      assert byte, f"the browser ended with status {self._process.poll()}"
      content += byte
    message = json.loads(content[:-1])
    method, params = message.get("method"), message.get("params")
    if method == "Network.requestWillBeSent":
      self.requests.append(params["request"]["url"])
    if method in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled"):
      self.complaints.append(params)
    if method == "Log.entryAdded":
      self.complaints.append(params["entry"])
    return message

  def open(self, path, *, width, height=844, dark=False, script=True):
    """Shows a file in a window of so many pixels."""
    self(
      "Emulation.setDeviceMetricsOverride",
      width=width,
      height=height,
      deviceScaleFactor=1,
      mobile=width < 500,
    )
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else ""}
    self("Emulation.setEmulatedMedia", features=[scheme])
    self("Emulation.setScriptExecutionDisabled", value=not script)
    self("Page.navigate", url=pathlib.Path(path).as_uri())
    while self._next().get("method") != "Page.loadEventFired":
      pass

  def run(self, expression):
    """The value of a JavaScript expression."""
    result = self("Runtime.evaluate", expression=expression, returnByValue=True)
    assert "exceptionDetails" not in result, result
    return result["result"].get("value")

  def move(self, x, y):
    """The pointer."""
    self("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

  def press(self, key):
    for kind in ("keyDown", "keyUp"):
      self(
        "Input.dispatchKeyEvent",
        type=kind,
        key=key,
        code=key,
        windowsVirtualKeyCode={"Tab": 9, "Escape": 27}[key],
      )

  def screenshot(self, path, *, whole=True):
    image = self("Page.captureScreenshot", captureBeyondViewport=whole)
    pathlib.Path(path).write_bytes(base64.b64decode(image["data"]))


@contextlib.contextmanager
def browser():
  """A browser, ended with the block."""
  to_read, to_write = os.pipe()
  from_read, from_write = os.pipe()
  with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
    process = subprocess.Popen(  # noqa: S603
      [
        *(sys.executable, "-c", LAUNCH, str(to_read), str(from_write)),
        PROGRAM,
        "--headless=new",
        "--remote-debugging-pipe",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
        f"--user-data-dir={profile}",
        "about:blank",
      ],
      pass_fds=(to_read, from_write),
      stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL,
    )
    os.close(to_read)
    os.close(from_write)
    with os.fdopen(to_write, "wb") as write, os.fdopen(from_read, "rb") as read:
      try:
        yield Browser(process, write, read)
      finally:
        process.kill()
        process.wait()
