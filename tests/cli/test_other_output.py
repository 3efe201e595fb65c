import io
import subprocess
import sys

from flexivit_jax.cli import other_output

TRACE = b"""\
E1121 06:00:43.5 24061 coordination_service_agent.cc:289] Polled an error
F1121 06:00:43.5 24061 client.h:80] Terminating process because the JAX
Additional GRPC error information from remote target
*** Check failure stack trace: ***
    @     0x7fd914e40634  absl::lts_20260107::log_internal::LogMessage
""".splitlines(keepends=True)


def _passed_on(*lines):
  out = io.BytesIO()
  other_output.pass_on(lines, out, b"process 3: ", b"process 0 was lost")
  return out.getvalue()


def test_every_line_says_whose_it_is():
  assert _passed_on(b"a\n", b"\n", b"b\n") == (
    b"process 3: a\nprocess 3: \nprocess 3: b\n"
  )


def test_a_line_takes_the_place_of_a_stack_trace():
  assert _passed_on(b"a\n", *TRACE) == (
    b"process 3: a\nprocess 3: error: process 0 was lost\n"
  )


def test_an_own_error_is_not_said_twice():
  own = b"error: process 0 of 2 was lost\n"
  for place in range(len(TRACE) + 1):
    lines = [*TRACE[:place], own, *TRACE[place:]]
    assert _passed_on(*lines) == b"process 3: " + own


def test_other_traces_are_passed_on():
  assert _passed_on(*TRACE[2:]).count(b"\n") == 3
  assert b"out of memory" in _passed_on(b"F1121 x.cc:3] out of memory\n")


QUIET = """
import os, sys
from flexivit_jax.cli import other_output
print("before", flush=True)
other_output.be_quiet(3, "lost")
print("no output")
print("one", file=sys.stderr)
os.write(2, b"two\\n")
os._exit(7)
"""


def test_a_quiet_process_prints_errors_alone():
  done = subprocess.run(  # noqa: S603
    [sys.executable, "-c", QUIET], capture_output=True, check=False
  )
  assert done.returncode == 7
  assert done.stdout == b"before\n"
  assert done.stderr == b"process 3: one\nprocess 3: two\n"
