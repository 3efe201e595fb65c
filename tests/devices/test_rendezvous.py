"""Processes come to the first, in any order; others are refused."""

import concurrent.futures
import socket
import time

import pytest

from flexivit_jax.devices import processes
from flexivit_jax.devices.processes import Line

HEARTBEAT_S = 0.5


def _connection():
  with socket.create_server(("127.0.0.1", 0)) as server:
    client = socket.create_connection(server.getsockname())
    return server.accept()[0], client


def _free_port():
  return processes.free_port()


def _start(port, count, *others, timeout_s=5.0):
  """What the first and (index, count) others give or raise."""

  def first():
    return processes.accept(port, count, timeout_s, HEARTBEAT_S)

  def other(place):
    index, wanted = place
    return processes.connect(
      *("127.0.0.1", port, wanted, index, timeout_s, HEARTBEAT_S)
    )

  def outcome(future):
    error = future.exception()
    return future.result() if error is None else str(error)

  with concurrent.futures.ThreadPoolExecutor(1 + len(others)) as pool:
    later = []
    for place in others:
      later.append(pool.submit(other, place))
      time.sleep(0.05)
    return [outcome(x) for x in (pool.submit(first), *later)]


def test_processes_find_each_other_in_any_order():
  found, *others = _start(_free_port(), 3, (2, 3), (1, 3))
  assert sorted(found) == [1, 2]
  assert [list(x) for x in others] == [[0], [0]]


def test_a_missing_process_is_named():
  port = _free_port()
  first, other = _start(port, 4, (2, 4), timeout_s=1.0)
  assert first == (
    f"processes 1, 3 of 4 did not come to port {port} within 1 s: start all "
    "with the same --coordinator, or raise --initialization_timeout"
  )
  assert other == (
    f"127.0.0.1:{port}: process 0 has not seen processes 1, 3: start all "
    "processes with the same --coordinator and --num_processes, each with its "
    "own --process_id"
  )


def test_the_refusals_of_the_first_process():
  lines = {}
  for hello, reason in (
    ({"process": 1, "count": 3}, "process 0 has --num_processes 2, this one 3"),
    ({"process": 2, "count": 2}, "another one is --process_id 2 already"),
  ):
    a, b = _connection()
    mine, theirs = Line(a, 1.0), Line(b, 1.0)
    theirs.send(hello)
    processes._welcome(mine, lines, 2)
    assert theirs.receive() == {"refused": reason}
    assert lines == {}


def test_nobody_at_the_address():
  port = _free_port()
  with pytest.raises(OSError, match="no process 0") as caught:
    processes.connect("127.0.0.1", port, 2, 1, 0.2, HEARTBEAT_S)
  assert str(caught.value) == (
    f"no process 0 at 127.0.0.1:{port} within 0.2 s (Connection refused): give "
    "its address as --coordinator, or raise --initialization_timeout"
  )


def test_a_port_that_is_taken():
  with socket.create_server(("", 0)) as server:
    port = server.getsockname()[1]
    with pytest.raises(OSError, match="cannot be used") as caught:
      processes.accept(port, 2, 1.0, HEARTBEAT_S)
  assert str(caught.value) == (
    f"port {port} of this machine cannot be used (Address already in use): "
    "give another in --coordinator to all processes"
  )
