"""A trace of a few steps, for JAX's profiler."""

import contextlib
import dataclasses
import pathlib
import re
from collections.abc import Callable

import jax


@dataclasses.dataclass(frozen=True)
class Window:
  """The steps from when `start` are done until `stop` are."""

  start: int
  stop: int

  @classmethod
  def parse(cls, text: str) -> "Window":
    """Of "100:110".

    Raises:
      ValueError: the text is no such window.
    """
    match = re.fullmatch(r"(\d{1,18}):(\d{1,18})", text)
    if match is None:
      raise ValueError(
        f"{text[:100]!r} is no range of steps: give START:STOP, 100:110 say"
      )
    start, stop = map(int, match.groups())
    if start >= stop:
      raise ValueError(f"{text} holds no step: give {start}:{start + 10}, say")
    return cls(start, stop)

  def check(self, total_steps: int) -> None:
    """Refuses steps that the run does not have.

    Raises:
      ValueError: it has fewer.
    """
    if self.stop > total_steps:
      text = f"{self.start}:{self.stop}"
      raise ValueError(
        f"{text} is outside the run, which has {total_steps} steps: give "
        f"START:STOP with STOP at most {total_steps}"
      )


class Profiler:
  """Traces a window of steps; without a window it does nothing.

  Used as a context, which ends a trace that is still open. What goes wrong
  with a trace ends no run.

  Args:
    directory: for the trace.
    report: called with lines.
  """

  def __init__(
    self,
    window: Window | None,
    directory: pathlib.Path,
    report: Callable[[str], None],
  ):
    self._window = window
    self._directory = directory
    self._report = report
    self._tracing = False

  def __enter__(self):
    return self

  def __exit__(self, *exc):
    if self._tracing:
      self._stop()

  def begin(self, first: int) -> None:
    """Says what a run that begins after this step will not trace any more."""
    if self._window is not None and first >= self._window.stop:
      self._report(
        f"no trace: the steps {self._window.start}:{self._window.stop} of "
        f"--profile are done, and the run goes on after step {first}"
      )
      self._window = None

  @contextlib.contextmanager
  def step(self, i: int):
    """Step i of the run, from its batch on; starts the trace if it is due."""
    window = self._window
    if window is None or i < window.start:
      yield
      return
    if not self._tracing:
      self._start()
    with jax.profiler.StepTraceAnnotation("train", step_num=i):
      yield

  def done(self, done: int, results) -> None:
    """Ends the trace after its last step, once the results are there."""
    if self._tracing and done >= self._window.stop:
      jax.block_until_ready(results)
      self._stop()

  def _start(self):
    options = jax.profiler.ProfileOptions()
    # The interpreter's calls would be most of the trace, and slow it down.
    options.python_tracer_level = 0
    try:
      jax.profiler.start_trace(
        str(self._directory.absolute()), profiler_options=options
      )
    except Exception as e:  # another one is at work, say
      self._give_up(e)
    else:
      self._tracing = True

  def _stop(self):
    window, self._window, self._tracing = self._window, None, False
    try:
      jax.profiler.stop_trace()
      files = self._directory.rglob("*.trace.json.gz")
      latest = max(files, key=lambda path: path.stat().st_mtime)
    except Exception as e:
      self._give_up(e)
      return
    self._report(
      f"traced the steps {window.start}:{window.stop}; open {latest} in "
      "https://ui.perfetto.dev, or: pip install xprof && xprof --logdir "
      f"{self._directory}"
    )

  def _give_up(self, error):
    self._window = None
    reason = str(error).strip().splitlines() or [type(error).__name__]
    self._report(f"warning: no trace: {reason[0][:200]}")
