"""`metrics.jsonl`, the progress bar and the lines of a run."""

import contextlib
import os
import re
import sys
import time
from collections.abc import Mapping

import tqdm

# What a line has no room for; the files have all.
NOT_IN_A_LINE = re.compile(
  r"loss@.*|.*_norm/.*|update_norm|parameter_norm"
  r"|pack/(?!fill$|images_per_step$).*"
  r"|speed/(?!images_per_s$|data_wait$|mfu$).*"
  r"|validation/loss@.*"
)


class Progress:
  """A bar in a terminal, plain lines elsewhere."""

  def __init__(self, first_step: int, total_steps: int):
    self._total = total_steps
    self._first = first_step
    self._start = None
    # disable=None: no bar where stderr is no terminal.
    self._bar = tqdm.tqdm(
      initial=first_step,
      total=total_steps,
      disable=None,
      unit="step",
      dynamic_ncols=True,
      file=sys.stderr,
    )

  def advance(self) -> None:
    """Counts a step. The first one starts the clock: compiling is over."""
    if self._start is None:
      self._start = time.perf_counter()
    try:
      self._bar.update()
    except OSError:
      _discard(sys.stderr)

  def line(self, text: str) -> None:
    """Prints a line, above the bar if there is one."""
    try:
      tqdm.tqdm.write(text, file=sys.stdout)
      sys.stdout.flush()
    except OSError:  # nobody reads it any more, or its disk is full
      _discard(sys.stdout)

  def log(self, step: int, values: Mapping[str, float]) -> None:
    """A line with the step, the main values and the time that is left."""
    now = time.perf_counter()
    elapsed = now - (self._start or now)
    left = elapsed / max(1, step - self._first) * (self._total - step)
    shown = "  ".join(
      f"{name} {value:.4g}"
      for name, value in values.items()
      if not NOT_IN_A_LINE.fullmatch(name)
    )
    self.line(f"step {step}/{self._total}  {shown}  ({left:.0f} s left)")

  def close(self) -> None:
    self._bar.close()


def _discard(stream) -> None:
  """Output that is lost ends no run: the metrics file has all of it."""
  with contextlib.suppress(OSError):
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
