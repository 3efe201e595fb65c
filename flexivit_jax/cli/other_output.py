"""What a process prints that is not the first of its run: errors.

A process of its own passes them on, each line with whose it is, so that the
libraries' lines have it too, and that there is somebody left to say what
happened: when the first process is lost, JAX ends the others at once, with a
stack trace.
"""

import os
import subprocess
import sys

# How JAX's begin, on the loss of the process that coordinates the others.
FATAL = (b"coordination_service_agent.cc", b" client.h:")


def be_quiet(index: int, lost: str) -> None:
  """Lets this process print nothing but errors, until it ends.

  Args:
    index: of this process.
    lost: the line to print in the place of JAX's stack trace.
  """
  sys.stdout.flush()
  sys.stderr.flush()
  sys.stdout = open(os.devnull, "w")
  command = (sys.executable, "-I", "-S", __file__, f"process {index}: ", lost)
  passing_on = subprocess.Popen(  # noqa: S603
    command,
    stdin=subprocess.PIPE,
    stdout=2,
    start_new_session=True,  # signals to the group must not end it before us
  )
  os.dup2(passing_on.stdin.fileno(), 2)
  passing_on.stdin.close()
  # It ends when nobody can write to it any more; we do not wait for it.
  passing_on.returncode = 0


def pass_on(lines, out, prefix: bytes, lost: bytes) -> None:
  """Writes each line with the prefix, but for a stack trace of JAX's.

  Args:
    lines: of bytes.
    out: a binary file without a buffer.
    lost: written at the end where there was such a trace, and no line that
      begins with "error: ".
  """
  traced = said = False
  for line in lines:
    traced |= line[:1] in b"EF" and any(name in line for name in FATAL)
    own = line.startswith(b"error: ")
    said |= own
    if own or not traced:
      out.write(prefix + line)
  if traced and not said:
    out.write(prefix + b"error: " + lost + b"\n")


if __name__ == "__main__":
  pass_on(
    iter(sys.stdin.buffer.readline, b""),
    os.fdopen(1, "wb", buffering=0),
    *map(os.fsencode, sys.argv[1:]),
  )
