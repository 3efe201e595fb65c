"""Connected processes, here threads of one: what they agree on, and their
ends."""

import concurrent.futures
import socket
import threading
import time

import pytest

from flexivit_jax.devices import processes
from flexivit_jax.devices.processes import Lifelines, Line

HEARTBEAT_S = 0.5


class Group:
  """Processes that are connected, and why they ended."""

  def __init__(self, count, heartbeats_s=None):
    heartbeats_s = heartbeats_s or [HEARTBEAT_S] * count
    self.ended = [[] for _ in range(count)]
    self.sockets = []
    first, lines = {}, []
    for i in range(1, count):
      a, b = _connection()
      self.sockets.append((a, b))
      first[i] = Line(a, heartbeats_s[0])
      lines.append({0: Line(b, heartbeats_s[i])})
    self.members = [
      Lifelines(
        *(i, own, count),
        heartbeat_s=heartbeats_s[i],
        end=self.ended[i].append,
        grace_s=0.2,
      )
      for i, own in enumerate([first, *lines])
    ]

  def each(self, function):
    """The function of every member, at the same time."""
    with concurrent.futures.ThreadPoolExecutor(len(self.members)) as pool:
      return list(pool.map(function, self.members))

  def wait_for_ends(self, *members):
    deadline = time.monotonic() + 10
    while not all(self.ended[i] for i in members):
      assert time.monotonic() < deadline, self.ended
      time.sleep(0.005)


def _connection():
  with socket.create_server(("127.0.0.1", 0)) as server:
    client = socket.create_connection(server.getsockname())
    return server.accept()[0], client


@pytest.mark.parametrize("count", [2, 3])
def test_everyone_gets_the_values_of_all_in_order(count):
  group = Group(count)
  for turn in range(20):
    found = group.each(lambda x, turn=turn: x.gather([turn, x.index]))
    assert found == [[[turn, i] for i in range(count)]] * count
  group.each(lambda x: x.close())
  time.sleep(1.5 * HEARTBEAT_S)
  assert group.ended == [[]] * count  # an orderly end is none


@pytest.mark.parametrize("told", [0, 1, 2, (0, 2)])
def test_all_stop_at_the_same_question(told):
  told = (told,) if isinstance(told, int) else told
  group = Group(3)

  def run(member):
    for question in range(1, 10_000):
      own = 15 if member.index in told and question >= 20 else None
      # One is slow, so the others are ahead when it hears of the stop.
      time.sleep(0.004 if member.index == 1 else 0.001)
      if (number := member.stop_signal(own)) is not None:
        assert number == 15
        # As long as it asks, it stays so.
        assert member.stop_signal(None) == 15
        return question
    return None

  found = group.each(run)
  assert len(set(found)) == 1
  assert found[0] is not None
  assert found[0] > 20
  group.each(lambda x: x.close())


def test_without_a_signal_nobody_waits():
  group = Group(2)
  # Only one of them asks: it would wait for ever if it waited at all.
  assert [group.members[0].stop_signal(None) for _ in range(5)] == [None] * 5
  group.each(lambda x: x.close())


def test_a_lost_connection_ends_all():
  group = Group(3)
  group.sockets[1][1].shutdown(socket.SHUT_RDWR)  # process 2
  group.wait_for_ends(0, 1)
  text = processes.LOST.format(index=2, count=3, reason="its connection ended")
  assert group.ended[:2] == [[text], [text]]


def test_a_silent_process_is_lost():
  # It beats every 20 s, so that the others hear nothing of it.
  group = Group(2, [HEARTBEAT_S, 100.0])
  start = time.monotonic()
  group.wait_for_ends(0)
  assert HEARTBEAT_S * 0.9 <= time.monotonic() - start < HEARTBEAT_S + 2
  assert group.ended[0] == [
    "process 1 of 2 was lost (no sign of life for 0.5 s), so this one ends "
    "too; start all of them again, and the run goes on from its last checkpoint"
  ]


def test_an_error_of_one_ends_the_others():
  group = Group(3)
  threading.Thread(target=group.members[1].fail).start()
  group.wait_for_ends(0, 2)
  text = (
    "process 1 of 3 ended with an error, which its own output says, so this "
    "one ends too"
  )
  assert [group.ended[0], group.ended[2]] == [[text], [text]]
  assert group.ended[1] == []


def test_an_error_of_all_is_told_by_each_itself():
  group = Group(2)
  group.each(lambda x: x.fail())
  time.sleep(0.5)
  assert group.ended == [[], []]
