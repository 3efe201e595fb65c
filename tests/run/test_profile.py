"""Windows of steps, and traces that end no run."""

import jax
import jax.numpy as jnp
import pytest

from flexivit_jax.run.profile import Profiler, Window


def test_a_window_is_parsed():
  assert Window.parse("100:110") == Window(100, 110)
  assert Window.parse("0:1") == Window(0, 1)


@pytest.mark.parametrize(
  ("text", "error"),
  [
    ("100", "'100' is no range of steps: give START:STOP, 100:110 say"),
    ("", "'' is no range of steps: give START:STOP, 100:110 say"),
    ("-1:5", "'-1:5' is no range of steps: give START:STOP, 100:110 say"),
    ("5:5", "5:5 holds no step: give 5:15, say"),
    ("7:5", "7:5 holds no step: give 7:17, say"),
  ],
)
def test_what_is_no_window_is_refused(text, error):
  with pytest.raises(ValueError) as caught:
    Window.parse(text)
  assert str(caught.value) == error


def test_a_window_outside_the_run_is_refused():
  Window(90, 100).check(100)
  with pytest.raises(ValueError) as caught:
    Window(90, 101).check(100)
  assert str(caught.value) == (
    "90:101 is outside the run, which has 100 steps: give START:STOP with STOP "
    "at most 100"
  )


def loop(window, directory, *, first=0, total=6, stop=None):
  """Lines, and the steps at which a trace was being taken."""
  lines, traced = [], []
  profiler = Profiler(window, directory, lines.append)
  profiler.begin(first)
  with profiler:
    for i in range(first, total):
      with profiler.step(i):
        if profiler._tracing:
          traced.append(i)
        x = jnp.ones(3) + i
      profiler.done(i + 1, x)
      if i + 1 == stop:
        break
  return lines, traced


@pytest.fixture
def calls(monkeypatch):
  """The traces taken, without taking them."""
  calls = []
  monkeypatch.setattr(
    jax.profiler, "start_trace", lambda *_, **__: calls.append("start")
  )
  monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append("stop"))
  return calls


@pytest.mark.parametrize(
  ("window", "first", "stop", "traced"),
  [
    (None, 0, None, []),
    (Window(2, 4), 0, None, [2, 3]),
    (Window(0, 6), 0, None, [0, 1, 2, 3, 4, 5]),
    (Window(2, 5), 3, None, [3, 4]),  # resumed within
    (Window(2, 4), 4, None, []),  # resumed after
    (Window(2, 5), 0, 3, [2]),  # interrupted
  ],
)
def test_the_steps_of_a_window_are_traced(
  window, first, stop, traced, tmp_path, calls
):
  _, found = loop(window, tmp_path, first=first, stop=stop)
  assert found == traced
  assert calls == (["start", "stop"] if traced else [])


def test_a_resumed_run_says_that_its_window_is_over(tmp_path, calls):
  lines, _ = loop(Window(2, 4), tmp_path, first=4)
  assert lines == [
    "no trace: the steps 2:4 of --profile are done, and the run goes on after "
    "step 4"
  ]


@pytest.mark.parametrize("failing", ["start_trace", "stop_trace"])
def test_a_trace_that_fails_ends_no_run(failing, tmp_path, calls, monkeypatch):
  def fail(*_, **__):
    raise RuntimeError("profiler busy\nand more")

  monkeypatch.setattr(jax.profiler, failing, fail)
  lines, _ = loop(Window(2, 4), tmp_path)
  assert lines == ["warning: no trace: profiler busy"]
